"""How a spec is told to the compiled loop: flat arrays of codes, constants and places.

`kernels.py` is compiled, so it takes no objects. The names here are the columns of those arrays.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import drift, mixing
from model.activations import ACTIVATIONS
from model.initializers import initial_parameters
from model.inputs import plan_of
from model.losses import OUTPUTS, loss_of
from model.optimizer_spec import OptimizerSpec
from model.optimizers import OPTIMIZERS, slots_of
from model.parameters import aligned_zeros, layout_of
from model.rehearsal import window_shape
from model.scaling import KINDS
from model.schedules import schedule_of
from model.spec import ModelSpec

MEMBER_STRIDE = 0x2545F4914F6CDD1D

# Columns of `layers`, one row per layer. Places are in `parameters` (WEIGHT … SHIFT; −1: there is none), in `norm`
# and in `work`: the layer's input values, and for its output the gradient of the weighted sums, the slope of
# activation and dropout, the normalised sums, the gradients of gain and shift, and layer normalisation's spread.
INPUTS, UNITS, WEIGHT, BY_INPUT, BIAS, GAIN, SHIFT, NORM, ACTIVATION, SHARE = range(10)
VALUE, DELTA, SLOPE, NORMED, GAIN_GRADIENT, SHIFT_GRADIENT, SPREAD, UNIT, LAYER_NORM, SPARSE = range(10, 20)
LAYER_COLUMNS = 20

# `codes` of each member: which formulas, and the seed; rows to rehearse, how many times as many early on, and whether
# as one step; its twin's number among the networks (−1: none). Those from OUTPUT on are the same for all members.
OPTIMIZER, NESTEROV, CENTERED, SLOTS, SCHEDULE, REHEARSED, EARLY, BATCHED, TWIN, SEED = range(10)
OUTPUT, LOSS, SCALING, SCALED_TARGETS, DROPOUT, MIXING, DETECT, ACTION = range(10, 18)
CODES = 18

# `constants` of each member: the numbers of the spec, then the class weights if there are any.
LEARNING_RATE, CLIP_NORM, MOMENTUM, DAMPENING, ALPHA, BETA1, BETA2, EPS, LR_DECAY = range(9)
WEIGHT_DECAY, L1, L2, SCHEDULE_FIRST, SCHEDULE_SECOND, WARM_UP, REHEARSAL_RATE, INITIAL = range(9, 17)
CLASS_WEIGHTS = 17

# `counters` of each member: observations taken, steps made since the optimizer started, observations skipped, values
# in batch normalisation's statistics, steps made since the schedule started; then rows in its twin's average, its
# restarts, and the step of the newest. The first member's row also holds the model's own: observations taken and
# skipped, rows in the window and the index of the next, rows since the last look for drift, events so far, and how
# many rows are learned when inputs may cause an event again.
STEP, UPDATES, SKIPPED, NORM_COUNT, SCHEDULED, AVERAGED, RESTARTS, RESTARTED = range(8)
WINDOW_COUNT, WINDOW_NEXT, LOOK_COUNT, EVENTS, QUIET_UNTIL = range(8, 13)
COUNTERS = 13


def learned_rows(counters: NDArray[np.int64]) -> Any:
    """How many rows were learned, by the first member's counters: what random numbers and turns are counted in.

    A skipped row has no part in it, so the rows after it are learned as if it had not come.
    """
    return counters[STEP] - counters[SKIPPED]


class Fixed(NamedTuple):
    """What a spec says, and what can change live; `first` holds the members' first weights if a drift may reset them.

    `watched` are the columns whose means are looked at for drift. All but `plan` and that have a row for each member.
    """

    layers: NDArray[np.int64]
    codes: NDArray[np.int64]
    constants: NDArray[np.float64]
    plan: NDArray[np.int64]
    first: NDArray[np.float32]
    watched: NDArray[np.int64]


class State(NamedTuple):
    """The model's state, without the metrics: its arrays by the names that `state.py` gives them, dots apart.

    `networks` are the parameters, the members' before the twins'.
    """

    networks: NDArray[np.float32]
    norm: NDArray[np.float64]
    inputs: NDArray[np.float64]
    targets: NDArray[np.float64]
    slots: NDArray[np.float32]
    counters: NDArray[np.int64]
    notes: NDArray[np.float64]
    mixture: NDArray[np.float64]
    window: NDArray[np.float64]
    stepped: NDArray[np.int64]
    averaged: NDArray[np.float64]
    loss_detector: NDArray[np.float64]
    input_detectors: NDArray[np.float64]
    input_sums: NDArray[np.float64]
    events: NDArray[np.float64]


class Scratch(NamedTuple):
    """The loop's own memory.

    `work` has a row for each member, and one for the twins and the mixture. `entry` is a row in the layout of the
    window. Of `active`, `labels` and `scaled` the first row is for the row learned, the second for rows rehearsed.
    """

    work: NDArray[np.float32]
    active: NDArray[np.int64]
    labels: NDArray[np.float64]
    scaled: NDArray[np.float64]
    entry: NDArray[np.float64]
    norms: NDArray[np.float64]
    forecasts: NDArray[np.float64]
    gradient: NDArray[np.float32]
    merged: NDArray[np.int64]
    bounds: NDArray[np.float64]
    rates: NDArray[np.float32]


class Member(NamedTuple):
    """The parts of all three that are one member's."""

    layers: NDArray[np.int64]
    codes: NDArray[np.int64]
    constants: NDArray[np.float64]
    counters: NDArray[np.int64]
    parameters: NDArray[np.float32]
    slots: NDArray[np.float32]
    norm: NDArray[np.float64]
    notes: NDArray[np.float64]
    stepped: NDArray[np.int64]
    bounds: NDArray[np.float64]
    work: NDArray[np.float32]


