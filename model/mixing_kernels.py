# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: the mixture of the networks' predictions, and how its weights move; `mixing.py` says what and why.

`forecasts` holds a row for each network, what it predicts; then a row for each, its centred logarithms; then the two
mixtures. A forecast is the probability of the second of two classes, probabilities, or scores.
"""

import math

import numpy as np

from model.compiled import inner
from model.layer_kernels import U
from model.mixing import (
    ERROR,
    FADING,
    FADING_LOSS,
    FIRST_SHARE,
    HEADROOM,
    HEAVIEST,
    LARGEST_LABEL,
    LARGEST_LOG,
    LARGEST_VALUE,
    LEAD,
    LEADER,
    LOGISTIC_RATE,
    MEAN_WEIGHT,
    PROBABILITIES,
    ROWS,
    SECOND_SHARE,
    SHARE,
    SHARES,
    SINCE,
    SMALLEST_ERROR,
    SMALLEST_PROBABILITY,
    SQUARES_RATE,
    VALUES,
    VOTES,
)


@inner
def _bounded(x, limit):
    return min(max(x, -limit), limit)


@inner
def _probability(p):
    return min(max(p, SMALLEST_PROBABILITY), 1.0 - SMALLEST_PROBABILITY)


@inner
def _logistic(z):
    small = math.exp(-abs(z))
    return (1.0 if z >= 0.0 else small) / (1.0 + small)


@inner
def _normalise(shares):
    """Exponentials of shares[:], in place, so that they add up to 1; the logarithm of their sum."""
    top = shares[0]
    for k in range(shares.shape[0]):
        top = max(top, shares[k])
    total = 0.0
    for k in range(shares.shape[0]):
        shares[k] = math.exp(shares[k] - top)
        total += shares[k]
    for k in range(shares.shape[0]):
        shares[k] /= total
    return top + math.log(total)


@inner
def forecast(kind, mixing_state, work, z, outputs, networks, number, forecasts):
    """Read network `number`'s scores at z into its rows of `forecasts`."""
    ahead, logs = forecasts[number], forecasts[networks + number]
    if kind == PROBABILITIES and outputs == 1:
        score = float(work[z])
        ahead[0], logs[0] = _probability(_logistic(score)), _bounded(score, LARGEST_LOG)
    elif kind == PROBABILITIES:
        for k in range(np.int64(outputs)):
            ahead[k] = float(work[z + U(k)])
            logs[k] = ahead[k]
        level, total = _normalise(ahead), 0.0
        for k in range(np.int64(outputs)):
            ahead[k] = max(ahead[k], SMALLEST_PROBABILITY)
            logs[k] = max(logs[k] - level, -LARGEST_LOG)
            total += logs[k]
        for k in range(np.int64(outputs)):
            logs[k] -= total / outputs
    elif kind == VOTES:
        best = 0
        for k in range(np.int64(outputs)):
            ahead[k] = -1.0
            if work[z + U(k)] > work[z + U(best)]:
                best = k
        ahead[best] = 1.0 if outputs > 1 or work[z] >= np.float32(0) else -1.0
    else:
        limit = HEADROOM * mixing_state[LARGEST_LABEL] if mixing_state[ROWS] > 0.0 else math.inf
        for k in range(np.int64(outputs)):
            x = float(work[z + U(k)])
            ahead[k] = _bounded(x, min(limit, 2.0 * LARGEST_VALUE)) if kind == VALUES else x


@inner
def mix(kind, mixing_state, forecasts, networks, work, z, outputs):
    """Write the scores of the mixture of `forecasts` to work[z:]."""
    first, second = forecasts[2 * networks], forecasts[2 * networks + 1]
    columns = np.int64(outputs) if kind == VALUES else 1
    weights, biases = SHARES + 2 * networks, SHARES + networks * (2 + columns)
    for k in range(np.int64(outputs)):
        first[k], second[k] = 0.0, mixing_state[biases + k]
    for n in range(networks):
        source = networks + n if kind == PROBABILITIES else n
        for k in range(np.int64(outputs)):
            first[k] += mixing_state[SHARES + n] * forecasts[n, k]
            column = k if kind == VALUES else 0
            second[k] += mixing_state[weights + n * columns + column] * forecasts[source, k]
    if kind == PROBABILITIES and outputs == 1:
        second[0] = _probability(_logistic(second[0]))
    elif kind == PROBABILITIES:
        _normalise(second)
    one, two = mixing_state[FIRST_SHARE], mixing_state[SECOND_SHARE]
    for k in range(np.int64(outputs)):
        if kind == VALUES:
            second[k] = _bounded(
                second[k], HEADROOM * mixing_state[LARGEST_LABEL] if mixing_state[ROWS] > 0.0 else math.inf
            )
        x = one * first[k] + two * second[k] if kind in (PROBABILITIES, VALUES) else first[k]
        if kind == PROBABILITIES:
            x = _probability(x)
            x = math.log(x / (1.0 - x)) if outputs == 1 else math.log(x)
        work[z + U(k)] = np.float32(_bounded(x, 3e38))


@inner
def _loss(kind, row, labels, outputs, error):
    """The loss of one forecast: −log p, the error relative to `error`, or whether it is wrong."""
    if kind == PROBABILITIES:
        p = row[0] if labels[0] > 0.5 else 1.0 - row[0]
        return -math.log(max(p if outputs == 1 else row[int(labels[0])], SMALLEST_PROBABILITY))
    if kind == VALUES:
        return _error(row, labels, outputs) / error
    if outputs == 1:
        return 1.0 if (row[0] >= 0.0) != (labels[0] > 0.5) else 0.0
    best = 0
    for k in range(np.int64(outputs)):
        if row[k] > row[best]:
            best = k
    return 1.0 if best != int(labels[0]) else 0.0


