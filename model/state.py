"""A model's arrays ↔ safetensors. Nothing executable is stored or read.

A saved state's metadata has one entry, JSON: its `format`, the `spec`, and the `builds` that computed it. Format 1 was
of a single network, without rows for members. Version 0.1 wrote format 0: the spec alone, and diagnostics without the
numbers from RESETS on.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from model import drift, mixing, monitor
from model.builds import UNKNOWN, Builds
from model.errors import StateError
from model.initializers import initial_parameters
from model.network import LARGEST_SUM, new_norm
from model.optimizers import slots_of
from model.parameters import Layout, aligned_zeros, layout_of, named_parameters
from model.program import (
    AVERAGED,
    COUNTERS,
    LOOK_COUNT,
    STEP,
    UPDATES,
    WINDOW_COUNT,
    WINDOW_NEXT,
    State,
    twins_of,
)
from model.rehearsal import window_shape
from model.scaling import STATE_ROWS, new_state
from model.spec import ModelSpec

Arrays = dict[str, NDArray[Any]]
Shapes = dict[str, tuple[type, tuple[int, ...]]]

FORMAT = 2
NEW_TOTALS = 3  # numbers of the diagnostics that format 0 lacks
HEADER = "freshet"
METRICS = "metrics."
LARGEST_STATISTIC = 1e305
LARGEST_PARAMETER = 1e30  # of parameters: what no step exceeds
LARGEST = 1e32  # of parameters and slots as they are read: a step's rounding is no reason to refuse a state

# `live`: what can change while the model runs. A clip norm of 0 means none.
LIVE_LEARNING_RATE, LIVE_CLIP_NORM = range(2)

# What format 1 lacks, and what has a row for each member since.
OLD_COUNTERS = 5
NEW_ARRAYS = {
    "mixture",
    "window",
    "stepped",
    "averaged",
    "drift.loss",
    "drift.inputs",
    "drift.sums",
    "drift.events",
}
OF_MEMBERS = {"parameters", "norm", "slots", "counters", "live", "monitor"}
UNCHECKED = {"monitor", "window"}
"""Arrays that may hold numbers that are not finite: notes are cleared then, and a missing value is NaN."""


def shapes_of(spec: ModelSpec) -> Shapes:
    """Type and shape of each array of a model's state, without the metrics'; allocates nothing.

    Arrays of networks have a row for each member, then for each twin; arrays of members one for each member. The
    diagnostics of a committee have one more row, for the mixture.
    """
    size, members = layout_of(spec).size, len(spec.members)
    inputs, detected = len(drift.watched(spec)), spec.drift.detect
    sparse = spec.inputs if spec.sparse else 0
    return {
        **predictor_shapes_of(spec),
        "slots": (np.float32, (members, max(map(slots_of, spec.members)), size)),
        "counters": (np.int64, (members, COUNTERS)),
        "live": (np.float64, (members, 2)),
        "monitor": (np.float64, (members + (spec.networks > 1), monitor.size_of(layout_of(spec)))),
        "window": (np.float64, window_shape(spec)),
        "stepped": (np.int64, (members, sparse)),
        "averaged": (np.float64, (spec.networks - members, 1 + sparse if sparse else 0)),
        "drift.loss": (np.float64, (drift.LOSS_LEVELS if detected else 0, drift.LEVEL_COLUMNS)),
        "drift.inputs": (np.float64, (inputs, drift.INPUT_LEVELS, drift.LEVEL_COLUMNS)),
        "drift.sums": (np.float64, (inputs + 1,)),
        "drift.events": (np.float64, (drift.EVENTS, drift.EVENT_COLUMNS)),
    }


def predictor_shapes_of(spec: ModelSpec) -> Shapes:
    """The same for what a predictor needs."""
    layout = layout_of(spec)
    return {
        "parameters": (np.float32, (spec.networks, layout.size)),
        "norm": (np.float64, (len(spec.members), 2, layout.norm_units)),
        "scaling.inputs": (np.float64, (STATE_ROWS, 0 if spec.scaling == "none" else spec.width)),
        "scaling.targets": (np.float64, (STATE_ROWS, spec.targets if spec.scales_targets else 0)),
        "mixture": (np.float64, (mixing.size_of(spec),)),
    }


def new_arrays(spec: ModelSpec) -> Arrays:
    """The state of a model that has learned nothing, without the metrics'."""
    layout, shapes, members = layout_of(spec), shapes_of(spec), range(len(spec.members))
    first = [initial_parameters(spec, layout_of(spec, number), number) for number in members]
    parameters = first + [first[number] for number in members if spec.members[number].average]
    arrays: Arrays = {
        "parameters": aligned(np.stack(parameters)),
        "norm": np.stack([new_norm(layout) for _ in members]),
        "scaling.inputs": new_state(shapes["scaling.inputs"][1][1]),
        "scaling.targets": new_state(shapes["scaling.targets"][1][1]),
        "mixture": mixing.new_state(spec),
        "slots": np.zeros(shapes["slots"][1], np.float32),
        "live": np.array([[member.learning_rate, member.clip_norm or 0.0] for member in spec.members]),
    }
    for member, slots in zip(spec.members, arrays["slots"], strict=True):
        slots += np.float32(member.initial_accumulator_value or 0.0)
    return {name: arrays.get(name, np.zeros(shape, dtype)) for name, (dtype, shape) in shapes.items()}


