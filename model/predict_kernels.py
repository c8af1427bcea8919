# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: predictions of a few rows, where NumPy's calls would cost more than the arithmetic."""

from typing import Any

import numpy as np
from numba import float32, float64, int64, types

from model.compiled import compiled, sources_of
from model.layer_kernels import ONE
from model.network_kernels import enter, predict_entered


def _read_only(kind: Any, dimensions: int) -> Any:
    return types.Array(kind, dimensions, "C", readonly=True)


# layers, codes, plan, the shape of the scratch memory, the most inputs that are not 0
PROGRAM = (_read_only(int64, 3), _read_only(int64, 2), _read_only(int64, 2), int64, int64, int64)
# parameters, statistics of inputs, targets and batch normalisation, the mixture's weights
STATE = (
    _read_only(float32, 2),
    _read_only(float64, 2),
    _read_only(float64, 2),
    _read_only(float64, 3),
    _read_only(float64, 1),
)


def _compile_predict_rows(sources: int) -> Any:
    @compiled(types.void(*PROGRAM, *STATE, _read_only(float64, 2), float64[:, ::1]))
    def predict_rows(
        layers, codes, plan, work_rows, work_size, most_active,
        networks, inputs, targets, norm, mixture,
        X, predictions,
    ):  # fmt: skip
        """Write the predictions (n, outputs) of raw rows X (n, width)."""
        sources  # noqa: B018 - part of the cache's key, see compiled.py
        # Memory of its own: other threads may predict by the same arrays.
        work = np.empty((work_rows, work_size), np.float32)
        scaled, active = np.empty(X.shape[1]), np.empty(1 + most_active, np.int64)
        forecasts = np.empty((2 * networks.shape[0] + 2, predictions.shape[1]))
        for n in range(work_rows):
            work[n, 0] = ONE
        for row in range(X.shape[0]):
            enter(layers[0], codes[0], plan, inputs, X[row], scaled, work[0], active)
            predict_entered(
                layers, codes, networks, norm, targets, mixture, work, active, forecasts, predictions[row]
            )

    return predict_rows


predict_rows = _compile_predict_rows(sources_of(__name__))
