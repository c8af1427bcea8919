# mypy: disable-error-code="no-any-return"
"""Running statistics of inputs and targets, and what a row is after scaling.

A row is scaled by statistics that include the row itself, whether it is then learned or only predicted: so a first
row is 0, no row is further than √n deviations out, and predicting and learning see the same numbers. Rows enter the
statistics only when they are learned (`kernels.fold_rows`), cut to ±10 deviations once 10 are known.

A second set of statistics replaces the first, and is reset, once it has 32, then 64,
128, … values, at most 32,768. So what came first is forgotten, outliers too, and scales that drift are followed.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Rows of a scaler's state, one column per feature or target. Those that end in NEXT are the second set.
COUNT, MEAN, SQUARES, LOW, HIGH = range(5)
COUNT_NEXT, MEAN_NEXT, SQUARES_NEXT, LOW_NEXT, HIGH_NEXT = range(5, 10)
LIMIT = 10  # values at which the second set replaces the first
STATE_ROWS = 11

FIRST_LIMIT = 32.0
LARGEST_LIMIT = 32_768.0
DEVIATIONS = 10.0  # scaled values lie within ± this
KNOWN = 10.0  # values after which outliers are cut before they enter the statistics
LARGEST = 1e100  # raw values beyond it count as this, so that their squares stay finite
LARGEST_UNSCALED = 1e15  # the same for inputs that are not scaled, so that float32 squares stay finite
UNLIMITED = 1e150
TINY = 1e-290  # keeps 0 / 0 out of features that have been constant

KINDS = {"none": 0, "standard": 1, "minmax": 2}


def new_state(columns: int) -> Array:
    """Statistics of nothing: shape (STATE_ROWS, columns)."""
    state = np.zeros((STATE_ROWS, columns))
    state[LIMIT] = FIRST_LIMIT
    return state


def deviation(state: Array) -> Array:
    """The standard deviation of each column; 0 where nothing or only one value is known."""
    return np.sqrt(state[SQUARES] / np.maximum(state[COUNT], 1.0))


@dataclass(frozen=True)
class Standard:
    """(x − mean) / deviation, with the row itself included in both.

    With δ = x − mean of n values, and Σδ² over them, that is n·δ / √((n + 1)·Σδ² + n·δ²), or with
    u = δ·n / √((n + 1)·Σδ²) it is u / √(1 + u²/n). `low` and `high` are the u at which that reaches ±10.
    """

    mean: Array
    factor: Array  # u / δ
    low: Array
    high: Array
    share: Array  # 1 / n

    @classmethod
    def of(cls, state: Array) -> "Standard":
        count = state[COUNT]
        share = 1.0 / np.maximum(count, 1.0)
        beyond = np.maximum(1.0 - DEVIATIONS**2 * share, 0.0)
        limit = np.where(beyond > 0.0, DEVIATIONS / np.sqrt(np.where(beyond > 0.0, beyond, 1.0)), UNLIMITED)
        factor = count / np.sqrt((count + 1.0) * state[SQUARES] + TINY)
        return cls(state[MEAN].copy(), factor, -limit, limit, share)

    def __call__(self, X: Array) -> Array:
        """Scale X (n, columns) to within ±10; NaN, a missing value, becomes 0: the mean."""
        u = X - self.mean
        u *= self.factor
        np.maximum(u, self.low, out=u)
        np.minimum(u, self.high, out=u)
        root = u * u
        root *= self.share
        root += 1.0
        np.sqrt(root, out=root)
        u /= root
        if math.isnan(np.vdot(u, u)):
            u[np.isnan(u)] = 0.0
        return u


@dataclass(frozen=True)
class MinMax:
    """(x − min) / (max − min) with the row itself included, from 0 to 1; 0 while there is only one value."""

    count: Array
    mean: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, state: Array) -> "MinMax":
        seen = state[COUNT] > 0
        low, high = np.where(seen, state[LOW], np.inf), np.where(seen, state[HIGH], -np.inf)
        return cls(state[COUNT].copy(), state[MEAN].copy(), low, high)

    def __call__(self, X: Array) -> Array:
        """Scale X (n, columns) to 0 … 1; NaN, a missing value, becomes the scaled mean."""
        x = np.where(np.isnan(X), self.mean, np.minimum(np.maximum(X, -LARGEST), LARGEST))
        low = np.minimum(x, self.low)
        span = np.maximum(x, self.high) - low
        return (x - low) / np.where(span > 0.0, span, 1.0)


@dataclass(frozen=True)
class Unscaled:
    """The values as they are; NaN, a missing value, becomes 0."""

    def __call__(self, X: Array) -> Array:
        return np.where(np.isnan(X), 0.0, np.minimum(np.maximum(X, -LARGEST_UNSCALED), LARGEST_UNSCALED))


Scaler = Standard | MinMax | Unscaled


def scaler_of(scaling: str, state: Array) -> Scaler:
    """A fixed scaler with the statistics that `state` holds now."""
    if scaling == "standard":
        return Standard.of(state)
    return MinMax.of(state) if scaling == "minmax" else Unscaled()