# Of `bounds`, a row for each member: bounds of its parameters and of the slot that grows, and whether it failed to
# learn the row.
PARAMETER_BOUND, SLOT_BOUND, FAILED = range(3)
RATES = 11  # numbers of a step, see `step_kernels.py`


def fixed_of(spec: ModelSpec) -> Fixed:
    members = range(len(spec.members))
    class_weights = list(spec.class_weights or ())
    return Fixed(
        np.stack([_layers_of(spec, number)[0] for number in members]),
        np.stack([_codes_of(spec, number) for number in members]),
        np.array([_numbers_of(member) + class_weights for member in spec.members]),
        plan_of(spec).copy(),
        _first_of(spec),
        np.array([column for column, _ in drift.watched(spec)], np.int64),
    )


def work_shape(spec: ModelSpec) -> tuple[int, int]:
    """A row for each member, and one for the twins and the mixture."""
    return len(spec.members) + (spec.networks > 1), _layers_of(spec, 0)[1]


def scratch_of(spec: ModelSpec) -> Scratch:
    members, rows, size = len(spec.members), *work_shape(spec)
    work = aligned_zeros(rows * size).reshape(rows, size)
    work[:, 0] = 1.0
    gradient = aligned_zeros(_gradient_size(spec))
    gradient[0] = 1.0
    return Scratch(
        work,
        np.zeros((2, 1 + spec.most_active if spec.sparse else 1), np.int64),
        np.zeros((2, spec.outputs)),
        np.zeros((2, spec.width)),
        np.zeros(spec.width + spec.targets + 1),
        np.zeros(len(spec.layers) + 1),
        np.zeros((2 * spec.networks + 2, spec.outputs)),
        gradient,
        _merged_of(spec),
        np.zeros((members, 3)),
        np.zeros(RATES, np.float32),
    )


def _layers_of(spec: ModelSpec, number: int) -> tuple[NDArray[np.int64], int]:
    """The table of a member's layers, and the size of `work`. The last row only holds the offset of the scores."""
    layout = layout_of(spec, number)
    table = np.full((len(layout.layers) + 1, LAYER_COLUMNS), -1, np.int64)
    # work[0] is the constant 1, which the biases are multiplied by.
    place = 16
    unit = 0
    for row, layer in zip(table, layout.layers, strict=False):
        sizes = (layer.inputs, layer.units, layer.weight, layer.by_input)
        vectors = [-1 if at is None else at for at in (layer.bias, layer.gain, layer.shift, layer.norm)]
        row[: ACTIVATION + 1] = *sizes, *vectors, ACTIVATIONS[layer.activation].code
        row[SHARE] = round(layer.dropout * 2**24)
        row[LAYER_NORM], row[SPARSE] = layer.layer_norm, layer.sparse
        row[VALUE], place = place, place + _padded(spec.most_active if layer.sparse else layer.inputs)
        for column in (DELTA, SLOPE, NORMED, GAIN_GRADIENT, SHIFT_GRADIENT):
            row[column], place = place, place + _padded(layer.units)
        row[SPREAD], place = place, place + 16
        row[UNIT], unit = unit, unit + layer.units
    table[-1, VALUE] = place
    table[-1, INPUTS] = spec.outputs
    return table, place + _padded(spec.outputs)


