# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: what a committee does beside predicting and learning: its window of rows, restarts and drift."""

import math

import numpy as np

from model import drift, mixing, monitor, program
from model.compiled import inlined, inner
from model.drift_kernels import add, look_at_inputs, look_at_loss, record
from model.layer_kernels import U
from model.mixing import begin_shares

_begin_shares = inner(begin_shares)
_learned_rows = inner(program.learned_rows)

CHECKS = 128  # steps from one look for members that have run away to the next
RUNAWAY, RUNAWAY_GROWTH = 10.0, 2.0
ENOUGH = 200.0  # rows that a loss is judged by
"""A member has run away if its loss is so many times the best one's, and so many times what it was at first."""


@inlined
def remember(state, entry):
    """Put a row into the window, over the oldest one."""
    window, counters = state.window, state.counters[0]
    if window.shape[0] > 0:
        oldest = window[counters[program.WINDOW_NEXT]]
        for j in range(U(entry.shape[0])):
            oldest[j] = entry[j]
        counters[program.WINDOW_NEXT] = (counters[program.WINDOW_NEXT] + 1) % window.shape[0]
        counters[program.WINDOW_COUNT] = min(counters[program.WINDOW_COUNT] + 1, window.shape[0])


@inlined
def _best_beside(fixed, state, scratch, number):
    """The member with the least fading loss, its twin's included, of those that learned the row; −1: there is none."""
    best, least, losses = -1, math.inf, mixing.SHARES + state.networks.shape[0]
    for other in range(state.counters.shape[0]):
        loss, twin = state.mixture[losses + other], fixed.codes[other, program.TWIN]
        if twin >= 0:
            loss = min(loss, state.mixture[losses + twin])
        if other != number and scratch.bounds[other, program.FAILED] == 0.0 and loss < least:
            best, least = other, loss
    return best


@inlined
def _has_run_away(notes, best):
    recent = notes[monitor.RECENT]
    if notes[monitor.NOTED] < ENOUGH:
        return False
    return recent > RUNAWAY * best[monitor.RECENT] and recent > RUNAWAY_GROWTH * notes[monitor.FIRST]


@inner
def _begin_average(state, number, twin):
    """Let the twin be as its member is now, and begin its average there."""
    averaged = state.averaged[twin - state.counters.shape[0]]
    for i in range(U(state.networks.shape[1])):
        state.networks[twin, i] = state.networks[number, i]
    for i in range(1, averaged.shape[0]):
        averaged[i] = averaged[0]
    state.counters[number, program.AVERAGED] = 0


@inner
def _begin_anew(fixed, state, scratch, number, parameters):
    """Give the member other parameters, in its twin too, and an optimizer that has made no step."""
    counters, notes, twin = state.counters[number], state.notes[number], fixed.codes[number, program.TWIN]
    size = U(parameters.shape[0])
    for i in range(size):
        state.networks[number, i] = parameters[i]
    for slot in range(state.slots.shape[1]):
        for i in range(size):
            state.slots[number, slot, i] = np.float32(fixed.constants[number, program.INITIAL])
    if twin >= 0:
        _begin_average(state, number, twin)
    counters[program.UPDATES] = 0
    for i in range(state.stepped.shape[1]):
        state.stepped[number, i] = 0
    for i in range(notes.shape[0]):
        notes[i] = 0.0
    notes[monitor.BEGAN] = state.counters[0, program.STEP]
    for i in range(scratch.bounds.shape[1]):
        scratch.bounds[number, i] = np.inf


@inner
def restart_members(fixed, state, scratch):
    """Restart, as a copy of the best of the others, each member that failed to learn the row or has run away."""
    counters, step = state.counters, state.counters[0, program.STEP]
    for number in range(counters.shape[0] if counters.shape[0] > 1 else 0):
        failed = scratch.bounds[number, program.FAILED] > 0.0
        if not failed and _learned_rows(counters[0]) % CHECKS != 0:
            continue
        best = _best_beside(fixed, state, scratch, number)
        if best >= 0 and (failed or _has_run_away(state.notes[number], state.notes[best])):
            before, after = state.notes[number, monitor.RECENT], state.notes[best, monitor.RECENT]
            for i in range(state.norm.shape[2]):
                for moment in range(2):
                    state.norm[number, moment, i] = state.norm[best, moment, i]
            counters[number, program.NORM_COUNT] = counters[best, program.NORM_COUNT]
            _begin_anew(fixed, state, scratch, number, state.networks[best])
            counters[number, program.RESTARTS] += 1
            counters[number, program.RESTARTED] = step
            record(state.events, counters[0], drift.RESTART, number, before, after, drift.RESTARTED)


