# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: which rows are rehearsed, and the mean gradient of several.

The gradient is kept in a vector behind the constant 1, which takes the first 16 elements: in the order of the
parameters; of a sparse first layer only the rows of weights that `merged` lists.
"""

import math

import numpy as np

from model import dropout, program
from model.compiled import inner
from model.dropout import STRIDE
from model.layer_kernels import U, square_sum
from model.step_kernels import PARTS

_mix = inner(dropout.mix)

SALT = np.uint64(0xA0761D6478BD642F)  # sets these random numbers apart from dropout's


@inner
def draw(seed, step, lesson, count):
    """A number below `count`, drawn from (seed, step, lesson)."""
    bits = _mix(_mix(_mix(U(seed) ^ SALT) + STRIDE * U(step)) + STRIDE * U(lesson)) >> dropout.S40
    return int(float(bits) / dropout.RESOLUTION * count)


@inner
def begin_gradient(layers, gradient, merged, size):
    """A gradient of 0. `size` is the number of parameters."""
    layer = layers[0]
    start = U(16)
    if layer[program.SPARSE] > 0:
        slots = merged.shape[0] - layer[program.INPUTS]
        for i in range(merged[0]):
            merged[slots + merged[1 + i]] = -1
        merged[0] = 0
        start = U(gradient.shape[0] - size + layer[program.INPUTS] * layer[program.UNITS])
    for i in range(start, U(gradient.shape[0])):
        gradient[i] = np.float32(0)


@inner
def _offset_of(layer, gradient, merged, row):
    """The offset of the gradient of a row of a sparse layer's weights; a new row is 0 at first."""
    slots, units = merged.shape[0] - layer[program.INPUTS], U(layer[program.UNITS])
    slot = merged[slots + row]
    if slot < 0:
        slot = merged[0]
        merged[slots + row], merged[1 + slot] = slot, row
        merged[0] += 1
        for i in range(units):
            gradient[U(16) + U(slot) * units + i] = np.float32(0)
    return U(16) + U(slot) * units


@inner
def accumulate(layers, work, gradient, active, merged, size):
    """Add the gradient of the row in `work`."""
    offset = gradient.shape[0] - size
    for number in range(layers.shape[0] - 1):
        layer = layers[number]
        for part in range(len(PARTS)):
            column, delta = PARTS[part]
            if layer[column] < 0:
                continue
            start, rows, columns = U(offset + layer[column]), U(1), U(layer[program.UNITS])
            u, v = U(0), U(layer[delta])
            sparse = column == program.WEIGHT and layer[program.SPARSE] > 0
            if column == program.WEIGHT:
                u, rows = U(layer[program.VALUE]), U(active[0] if sparse else layer[program.INPUTS])
                if not layer[program.BY_INPUT]:
                    rows, columns, u, v = columns, rows, v, u
            for r in range(rows):
                a = start + r * columns
                if sparse:
                    a = _offset_of(layer, gradient, merged, active[1 + int(r)])
                x = work[u + r]
                for i in range(columns):
                    gradient[a + i] += x * work[v + i]


@inner
def norm_of(layers, gradient, merged, size):
    layer, total, start = layers[0], 0.0, U(16)
    if layer[program.SPARSE] > 0:
        total = square_sum(gradient, start, U(merged[0]) * U(layer[program.UNITS]))
        start = U(gradient.shape[0] - size + layer[program.INPUTS] * layer[program.UNITS])
    return math.sqrt(total + square_sum(gradient, start, U(gradient.shape[0]) - start))
