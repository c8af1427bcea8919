"""Where the drift detectors keep their numbers, and what they report.

ADWIN (Bifet and Gavaldà 2007) keeps a window of values in buckets of 1, 2, 4, … and drops its oldest part when two
parts of it have means too far apart. One detector sees the committee's loss of each row; one for each of the first
MOST_INPUTS features sees means of BLOCK scaled values. Memory is bounded: the oldest buckets go first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec

BUCKETS = 5  # of each size, and one more before two are merged
COUNT, SUMS, VARIANCES = 0, 1, 2 + BUCKETS
LEVEL_COLUMNS = 3 + 2 * BUCKETS
"""Columns of a level of buckets: how many there are, their sums, their summed squared deviations."""
LOSS_LEVELS, INPUT_LEVELS = 12, 8
MOST_INPUTS = 32
BLOCK = 8  # values in a mean of an input
LOOK = 32  # rows from one look for a change to the next
CONFIDENCE = 0.002  # the chance of a false alarm at a look, for the loss and for all inputs together
LEAST_PART = 5.0  # values in the smaller part
LARGEST_LOSS = 3.0
LARGEST_ERROR, FADING = 1e100, 0.001  # of errors that are not scaled
QUIET = 500  # rows without another event of the inputs after one

EVENTS = 32  # newest events that are kept
STEP, KIND, SUBJECT, BEFORE, AFTER, ACTION = range(6)
EVENT_COLUMNS = 6
ABRUPT, GRADUAL, INPUTS, RESTART = range(4)
KINDS = ("abrupt", "gradual", "inputs", "restart")
GRADUAL_RISE = 0.5  # a rise is gradual if so much of it came in the newer half of what followed the cut

NOTHING, EMPTIED, RESET, RETRAIN, RESTARTED = range(5)
ACTIONS = {"none": NOTHING, "rehearsal": EMPTIED, "reset": RESET, "retrain": RETRAIN}
DONE = (
    "nothing",
    "the rehearsal window was emptied, schedules of learning rates and averages began again",
    "all members started anew",
    "a retraining is due",
    "restarted",
)


def watched(spec: ModelSpec) -> list[tuple[int, str]]:
    """Column and name of the features whose means are looked at: the first numbers and booleans, if they are scaled."""
    if not spec.drift.detect or spec.scaling == "none":
        return []
    columns, offset = [], 0
    for feature in spec.feature_list:
        if not feature.one_hot:
            columns.append((offset, feature.name))
        offset += feature.columns
    return columns[:MOST_INPUTS]


@dataclass(frozen=True)
class Event:
    """A drift, or a member's restart. `before` and `after` are mean losses, or means of a scaled input."""

    number: int
    step: int
    kind: str
    subject: int
    before: float
    after: float
    action: int


def events_of(log: NDArray[np.float64], count: int) -> list[Event]:
    """The events that are kept, oldest first; `count` is the number of all so far."""
    events = []
    for number in range(max(0, count - EVENTS), count):
        row = log[number % EVENTS].tolist()
        kind, subject = KINDS[int(row[KIND])], int(row[SUBJECT])
        events.append(
            Event(number + 1, int(row[STEP]), kind, subject, row[BEFORE], row[AFTER], int(row[ACTION]))
        )
    return events
