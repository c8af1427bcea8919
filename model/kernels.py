# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The online path: a compiled loop that takes rows one after the other.

A row is scaled, predicted, scored and then learned, by one step of the optimizer. For one row the gradient of a
layer's weights is the outer product of two vectors, so it is never written down: norms come from the vectors, and
each step reads them. No memory is allocated.

Nothing is changed before it is known that the step leaves everything finite: a row that would not is skipped.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int64, types

from model import monitor, program
from model.compiled import compiled, inner, sources_of
from model.layer_kernels import ONE, U, backward, fold_norm, forward, square_sum
from model.monitor_kernels import note_gradients, note_improvement, note_loss, note_values
from model.network import norm_rate
from model.scaling_kernels import expand, fold, scale
from model.schedules import factor
from model.score_kernels import is_label, loss_and_gradient, make_finite, predict
from model.step_kernels import ADAGRAD, ADAMW, RATES, RMSPROP, SGD, set_rates, step_layers

_schedule_factor = inner(factor)
_norm_rate = inner(norm_rate)

LARGEST_PARAMETER = 1e30
LARGEST_GRADIENT = 1e15  # its square is still a float32


@inner
def _gradient_norm(layers, work, norms):
    """The norm of the whole gradient; that of each layer goes to norms[:]."""
    total = 0.0
    for number in range(layers.shape[0] - 1):
        layer = layers[number]
        units = U(layer[program.UNITS])
        through = square_sum(work, U(layer[program.VALUE]), U(layer[program.INPUTS]))
        if layer[program.BIAS] >= 0:
            through += 1.0
        squares = through * square_sum(work, U(layer[program.DELTA]), units)
        if layer[program.GAIN] >= 0:
            squares += square_sum(work, U(layer[program.GAIN_GRADIENT]), units)
        if layer[program.SHIFT] >= 0:
            squares += square_sum(work, U(layer[program.SHIFT_GRADIENT]), units)
        norms[number] = math.sqrt(squares)
        total += squares
    return math.sqrt(total)


@inner
def _largest(values, size):
    """The largest magnitude; infinite if one of them is not a number."""
    largest, odd = np.float32(0), False
    for i in range(size):
        x = abs(values[i])
        largest = max(largest, x)
        odd |= x != x
    return np.inf if odd else float(largest)


@inner
def _longest_step(codes, constants, gradient):
    """A bound of the step on any parameter, at a learning rate of 1; earlier gradients were LARGEST_GRADIENT at most.

    By Cauchy and Schwarz Adam's mean is at most so many times the root of its mean square; RMSProp's and Adagrad's
    squares hold the gradient itself. The 1 more is for squares that are too small for a float32.
    """
    kind = codes[program.OPTIMIZER]
    if kind == SGD:
        momentum = constants[program.MOMENTUM]
        return gradient if momentum == 0.0 else 2.0 * LARGEST_GRADIENT / (1.0 - momentum)
    if kind == ADAGRAD:
        return 2.0
    if kind == RMSPROP:
        if codes[program.CENTERED]:
            return gradient / constants[program.EPS]
        return 1.0 + 1.0 / math.sqrt(1.0 - constants[program.ALPHA])
    beta1, beta2 = constants[program.BETA1], constants[program.BETA2]
    ratio = beta1 / math.sqrt(beta2) if beta2 > 0.0 else 1.0
    if ratio >= 1.0:
        return LARGEST_GRADIENT / constants[program.EPS] / (1.0 - beta1)
    return 1.0 + 1.0 / math.sqrt(1.0 - beta2) / (1.0 - ratio)


@inner
def _reach(bounds, codes, constants, rate, gradient):
    """Bounds of what the parameters and the growing slot can become by a step of `rate` on a gradient so large.

    `bounds` holds bounds of what they are. Only Adagrad's sum and RMSProp's momentum can outgrow the gradients.
    """
    kind, decay = codes[program.OPTIMIZER], constants[program.WEIGHT_DECAY]
    parameter, slot = bounds[0], bounds[1]
    gradient += constants[program.L1] + (decay + constants[program.L2]) * parameter
    if not gradient <= LARGEST_GRADIENT:
        return np.inf, np.inf
    step = _longest_step(codes, constants, gradient)
    if kind == ADAGRAD:
        slot += gradient * gradient
    elif kind == RMSPROP and constants[program.MOMENTUM] > 0.0:
        slot = step = constants[program.MOMENTUM] * slot + step
    stretch = max(abs(1.0 - rate * decay), 1.0) if kind == ADAMW else 1.0
    return parameter * stretch + rate * step, slot


