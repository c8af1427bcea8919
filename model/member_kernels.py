# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: how one member learns a row, and rehearses."""

import math

from model import monitor, program
from model.compiled import inlined, inner
from model.finite_kernels import stays_finite
from model.layer_kernels import U, backward, fold_norm, forward, square_sum
from model.monitor_kernels import note_gradients, note_improvement, note_loss, note_values
from model.network import norm_rate
from model.network_kernels import enter
from model.program import Member
from model.rehearsal import EARLY_ROWS
from model.rehearsal_kernels import accumulate, begin_gradient, draw, norm_of
from model.scaling_kernels import scale
from model.schedules import factor
from model.score_kernels import loss_and_gradient, make_finite
from model.step_kernels import set_rates, step_layers, step_together
from model.twin_kernels import average, catch_up

_schedule_factor = inner(factor)
_norm_rate = inner(norm_rate)
_learned_rows = inner(program.learned_rows)

LESSON = 1 << 40  # sets the dropout of a step's rehearsed rows apart
NO_STEP = -1.0


@inlined
def member_of(fixed, state, scratch, number):
    return Member(
        fixed.layers[number],
        fixed.codes[number],
        fixed.constants[number],
        state.counters[number],
        state.networks[number],
        state.slots[number],
        state.norm[number],
        state.notes[number],
        state.stepped[number],
        scratch.bounds[number],
        scratch.work[number],
    )


@inner
def standardise(codes, targets, y, outputs, labels):
    """Write what the loss compares scores with to labels[:]: a class, or targets as they are scaled."""
    if codes[program.SCALED_TARGETS]:
        scale(1, targets, y, outputs, labels, U(0))
    else:
        for k in range(outputs):
            labels[k] = y[min(k, U(y.shape[0] - 1))]


@inlined
def weighted(constants, labels, weight):
    """A row's weight, times that of its class."""
    if constants.shape[0] > program.CLASS_WEIGHTS:
        return weight * constants[program.CLASS_WEIGHTS + int(labels[0])]
    return weight


@inlined
def _scores_of(layers):
    """The offsets of the scores and of their gradient, and how many scores there are."""
    depth = layers.shape[0] - 1
    return (
        U(layers[depth, program.VALUE]),
        U(layers[depth - 1, program.DELTA]),
        U(layers[depth, program.INPUTS]),
    )


@inlined
def _rate(member):
    """The learning rate of the next step."""
    return member.constants[program.LEARNING_RATE] * _schedule_factor(
        member.codes[program.SCHEDULE],
        member.constants[program.SCHEDULE_FIRST],
        member.constants[program.SCHEDULE_SECOND],
        member.constants[program.WARM_UP],
        float(member.counters[program.SCHEDULED]),
    )


@inner
def _gradient_norm(layers, work, norms, active):
    """The norm of the whole gradient; that of each layer goes to norms[:]."""
    total = 0.0
    for number in range(layers.shape[0] - 1):
        layer = layers[number]
        units = U(layer[program.UNITS])
        inputs = active[0] if layer[program.SPARSE] > 0 else layer[program.INPUTS]
        through = square_sum(work, U(layer[program.VALUE]), U(inputs))
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


@inlined
def _gradient_of_row(member, active, labels, weight, position):
    """Write the gradient of every layer's sums to `work`, which holds the row's forward pass. Returns the loss."""
    layers, codes, work = member.layers, member.codes, member.work
    z, delta, outputs = _scores_of(layers)
    loss = loss_and_gradient(codes[program.LOSS], labels, work, z, outputs, weight, delta)
    if codes[program.DROPOUT]:
        forward(layers, member.parameters, member.norm, work, active, codes[program.SEED], position, True)
        make_finite(work, z, outputs)
        loss_and_gradient(codes[program.LOSS], labels, work, z, outputs, weight, delta)
    backward(layers, member.parameters, member.norm, work)
    return loss


@inlined
def _begin_step(member, gradient, rate, rates):
    """Prepare the step on a gradient of this norm: what clipping multiplies it by, or NO_STEP."""
    limit = member.constants[program.CLIP_NORM]
    clip = min(1.0, limit / (gradient + 1e-6)) if gradient > limit - 1e-6 else 1.0
    if not stays_finite(
        member.bounds, member.codes, member.constants, rate, gradient * clip, member.parameters, member.slots
    ):
        return NO_STEP
    member.counters[program.UPDATES] += 1
    set_rates(rates, member.codes, member.constants, rate, clip, float(member.counters[program.UPDATES]))
    return clip


@inlined
def _make_step(member, scratch, active, together):
    """The step that was prepared: on the gradient of the row in `work`, or on that of the rows rehearsed together."""
    layers, codes, constants = member.layers, member.codes, member.constants
    parameters, slots, stepped, rates = member.parameters, member.slots, member.stepped, scratch.rates
    t = float(member.counters[program.UPDATES])
    if together:
        gradient, merged = scratch.gradient, scratch.merged
        step_together(layers, codes, constants, parameters, slots, gradient, merged, stepped, rates, t)
    else:
        step_layers(layers, codes, constants, parameters, slots, member.work, rates, active, stepped, t)