def _padded(size: int) -> int:
    return -(-size // 16) * 16


def _codes_of(spec: ModelSpec, number: int) -> NDArray[np.int64]:
    optimizer = spec.members[number]
    rehearsal = optimizer.rehearse if window_shape(spec)[0] else None
    codes = np.zeros(CODES, np.int64)
    codes[OPTIMIZER], codes[SLOTS] = OPTIMIZERS[optimizer.name].code, slots_of(optimizer)
    codes[NESTEROV], codes[CENTERED] = bool(optimizer.nesterov), bool(optimizer.centered)
    codes[SCHEDULE] = schedule_of(optimizer.schedule).code
    codes[REHEARSED] = 0 if rehearsal is None else rehearsal.rows
    codes[EARLY] = 1 if rehearsal is None else rehearsal.early
    codes[BATCHED] = rehearsal is not None and rehearsal.batched
    codes[TWIN] = twins_of(spec)[number]
    codes[SEED] = seed_of(spec, number)
    codes[OUTPUT] = OUTPUTS[spec.output].code
    codes[LOSS] = loss_of(spec.loss, spec.output, spec.outputs).code
    codes[SCALING], codes[SCALED_TARGETS] = KINDS[spec.scaling], spec.scales_targets
    codes[DROPOUT] = any(layer.dropout for layer in spec.layers)
    codes[MIXING] = mixing.kind_of(spec)
    codes[DETECT], codes[ACTION] = spec.drift.detect, drift.ACTIONS[spec.drift.action]
    return codes


def seed_of(spec: ModelSpec, number: int) -> int:
    """The seed of a member's dropout and rehearsal; the first one's is the spec's."""
    return (spec.seed + number * MEMBER_STRIDE) % 2**63


def twins_of(spec: ModelSpec) -> list[int]:
    """The number of each member's twin among the networks, which come after the members; −1: it has none."""
    twins, place = [], len(spec.members)
    for member in spec.members:
        twins.append(place if member.average else -1)
        place += member.average
    return twins


def owners_of(spec: ModelSpec) -> list[int]:
    """The member that each network is, or whose twin it is."""
    members = range(len(spec.members))
    return [*members, *(number for number in members if spec.members[number].average)]


def _numbers_of(optimizer: OptimizerSpec) -> list[float]:
    schedule = schedule_of(optimizer.schedule)
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
        0.0 if optimizer.rehearse is None else optimizer.rehearse.rate,
        optimizer.initial_accumulator_value,
    )
    return [number or 0.0 for number in numbers]


def _gradient_size(spec: ModelSpec) -> int:
    """Room for the mean gradient of rows that are rehearsed together, after the constant 1 at the first place."""
    rows = _most_batched(spec)
    if not rows:
        return 16
    layout = layout_of(spec)
    first = layout.layers[0]
    inputs = _most_merged(spec) if first.sparse else first.inputs
    return 16 + layout.size - first.inputs * first.units + inputs * first.units


def _most_batched(spec: ModelSpec) -> int:
    return max(
        (member.rehearse.rows for member in spec.members if member.rehearse and member.rehearse.batched),
        default=0,
    )


def _merged_of(spec: ModelSpec) -> NDArray[np.int64]:
    """For a sparse first layer: the inputs that rows rehearsed together have, as their number and a list; then for
    each input its place in the list, −1 for none.
    """
    rows = _most_batched(spec)
    if not (spec.sparse and rows):
        return np.zeros(1, np.int64)
    return np.concatenate([[0], np.zeros(_most_merged(spec)), np.full(spec.inputs, -1)]).astype(np.int64)


def _most_merged(spec: ModelSpec) -> int:
    return min(_most_batched(spec) * spec.most_active, spec.inputs)


def _first_of(spec: ModelSpec) -> NDArray[np.float32]:
    if not (spec.drift.detect and spec.drift.action == "reset"):
        return np.zeros((0, 0), np.float32)
    return np.stack(
        [initial_parameters(spec, layout_of(spec), number) for number in range(len(spec.members))]
    )