def bound(arrays: Arrays) -> State:
    """The arrays as the compiled loop takes them; they are used live."""
    return State(
        networks=arrays["parameters"],
        norm=arrays["norm"],
        inputs=arrays["scaling.inputs"],
        targets=arrays["scaling.targets"],
        slots=arrays["slots"],
        counters=arrays["counters"],
        notes=arrays["monitor"],
        mixture=arrays["mixture"],
        window=arrays["window"],
        stepped=arrays["stepped"],
        averaged=arrays["averaged"],
        loss_detector=arrays["drift.loss"],
        input_detectors=arrays["drift.inputs"],
        input_sums=arrays["drift.sums"],
        events=arrays["drift.events"],
    )


@dataclass(frozen=True)
class Saved:
    """What a saved state holds; the arrays are views of its bytes, and must not be written to."""

    spec: ModelSpec
    arrays: Arrays
    metrics: Arrays
    builds: Builds


def write_state(spec: ModelSpec, arrays: Arrays, metrics: Arrays, builds: Builds) -> bytes:
    tensors = {**arrays, **{METRICS + name: values for name, values in metrics.items()}}
    header = {"format": FORMAT, "spec": spec.model_dump_json(), "builds": builds}
    return save_tensors(
        {name: np.ascontiguousarray(values) for name, values in tensors.items()},
        {HEADER: json.dumps(header)},  # one entry only: safetensors keeps several in no fixed order
    )


def read_state(blob: bytes) -> Saved:
    """Read and check what `write_state` wrote, in this format or an earlier one. Raises StateError.

    The metrics' arrays are left for `PrequentialMetrics.load` to check.
    """
    spec, builds, version = _read_header(blob)
    tensors = _read_tensors(blob)
    _upgrade(spec, tensors, version)
    metrics = {name: tensors.pop(name) for name in list(tensors) if name.startswith(METRICS)}
    _check(tensors, shapes_of(spec))
    _clear_overflown_notes(tensors)
    _check_places(spec, tensors)
    if any((tensors[name] < 0).any() for name in ("counters", "live", "stepped")):
        raise StateError("counters, learning rate and clip norm are never negative")
    metrics = {name.removeprefix(METRICS): values for name, values in metrics.items()}
    return Saved(spec, tensors, metrics, builds)


def _upgrade(spec: ModelSpec, tensors: Arrays, version: int) -> None:
    """Bring tensors of an earlier format into this one, in place. What does not fit is left for the checks.

    Version 0.1 let some statistics overflow: they are cut, so that the model can be used.
    """
    if version == 0 and "monitor" in tensors and tensors["monitor"].ndim == 1:
        tensors["monitor"] = np.insert(tensors["monitor"], monitor.OVERFLOW, [0.0] * NEW_TOTALS)
    if version == 0:
        for name in ("norm", *(name for name in tensors if name.startswith(METRICS))):
            if name in tensors:
                limit = LARGEST_SUM**2 if name == "norm" else LARGEST_STATISTIC
                tensors[name] = np.nan_to_num(tensors[name], nan=0.0, posinf=limit, neginf=0.0)
    if version < 2:
        _give_rows_to_members(spec, tensors)


