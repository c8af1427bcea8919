"""Compiled: the prequential scores.

Each entry point folds the rows of a block, in order, into float64 state arrays. Scope 0 is the whole stream, scope 1
the fading window: a row's weight there shrinks by `FADING` with every later row. The result depends only on the rows
and their order, not on their grouping into blocks.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any

from numba import boolean, float64, njit, types

from model.compiled import compiled, sources_of
from model.metrics import (
    ABSOLUTE,
    BASELINE_WEIGHT,
    BINS,
    CORRECT,
    FADING,
    GROWTH,
    LABEL_MEAN,
    LABEL_SQUARES,
    LARGEST_GROWTH,
    LARGEST_SUM,
    LARGEST_VALUE,
    LARGEST_WEIGHT,
    LEADER,
    LOG_LOSS,
    LOSS,
    LOSS_WEIGHT,
    MAJORITY_CORRECT,
    MAJORITY_LOG_LOSS,
    MEAN_ABSOLUTE,
    NO_CHANGE_ABSOLUTE,
    NO_CHANGE_CORRECT,
    OBSERVATIONS,
    PREVIOUS,
    SCORE_SCALE,
    SKIPPED,
    SMALLEST_PROBABILITY,
    WEIGHT,
)

# Sums are added in the order of the rows, as written: no fast arithmetic.
EXACT: dict[str, Any] = {"fastmath": False, "error_model": "python"}
exactly = njit(nogil=True)
exactly_inlined = njit(nogil=True, inline="always")

# Predictions, labels, weights, losses, skipped. Read-only, as arrays that view bytes are.
BLOCK = (
    types.Array(float64, 2, "C", readonly=True),
    types.Array(float64, 2, "C", readonly=True),
    types.Array(float64, 1, "C", readonly=True),
    types.Array(float64, 1, "C", readonly=True),
    types.Array(boolean, 1, "C", readonly=True),
)
VALUE_STATE = (float64[::1], float64[:, ::1], float64[:, :, ::1], float64[::1])


@exactly_inlined
def _bounded(value, limit):
    return min(max(value, -limit), limit)


@exactly
def _all_finite(row):
    for value in row:  # noqa: SIM110 - numba compiles no generator expressions
        if not math.isfinite(value):
            return False
    return True


@exactly_inlined
def _clipped(probability):
    return min(max(probability, SMALLEST_PROBABILITY), 1.0 - SMALLEST_PROBABILITY)


@exactly
def _score_bin(score, probabilistic):
    """The ROC bin of a probability, or of a margin taken as log-odds.

    Bins are even in u = z / (SCORE_SCALE + |z|), z the log-odds: fine around the threshold (0.008 log-odds),
    coarser outwards, and any finite score has one.
    """
    if probabilistic:
        score = _clipped(score)
        score = math.log(score / (1.0 - score))
    position = (score / (SCORE_SCALE + abs(score)) + 1.0) * (BINS / 2)
    return min(int(position), BINS - 1)


@exactly
def _fade(sums):
    for column in range(sums.shape[1]):
        sums[1, column] *= FADING


@exactly
def _count_loss(sums, loss, weight):
    if not math.isfinite(loss):
        return
    for scope in range(2):
        sums[scope, LOSS_WEIGHT] += weight
        sums[scope, LOSS] = _bounded(sums[scope, LOSS] + weight * loss, LARGEST_SUM)


@exactly
def _grow(counters, classes, histogram):
    """Let earlier rows fade by letting the weight of later rows grow: O(1) a row, where decay is O(bins)."""
    counters[GROWTH] /= FADING
    if counters[GROWTH] > LARGEST_GROWTH:
        classes[1] /= counters[GROWTH]
        histogram[1] /= counters[GROWTH]
        counters[GROWTH] = 1.0


@exactly
def _chosen_class(row, threshold):
    if row.shape[0] == 1:
        return int(row[0] > threshold)
    best = 0
    for index in range(1, row.shape[0]):
        if row[index] > row[best]:
            best = index
    return best


@exactly
def _class_log_loss(row, label):
    if row.shape[0] == 1:
        probability = _clipped(row[0])
        return -math.log(probability if label == 1 else 1.0 - probability)
    return -math.log(_clipped(row[label]))


@exactly
def _score_class_baselines(label, weight, counters, sums, classes):
    """Score the baselines with what they knew before this label, which is nothing at the first."""
    if counters[PREVIOUS] < 0:
        return
    kinds = classes.shape[1]
    for scope in range(2):
        growth = 1.0 if scope == 0 else counters[GROWTH]
        share = (classes[scope, label] / growth + 1.0) / (sums[scope, WEIGHT] + kinds)
        sums[scope, BASELINE_WEIGHT] += weight
        sums[scope, MAJORITY_LOG_LOSS] -= weight * math.log(share)
        sums[scope, MAJORITY_CORRECT] += weight * (counters[LEADER + scope] == label)
        sums[scope, NO_CHANGE_CORRECT] += weight * (counters[PREVIOUS] == label)


@exactly
def _update_class_baselines(label, weight, counters, classes):
    for scope in range(2):
        classes[scope, label] += weight * (1.0 if scope == 0 else counters[GROWTH])
        leader = int(counters[LEADER + scope])
        if classes[scope, label] > classes[scope, leader]:
            counters[LEADER + scope] = label
    counters[PREVIOUS] = label


def _compile_score_classes(sources: int) -> Any:
    @compiled(
        types.void(
            float64, boolean, *BLOCK, float64[::1], float64[:, ::1], float64[:, ::1], float64[:, :, ::1]
        ),
        **EXACT,
    )
    def score_classes(
        threshold,
        probabilistic,
        predictions,
        labels,
        weights,
        losses,
        skipped,
        counters,
        sums,
        classes,
        histogram,
    ):
        """Fold rows of predictions (n, outputs) and class indices (n, 1) into the state, in place."""
        sources  # noqa: B018 - part of the cache's key, see compiled.py
        for i in range(predictions.shape[0]):
            counters[OBSERVATIONS] += 1.0
            counters[SKIPPED] += skipped[i]
            row = predictions[i]
            if not _all_finite(row):
                continue
            label, weight = int(labels[i, 0]), _bounded(weights[i], LARGEST_WEIGHT)
            _fade(sums)
            _grow(counters, classes, histogram)
            _score_class_baselines(label, weight, counters, sums, classes)
            _update_class_baselines(label, weight, counters, classes)
            _count_loss(sums, losses[i], weight)
            correct = weight * (_chosen_class(row, threshold) == label)
            log_loss = weight * _class_log_loss(row, label) if probabilistic else 0.0
            for scope in range(2):
                sums[scope, WEIGHT] += weight
                sums[scope, CORRECT] += correct
                sums[scope, LOG_LOSS] += log_loss
            if histogram.shape[2] > 0:
                score_bin = _score_bin(row[0], probabilistic)
                histogram[0, label, score_bin] += weight
                histogram[1, label, score_bin] += weight * counters[GROWTH]

    return score_classes


@exactly_inlined
def _add_error(totals, column, error, weight):
    """Add |error| to `column` and error² to the one after it."""
    error = min(abs(error), LARGEST_VALUE)
    totals[column] = min(totals[column] + weight * error, LARGEST_SUM)
    totals[column + 1] = min(totals[column + 1] + weight * error * error, LARGEST_SUM)


@exactly
def _score_target(prediction, label, previous, known, weight, weight_so_far, totals):
    """Score one target in one scope, then fold its label into the mean and variance (West 1979)."""
    _add_error(totals, ABSOLUTE, prediction - label, weight)
    if known:
        _add_error(totals, MEAN_ABSOLUTE, totals[LABEL_MEAN] - label, weight)
        _add_error(totals, NO_CHANGE_ABSOLUTE, previous - label, weight)
    if weight > 0.0:
        delta = label - totals[LABEL_MEAN]
        totals[LABEL_MEAN] += delta * (weight / weight_so_far)
        squares = totals[LABEL_SQUARES] + weight * delta * (label - totals[LABEL_MEAN])
        totals[LABEL_SQUARES] = min(max(squares, 0.0), LARGEST_SUM)  # rounding can make it negative


@exactly
def _fade_values(values):
    for target in range(values.shape[1]):
        for column in range(values.shape[2]):
            if column != LABEL_MEAN:
                values[1, target, column] *= FADING


def _compile_score_values(sources: int) -> Any:
    @compiled(types.void(*BLOCK, *VALUE_STATE), **EXACT)
    def score_values(predictions, labels, weights, losses, skipped, counters, sums, values, previous):
        """Fold rows of predictions and labels, both (n, targets), into the state, in place."""
        sources  # noqa: B018
        for i in range(predictions.shape[0]):
            counters[OBSERVATIONS] += 1.0
            counters[SKIPPED] += skipped[i]
            if not _all_finite(predictions[i]):
                continue
            weight = _bounded(weights[i], LARGEST_WEIGHT)
            known = counters[PREVIOUS] >= 0
            _fade(sums)
            _fade_values(values)
            _count_loss(sums, losses[i], weight)
            for scope in range(2):
                sums[scope, WEIGHT] += weight
                sums[scope, BASELINE_WEIGHT] += weight * known
            for target in range(values.shape[1]):
                label = _bounded(labels[i, target], LARGEST_VALUE)
                prediction = _bounded(predictions[i, target], LARGEST_VALUE)
                for scope in range(2):
                    _score_target(
                        prediction,
                        label,
                        previous[target],
                        known,
                        weight,
                        sums[scope, WEIGHT],
                        values[scope, target],
                    )
                previous[target] = label
            counters[PREVIOUS] = 0.0

    return score_values


score_classes = _compile_score_classes(sources_of(__name__))
score_values = _compile_score_values(sources_of(__name__))
