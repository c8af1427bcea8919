# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: ADWIN (Bifet and Gavaldà 2007) over the loss and the inputs; `drift.py` gives the layout of its numbers.

A detector is a matrix with a row for each size of buckets, 1, 2, 4, … values; in a row the oldest bucket comes first.
"""

import math

from model import drift, program
from model.compiled import inlined, inner
from model.drift import BUCKETS, COUNT, LEAST_PART, SUMS, VARIANCES

_learned_rows = inner(program.learned_rows)


@inner
def add(detector, value):
    """Add a value to the window; the oldest values go where there is no room."""
    squares, size = 0.0, 1.0
    for level in range(detector.shape[0]):
        row = detector[level]
        offset = int(row[COUNT])
        row[SUMS + offset], row[VARIANCES + offset] = value, squares
        row[COUNT] += 1.0
        if offset < BUCKETS:
            return
        apart = (row[SUMS] - row[SUMS + 1]) / size
        value = row[SUMS] + row[SUMS + 1]
        squares = row[VARIANCES] + row[VARIANCES + 1] + 0.5 * size * apart * apart
        _drop(row, 2)
        size *= 2.0


@inlined
def _drop(row, count):
    """Drop the oldest buckets of one size."""
    for offset in range(BUCKETS + 1 - count):
        row[SUMS + offset] = row[SUMS + offset + count]
        row[VARIANCES + offset] = row[VARIANCES + offset + count]
    row[COUNT] -= count


@inner
def _totals(detector):
    """Number, sum and variance of the values in the window."""
    count, total, squares, size = 0.0, 0.0, 0.0, 1.0
    for level in range(detector.shape[0]):
        for offset in range(int(detector[level, COUNT])):
            value = detector[level, SUMS + offset]
            squares += detector[level, VARIANCES + offset]
            if count > 0.0:
                apart = total / count - value / size
                squares += apart * apart * count * size / (count + size)
            count += size
            total += value
        size *= 2.0
    return count, total, squares / max(count, 1.0)


@inner
def _best_cut(detector, confidence):
    """The number of oldest values to part with, and their mean and the others'; 0 where no two parts differ.

    Of the cuts that hold, the one where the means are furthest apart for the sizes of the parts.
    """
    count, total, variance = _totals(detector)
    best, most, before, after = 0.0, 1.0, 0.0, 0.0
    if count < 2.0 * LEAST_PART:
        return best, before, after
    surprise = math.log(2.0 * math.log(count) / confidence)
    older, sum_older = 0.0, 0.0
    for level in range(detector.shape[0] - 1, -1, -1):
        for offset in range(int(detector[level, COUNT])):
            older += 2.0**level
            sum_older += detector[level, SUMS + offset]
            newer = count - older
            if older < LEAST_PART or newer < LEAST_PART:
                continue
            share = 1.0 / (older - LEAST_PART + 1.0) + 1.0 / (newer - LEAST_PART + 1.0)
            least = math.sqrt(2.0 * share * variance * surprise) + 2.0 / 3.0 * surprise * share
            means = sum_older / older, (total - sum_older) / newer
            if abs(means[0] - means[1]) > most * least:
                most = abs(means[0] - means[1]) / least
                best, before, after = older, means[0], means[1]
    return best, before, after


@inner
def _part_with(detector, count):
    """Drop the oldest `count` values, which are whole buckets."""
    for level in range(detector.shape[0] - 1, -1, -1):
        while count > 0.0 and detector[level, COUNT] > 0.0:
            _drop(detector[level], 1)
            count -= 2.0**level


@inner
def _late_rise(detector):
    """By how much the newer half of the window lies above the older half."""
    count, total, _ = _totals(detector)
    older, sum_older = 0.0, 0.0
    for level in range(detector.shape[0] - 1, -1, -1):
        for offset in range(int(detector[level, COUNT])):
            if 2.0 * older < count:
                older += 2.0**level
                sum_older += detector[level, SUMS + offset]
    newer = count - older
    return (total - sum_older) / newer - sum_older / older if newer > 0.0 and older > 0.0 else 0.0


@inlined
def record(events, counters, kind, subject, before, after, action):
    """Add an event to the newest that are kept."""
    event = events[counters[program.EVENTS] % drift.EVENTS]
    event[drift.STEP], event[drift.KIND], event[drift.SUBJECT] = counters[program.STEP], kind, subject
    event[drift.BEFORE], event[drift.AFTER], event[drift.ACTION] = before, after, action
    counters[program.EVENTS] += 1


@inner
def look_at_loss(detector, events, counters, action):
    """Whether the loss has risen; if so, that is recorded. The window goes on with what came after the change."""
    cut, before, after = _best_cut(detector, drift.CONFIDENCE)
    if cut == 0.0:
        return False
    _part_with(detector, cut)
    if after <= before:
        return False
    gradual = _late_rise(detector) > drift.GRADUAL_RISE * (after - before)
    record(events, counters, drift.GRADUAL if gradual else drift.ABRUPT, -1, before, after, action)
    return True


@inner
def look_at_inputs(detectors, events, counters):
    """Record the input whose mean has moved furthest, if any has."""
    moved, before, after = -1, 0.0, 0.0
    for j in range(detectors.shape[0]):
        cut, old, new = _best_cut(detectors[j], drift.CONFIDENCE / detectors.shape[0])
        if cut > 0.0:
            _part_with(detectors[j], cut)
            if abs(new - old) > abs(after - before):
                moved, before, after = j, old, new
    if moved >= 0 and _learned_rows(counters) >= counters[program.QUIET_UNTIL]:
        record(events, counters, drift.INPUTS, moved, before, after, drift.NOTHING)
        counters[program.QUIET_UNTIL] = _learned_rows(counters) + drift.QUIET
