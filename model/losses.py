# mypy: disable-error-code="no-any-return"
"""Outputs and losses, for the batch path; `kernels.py` has the same formulas for one row at a time.

Scores are the weighted sums (n, outputs) of the last layer. A loss is a function of scores and labels: class
indices (n, 1) or standardised targets (n, targets), float64. Definitions are PyTorch's; where PyTorch averages over
the elements of a row, so do we. Gradients are with respect to the scores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.activations import sigmoid, softplus

Array = NDArray[Any]


def softmax(z: Array) -> Array:
    shares: Array = np.exp(z - z.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def threshold(z: Array) -> Array:
    """−1 or +1: the sign of a single score, or +1 for the first of the largest scores only."""
    if z.shape[1] == 1:
        return np.where(z >= 0, 1.0, -1.0)
    return 2.0 * _one_hot(z.argmax(axis=1), z) - 1.0


def linear(z: Array) -> Array:
    return z


@dataclass(frozen=True)
class Output:
    """What makes a prediction of scores, and scores that make a prediction; `code` is its number in kernels."""

    code: int
    value: Callable[[Array], Array]
    score: Callable[[Array], Array]


SMALLEST_PROBABILITY = 1e-15


def _logit(p: Array) -> Array:
    p = np.clip(p, SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)
    return np.log(p) - np.log1p(-p)


OUTPUTS = {
    "linear": Output(0, linear, linear),
    "sigmoid": Output(1, sigmoid, _logit),
    "softmax": Output(2, softmax, lambda p: np.log(np.maximum(p, SMALLEST_PROBABILITY))),
    "threshold": Output(3, threshold, linear),
}


def _one_hot(labels: Array, z: Array) -> Array:
    hot = np.zeros_like(z)
    hot[np.arange(len(z)), labels.astype(np.intp).reshape(-1)] = 1.0
    return hot


def _of_label(values: Array, y: Array) -> Array:
    return values[np.arange(len(values)), y[:, 0].astype(np.intp)][:, None]


def _sign(y: Array) -> Array:
    return 2.0 * y - 1.0


def _binary_cross_entropy(z: Array, y: Array) -> Array:
    return (softplus(z) - y * z)[:, 0]


def _cross_entropy(z: Array, y: Array) -> Array:
    shifted = z - z.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - _of_label(shifted, y)[:, 0]


def _brier(z: Array, y: Array) -> Array:
    return ((softmax(z) - _one_hot(y, z)) ** 2).mean(axis=1)


def _brier_gradient(z: Array, y: Array) -> Array:
    p = softmax(z)
    outer = 2.0 / z.shape[1] * (p - _one_hot(y, z))
    return p * (outer - (outer * p).sum(axis=1, keepdims=True))


def _sigmoid_squared_gradient(z: Array, y: Array) -> Array:
    p = sigmoid(z)
    return 2.0 * (p - y) * p * (1.0 - p)


def _huber(z: Array, y: Array) -> Array:
    error = np.abs(z - y)
    return np.where(error < 1.0, 0.5 * error * error, error - 0.5).mean(axis=1)


def _margins(z: Array, y: Array) -> Array:
    """1 − z_label + z_other, and 0 in the label's own place."""
    return np.where(_one_hot(y, z) > 0, 0.0, 1.0 - _of_label(z, y) + z)


def _multi_hinge_gradient(z: Array, y: Array) -> Array:
    beaten = (_margins(z, y) > 0).astype(z.dtype)
    return (beaten - _one_hot(y, z) * beaten.sum(axis=1, keepdims=True)) / z.shape[1]


def _mistaken(z: Array, y: Array) -> Array:
    return threshold(z) != _sign(y)


def _multi_perceptron_gradient(z: Array, y: Array) -> Array:
    return _one_hot(z.argmax(axis=1), z) - _one_hot(y, z)


@dataclass(frozen=True)
class Loss:
    """A loss for each row (n,), and its gradient (n, outputs); `code` is its number in `kernels.py`."""

    code: int
    value: Callable[[Array, Array], Array]
    gradient: Callable[[Array, Array], Array]


# By loss and output; the hinge and the perceptron have another form for more than one score.
LOSSES = {
    ("cross_entropy", "sigmoid"): Loss(0, _binary_cross_entropy, lambda z, y: sigmoid(z) - y),
    ("cross_entropy", "softmax"): Loss(1, _cross_entropy, lambda z, y: softmax(z) - _one_hot(y, z)),
    ("mean_squared", "linear"): Loss(
        2, lambda z, y: ((z - y) ** 2).mean(axis=1), lambda z, y: 2.0 * (z - y) / z.shape[1]
    ),
    ("mean_squared", "sigmoid"): Loss(
        3, lambda z, y: ((sigmoid(z) - y) ** 2)[:, 0], _sigmoid_squared_gradient
    ),
    ("mean_squared", "softmax"): Loss(4, _brier, _brier_gradient),
    ("mean_absolute", "linear"): Loss(
        5, lambda z, y: np.abs(z - y).mean(axis=1), lambda z, y: np.sign(z - y) / z.shape[1]
    ),
    ("huber", "linear"): Loss(6, _huber, lambda z, y: np.clip(z - y, -1.0, 1.0) / z.shape[1]),
    ("hinge", "linear"): Loss(
        7,
        lambda z, y: np.maximum(0.0, 1.0 - _sign(y) * z)[:, 0],
        lambda z, y: np.where(_sign(y) * z < 1.0, -_sign(y), 0.0),
    ),
    ("multi_hinge", "linear"): Loss(
        8, lambda z, y: np.maximum(0.0, _margins(z, y)).mean(axis=1), _multi_hinge_gradient
    ),
    ("perceptron", "threshold"): Loss(
        9,
        lambda z, y: np.maximum(0.0, -_sign(y) * z)[:, 0],
        lambda z, y: np.where(_mistaken(z, y), -_sign(y), 0.0),
    ),
    ("multi_perceptron", "threshold"): Loss(
        10, lambda z, y: z.max(axis=1) - _of_label(z, y)[:, 0], _multi_perceptron_gradient
    ),
}


def loss_of(loss: str, output: str, outputs: int) -> Loss:
    """The entry of `LOSSES` for a spec's loss and output."""
    return LOSSES.get((loss, output) if outputs == 1 else (f"multi_{loss}", output), LOSSES[(loss, output)])
