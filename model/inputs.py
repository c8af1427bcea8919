"""From raw rows, one column per feature, to the network's inputs: scaling, one-hot and indicators."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model import tokens
from model.scaling import Scaler
from model.spec import ModelSpec

# Columns of a plan, one row per column of a raw row: the first input of its value, the inputs that the value takes if
# it is one-hot (else 0: it is scaled), the input of its missing-indicator (else −1), and whether it is a token.
PLACE, ONE_HOT, INDICATOR, TOKEN = range(4)
PLAN_COLUMNS = 4


@lru_cache(maxsize=256)
def plan_of(spec: ModelSpec) -> NDArray[np.int64]:
    """Where each column goes, of shape (width, PLAN_COLUMNS); without rows if inputs are just the scaled columns."""
    if spec.inputs == spec.width and not any(feature.one_hot for feature in spec.feature_list):
        return np.zeros((0, PLAN_COLUMNS), np.int64)
    plan, column, offset = np.zeros((spec.width, PLAN_COLUMNS), np.int64), 0, 0
    for feature in spec.feature_list:
        rows = plan[column : column + feature.columns]
        rows[:] = offset, feature.slots if feature.one_hot else 0, -1, feature.tokens is not None
        if feature.indicator:
            rows[0, INDICATOR] = offset + feature.slots
        column += feature.columns
        offset += feature.inputs
    plan.setflags(write=False)
    return plan


class Inputs:
    """The network's inputs (n, inputs), float32, for raw rows X (n, width)."""

    def __init__(self, spec: ModelSpec, scaler: Scaler) -> None:
        self._scaler = scaler
        self._plan = plan_of(spec)
        self._size = spec.inputs

    def __call__(self, X: NDArray[np.float64]) -> NDArray[np.float32]:
        scaled, plan = self._scaler(X), self._plan
        if not len(plan):
            return scaled.astype(np.float32)
        inputs = np.zeros((len(X), self._size), np.float32)
        numbers = plan[:, ONE_HOT] == 0
        inputs[:, plan[numbers, PLACE]] = scaled[:, numbers]
        for column in np.flatnonzero(~numbers):
            write = _add_tokens if plan[column, TOKEN] else _set_one_hot
            write(inputs, X[:, column], plan[column, PLACE], plan[column, ONE_HOT])
        for column in np.flatnonzero(plan[:, INDICATOR] >= 0):
            inputs[:, plan[column, INDICATOR]] = np.isnan(X[:, column])
        return inputs


def _set_one_hot(inputs: NDArray[np.float32], values: NDArray[np.float64], offset: int, slots: int) -> None:
    """Set the input of each value to 1; none for a missing value."""
    rows = np.flatnonzero(~np.isnan(values))
    inputs[rows, offset + np.clip(values[rows], 0, slots - 1).astype(np.intp)] = 1.0


def _add_tokens(inputs: NDArray[np.float32], values: NDArray[np.float64], offset: int, slots: int) -> None:
    """Add the weight of each row's token to the input of its bucket; none for an absent token."""
    rows = np.flatnonzero(~np.isnan(values))
    buckets, weights = tokens.unpack(values[rows])
    inputs[rows, offset + np.minimum(buckets, slots - 1)] += weights
