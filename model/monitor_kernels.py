# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: notes for the diagnostics, as `monitor.py` lays them out."""

from model import monitor, program
from model.compiled import inner
from model.layer_kernels import U


@inner
def _average(notes, offset, value, steps):
    if abs(value) <= monitor.LARGEST_NOTE:
        notes[offset] += (value - notes[offset]) / steps
    else:
        notes[monitor.OVERFLOW] = 1.0


@inner
def _clear_after_overflow(notes, step):
    if notes[monitor.OVERFLOW] > 0.0:
        resets = notes[monitor.RESETS] + 1.0
        notes[:] = 0.0
        notes[monitor.RESETS] = resets
        notes[monitor.BEGAN] = step


@inner
def note_loss(notes, loss, step):
    _clear_after_overflow(notes, step)
    notes[monitor.NOTED] += 1.0
    t = notes[monitor.NOTED]
    _average(notes, monitor.RECENT, loss, min(t, monitor.RECENT_STEPS))
    _average(notes, monitor.LONG, loss, min(t, monitor.LONG_STEPS))
    if t <= monitor.RECENT_STEPS:
        notes[monitor.FIRST] = notes[monitor.BEST] = notes[monitor.RECENT]
    elif notes[monitor.RECENT] < notes[monitor.BEST]:
        notes[monitor.BEST] = notes[monitor.RECENT]


@inner
def note_gradients(notes, norms, layers, clipped):
    """Note the norm of each layer's gradient, and whether the whole was clipped."""
    steps = min(notes[monitor.NOTED], monitor.LONG_STEPS)
    _average(notes, monitor.CLIPPED, 1.0 if clipped else 0.0, steps)
    for number in range(layers):
        offset = monitor.TOTALS + monitor.LAYER_COLUMNS * number + monitor.GRADIENT
        _average(notes, offset, norms[number], steps)


@inner
def note_values(notes, layers, work, step, samples):
    """Note mean and mean square of each layer's outputs, and which units are active."""
    last = layers.shape[0] - 1
    steps = min(samples, monitor.SAMPLES_KEPT)
    for number in range(last):
        units, value = U(layers[number, program.UNITS]), U(layers[number + 1, program.VALUE])
        active = U(monitor.TOTALS + monitor.LAYER_COLUMNS * last + layers[number, program.UNIT])
        total, squares = 0.0, 0.0
        for i in range(units):
            x = float(work[value + i])
            total += x
            squares += x * x
            notes[active + i] = step if x > 0.0 else notes[active + i]
        offset = monitor.TOTALS + monitor.LAYER_COLUMNS * number
        _average(notes, offset + monitor.VALUE_MEAN, total / units, steps)
        _average(notes, offset + monitor.VALUE_SQUARES, squares / units, steps)


@inner
def note_improvement(notes, before, after, samples):
    """Note by how much a step changed the loss of the row that it was made for."""
    if before > monitor.SMALLEST_LOSS:
        steps = min(samples, monitor.SAMPLES_KEPT)
        _average(notes, monitor.IMPROVEMENT, max((before - after) / before, -1.0), steps)
        _average(notes, monitor.OVERSHOOT, 1.0 if after > before else 0.0, steps)
