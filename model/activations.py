# mypy: disable-error-code="no-any-return"
"""Activations and their slopes, for the batch path; `kernels.py` has the same formulas for one number at a time.

All take and give float32 arrays of any shape. Formulas and constants are PyTorch's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LEAK = np.float32(0.01)
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
DENSITY = np.float32(1.0 / math.sqrt(2.0 * math.pi))


LARGEST_EXPONENT: dict[str, Any] = {
    "f": np.float32(88.0),
    "d": np.float64(709.0),
}  # by type: above, e^x overflows


@dataclass(frozen=True)
class Activation:
    """`value` of the weighted sum z; `slope`, its derivative at z, given z and the value there."""

    code: int
    value: Callable[[Array], Array]
    slope: Callable[[Array, Array], Array]


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^−z), without overflow."""
    shares: Array = np.exp(np.minimum(-z, LARGEST_EXPONENT[z.dtype.char]))
    shares += 1.0
    return 1.0 / shares


def softplus(z: Array) -> Array:
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


def erfc(x: Array) -> Array:
    """The complementary error function, with a relative error below 1.2e-7 everywhere.

    NumPy has none. A Chebyshev fit to erfc(x)·e^{x²} (Press et al., Numerical Recipes, section 6.2).
    """
    t = 1.0 / (1.0 + 0.5 * np.abs(x))
    polynomial = np.zeros_like(t)
    for coefficient in ERFC_COEFFICIENTS:
        polynomial = polynomial * t + coefficient
    tail = t * np.exp(polynomial - x * x)
    return np.where(x >= 0, tail, 2.0 - tail)


# From the highest power of t to the constant.
ERFC_COEFFICIENTS = (
    0.17087277,
    -0.82215223,
    1.48851587,
    -1.13520398,
    0.27886807,
    -0.18628806,
    0.09678418,
    0.37409196,
    1.00002368,
    -1.26551223,
)


def _normal_cdf(z: Array) -> Array:
    cdf = 0.5 * erfc(-z.astype(np.float64) * math.sqrt(0.5))
    return cdf.astype(z.dtype)


def _gelu_slope(z: Array, _: Array) -> Array:
    return _normal_cdf(z) + z * DENSITY * np.exp(-HALF * z * z)


def _silu_slope(z: Array, value: Array) -> Array:
    share = sigmoid(z)
    return share + value * (1.0 - share)


ACTIVATIONS = {
    "linear": Activation(0, lambda z: z, lambda z, _: np.ones_like(z)),
    "relu": Activation(1, lambda z: np.maximum(z, ZERO), lambda z, _: (z > 0).astype(z.dtype)),
    "sigmoid": Activation(2, sigmoid, lambda _, a: a * (1.0 - a)),
    "tanh": Activation(3, np.tanh, lambda _, a: 1.0 - a * a),
    "leaky_relu": Activation(
        4, lambda z: np.where(z > 0, z, LEAK * z), lambda z, _: np.where(z > 0, ONE, LEAK)
    ),
    "elu": Activation(
        5,
        lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0.0))),
        lambda z, a: np.where(z > 0, ONE, a + ONE),
    ),
    "gelu": Activation(6, lambda z: z * _normal_cdf(z), _gelu_slope),
    "silu": Activation(7, lambda z: z * sigmoid(z), _silu_slope),
    "softplus": Activation(8, softplus, lambda z, _: sigmoid(z)),
}
