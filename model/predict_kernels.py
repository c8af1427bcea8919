# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: predictions of a few rows, where NumPy's calls would cost more than the arithmetic."""

from typing import Any

import numpy as np
from numba import float32, float64, int64, types

from model import program
from model.compiled import compiled, inner, sources_of
from model.layer_kernels import U, forward
from model.scaling_kernels import expand, scale
from model.score_kernels import make_finite, predict


@inner
def _predict_row(layers, codes, plan, parameters, inputs, targets, norm, row, work, scratch, prediction):
    outputs, depth = U(prediction.shape[0]), layers.shape[0] - 1
    scale(codes[program.SCALING], inputs, row, U(row.shape[0]), scratch, U(0))
    expand(plan, row, scratch, U(0), work, U(layers[0, program.VALUE]), U(layers[0, program.INPUTS]))
    forward(layers, parameters, norm, work, 0, 0, False)
    scores = U(layers[depth, program.VALUE])
    make_finite(work, scores, outputs)
    predict(codes, targets, work, scores, outputs, prediction)


def _read_only(kind: Any, dimensions: int) -> Any:
    return types.Array(kind, dimensions, "C", readonly=True)


PROGRAM = (_read_only(int64, 2), _read_only(int64, 1), _read_only(int64, 2), int64)
# parameters, statistics of inputs, targets and batch normalisation
STATE = (_read_only(float32, 1), _read_only(float64, 2), _read_only(float64, 2), _read_only(float64, 2))


def _compile_predict_rows(sources: int) -> Any:
    @compiled(types.void(*PROGRAM, *STATE, _read_only(float64, 2), float64[:, ::1]))
    def predict_rows(layers, codes, plan, work_size, parameters, inputs, targets, norm, X, predictions):
        """Write the predictions (n, outputs) of raw rows X (n, width)."""
        sources  # noqa: B018 - part of the cache's key, see compiled.py
        # Memory of its own: other threads may predict by the same arrays.
        work, scratch = np.empty(work_size, np.float32), np.empty(X.shape[1])
        for row in range(X.shape[0]):
            _predict_row(
                layers,
                codes,
                plan,
                parameters,
                inputs,
                targets,
                norm,
                X[row],
                work,
                scratch,
                predictions[row],
            )

    return predict_rows


predict_rows = _compile_predict_rows(sources_of(__name__))
