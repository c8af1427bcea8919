"""The batch path: many rows at once, in vectorised NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import dropout
from model.activations import ACTIVATIONS
from model.parameters import Dense, Layout, Vector

Matrix = NDArray[Any]

NORM_EPSILON = 1e-5
LAYER_NORM_EPSILON = 1e-3
NORM_MOMENTUM = 0.1
ROW_MOMENTUM = 0.003  # the same for single rows, a batch being 32 of them
LARGEST_SUM = (
    1e18  # weighted sums beyond it count as this in the running statistics: variances are still float32
)


def new_norm(layout: Layout) -> NDArray[np.float64]:
    """Running mean (0) and variance (1) of every unit before its batch normalisation: shape (2, units)."""
    return np.stack([np.zeros(layout.norm_units), np.ones(layout.norm_units)])


def norm_rate(count: int) -> float:
    """The weight of the row that is the `count`-th in the running statistics; also compiled, by `kernels.py`."""
    return max(1.0 / (count + 1.0), ROW_MOMENTUM)


@dataclass
class _Trace:
    """What a layer's forward pass leaves for its backward pass."""

    inputs: Matrix
    slope: Matrix | None = None  # of activation and dropout
    normed: Matrix | None = None
    spread: Matrix | None = None  # √(variance + ε)
    by_batch: bool = False