def _give_rows_to_members(spec: ModelSpec, tensors: Arrays) -> None:
    """From format 1: the arrays of a single network are those of a committee of one, which has looked for no drift."""
    if "counters" in tensors and tensors["counters"].ndim == 1:
        tensors["counters"] = np.append(tensors["counters"], np.zeros(COUNTERS - OLD_COUNTERS, np.int64))
    if "slots" in tensors and len(tensors["slots"]) > slots_of(spec.members[0]):
        tensors["slots"] = tensors["slots"][1:]  # Adam without momentum kept the last gradient
    if spec.sparse:
        for name in {"parameters", "slots"} & tensors.keys():
            tensors[name] = _by_input(layout_of(spec), tensors[name])
    for name in OF_MEMBERS & tensors.keys():
        tensors[name] = tensors[name][None]
    shapes = shapes_of(spec)
    for name in NEW_ARRAYS - tensors.keys():
        dtype, shape = shapes[name]
        tensors[name] = np.zeros(shape, dtype)
    if "counters" in tensors:
        tensors["stepped"] += tensors["counters"].ravel()[UPDATES]


def _by_input(layout: Layout, flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flat vectors whose first layer's weights stood by unit, now by input."""
    first = layout.layers[0]
    size = first.inputs * first.units
    if flat.shape[-1] < size or first.units > first.inputs:
        return flat
    turned = flat[..., :size].reshape(*flat.shape[:-1], first.units, first.inputs).swapaxes(-1, -2)
    return np.concatenate([turned.reshape(*flat.shape[:-1], size), flat[..., size:]], axis=-1)


def _clear_overflown_notes(tensors: Arrays) -> None:
    """Notes for the diagnostics that version 0.1 let overflow are cleared: they are no reason to refuse a model."""
    notes = tensors["monitor"]
    if not (np.abs(notes) <= monitor.LARGEST_NOTE).all():
        cleared = np.zeros_like(notes)
        for row in cleared:
            monitor.clear(row, int(tensors["counters"][0, STEP]))
        cleared[:, monitor.RESETS] = 1.0
        tensors["monitor"] = cleared


def _check_places(spec: ModelSpec, tensors: Arrays) -> None:
    """Check the numbers that the compiled loop uses as places in memory. Raises StateError."""
    counters, rows = tensors["counters"][0], len(tensors["window"])
    if counters[WINDOW_COUNT] > rows or counters[WINDOW_NEXT] > max(rows - 1, 0):
        raise StateError("counters: the window is shorter than they say")
    if counters[LOOK_COUNT] >= drift.LOOK:
        raise StateError("counters: a look for drift is overdue")
    for name in ("drift.loss", "drift.inputs"):
        counts = tensors[name][..., drift.COUNT]
        if not (np.isin(counts, np.arange(drift.BUCKETS + 1))).all():
            raise StateError(f"{name}: holds an impossible number of buckets")
    if spec.task != "regression" and rows:
        labels = tensors["window"][: counters[WINDOW_COUNT], spec.width]
        if not np.isin(labels, np.arange(len(spec.classes or ()))).all():
            raise StateError("window: holds a label that is no class")
    if spec.networks > 1 and not 0 <= tensors["mixture"][mixing.LEADER] < spec.networks:
        raise StateError("mixture: the leader is none of the networks")


def write_predictor_state(spec: ModelSpec, arrays: Arrays) -> bytes:
    arrays = arrays | {"parameters": worked_out(spec, arrays)}
    return save_tensors({name: arrays[name] for name in predictor_shapes_of(spec)})


def read_predictor_state(spec: ModelSpec, blob: bytes) -> Arrays:
    """What a predictor needs, as views of `blob`, checked. Raises StateError."""
    tensors = _read_tensors(blob)
    _check(tensors, predictor_shapes_of(spec))
    return tensors


def worked_out(spec: ModelSpec, arrays: Arrays) -> NDArray[np.float32]:
    """The parameters, with the twins' averages worked out where a sparse first layer has not yet; a copy then."""
    parameters: NDArray[np.float32] = arrays["parameters"]
    if "averaged" not in arrays or not spec.sparse or spec.networks == len(spec.members):
        return parameters
    parameters, first = parameters.copy(), layout_of(spec).layers[0]
    for number, twin in enumerate(twins_of(spec)):
        if twin >= 0:
            averaged = arrays["averaged"][twin - len(spec.members)]
            share = np.exp(averaged[0] - averaged[1:]).astype(np.float32)[:, None]
            weights, mean = first.stored(parameters[number]), first.stored(parameters[twin])
            mean[...] = weights + share * (mean - weights)
    return parameters


def work_out_rows(spec: ModelSpec, arrays: Arrays) -> None:
    """Bring the slots of a sparse first layer up to date, in place: from here on all weights are stepped on."""
    for number, member in enumerate(spec.members if spec.sparse else ()):
        steps = arrays["counters"][number, UPDATES]
        keep = {"rmsprop": member.alpha}.get(member.name, (member.betas or (0.0, 1.0))[1])
        fading = member.name in ("rmsprop", "adam", "adamw")
        if fading:
            factor = np.float64(keep) ** (steps - arrays["stepped"][number])
            layout_of(spec).layers[0].stored(arrays["slots"][number, 0])[...] *= factor.astype(np.float32)[
                :, None
            ]
        arrays["stepped"][number] = steps


def begin_twins(spec: ModelSpec, arrays: Arrays) -> None:
    """Let each twin be as its member is now, in place, and begin its average there; all weights are up to date."""
    for number, twin in enumerate(twins_of(spec)):
        if twin >= 0:
            arrays["parameters"][twin] = arrays["parameters"][number]
            arrays["counters"][number, AVERAGED] = 0
    arrays["averaged"][...] = 0.0
    if spec.sparse:
        arrays["stepped"][...] = arrays["counters"][:, [UPDATES]]


def write_weights(spec: ModelSpec, parameters: NDArray[np.float32]) -> bytes:
    """The members' parameters by name, in PyTorch's shapes: for other programs to read."""
    views = named_parameters(spec, parameters)
    return save_tensors({name: np.ascontiguousarray(values) for name, values in views.items()})


def read_weights(spec: ModelSpec, blob: bytes) -> NDArray[np.float32]:
    """The members' parameters (members, size) of what `write_weights` wrote, checked. Raises StateError."""
    tensors = _read_tensors(blob)
    parameters = np.zeros((len(spec.members), layout_of(spec).size), np.float32)
    views = named_parameters(spec, parameters)
    shapes: Shapes = {name: (np.float32, values.shape) for name, values in views.items()}
    _check(tensors, shapes, limit=LARGEST_PARAMETER)
    for name, values in views.items():
        values[...] = tensors[name]
    return parameters


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A writable copy whose first byte is at a multiple of 64."""
    copy = aligned_zeros(values.size, values.dtype.type).reshape(values.shape)
    copy[...] = values
    return copy


def _read_header(blob: bytes) -> tuple[ModelSpec, Builds, int]:
    try:
        size = int.from_bytes(blob[:8], "little")
        entries = json.loads(blob[8 : 8 + size])["__metadata__"]
        if HEADER not in entries:  # format 0
            return ModelSpec.model_validate_json(entries["spec"]), ((UNKNOWN, 0),), 0
        header = json.loads(entries[HEADER])
        version = header["format"]
        if type(version) is int and version > FORMAT:
            raise StateError(f"a saved model of format {version}; this program reads up to {FORMAT}")
        builds = tuple((str(build), int(step)) for build, step in header["builds"])
        return ModelSpec.model_validate_json(header["spec"]), builds, version
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StateError("not a saved model: it has no readable header") from error


def _read_tensors(blob: bytes) -> Arrays:
    try:
        return load_tensors(blob)
    except (SafetensorError, KeyError, ValueError) as error:
        raise StateError(f"not a safetensors file: {error}") from error


def _check(tensors: Arrays, shapes: Shapes, limit: float = LARGEST) -> None:
    """Check names, types, shapes and numbers. Raises StateError."""
    if tensors.keys() != shapes.keys():
        raise StateError(f"expected the tensors {sorted(shapes)}, got {sorted(tensors)}")
    for name, (dtype, shape) in shapes.items():
        values = tensors[name]
        if values.dtype != dtype or values.shape != shape:
            wanted = f"{np.dtype(dtype)} {shape}"
            raise StateError(f"{name}: expected {wanted}, got {values.dtype} {values.shape}")
        largest = limit if dtype is np.float32 else np.finfo(np.float64).max
        if name not in UNCHECKED and dtype is not np.int64 and not (np.abs(values) <= largest).all():
            raise StateError(f"{name}: holds a number that is not finite, or beyond {largest:g}")