@inlined
def _recall(fixed, state, scratch, member, lesson):
    """Take a row from the window through the member's network. Its weight; its label goes to labels[1]."""
    layers, codes, window, labels = member.layers, member.codes, state.window, scratch.labels[1]
    active, scaled, step = scratch.active[1], scratch.scaled[1], _learned_rows(state.counters[0])
    z, _, outputs = _scores_of(layers)
    back = draw(codes[program.SEED], step, lesson, state.counters[0, program.WINDOW_COUNT])
    entry = window[(state.counters[0, program.WINDOW_NEXT] - 1 - back) % window.shape[0]]
    width = scaled.shape[0]
    enter(layers, codes, fixed.plan, state.inputs, entry[:width], scaled, member.work, active)
    twin = codes[program.TWIN]
    if twin >= 0 and layers[0, program.SPARSE] > 0:
        averaged = state.averaged[twin - state.counters.shape[0]]
        catch_up(layers[0], member.parameters, state.networks[twin], averaged, active)
    forward(layers, member.parameters, member.norm, member.work, active, codes[program.SEED], step, False)
    make_finite(member.work, z, outputs)
    standardise(codes, state.targets, entry[width : entry.shape[0] - 1], outputs, labels)
    return weighted(member.constants, labels, entry[entry.shape[0] - 1])


@inlined
def _norm_of_lesson(member, scratch, active, lesson, rows, together):
    """The norm of the gradient to step on; of `rows` rehearsed together, 0 before the last one."""
    layers, work = member.layers, member.work
    if not together:
        return _gradient_norm(layers, work, scratch.norms, active)
    gradient, merged, size = scratch.gradient, scratch.merged, member.parameters.shape[0]
    if lesson % rows == 1 or rows == 1:
        begin_gradient(layers, gradient, merged, size)
    accumulate(layers, work, gradient, active, merged, size)
    return norm_of(layers, gradient, merged, size) if lesson % rows == 0 else 0.0


@inlined
def teach(fixed, state, scratch, member, weight):
    """Learn the row whose forward pass is in `work`, then rehearse; the twin follows. Whether it was learned."""
    codes, counters, step = member.codes, member.counters, _learned_rows(state.counters[0])
    rows = codes[program.REHEARSED] if state.counters[0, program.WINDOW_COUNT] > 0 else 0
    times = codes[program.EARLY] if counters[program.SCHEDULED] < EARLY_ROWS else 1
    batched, rate = codes[program.BATCHED] > 0, _rate(member)
    # The row itself is lesson 0. What a lesson needs is called from one place only, and becomes part of the loop.
    for lesson in range(1 + rows * times):
        which, together = (0 if lesson == 0 else 1), batched and lesson > 0
        active, labels = scratch.active[which], scratch.labels[which]
        if lesson > 0:
            weight = _recall(fixed, state, scratch, member, lesson) / (rows if together else 1)
        loss = _gradient_of_row(member, active, labels, weight, step + lesson * LESSON)
        norm = _norm_of_lesson(member, scratch, active, lesson, rows, together)
        if together and lesson % rows > 0:
            continue
        clip = _begin_step(member, norm, rate, scratch.rates)
        if clip != NO_STEP:
            _make_step(member, scratch, active, together)
        if lesson == 0:
            if clip == NO_STEP:
                return False
            counters[program.SCHEDULED] += 1
            _note(member, scratch, loss, clip, state.counters[0, program.STEP])
            rate *= member.constants[program.REHEARSAL_RATE]
    _follow(state, member)
    return True


@inlined
def _follow(state, member):
    """Fold the member's weights into its twin's, if it has one."""
    twin = member.codes[program.TWIN]
    if twin >= 0:
        averaged = state.averaged[twin - state.counters.shape[0]]
        average(member.layers[0], member.counters, member.parameters, state.networks[twin], averaged)


@inlined
def _note(member, scratch, loss, clip, step):
    """Note the row's loss and gradients, and fold it into batch normalisation's statistics."""
    layers, counters, notes = member.layers, member.counters, member.notes
    if member.norm.shape[1] > 0:
        counters[program.NORM_COUNT] += 1
        rate = _norm_rate(counters[program.NORM_COUNT])
        for number in range(layers.shape[0] - 2):
            if layers[number, program.NORM] >= 0:
                fold_norm(layers[number], member.norm, member.work, rate)
    note_loss(notes, loss, float(step))
    note_gradients(notes, scratch.norms, layers.shape[0] - 1, clip < 1.0)
    if counters[program.SCHEDULED] % monitor.SAMPLING == 0:
        _look_closer(member, scratch.active[0], scratch.labels[0], loss, step)


@inner
def _look_closer(member, active, labels, loss, step):
    """Note the layers' outputs, and what the step just made did to the loss of its own row."""
    layers, codes, notes, work = member.layers, member.codes, member.notes, member.work
    z, delta, outputs = _scores_of(layers)
    notes[monitor.SAMPLES] += 1.0
    note_values(notes, layers, work, float(step), notes[monitor.SAMPLES])
    forward(layers, member.parameters, member.norm, work, active, codes[program.SEED], step, False)
    make_finite(work, z, outputs)
    after = loss_and_gradient(codes[program.LOSS], labels, work, z, outputs, 1.0, delta)
    note_improvement(notes, loss, after, notes[monitor.SAMPLES])