class Network:
    """The layers over a flat vector of parameters and the running statistics `norm`; both are used live."""

    def __init__(self, layout: Layout, parameters: Vector, norm: NDArray[np.float64]) -> None:
        self.layout = layout
        self.norm = norm
        self._layers = [
            (
                layer,
                layer.matrix(parameters),
                layer.vector(parameters, layer.bias),
                layer.vector(parameters, layer.gain),
                layer.vector(parameters, layer.shift),
            )
            for layer in layout.layers
        ]

    def scores(self, inputs: Matrix) -> Matrix:
        """Weighted sums (n, outputs) of the last layer, as predicted: no dropout, running statistics."""
        values = inputs
        last = len(self._layers) - 1
        for number, (layer, matrix, bias, gain, shift) in enumerate(self._layers):
            values = values.dot(matrix)
            if bias is not None:
                values += bias
            if gain is not None:
                values, _ = self._normalise(layer, values, *self._running(layer), gain, shift)
            if layer.layer_norm:
                values, _ = _over_units(values)
            if number < last:
                values = ACTIVATIONS[layer.activation].value(values)
        return values

    def forward(
        self, inputs: Matrix, seed: int | None = None, position: int = 0, by_batch: bool = False
    ) -> tuple[Matrix, list[_Trace]]:
        """Scores and traces for training. Dropout is drawn from (seed, position); none without a seed.

        `by_batch`: normalise by the statistics of these rows, and fold them into the running ones; else, and for a
        single row, which has no variance, by the running ones.
        """
        by_batch = by_batch and len(inputs) > 1
        values, traces = inputs, []
        last = len(self._layers) - 1
        for number, (layer, matrix, bias, gain, shift) in enumerate(self._layers):
            trace = _Trace(values)
            traces.append(trace)
            z = values.dot(matrix)
            if bias is not None:
                z += bias
            if gain is not None:
                statistics = self._fold_batch(layer, z) if by_batch else self._running(layer)
                trace.spread, trace.by_batch = np.sqrt(statistics[1] + NORM_EPSILON), by_batch
                z, trace.normed = self._normalise(layer, z, *statistics, gain, shift)
            if layer.layer_norm:
                z, trace.spread = _over_units(z)
                trace.normed = z
            if number == last:
                return z, traces
            activation = ACTIVATIONS[layer.activation]
            values = activation.value(z)
            trace.slope = activation.slope(z, values)
            if layer.dropout and seed is not None:
                mask = dropout.mask(seed, position, number, values.shape, layer.dropout)
                values = values * mask
                trace.slope *= mask
        raise AssertionError("a layout has at least one layer")

    def backward(self, traces: list[_Trace], delta: Matrix, gradient: Vector) -> None:
        """Write the gradient of the parameters into `gradient`, given that of the scores, both summed over rows."""
        for number in range(len(self._layers) - 1, -1, -1):
            layer, matrix, _, gain, _ = self._layers[number]
            trace = traces[number]
            if trace.slope is not None:
                delta = delta * trace.slope
            if gain is not None:
                delta = self._through_norm(layer, trace, delta, gain, gradient)
            if layer.layer_norm:
                delta = _through_layer_norm(trace, delta)
            first, second = (trace.inputs, delta) if layer.by_input else (delta, trace.inputs)
            np.dot(first.T, second, out=layer.stored(gradient))
            if layer.bias is not None:
                np.add.reduce(delta, axis=0, out=gradient[layer.bias : layer.bias + layer.units])
            if number:
                delta = delta.dot(matrix.T)

    def _running(self, layer: Dense) -> tuple[Matrix, Matrix]:
        assert layer.norm is not None
        mean, variance = self.norm[:, layer.norm : layer.norm + layer.units].astype(np.float32)
        return mean, variance

    def _fold_batch(self, layer: Dense, z: Matrix) -> tuple[Matrix, Matrix]:
        """The rows' mean and variance, after folding them into the running ones (Ioffe and Szegedy 2015)."""
        assert layer.norm is not None
        mean, variance = z.mean(axis=0), z.var(axis=0)
        running = self.norm[:, layer.norm : layer.norm + layer.units]
        running *= 1.0 - NORM_MOMENTUM
        running[0] += NORM_MOMENTUM * _bounded(mean, LARGEST_SUM)
        running[1] += NORM_MOMENTUM * _bounded(variance * (len(z) / (len(z) - 1)), LARGEST_SUM**2)
        return mean, variance

    def fold_row(self, traces: list[_Trace], rate: float) -> None:
        """Fold a single row into the running statistics, exponentially weighted (West 1979)."""
        for (layer, *_), trace in zip(self._layers, traces, strict=True):
            if layer.norm is not None and trace.normed is not None:
                running = self.norm[:, layer.norm : layer.norm + layer.units]
                delta = _bounded(trace.normed[0] * np.sqrt(running[1] + NORM_EPSILON), LARGEST_SUM)
                running[0] = _bounded(running[0] + rate * delta, LARGEST_SUM)
                running[1] = _bounded((1.0 - rate) * (running[1] + rate * delta * delta), LARGEST_SUM**2)

    @staticmethod
    def _normalise(
        layer: Dense, z: Matrix, mean: Matrix, variance: Matrix, gain: Matrix, shift: Matrix | None
    ) -> tuple[Matrix, Matrix]:
        normed = (z - mean) / np.sqrt(variance + np.float32(NORM_EPSILON))
        out = normed * gain
        if shift is not None:
            out += shift
        return out, normed

    @staticmethod
    def _through_norm(layer: Dense, trace: _Trace, delta: Matrix, gain: Matrix, gradient: Vector) -> Matrix:
        assert trace.normed is not None
        assert trace.spread is not None
        gain_gradient, shift_gradient = (delta * trace.normed).sum(axis=0), delta.sum(axis=0)
        for place, part in ((layer.gain, gain_gradient), (layer.shift, shift_gradient)):
            if place is not None:
                gradient[place : place + layer.units] = part
        delta = delta * gain
        if trace.by_batch:
            # The batch's mean and variance depend on every row.
            delta = delta - delta.mean(axis=0) - trace.normed * (delta * trace.normed).mean(axis=0)
        return delta / trace.spread


def _bounded(values: Matrix, limit: float) -> Matrix:
    """Values cut to ±limit; 0 for one that is not a number."""
    return np.clip(np.nan_to_num(values.astype(np.float64), nan=0.0), -limit, limit)


def _over_units(z: Matrix) -> tuple[Matrix, Matrix]:
    """Layer normalisation of the sums z (n, units), and √(variance + ε) of each row (n, 1)."""
    centred = z - z.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(axis=1, keepdims=True) + np.float32(LAYER_NORM_EPSILON))
    return centred / spread, spread


def _through_layer_norm(trace: _Trace, delta: Matrix) -> Matrix:
    """From the gradient of the normalised sums to that of the sums: a row's mean and variance depend on each."""
    assert trace.normed is not None
    assert trace.spread is not None
    along = (delta * trace.normed).mean(axis=1, keepdims=True)
    through: Matrix = (delta - delta.mean(axis=1, keepdims=True) - trace.normed * along) / trace.spread
    return through
