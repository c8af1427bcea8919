# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: scaling of one row, and folding it into the running statistics. Formulas as in `scaling.py`."""

import math

import numpy as np

from model import inputs, scaling, tokens
from model.compiled import inner
from model.scaling import DEVIATIONS, KINDS, LARGEST, LARGEST_UNSCALED, TINY

U = np.uint64
STANDARD, MINMAX = KINDS["standard"], KINDS["minmax"]
ONE = np.float32(1)


@inner
def scale(kind, state, row, columns, out, start):
    """Write the scaled values of row (columns,) to out[start:]; a missing value becomes the mean."""
    if kind == STANDARD:
        for j in range(columns):
            count = state[scaling.COUNT, j]
            delta = min(max(row[j], -LARGEST), LARGEST) - state[scaling.MEAN, j]
            scaled = count * delta
            squares = (count + 1.0) * state[scaling.SQUARES, j] + TINY + scaled * delta
            scaled = min(max(scaled / math.sqrt(squares), -DEVIATIONS), DEVIATIONS)
            out[start + j] = scaled if row[j] == row[j] else 0.0
    elif kind == MINMAX:
        for j in range(columns):
            x = min(max(row[j], -LARGEST), LARGEST) if row[j] == row[j] else state[scaling.MEAN, j]
            seen = state[scaling.COUNT, j] > 0.0
            low = min(x, state[scaling.LOW, j]) if seen else x
            high = max(x, state[scaling.HIGH, j]) if seen else x
            out[start + j] = (x - low) / (high - low if high > low else 1.0)
    else:
        for j in range(columns):
            x = min(max(row[j], -LARGEST_UNSCALED), LARGEST_UNSCALED)
            out[start + j] = x if row[j] == row[j] else 0.0


@inner
def _cut(delta, count, squares):
    """A difference from the mean cut to ±10 deviations, once there is a deviation to speak of."""
    limit = DEVIATIONS * math.sqrt(squares / max(count, 1.0))
    limit = limit if count >= scaling.KNOWN and squares > 0.0 else 2.0 * LARGEST
    return min(max(delta, -limit), limit)


@inner
def fold(kind, state, row, columns):
    """Fold row (columns,) into the running statistics (Welford 1962), in place; NaN leaves its column unchanged."""
    if kind == 0:
        return
    full = False
    for j in range(columns):
        x, known = row[j], row[j] == row[j]
        x = min(max(x, -LARGEST), LARGEST) if known else 0.0
        one = 1.0 if known else 0.0
        count, mean, squares = state[scaling.COUNT, j], state[scaling.MEAN, j], state[scaling.SQUARES, j]
        delta = one * _cut(x - mean, count, squares)
        x = mean + delta
        count += one
        step = delta / max(count, 1.0)
        state[scaling.COUNT, j] = count
        state[scaling.MEAN, j] = mean + step
        state[scaling.SQUARES, j] = squares + delta * (delta - step)
        count, mean = state[scaling.COUNT_NEXT, j], state[scaling.MEAN_NEXT, j]
        delta = one * _cut(x - mean, count, state[scaling.SQUARES_NEXT, j])
        count += one
        step = delta / max(count, 1.0)
        state[scaling.COUNT_NEXT, j] = count
        state[scaling.MEAN_NEXT, j] = mean + step
        state[scaling.SQUARES_NEXT, j] += delta * (delta - step)
        full |= count >= state[scaling.LIMIT, j]
    if kind == MINMAX:
        _fold_range(state, row, columns)
    if full:
        _replace(state, columns)


@inner
def _fold_range(state, row, columns):
    for j in range(columns):
        x = min(max(row[j], -LARGEST), LARGEST)
        if row[j] == row[j]:
            first = state[scaling.COUNT, j] == 1.0
            state[scaling.LOW, j] = x if first else min(x, state[scaling.LOW, j])
            state[scaling.HIGH, j] = x if first else max(x, state[scaling.HIGH, j])
            first = state[scaling.COUNT_NEXT, j] == 1.0
            state[scaling.LOW_NEXT, j] = x if first else min(x, state[scaling.LOW_NEXT, j])
            state[scaling.HIGH_NEXT, j] = x if first else max(x, state[scaling.HIGH_NEXT, j])