@inlined
def _reset(fixed, state, scratch):
    """All members start anew from their first weights, and the mixture with them."""
    for number in range(state.counters.shape[0]):
        _begin_anew(fixed, state, scratch, number, fixed.first[number])
        state.counters[number, program.SCHEDULED] = 0
        for i in range(state.norm.shape[2]):
            state.norm[number, 0, i], state.norm[number, 1, i] = 0.0, 1.0
        state.counters[number, program.NORM_COUNT] = 0
    if state.mixture.shape[0] > 0:
        values = fixed.codes[0, program.MIXING] == mixing.VALUES
        columns = fixed.layers[0, fixed.layers.shape[1] - 1, program.INPUTS] if values else 1
        _begin_shares(state.mixture, state.networks.shape[0], columns)


@inlined
def _hasten(fixed, state):
    """What was learned before counts for less: learning rates are as high as at first, and averages begin anew.

    A warm restart of the schedule (Loshchilov and Hutter 2017), without its warm-up.
    """
    for number in range(state.counters.shape[0]):
        counters, twin = state.counters[number], fixed.codes[number, program.TWIN]
        warm_up = int(fixed.constants[number, program.WARM_UP])
        counters[program.SCHEDULED] = min(counters[program.SCHEDULED], warm_up)
        if twin >= 0:
            _begin_average(state, number, twin)


@inlined
def error_of(codes, labels, work, z, outputs, loss):
    """What the detector looks at: the mixture's loss, or its mean absolute error."""
    if codes[program.MIXING] != mixing.VALUES:
        return min(loss, max(drift.LARGEST_LOSS, 1.5 * math.log(float(outputs))))
    total = 0.0
    for k in range(outputs):
        total += abs(float(work[z + k]) - labels[k])
    return total / outputs


@inlined
def _bounded_error(codes, state, error):
    """An error of values that are not scaled can have any size: it is seen relative to its fading mean."""
    if codes[program.MIXING] != mixing.VALUES:
        return error
    if codes[program.SCALED_TARGETS]:
        return min(error, drift.LARGEST_LOSS)
    sums, last = state.input_sums, state.input_sums.shape[0] - 1
    sums[last] += drift.FADING * (min(error, drift.LARGEST_ERROR) - sums[last])
    return error / (error + sums[last]) if sums[last] > 0.0 else 0.0


@inner
def look_for_drift(fixed, state, scratch, error):
    """Fold the row into the detectors. Where the loss has risen, do what the spec says."""
    codes, counters, events = fixed.codes[0], state.counters[0], state.events
    add(state.loss_detector, _bounded_error(codes, state, error))
    for j in range(state.input_detectors.shape[0]):
        state.input_sums[j] += scratch.scaled[0, fixed.watched[j]]
    counters[program.LOOK_COUNT] += 1
    if counters[program.LOOK_COUNT] % drift.BLOCK == 0:
        for j in range(state.input_detectors.shape[0]):
            add(state.input_detectors[j], state.input_sums[j] / drift.BLOCK)
            state.input_sums[j] = 0.0
    if counters[program.LOOK_COUNT] < drift.LOOK:
        return
    counters[program.LOOK_COUNT] = 0
    action = codes[program.ACTION]
    if look_at_loss(state.loss_detector, events, counters, action) and action != drift.NOTHING:
        counters[program.WINDOW_COUNT] = 0
        _hasten(fixed, state)
        if action == drift.RESET:
            _reset(fixed, state, scratch)
    look_at_inputs(state.input_detectors, events, counters)
