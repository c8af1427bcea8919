"""Prequential scores: each observation is predicted before it is learned, and that prediction is scored.

Scores are kept in total and over a fading window, beside two prequential baselines: the majority class (or the mean
of the labels), and the last label again ("no change"). A baseline needs one earlier label, so the first observation
is not scored for it. In the window the baselines fade too: theirs is the recent majority or mean.

The window fades exponentially: an observation's weight is (1 − 1/1000) to the power of the number of observations
since. These weights add up to 1,000 observations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import StateError
from model.spec import ModelSpec

Array = NDArray[np.float64]

WINDOW = 1000  # effective number of observations in the fading window
FADING = 1.0 - 1.0 / WINDOW
BINS = 1024  # score bins of the ROC histogram
SCORE_SCALE = 4.0  # log-odds at which a score is half-way to the last bin
SMALLEST_PROBABILITY = 1e-15  # a log loss is never above 34.5
LARGEST_VALUE = 1e150  # labels and errors beyond it count as this, so that their squares stay finite
LARGEST_WEIGHT = 1e100
LARGEST_SUM = 1e305
LARGEST_GROWTH = 1e100

TOTAL, FADED = 0, 1  # the scopes

# Columns of `counters`. LEADER is followed by the window's leader.
OBSERVATIONS, SKIPPED, GROWTH, PREVIOUS, LEADER = range(5)
# Columns of `sums`, one row per scope: weights, and weighted sums of what the name says.
WEIGHT, LOSS_WEIGHT, LOSS, BASELINE_WEIGHT, CORRECT, LOG_LOSS = range(6)
MAJORITY_CORRECT, MAJORITY_LOG_LOSS, NO_CHANGE_CORRECT = range(6, 9)
# Columns of `values`, per scope and target. The squared error follows each absolute one.
ABSOLUTE, MEAN_ABSOLUTE, NO_CHANGE_ABSOLUTE, LABEL_MEAN, LABEL_SQUARES = 0, 2, 4, 6, 7


class PrequentialMetrics:
    """The scores of one model's stream of predictions, in bounded memory.

    ROC AUC comes from a histogram of scores with `BINS` bins, even in z / (4 + |z|), z the log-odds. It is exact
    except that pairs within one bin count half.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._task = spec.task
        self._probabilistic = spec.output in ("sigmoid", "softmax")
        self._threshold = 0.5 if self._probabilistic else 0.0
        self._update: Callable[..., Any] | None = None
        counters = np.zeros(6)
        counters[GROWTH] = 1.0
        counters[PREVIOUS] = -1.0
        self._state: dict[str, Array] = {"counters": counters}
        if spec.task == "regression":
            self._state |= {
                "sums": np.zeros((2, 4)),
                "values": np.zeros((2, spec.targets, 8)),
                "previous": np.zeros(spec.targets),
            }
        else:
            bins = BINS if spec.task == "binary" else 0
            self._state |= {
                "sums": np.zeros((2, 9)),
                "classes": np.zeros((2, len(spec.classes or ()))),
                "histogram": np.zeros((2, 2, bins)),
            }

    @property
    def state(self) -> dict[str, Array]:
        """The live arrays, for `load`."""
        return self._state

    def load(self, state: dict[str, Array]) -> None:
        """Copy in another instance's state. Raises StateError, and changes nothing, if it does not fit."""
        if state.keys() != self._state.keys():
            raise StateError(f"metrics: expected {sorted(self._state)}, got {sorted(state)}")
        for name, values in state.items():
            expected = self._state[name].shape
            if values.shape != expected or values.dtype != np.float64:
                raise StateError(
                    f"metrics.{name}: expected float64 {expected}, got {values.dtype} {values.shape}"
                )
            if not np.isfinite(values).all():
                raise StateError(f"metrics.{name}: holds a value that is not finite")
        for name, values in state.items():
            self._state[name][...] = values

    def update(
        self, predictions: Array, y: Array, weights: Array, losses: Array, skipped: NDArray[np.bool_]
    ) -> None:
        """Score the predictions (n, outputs) made before the labels y (n, targets) were learned.

        `weights` and `losses` are (n,). `skipped` (n,) marks rows that were not learned; their predictions are
        scored like any other. A row with a prediction that is not finite counts as an observation and is not
        scored. All arrays are C-contiguous.
        """
        rows = predictions.shape[0]
        if not (y.shape[0] == weights.shape[0] == losses.shape[0] == skipped.shape[0] == rows):
            raise ValueError("predictions, y, weights, losses and skipped differ in length")
        if self._update is None:
            self._update = self._compiled()
        self._update(predictions, y, weights, losses, skipped, *self._state.values())

    def _compiled(self) -> Callable[..., Any]:
        # Imported here: numba takes most of a second, and processes that only predict never need it.
        from model.metrics_kernels import score_classes, score_values

        if self._task == "regression":
            score: Callable[..., Any] = score_values
            return score
        threshold, probabilistic = self._threshold, self._probabilistic
        return lambda *arrays: score_classes(threshold, probabilistic, *arrays)

    def report(self) -> dict[str, Any]:
        """All scores, JSON-ready; None for a score that is not defined yet."""
        counters = self._state["counters"]
        scores = self._value_scores if self._task == "regression" else self._class_scores
        return {
            "observations": int(counters[OBSERVATIONS]),
            "skipped": int(counters[SKIPPED]),
            "total": scores(TOTAL),
            "window": {"size": WINDOW, **scores(FADED)},
        }

    def _class_scores(self, scope: int) -> dict[str, Any]:
        sums = self._state["sums"][scope].tolist()
        weight, baseline_weight = sums[WEIGHT], sums[BASELINE_WEIGHT]
        scores = {
            "loss": _ratio(sums[LOSS], sums[LOSS_WEIGHT]),
            "log_loss": _ratio(sums[LOG_LOSS], weight) if self._probabilistic else None,
            "accuracy": _ratio(sums[CORRECT], weight),
        }
        if self._task == "binary":
            scores["roc_auc"] = _area_under_curve(self._state["histogram"][scope])
        majority = {
            "accuracy": _ratio(sums[MAJORITY_CORRECT], baseline_weight),
            "log_loss": _ratio(sums[MAJORITY_LOG_LOSS], baseline_weight),
        }
        no_change = {"accuracy": _ratio(sums[NO_CHANGE_CORRECT], baseline_weight)}
        return {**scores, "baselines": {"majority": majority, "no_change": no_change}}

    def _value_scores(self, scope: int) -> dict[str, Any]:
        sums = self._state["sums"][scope].tolist()
        targets = self._state["values"][scope].tolist()
        baseline_weight = sums[BASELINE_WEIGHT]
        return {
            "loss": _ratio(sums[LOSS], sums[LOSS_WEIGHT]),
            **_errors(targets, ABSOLUTE, sums[WEIGHT]),
            "r2": _average([_r2(target) for target in targets]),
            "baselines": {
                "mean": _errors(targets, MEAN_ABSOLUTE, baseline_weight),
                "no_change": _errors(targets, NO_CHANGE_ABSOLUTE, baseline_weight),
            },
        }