@inner
def _replace(state, columns):
    """Where the second set has reached its limit, let it replace the first, and start a new one."""
    for j in range(columns):
        if state[scaling.COUNT_NEXT, j] >= state[scaling.LIMIT, j]:
            for k in range(scaling.COUNT_NEXT):
                state[k, j] = state[k + scaling.COUNT_NEXT, j]
                state[k + scaling.COUNT_NEXT, j] = 0.0
            state[scaling.LIMIT, j] = min(2.0 * state[scaling.LIMIT, j], scaling.LARGEST_LIMIT)


@inner
def _read_token(value, slots):
    """The bucket and the weight of a packed token, as `tokens.unpack` reads it."""
    whole = int(min(max(value, 0.0), tokens.LARGEST))
    bucket, bits = min(whole % tokens.BUCKETS, slots - 1), whole // tokens.BUCKETS
    sign = ONE if bits < tokens.EXPONENTS * tokens.HIDDEN_BIT else -ONE
    exponent = bits // tokens.HIDDEN_BIT % tokens.EXPONENTS
    if exponent <= 0 or exponent >= tokens.EXPONENTS - 1:
        return bucket, ONE - ONE
    fraction = tokens.HIDDEN_BIT + bits % tokens.HIDDEN_BIT
    return bucket, sign * np.float32(math.ldexp(float(fraction), exponent - tokens.BIAS))


@inner
def expand(plan, row, scaled, start, work, place, size):
    """Write the network's inputs to work[place:], from the raw row and its scaled columns at scaled[start:]."""
    if plan.shape[0] == 0:
        for j in range(size):
            work[place + j] = scaled[start + j]
        return
    for j in range(size):
        work[place + j] = np.float32(0)
    for j in range(U(plan.shape[0])):
        at = place + U(plan[j, inputs.PLACE])
        known = row[j] == row[j]
        if plan[j, inputs.ONE_HOT] == 0:
            work[at] = scaled[start + j]
        elif plan[j, inputs.TOKEN] > 0:
            if known:
                bucket, weight = _read_token(row[j], plan[j, inputs.ONE_HOT])
                work[at + U(bucket)] += weight
        elif known:
            work[at + U(min(max(row[j], 0.0), plan[j, inputs.ONE_HOT] - 1.0))] = ONE
        if plan[j, inputs.INDICATOR] >= 0 and not known:
            work[place + U(plan[j, inputs.INDICATOR])] = ONE


@inner
def expand_sparse(plan, row, scaled, start, work, place, active):
    """The same for a sparse first layer: the inputs that may be other than 0 go to active[], their values to work."""
    active[0] = 0
    for j in range(U(plan.shape[0])):
        first, slots, known = plan[j, inputs.PLACE], plan[j, inputs.ONE_HOT], row[j] == row[j]
        if slots == 0:
            _add_active(active, work, place, first, np.float32(scaled[start + j]))
        elif known and plan[j, inputs.TOKEN] > 0:
            bucket, weight = _read_token(row[j], slots)
            if weight != ONE - ONE:
                _add_to_active(active, work, place, first, first + slots, first + bucket, weight)
        elif known:
            _add_active(active, work, place, first + int(min(max(row[j], 0.0), slots - 1.0)), ONE)
        if plan[j, inputs.INDICATOR] >= 0 and not known:
            _add_active(active, work, place, plan[j, inputs.INDICATOR], ONE)


@inner
def _add_active(active, work, place, at, value):
    active[1 + active[0]] = at
    work[place + U(active[0])] = value
    active[0] += 1


@inner
def _add_to_active(active, work, place, first, end, at, value):
    """Add to the input `at` if an earlier token of the same feature has it, whose inputs are from `first` to `end`."""
    i = active[0] - 1
    while i >= 0 and first <= active[1 + i] < end:
        if active[1 + i] == at:
            work[place + U(i)] += value
            return
        i -= 1
    _add_active(active, work, place, at, value)