@inner
def _error(row, labels, outputs):
    total = 0.0
    for k in range(np.int64(outputs)):
        total += abs(row[k] - _bounded(labels[k], LARGEST_VALUE))
    return total / outputs


@inner
def _share(mixing_state, offset, count, total):
    """Bring `count` weights at `offset` that add up to `total` to add up to 1, and share a little of them anew."""
    for n in range(count):
        mixing_state[offset + n] = (1.0 - SHARE) * mixing_state[offset + n] / total + SHARE / count


@inner
def _weight_of(mixing_state, weight):
    """The row's weight relative to the mean one, at most HEAVIEST."""
    rate = max(FADING, 1.0 / (mixing_state[ROWS] + 1.0))
    mixing_state[MEAN_WEIGHT] += rate * (weight - mixing_state[MEAN_WEIGHT])
    mean = mixing_state[MEAN_WEIGHT]
    return min(max(weight, 0.0) / mean, HEAVIEST) if mean > 0.0 else 0.0


@inner
def _move_learned(kind, mixing_state, forecasts, networks, labels, outputs, weight):
    """A step of the second mixture."""
    second = forecasts[2 * networks + 1]
    columns = np.int64(outputs) if kind == VALUES else 1
    weights, biases = SHARES + 2 * networks, SHARES + networks * (2 + columns)
    rate = LOGISTIC_RATE * weight
    for k in range(np.int64(outputs)):
        if kind == VALUES:
            error, squares = second[k] - _bounded(labels[k], LARGEST_VALUE), 1.0
            for n in range(networks):
                squares += forecasts[n, k] * forecasts[n, k]
            rate = SQUARES_RATE * weight / squares
        elif outputs == 1:
            error = second[0] - labels[0]
        else:
            error = second[k] - (1.0 if k == int(labels[0]) else 0.0)
        column = k if kind == VALUES else 0
        for n in range(networks):
            source = n if kind == VALUES else networks + n
            mixing_state[weights + n * columns + column] -= rate * error * forecasts[source, k]
        mixing_state[biases + k] -= rate * error


@inner
def _follow_leader(mixing_state, networks, step):
    leader, losses = int(mixing_state[LEADER]), SHARES + networks
    best = leader
    for n in range(networks):
        if mixing_state[losses + n] < mixing_state[losses + best]:
            best = n
    if mixing_state[losses + best] < LEAD * mixing_state[losses + leader]:
        mixing_state[LEADER], mixing_state[SINCE] = best, step


@inner
def move(kind, mixing_state, forecasts, networks, labels, outputs, weight, step):
    """Move the weights by what the label says of the forecasts, and of the two mixtures."""
    weight = _weight_of(mixing_state, weight)
    error = max(mixing_state[ERROR], SMALLEST_ERROR)
    rows, total = mixing_state[ROWS], 0.0
    if kind == VALUES and rows == 0.0:
        error = max(_error(forecasts[2 * networks], labels, outputs), SMALLEST_ERROR)
    rate, least = max(FADING_LOSS, 1.0 / (rows + 1.0)), math.inf
    for n in range(networks):
        least = min(least, _loss(kind, forecasts[n], labels, outputs, error))
    for n in range(networks):
        loss = _loss(kind, forecasts[n], labels, outputs, error)
        mixing_state[SHARES + n] *= math.exp(-weight * (loss - least))
        total += mixing_state[SHARES + n]
        plain = loss * error if kind == VALUES else loss
        mixing_state[SHARES + networks + n] += rate * (plain - mixing_state[SHARES + networks + n])
    _share(mixing_state, SHARES, networks, total)
    if kind in (PROBABILITIES, VALUES):
        one = _loss(kind, forecasts[2 * networks], labels, outputs, error)
        two = _loss(kind, forecasts[2 * networks + 1], labels, outputs, error)
        mixing_state[FIRST_SHARE] *= math.exp(-weight * max(one - two, 0.0))
        mixing_state[SECOND_SHARE] *= math.exp(-weight * max(two - one, 0.0))
        _share(mixing_state, FIRST_SHARE, 2, mixing_state[FIRST_SHARE] + mixing_state[SECOND_SHARE])
        _move_learned(kind, mixing_state, forecasts, networks, labels, outputs, weight)
    if kind == VALUES:
        _note_error(mixing_state, forecasts, networks, labels, outputs)
    mixing_state[ROWS] += 1.0
    _follow_leader(mixing_state, networks, step)


@inner
def _note_error(mixing_state, forecasts, networks, labels, outputs):
    """Fold the mixture's error into the fading mean, and look at the labels' size."""
    one, two = mixing_state[FIRST_SHARE], mixing_state[SECOND_SHARE]
    total = 0.0
    for k in range(np.int64(outputs)):
        x = one * forecasts[2 * networks, k] + two * forecasts[2 * networks + 1, k]
        label = _bounded(labels[k], LARGEST_VALUE)
        total += abs(x - label)
        mixing_state[LARGEST_LABEL] = max(mixing_state[LARGEST_LABEL], abs(label))
    rate = max(FADING, 1.0 / (mixing_state[ROWS] + 1.0))
    mixing_state[ERROR] += rate * (total / outputs - mixing_state[ERROR])