def _ratio(numerator: float, denominator: float) -> float | None:
    if denominator <= 0.0:
        return None
    ratio = numerator / denominator
    return ratio if math.isfinite(ratio) else None


def _average(values: list[float | None]) -> float | None:
    """The mean over targets; None if one of them has no value."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _errors(targets: list[list[float]], column: int, weight: float) -> dict[str, float | None]:
    """MAE and RMSE, averaged over targets, from a column of absolute errors and the next, of squared ones."""
    if weight <= 0.0:
        return {"mae": None, "rmse": None}
    return {
        "mae": _average([target[column] / weight for target in targets]),
        "rmse": _average([math.sqrt(target[column + 1] / weight) for target in targets]),
    }


def _r2(target: list[float]) -> float | None:
    ratio = _ratio(target[ABSOLUTE + 1], target[LABEL_SQUARES])
    return None if ratio is None else 1.0 - ratio


def _area_under_curve(histogram: Array) -> float | None:
    """Area under the ROC curve of scores counted per class and bin (2, bins); None without both classes.

    The Mann-Whitney form: the share of (negative, positive) pairs in the right order; ties count half.
    """
    negatives, positives = histogram.sum(axis=1).tolist()
    if negatives <= 0.0 or positives <= 0.0:
        return None
    negative, positive = histogram[0] / negatives, histogram[1] / positives
    return float(np.dot(positive, np.cumsum(negative) - 0.5 * negative))
