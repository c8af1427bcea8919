# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: losses of predictions that were served before their labels came.

A row is scored with the statistics of the targets at that row, not with those after its block. So scores do not
depend on how rows are grouped.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float64, int64, types

from model import program, scaling
from model.compiled import compiled, inner, sources_of
from model.losses import SMALLEST_PROBABILITY
from model.scaling import DEVIATIONS, KINDS, LARGEST
from model.scaling_kernels import fold, scale
from model.score_kernels import LARGEST_SCORE, SIGMOID, SOFTMAX, loss_and_gradient

U = np.uint64
STANDARD = KINDS["standard"]


@inner
def _score_of(kind, prediction):
    """The score behind a probability. Other predictions are scores already; they are cut to a float32's range."""
    if kind == SIGMOID:
        p = min(max(prediction, SMALLEST_PROBABILITY), 1.0 - SMALLEST_PROBABILITY)
        return math.log(p) - math.log1p(-p)
    if kind == SOFTMAX:
        return math.log(max(prediction, SMALLEST_PROBABILITY))
    return min(max(prediction, -LARGEST_SCORE), LARGEST_SCORE)


@inner
def _standardised(value, label, count, mean, squares):
    """A served value, standardised as `scale` standardises the row's label: with the label itself in the statistics.

    Within ±10, as all standardised values. Before the first label there is nothing to compare with: 0. While all
    labels are the same, any difference is a whole 10.
    """
    if count == 0.0:
        return 0.0
    label, value = min(max(label, -LARGEST), LARGEST), min(max(value, -LARGEST), LARGEST)
    delta = label - mean
    mean += delta / (count + 1.0)
    variance = (squares + delta * delta * (count / (count + 1.0))) / (count + 1.0)
    away = value - mean
    if away * away >= DEVIATIONS * DEVIATIONS * variance:
        return DEVIATIONS * ((1.0 if away > 0.0 else 0.0) - (1.0 if away < 0.0 else 0.0))
    return away / math.sqrt(variance)


@inner
def _loss(codes, targets, y, served, labels, work):
    """The loss of served predictions (outputs,) for the row's label."""
    outputs = U(served.shape[0])
    scaled = codes[program.SCALED_TARGETS] > 0
    if scaled:
        scale(STANDARD, targets, y, outputs, labels, U(0))
    for k in range(outputs):
        if scaled:
            count, mean = targets[scaling.COUNT, k], targets[scaling.MEAN, k]
            work[k] = _standardised(served[k], y[k], count, mean, targets[scaling.SQUARES, k])
        else:
            work[k] = _score_of(codes[program.OUTPUT], served[k])
            labels[k] = y[min(k, U(y.shape[0] - 1))]
    return loss_and_gradient(codes[program.LOSS], labels, work, U(0), outputs, 1.0, outputs)


TABLE = types.Array(float64, 2, "C", readonly=True)


def _compile_score_served(sources: int) -> Any:
    @compiled(
        types.void(int64[::1], float64[:, ::1], TABLE, TABLE, boolean[::1], float64[:, ::1], float64[::1])
    )
    def score_served(codes, targets, y, served, skipped, predictions, losses):
        """Put served predictions (n, outputs) and their losses in the place of those just made, where there are any.

        `targets` are the statistics from before the first row; they are moved on, as learning moved them. A row whose
        loss is NaN has no label.
        """
        sources  # noqa: B018 - part of the cache's key, see compiled.py
        outputs = served.shape[1]
        labels, work = np.empty(outputs), np.empty(2 * outputs, np.float32)
        for row in range(served.shape[0]):
            if losses[row] != losses[row]:
                continue
            if not np.isnan(served[row]).any():
                predictions[row] = served[row]
                losses[row] = _loss(codes, targets, y[row], served[row], labels, work)
            if codes[program.SCALED_TARGETS] and not skipped[row]:
                fold(STANDARD, targets, y[row], U(outputs))

    return score_served


score_served = _compile_score_served(sources_of(__name__))
