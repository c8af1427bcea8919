"""First weights. Biases start at 0, batch normalisation's gains at 1."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.parameters import Layout, Vector, aligned_zeros, named_views
from model.spec import ModelSpec

Initialise = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.floating]]


def he(generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Normal with variance 2 / inputs (He et al. 2015, arXiv:1502.01852). `shape` is (units, inputs)."""
    return generator.normal(0.0, math.sqrt(2.0 / shape[1]), shape)


def glorot(generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Uniform with variance 2 / (inputs + units) (Glorot and Bengio 2010)."""
    bound = math.sqrt(6.0 / sum(shape))
    return generator.uniform(-bound, bound, shape)


def lecun(generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Normal with variance 1 / inputs (LeCun et al. 1998, Efficient BackProp)."""
    return generator.normal(0.0, math.sqrt(1.0 / shape[1]), shape)


def uniform(generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Uniform within ±1/√inputs: the default of PyTorch's `Linear`."""
    bound = 1.0 / math.sqrt(shape[1])
    return generator.uniform(-bound, bound, shape)


def zeros(_: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.floating]:
    return np.zeros(shape)


INITIALIZERS: dict[str, Initialise] = {
    "he": he,
    "glorot": glorot,
    "lecun": lecun,
    "uniform": uniform,
    "zeros": zeros,
}

_BY_ACTIVATION = {"linear": "glorot", "sigmoid": "glorot", "tanh": "glorot"}


def initializer_of(spec: ModelSpec, number: int) -> str:
    """The initialiser's name for layer `number`: the spec's if it names one.

    Otherwise he for the rectifier and its relatives, glorot for the others, and zeros for the output, so that a new
    model's first predictions are neutral.
    """
    if spec.initializer is not None:
        return spec.initializer
    if number == len(spec.layers):
        return "zeros"
    return _BY_ACTIVATION.get(spec.layers[number].activation, "he")


def initial_parameters(spec: ModelSpec, layout: Layout, member: int = 0) -> Vector:
    """A new flat vector, drawn from `spec.seed`; each layer of each member has its own stream of random numbers."""
    flat = aligned_zeros(layout.size)
    views = named_views(layout, flat)
    for number, layer in enumerate(layout.layers):
        generator = np.random.default_rng([spec.seed, number, member] if member else [spec.seed, number])
        draw = INITIALIZERS[initializer_of(spec, number)]
        views[f"layers.{number}.weight"][...] = draw(generator, (layer.units, layer.inputs))
        if layer.gain is not None:
            views[f"layers.{number}.norm.weight"][...] = 1.0
    return flat
