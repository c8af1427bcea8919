"""A model's arrays ↔ safetensors. Nothing executable is stored or read.

A saved state's metadata has one entry, JSON: its `format`, the `spec`, and the `builds` that computed it. Version 0.1
wrote format 0: the spec alone, and diagnostics without the numbers from RESETS on.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from model import monitor
from model.builds import UNKNOWN, Builds
from model.errors import StateError
from model.initializers import initial_parameters
from model.network import LARGEST_SUM, new_norm
from model.optimizers import OPTIMIZERS, new_slots
from model.parameters import aligned_zeros, layout_of, named_views
from model.program import COUNTERS, STEP
from model.scaling import STATE_ROWS, new_state
from model.spec import ModelSpec

Arrays = dict[str, NDArray[Any]]
Shapes = dict[str, tuple[type, tuple[int, ...]]]

FORMAT = 1
NEW_TOTALS = 3  # numbers of the diagnostics that format 0 lacks
HEADER = "freshet"
METRICS = "metrics."
LARGEST_STATISTIC = 1e305
LARGEST_PARAMETER = 1e30  # of parameters: what no step exceeds
LARGEST = 1e32  # of parameters and slots as they are read: a step's rounding is no reason to refuse a state

# `live`: what can change while the model runs. A clip norm of 0 means none.
LIVE_LEARNING_RATE, LIVE_CLIP_NORM = range(2)


def shapes_of(spec: ModelSpec) -> Shapes:
    """Type and shape of each array of a model's state, without the metrics'; allocates nothing."""
    layout = layout_of(spec)
    slots = len(OPTIMIZERS[spec.optimizer.name].slots(spec.optimizer))
    return {
        **predictor_shapes_of(spec),
        "slots": (np.float32, (slots, layout.size)),
        "counters": (np.int64, (COUNTERS,)),
        "live": (np.float64, (2,)),
        "monitor": (np.float64, (monitor.size_of(layout),)),
    }


def predictor_shapes_of(spec: ModelSpec) -> Shapes:
    """The same for what a predictor needs."""
    layout = layout_of(spec)
    return {
        "parameters": (np.float32, (layout.size,)),
        "norm": (np.float64, (2, layout.norm_units)),
        "scaling.inputs": (np.float64, (STATE_ROWS, 0 if spec.scaling == "none" else spec.width)),
        "scaling.targets": (np.float64, (STATE_ROWS, spec.targets if spec.scales_targets else 0)),
    }


def new_arrays(spec: ModelSpec) -> Arrays:
    """The state of a model that has learned nothing, without the metrics'."""
    layout, shapes = layout_of(spec), shapes_of(spec)
    return {
        "parameters": initial_parameters(spec, layout),
        "norm": new_norm(layout),
        "scaling.inputs": new_state(shapes["scaling.inputs"][1][1]),
        "scaling.targets": new_state(shapes["scaling.targets"][1][1]),
        "slots": new_slots(spec.optimizer, layout.size),
        "counters": np.zeros(COUNTERS, np.int64),
        "live": np.array([spec.optimizer.learning_rate, spec.optimizer.clip_norm or 0.0]),
        "monitor": np.zeros(shapes["monitor"][1]),
    }


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
    _upgrade(tensors, version)
    metrics = {name: tensors.pop(name) for name in list(tensors) if name.startswith(METRICS)}
    _check(tensors, shapes_of(spec), unchecked="monitor")
    _clear_overflown_notes(tensors)
    if (tensors["counters"] < 0).any() or (tensors["live"] < 0).any():
        raise StateError("counters, learning rate and clip norm are never negative")
    metrics = {name.removeprefix(METRICS): values for name, values in metrics.items()}
    return Saved(spec, tensors, metrics, builds)


def _upgrade(tensors: Arrays, version: int) -> None:
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


def _clear_overflown_notes(tensors: Arrays) -> None:
    """Notes for the diagnostics that version 0.1 let overflow are cleared: they are no reason to refuse a model."""
    notes = tensors["monitor"]
    if not (np.abs(notes) <= monitor.LARGEST_NOTE).all():
        cleared = np.zeros_like(notes)
        monitor.clear(cleared, int(tensors["counters"][STEP]))
        cleared[monitor.RESETS] = 1.0
        tensors["monitor"] = cleared


def write_predictor_state(spec: ModelSpec, arrays: Arrays) -> bytes:
    return save_tensors({name: arrays[name] for name in predictor_shapes_of(spec)})


def read_predictor_state(spec: ModelSpec, blob: bytes) -> Arrays:
    """What a predictor needs, as views of `blob`, checked. Raises StateError."""
    tensors = _read_tensors(blob)
    _check(tensors, predictor_shapes_of(spec))
    return tensors


def write_weights(spec: ModelSpec, parameters: NDArray[np.float32]) -> bytes:
    """The parameters by name, in PyTorch's shapes: for other programs to read."""
    views = named_views(layout_of(spec), parameters)
    return save_tensors({name: np.ascontiguousarray(values) for name, values in views.items()})


def read_weights(spec: ModelSpec, blob: bytes) -> NDArray[np.float32]:
    """The flat parameters of what `write_weights` wrote, checked. Raises StateError."""
    layout, tensors = layout_of(spec), _read_tensors(blob)
    flat = aligned_zeros(layout.size)
    views = named_views(layout, flat)
    shapes: Shapes = {name: (np.float32, values.shape) for name, values in views.items()}
    _check(tensors, shapes, limit=LARGEST_PARAMETER)
    for name, values in views.items():
        values[...] = tensors[name]
    return flat


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


def _check(tensors: Arrays, shapes: Shapes, unchecked: str = "", limit: float = LARGEST) -> None:
    """Check names, types, shapes, and numbers other than those of `unchecked`. Raises StateError."""
    if tensors.keys() != shapes.keys():
        raise StateError(f"expected the tensors {sorted(shapes)}, got {sorted(tensors)}")
    for name, (dtype, shape) in shapes.items():
        values = tensors[name]
        if values.dtype != dtype or values.shape != shape:
            wanted = f"{np.dtype(dtype)} {shape}"
            raise StateError(f"{name}: expected {wanted}, got {values.dtype} {values.shape}")
        largest = limit if dtype is np.float32 else np.finfo(np.float64).max
        if name != unchecked and dtype is not np.int64 and not (np.abs(values) <= largest).all():
            raise StateError(f"{name}: holds a number that is not finite, or beyond {largest:g}")
