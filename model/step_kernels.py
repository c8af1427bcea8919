# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: one step of an optimizer on one layer, for a gradient that is the outer product u·vᵀ.

`rates` are the numbers of this step, float32, under the names below. u and v are places in `work`; a vector of
parameters is a matrix of one row, with u the constant 1.
"""

import math

import numpy as np

from model import program
from model.compiled import inlined, inner
from model.optimizers import OPTIMIZERS
from model.program import BIAS, DELTA, GAIN, GAIN_GRADIENT, SHIFT, SHIFT_GRADIENT, SPARSE, WEIGHT

U = np.uint64
ZERO, ONE = np.float32(0), np.float32(1)
SMALLEST = np.float32(1e-36)
SGD, RMSPROP, ADAM, ADAMW, ADAGRAD = (
    OPTIMIZERS[name].code for name in ("sgd", "rmsprop", "adam", "adamw", "adagrad")
)

# `rates`: what the gradient is multiplied by (clipping), the learning rate, then what each optimizer needs.
SCALE, RATE, KEEP, FRESH, KEEP_SQUARE, FRESH_SQUARE, EPSILON, CORRECTION, SHRINK = range(9)
MOMENTUM, FRESH_MOMENTUM = 9, 10


@inner
def set_rates(rates, codes, constants, rate, scale, t):
    """The numbers of step t = 1, 2, … at learning rate `rate` and gradient factor `scale`."""
    kind = codes[program.OPTIMIZER]
    rates[SCALE], rates[RATE], rates[EPSILON] = scale, rate, constants[program.EPS]
    rates[MOMENTUM], rates[SHRINK] = constants[program.MOMENTUM], 1.0
    # The first gradient is taken whole.
    rates[FRESH_MOMENTUM] = 1.0 if t == 1 else 1.0 - constants[program.DAMPENING]
    if kind in (ADAM, ADAMW):
        beta1, beta2 = constants[program.BETA1], constants[program.BETA2]
        rates[KEEP], rates[FRESH] = beta1, 1.0 - beta1
        rates[KEEP_SQUARE], rates[FRESH_SQUARE] = beta2, 1.0 - beta2
        rates[RATE] = rate / (1.0 - beta1**t)
        rates[CORRECTION] = 1.0 / math.sqrt(1.0 - beta2**t)
        if kind == ADAMW:
            rates[SHRINK] = 1.0 - rate * constants[program.WEIGHT_DECAY]
    elif kind == RMSPROP:
        alpha = constants[program.ALPHA]
        rates[KEEP_SQUARE], rates[FRESH_SQUARE] = alpha, np.float32(1.0) - np.float32(alpha)
    elif kind == ADAGRAD:
        rates[RATE] = rate / (1.0 + (t - 1.0) * constants[program.LR_DECAY])


@inner
def _sign(x):
    return (ONE if x > ZERO else ZERO) - (ONE if x < ZERO else ZERO)


@inner
def _flush(x):
    """0 in place of a number next to nothing: what decays must not become subnormal, which is slow to compute with."""
    return x if abs(x) > SMALLEST else ZERO


@inner
def _sgd(w, start, rows, columns, work, u, v, rates, decay, l1):
    rate, scale = rates[RATE], rates[SCALE]
    if decay == ZERO and l1 == ZERO:
        for r in range(rows):
            a = start + r * columns
            step = rate * (scale * work[u + r])
            for i in range(columns):
                w[a + i] -= step * work[v + i]
        return
    for r in range(rows):
        a = start + r * columns
        factor = scale * work[u + r]
        for i in range(columns):
            x = w[a + i]
            w[a + i] = x - rate * (factor * work[v + i] + decay * x + l1 * _sign(x))


@inner
def _momentum(w, slots, start, rows, columns, work, u, v, rates, decay, l1, nesterov):
    rate, scale, keep, fresh = rates[RATE], rates[SCALE], rates[MOMENTUM], rates[FRESH_MOMENTUM]
    # The step is −rate·(direct·gradient + through·buffer).
    direct, through = (ONE, keep) if nesterov else (ZERO, ONE)
    for r in range(rows):
        a = start + r * columns
        factor = scale * work[u + r]
        for i in range(columns):
            x = w[a + i]
            g = factor * work[v + i] + decay * x + l1 * _sign(x)
            buffer = _flush(keep * slots[0, a + i] + fresh * g)
            slots[0, a + i] = buffer
            w[a + i] = x - rate * (direct * g + through * buffer)


@inner
def _rmsprop(w, slots, start, rows, columns, work, u, v, rates, decay, l1, centered, last):
    rate, scale, epsilon = rates[RATE], rates[SCALE], rates[EPSILON]
    keep, fresh, momentum = rates[KEEP_SQUARE], rates[FRESH_SQUARE], rates[MOMENTUM]
    for r in range(rows):
        a = start + r * columns
        factor = scale * work[u + r]
        for i in range(columns):
            x = w[a + i]
            g = factor * work[v + i] + decay * x + l1 * _sign(x)
            variance = _flush(keep * slots[0, a + i] + fresh * g * g)
            slots[0, a + i] = variance
            if centered:
                mean = _flush(keep * slots[1, a + i] + fresh * g)
                slots[1, a + i] = mean
                variance = max(variance - mean * mean, ZERO)
            g /= math.sqrt(variance) + epsilon
            if momentum > ZERO:
                g = _flush(g + momentum * slots[last, a + i])
                slots[last, a + i] = g
            w[a + i] = x - rate * g


@inner
def _adam(w, slots, start, rows, columns, work, u, v, rates, decay, l1):
    rate, scale, epsilon, correction = rates[RATE], rates[SCALE], rates[EPSILON], rates[CORRECTION]
    keep, fresh, keep_square, fresh_square = (
        rates[KEEP],
        rates[FRESH],
        rates[KEEP_SQUARE],
        rates[FRESH_SQUARE],
    )
    shrink = rates[SHRINK]
    for r in range(rows):
        a = start + r * columns
        factor = scale * work[u + r]
        for i in range(columns):
            x = w[a + i]
            g = factor * work[v + i] + decay * x
            if l1 > ZERO:
                g += l1 * _sign(x)
            mean = _flush(keep * slots[0, a + i] + fresh * g)
            square = _flush(keep_square * slots[1, a + i] + fresh_square * (g * g))
            slots[0, a + i] = mean
            slots[1, a + i] = square
            w[a + i] = shrink * x - rate * mean / (math.sqrt(square) * correction + epsilon)


@inner
def _adam_without_momentum(w, slots, start, rows, columns, work, u, v, rates, decay, l1):
    """`_adam` for a first beta of 0. Where a row of the gradient is 0, only the squares fade."""
    rate, scale, epsilon, correction = rates[RATE], rates[SCALE], rates[EPSILON], rates[CORRECTION]
    keep_square, fresh_square, shrink = rates[KEEP_SQUARE], rates[FRESH_SQUARE], rates[SHRINK]
    penalised = decay != ZERO or l1 != ZERO or shrink != ONE
    for r in range(rows):
        a = start + r * columns
        factor = scale * work[u + r]
        if penalised:
            for i in range(columns):
                x = w[a + i]
                g = factor * work[v + i] + decay * x + l1 * _sign(x)
                square = _flush(keep_square * slots[0, a + i] + fresh_square * (g * g))
                slots[0, a + i] = square
                w[a + i] = shrink * x - rate * g / (math.sqrt(square) * correction + epsilon)
        elif factor == ZERO:
            for i in range(columns):
                slots[0, a + i] = _flush(keep_square * slots[0, a + i])
        else:
            for i in range(columns):
                g = factor * work[v + i]
                square = _flush(keep_square * slots[0, a + i] + fresh_square * (g * g))
                slots[0, a + i] = square
                w[a + i] -= rate * g / (math.sqrt(square) * correction + epsilon)


@inner
def _adagrad(w, slots, start, rows, columns, work, u, v, rates, decay, l1):
    rate, scale, epsilon = rates[RATE], rates[SCALE], rates[EPSILON]
    for r in range(rows):
        a = start + r * columns
        factor = scale * work[u + r]
        for i in range(columns):
            x = w[a + i]
            g = factor * work[v + i] + decay * x + l1 * _sign(x)
            total = slots[0, a + i] + g * g
            slots[0, a + i] = total
            w[a + i] = x - rate * g / (math.sqrt(total) + epsilon)


@inner
def _step(codes, w, slots, start, rows, columns, work, u, v, rates, decay, l1):
    kind = codes[program.OPTIMIZER]
    if kind == SGD:
        if codes[program.SLOTS] == 0:
            _sgd(w, start, rows, columns, work, u, v, rates, decay, l1)
        else:
            nesterov = codes[program.NESTEROV] > 0
            _momentum(w, slots, start, rows, columns, work, u, v, rates, decay, l1, nesterov)
    elif kind == RMSPROP:
        centered = codes[program.CENTERED] > 0
        last = codes[program.SLOTS] - 1
        _rmsprop(w, slots, start, rows, columns, work, u, v, rates, decay, l1, centered, last)
    elif kind == ADAGRAD:
        _adagrad(w, slots, start, rows, columns, work, u, v, rates, decay, l1)
    elif codes[program.SLOTS] == 1:
        _adam_without_momentum(w, slots, start, rows, columns, work, u, v, rates, decay, l1)
    else:
        _adam(w, slots, start, rows, columns, work, u, v, rates, decay, l1)


# The parts of a layer that a step changes: the offset of their parameters, and of the gradient of each.
PARTS = ((WEIGHT, DELTA), (BIAS, DELTA), (GAIN, GAIN_GRADIENT), (SHIFT, SHIFT_GRADIENT))


@inner
def step_layers(layers, codes, constants, parameters, slots, work, rates, active, stepped, t):
    """Step t on all parameters, from each layer's input values and `delta`.

    Of a sparse first layer only the rows of inputs that are not 0 are touched: those that `active` names. `stepped`
    holds the step at which each was touched last.
    """
    for number in range(layers.shape[0] - 1):
        layer = layers[number]
        for part in range(len(PARTS)):
            column, gradient = PARTS[part]
            if layer[column] < 0:
                continue
            sparse = column == WEIGHT and layer[SPARSE] > 0
            for piece in range(active[0] if sparse else 1):
                row = active[1 + piece] if sparse else -1
                if sparse:
                    _catch_up(layer, codes, slots, rates, stepped, row, t)
                # Called from one place only: it is large, and would be compiled into each.
                _step_part(
                    layer, column, gradient, codes, constants, parameters, slots, work, rates, row, U(piece)
                )


@inlined
def _catch_up(layer, codes, slots, rates, stepped, row, t):
    """What fades at every step, in a row of weights that had no gradient since `stepped[row]`."""
    missed = t - 1.0 - float(stepped[row])
    stepped[row] = int(t)
    if missed > 0.0 and (codes[program.OPTIMIZER] in (ADAM, ADAMW) or codes[program.OPTIMIZER] == RMSPROP):
        factor = np.float32(float(rates[KEEP_SQUARE]) ** missed)
        units = U(layer[program.UNITS])
        start = U(layer[WEIGHT]) + U(row) * units
        for i in range(units):
            slots[0, start + i] = _flush(factor * slots[0, start + i])


@inlined
def _step_part(layer, column, gradient, codes, constants, parameters, slots, work, rates, row, piece):
    """One step on a layer's weights (or a row of them), which l1 and l2 hold back too, or on a vector of it."""
    start, rows, columns = U(layer[column]), U(1), U(layer[program.UNITS])
    u, v = U(0), U(layer[gradient])
    if row >= 0:
        start, u = start + U(row) * columns, U(layer[program.VALUE]) + piece
    elif column == WEIGHT:
        u, rows = U(layer[program.VALUE]), U(layer[program.INPUTS])
        if not layer[program.BY_INPUT]:
            rows, columns, u, v = columns, rows, v, u
    _step_vector(
        column == WEIGHT, codes, constants, parameters, slots, start, rows, columns, work, u, v, rates
    )