@inner
def _stays_finite(bounds, codes, constants, rate, gradient, parameters, slots):
    """Whether a step on a gradient of this norm leaves everything finite. Looks at every number only if in doubt."""
    if not gradient <= LARGEST_GRADIENT:
        return False
    parameter, slot = _reach(bounds, codes, constants, rate, gradient)
    if not (parameter <= LARGEST_PARAMETER and slot <= LARGEST_PARAMETER):
        size = U(parameters.shape[0])
        bounds[0], bounds[1] = _largest(parameters, size), 0.0
        if codes[program.OPTIMIZER] == ADAGRAD or codes[program.OPTIMIZER] == RMSPROP:
            bounds[1] = _largest(slots[slots.shape[0] - 1], size)
        parameter, slot = _reach(bounds, codes, constants, rate, gradient)
        if not (parameter <= LARGEST_PARAMETER and slot <= LARGEST_PARAMETER):
            return False
    bounds[0], bounds[1] = parameter, slot
    return True


@inner
def _standardise(codes, targets, y, outputs, labels):
    """Write what the loss compares scores with to labels[:]: a class, or targets as they are scaled."""
    if codes[program.SCALED_TARGETS]:
        scale(1, targets, y, outputs, labels, U(0))
    else:
        for k in range(outputs):
            labels[k] = y[min(k, U(y.shape[0] - 1))]


@inner
def _fold_norms(layers, norm, work, counters):
    counters[program.NORM_COUNT] += 1
    rate = _norm_rate(counters[program.NORM_COUNT])
    for number in range(layers.shape[0] - 2):
        if layers[number, program.NORM] >= 0:
            fold_norm(layers[number], norm, work, rate)


@inner
def _learn_row(program_arrays, state, X, y, weights, row, predictions, losses, rates, bounds):
    """Predict, score and learn one row; whether it was learned."""
    layers, codes, constants, _, work, scratch = program_arrays
    counters, parameters, slots, inputs, targets, norm, notes = state
    outputs, depth = U(predictions.shape[1]), layers.shape[0] - 1
    z, delta = U(layers[depth, program.VALUE]), U(layers[depth - 1, program.DELTA])
    labels, norms = scratch[:outputs], scratch[outputs:]
    counters[program.STEP] += 1
    step, seed = counters[program.STEP], codes[program.SEED]
    _enter(program_arrays, inputs, X[row], U(outputs + U(depth)))
    forward(layers, parameters, norm, work, seed, step, False)
    make_finite(work, z, outputs)
    predict(codes, targets, work, z, outputs, predictions[row])
    if not is_label(codes, y[row], outputs):
        return False
    _standardise(codes, targets, y[row], outputs, labels)
    weight = weights[row]
    if constants.shape[0] > program.CLASS_WEIGHTS:
        weight *= constants[program.CLASS_WEIGHTS + int(labels[0])]
    loss = loss_and_gradient(codes[program.LOSS], labels, work, z, outputs, weight, delta)
    losses[row] = loss
    if codes[program.DROPOUT]:
        forward(layers, parameters, norm, work, seed, step, True)
        make_finite(work, z, outputs)
        loss_and_gradient(codes[program.LOSS], labels, work, z, outputs, weight, delta)
    backward(layers, parameters, norm, work)
    gradient, rate = _gradient_norm(layers, work, norms), _rate(codes, constants, counters)
    limit = constants[program.CLIP_NORM]
    clip = min(1.0, limit / (gradient + 1e-6)) if gradient > limit - 1e-6 else 1.0
    if not _stays_finite(bounds, codes, constants, rate, gradient * clip, parameters, slots):
        return False
    counters[program.UPDATES] += 1
    counters[program.SCHEDULED] += 1
    t = float(counters[program.UPDATES])
    set_rates(rates, codes, constants, rate, clip, t)
    step_layers(layers, codes, constants, parameters, slots, work, rates)
    fold(codes[program.SCALING], inputs, X[row], U(X.shape[1]))
    if codes[program.SCALED_TARGETS]:
        fold(1, targets, y[row], outputs)
    if norm.shape[1] > 0:
        _fold_norms(layers, norm, work, counters)
    note_loss(notes, loss, float(step))
    note_gradients(notes, norms, depth, clip < 1.0)
    if counters[program.UPDATES] % monitor.SAMPLING == 0:
        _look_closer(program_arrays, state, labels, loss, outputs)
    return True


