"""How a spec is told to the compiled loop: flat arrays of codes, constants and places.

`kernels.py` is compiled, so it takes no objects. The names here are the columns of those arrays.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.activations import ACTIVATIONS
from model.inputs import plan_of
from model.losses import OUTPUTS, loss_of
from model.optimizers import OPTIMIZERS
from model.parameters import aligned_zeros, layout_of
from model.scaling import KINDS
from model.schedules import schedule_of
from model.spec import ModelSpec

# Columns of `layers`, one row per layer. Places are in `parameters` (WEIGHT … SHIFT; −1: there is none), in `norm`
# and in `work`: the layer's input values, and for its output the gradient of the weighted sums, the slope of
# activation and dropout, the normalised sums, and the gradients of gain and shift.
INPUTS, UNITS, WEIGHT, BY_INPUT, BIAS, GAIN, SHIFT, NORM, ACTIVATION, SHARE = range(10)
VALUE, DELTA, SLOPE, NORMED, GAIN_GRADIENT, SHIFT_GRADIENT, UNIT = range(10, 17)
LAYER_COLUMNS = 17

# `codes`: which formulas, and the seed.
OPTIMIZER, NESTEROV, CENTERED, SCHEDULE, OUTPUT, LOSS, SCALING, SCALED_TARGETS, DROPOUT, SEED = range(10)
CODES = 10

# `constants`: the numbers of the spec, then the class weights if there are any.
LEARNING_RATE, CLIP_NORM, MOMENTUM, DAMPENING, ALPHA, BETA1, BETA2, EPS, LR_DECAY = range(9)
WEIGHT_DECAY, L1, L2, SCHEDULE_FIRST, SCHEDULE_SECOND, WARM_UP = range(9, 15)
CLASS_WEIGHTS = 15

# `counters`: observations taken, steps made since the optimizer started, observations skipped, values in batch
# normalisation's statistics, steps made since the schedule started.
STEP, UPDATES, SKIPPED, NORM_COUNT, SCHEDULED = range(5)
COUNTERS = 5


@dataclass(frozen=True)
class Program:
    """A spec as the compiled loop reads it, and the loop's scratch memory."""

    layers: NDArray[np.int64]
    codes: NDArray[np.int64]
    constants: NDArray[np.float64]
    plan: NDArray[np.int64]
    work: NDArray[np.float32]
    scratch: NDArray[np.float64]


def program_of(spec: ModelSpec) -> Program:
    layers, work_size = _layers_of(spec)
    return Program(
        layers,
        _codes_of(spec),
        _constants_of(spec),
        plan_of(spec).copy(),
        aligned_zeros(work_size),
        np.zeros(spec.outputs + 2 * len(layers) + spec.width),
    )


def _layers_of(spec: ModelSpec) -> tuple[NDArray[np.int64], int]:
    """The table of layers, and the size of `work`. The last row only says where the scores stand."""
    layout = layout_of(spec)
    table = np.full((len(layout.layers) + 1, LAYER_COLUMNS), -1, np.int64)
    # work[0] is the constant 1, which the biases are multiplied by; raw scaled columns stand before the inputs.
    place = 16
    unit = 0
    for row, layer in zip(table, layout.layers, strict=False):
        sizes = (layer.inputs, layer.units, layer.weight, layer.by_input)
        vectors = [-1 if at is None else at for at in (layer.bias, layer.gain, layer.shift, layer.norm)]
        row[: ACTIVATION + 1] = *sizes, *vectors, ACTIVATIONS[layer.activation].code
        row[SHARE] = round(layer.dropout * 2**24)
        row[VALUE], place = place, place + _padded(layer.inputs)
        for column in (DELTA, SLOPE, NORMED, GAIN_GRADIENT, SHIFT_GRADIENT):
            row[column], place = place, place + _padded(layer.units)
        row[UNIT], unit = unit, unit + layer.units
    table[-1, VALUE] = place
    table[-1, INPUTS] = spec.outputs
    return table, place + _padded(spec.outputs)


def _padded(size: int) -> int:
    return -(-size // 16) * 16


def _codes_of(spec: ModelSpec) -> NDArray[np.int64]:
    optimizer = spec.optimizer
    codes = np.zeros(CODES, np.int64)
    codes[OPTIMIZER] = OPTIMIZERS[optimizer.name].code
    codes[NESTEROV], codes[CENTERED] = bool(optimizer.nesterov), bool(optimizer.centered)
    codes[SCHEDULE] = schedule_of(optimizer.schedule).code
    codes[OUTPUT] = OUTPUTS[spec.output].code
    codes[LOSS] = loss_of(spec.loss, spec.output, spec.outputs).code
    codes[SCALING], codes[SCALED_TARGETS] = KINDS[spec.scaling], spec.scales_targets
    codes[DROPOUT] = any(layer.dropout for layer in spec.layers)
    codes[SEED] = spec.seed
    return codes


def _constants_of(spec: ModelSpec) -> NDArray[np.float64]:
    optimizer, schedule = spec.optimizer, schedule_of(spec.optimizer.schedule)
    betas = optimizer.betas or (0.0, 0.0)
    limit = np.inf if optimizer.clip_norm is None else optimizer.clip_norm
    numbers = (
        optimizer.learning_rate,
        limit,
        optimizer.momentum,
        optimizer.dampening,
        optimizer.alpha,
        *betas,
        optimizer.eps,
        optimizer.lr_decay,
        optimizer.weight_decay,
        optimizer.l1,
        optimizer.l2,
        schedule.first,
        schedule.second,
        schedule.warm_up,
    )
    return np.array([number or 0.0 for number in numbers] + list(spec.class_weights or ()))
