"""Weights as a client sends them: checked against the spec before anything is made of them."""

import json
import math
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from model import LARGEST_PARAMETER, ModelSpec, Predictor, parameter_shapes
from service.errors import BadRequest, Invalid
from service.schemas import pointer

HEADER_ROOM = 2**20  # bytes of a file beside the numbers
HEADER_BYTES = 8  # that tell the length of the header of a safetensors file


def written(spec: ModelSpec, state: bytes) -> bytes:
    """The parameters under their names as safetensors, from what a predictor is made of."""
    return Predictor(spec, state).weights_to_bytes()


def most_bytes(spec: ModelSpec) -> int:
    """The longest file that is read: the weights as `written` gives them, with room for metadata."""
    return HEADER_ROOM + 4 * sum(math.prod(shape) for shape in parameter_shapes(spec).values())


def checked(spec: ModelSpec, raw: bytes) -> bytes:
    """The same weights, without anything else from the file.

    Raises BadRequest if it is no safetensors file, Invalid naming the tensor that does not fit.
    """
    header = _header(raw)
    wanted = {name: list(shape) for name, shape in parameter_shapes(spec).items()}
    for name in [*wanted, *header]:
        if name not in header:
            raise _refused(name, "is missing")
        if name not in wanted:
            raise _refused(name, f"is not a tensor of this model; it has {', '.join(wanted)}")
        _check_entry(name, header[name], wanted[name])
    try:
        tensors = load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BadRequest(f"not a safetensors file: {error}") from None
    for name, values in tensors.items():
        if not (np.abs(values) <= LARGEST_PARAMETER).all():
            raise _refused(name, f"holds a number that is not finite, or beyond {LARGEST_PARAMETER:g}")
    return save({name: np.ascontiguousarray(tensors[name]) for name in wanted})


def _header(raw: bytes) -> dict[str, Any]:
    size = int.from_bytes(raw[:HEADER_BYTES], "little")
    if len(raw) < HEADER_BYTES or size > len(raw) - HEADER_BYTES:
        raise BadRequest("not a safetensors file: it is shorter than its header says")
    try:
        header = json.loads(raw[HEADER_BYTES : HEADER_BYTES + size])
    except (ValueError, RecursionError):
        raise BadRequest("not a safetensors file: its header is no JSON") from None
    if not isinstance(header, dict):
        raise BadRequest("not a safetensors file: its header is no JSON object")
    return {name: value for name, value in header.items() if name != "__metadata__"}


def _check_entry(name: str, entry: Any, shape: list[int]) -> None:
    found = entry if isinstance(entry, dict) else {}
    if found.get("dtype") != "F32":
        raise _refused(name, f"is of type {found.get('dtype')!r}; expected 'F32'")
    if found.get("shape") != shape:
        raise _refused(name, f"has the shape {found.get('shape')}; expected {shape}")


def _refused(name: str, what: str) -> Invalid:
    return Invalid.at(pointer(name), what)