@inner
def _enter(program_arrays, inputs, row, scaled):
    """Write the network's inputs for a raw row, by way of its scaled columns at scratch[scaled:]."""
    layers, codes, _, plan, work, scratch = program_arrays
    scale(codes[program.SCALING], inputs, row, U(row.shape[0]), scratch, scaled)
    expand(plan, row, scratch, scaled, work, U(layers[0, program.VALUE]), U(layers[0, program.INPUTS]))


@inner
def _rate(codes, constants, counters):
    """The learning rate of the next step."""
    return constants[program.LEARNING_RATE] * _schedule_factor(
        codes[program.SCHEDULE],
        constants[program.SCHEDULE_FIRST],
        constants[program.SCHEDULE_SECOND],
        constants[program.WARM_UP],
        float(counters[program.SCHEDULED]),
    )


@inner
def _look_closer(program_arrays, state, labels, loss, outputs):
    """Note the layers' outputs, and what the step just made did to the loss of its own row."""
    layers, codes, _, _, work, _ = program_arrays
    counters, parameters, _, _, _, norm, notes = state
    depth = layers.shape[0] - 1
    z, delta = U(layers[depth, program.VALUE]), U(layers[depth - 1, program.DELTA])
    notes[monitor.SAMPLES] += 1.0
    note_values(notes, layers, work, float(counters[program.STEP]), notes[monitor.SAMPLES])
    forward(layers, parameters, norm, work, codes[program.SEED], counters[program.STEP], False)
    make_finite(work, z, outputs)
    after = loss_and_gradient(codes[program.LOSS], labels, work, z, outputs, 1.0, delta)
    note_improvement(notes, loss, after, notes[monitor.SAMPLES])


READ_ONLY = types.Array(float64, 2, "C", readonly=True)
PROGRAM = (int64[:, ::1], int64[::1], float64[::1], int64[:, ::1], float32[::1], float64[::1])
# counters, parameters, slots, statistics of inputs, targets and batch normalisation, notes for the diagnostics
STATE = (
    int64[::1],
    float32[::1],
    float32[:, ::1],
    float64[:, ::1],
    float64[:, ::1],
    float64[:, ::1],
    float64[::1],
)
ROWS = (READ_ONLY, READ_ONLY, types.Array(float64, 1, "C", readonly=True))
RESULTS = (float64[:, ::1], float64[::1], boolean[::1])


def _compile_learn_rows(sources: int) -> Any:
    @compiled(types.void(*PROGRAM, *STATE, *ROWS, *RESULTS))
    def learn_rows(
        layers, codes, constants, plan, work, scratch,
        counters, parameters, slots, inputs, targets, norm, notes,
        X, y, weights,
        predictions, losses, skipped,
    ):  # fmt: skip
        """One step per row of X (n, width), in order; predictions, losses and skipped are written for each."""
        sources  # noqa: B018 - part of the cache's key, see compiled.py
        rates, bounds = np.empty(RATES, np.float32), np.empty(2)
        bounds[:] = np.inf
        work[0] = ONE
        program_arrays = (layers, codes, constants, plan, work, scratch)
        state = (counters, parameters, slots, inputs, targets, norm, notes)
        for row in range(X.shape[0]):
            losses[row] = np.nan
            learned = _learn_row(
                program_arrays, state, X, y, weights, row, predictions, losses, rates, bounds
            )
            skipped[row] = not learned
            counters[program.SKIPPED] += not learned

    return learn_rows


def _compile_fold_rows(sources: int) -> Any:
    @compiled(types.void(int64, float64[:, ::1], READ_ONLY))
    def fold_rows(kind, state, X):
        """Fold rows of shape (n, columns) into the running statistics, in order, in place."""
        sources  # noqa: B018
        for row in range(X.shape[0]):
            fold(kind, state, X[row], U(X.shape[1]))

    return fold_rows


learn_rows = _compile_learn_rows(sources_of(__name__))
fold_rows = _compile_fold_rows(sources_of(__name__))