@inlined
def _step_vector(weights, codes, constants, parameters, slots, start, rows, columns, work, u, v, rates):
    decay, l1 = np.float32(0.0), np.float32(0.0)
    if codes[program.OPTIMIZER] != ADAMW:
        decay = np.float32(constants[program.WEIGHT_DECAY])
    if weights:
        decay, l1 = decay + np.float32(constants[program.L2]), np.float32(constants[program.L1])
    _step(codes, parameters, slots, start, rows, columns, work, u, v, rates, decay, l1)


@inner
def step_together(layers, codes, constants, parameters, slots, gradient, merged, stepped, rates, t):
    """Step t on all parameters, from their gradient, laid out as `rehearsal_kernels.py` says."""
    layer, outer = layers[0], layers[layers.shape[0] - 2]
    size, weights = U(parameters.shape[0]), U(outer[WEIGHT] + outer[program.INPUTS] * outer[program.UNITS])
    offset, units = U(gradient.shape[0]) - size, U(layer[program.UNITS])
    dense = U(layer[program.INPUTS]) * units if layer[SPARSE] > 0 else U(0)
    count = merged[0] if layer[SPARSE] > 0 else 0
    for piece in range(count + 2):
        # The rows of a sparse first layer, then all other weights, then the vectors.
        start, columns, v = dense, weights - dense, offset + dense
        if piece < count:
            row = merged[1 + piece]
            _catch_up(layer, codes, slots, rates, stepped, row, t)
            start, columns, v = U(row) * units, units, U(16) + U(piece) * units
        elif piece == count + 1:
            start, columns, v = weights, size - weights, offset + weights
        _step_vector(
            piece <= count,
            codes,
            constants,
            parameters,
            slots,
            start,
            U(1),
            columns,
            gradient,
            U(0),
            v,
            rates,
        )
