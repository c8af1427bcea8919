"""Tensors of the Open Inference Protocol, in JSON and as raw bytes behind it (the binary tensor data extension)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from service.errors import Invalid

Array = np.ndarray

DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = (*DTYPES, "BYTES")
_LENGTH = struct.Struct("<I")  # before each element of a BYTES tensor
DEEPEST = 8  # nested lists in JSON data


@dataclass(frozen=True, slots=True)
class Tensor:
    """Values in row-major order, as Python objects, with their shape."""

    name: str
    shape: tuple[int, ...]
    values: list[Any]

    @property
    def rows(self) -> int:
        """Length of the first dimension; a tensor without one is one row."""
        return self.shape[0] if self.shape else 1

    @property
    def width(self) -> int:
        """Values in each row."""
        return len(self.values) // self.rows if self.rows else 0

    def as_rows(self) -> list[list[Any]]:
        """The values of each row."""
        width = self.width
        return [self.values[start : start + width] for start in range(0, len(self.values), width or 1)]


def read_json(name: str, datatype: str, shape: Sequence[int], data: Any, pointer: str) -> Tensor:
    """A tensor from JSON data, flat or nested. null is a missing value. Raises Invalid."""
    values = _flat(data, f"{pointer}/data")
    _check_count(values, shape, f"{pointer}/data")
    if datatype == "BOOL":
        values = [bool(value) if value in (0, 1) else value for value in values]
    return Tensor(name, tuple(shape), values)


def read_binary(name: str, datatype: str, shape: Sequence[int], raw: bytes, pointer: str) -> Tensor:
    """A tensor from raw little-endian bytes. Raises Invalid."""
    if datatype == "BYTES":
        values = _read_strings(raw, pointer)
    else:
        dtype = DTYPES[datatype]
        if len(raw) % dtype.itemsize:
            raise _invalid(pointer, f"{len(raw)} bytes are no whole number of {datatype} values")
        array = np.frombuffer(raw, dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _invalid(
                pointer, "not a finite number; send null in JSON data, not NaN, for a missing value"
            )
        if array.dtype.kind == "b" and (np.frombuffer(raw, np.uint8) > 1).any():
            raise _invalid(pointer, "a BOOL is the byte 0 or 1")
        values = array.tolist()
    _check_count(values, shape, pointer)
    return Tensor(name, tuple(shape), values)


def _read_strings(raw: bytes, pointer: str) -> list[Any]:
    values: list[Any] = []
    offset = 0
    while offset < len(raw):
        end = offset + _LENGTH.size
        if end > len(raw):
            raise _invalid(pointer, "the bytes end within a BYTES element's length")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset = end + length
        if offset > len(raw):
            raise _invalid(pointer, "the bytes end within a BYTES element")
        try:
            values.append(raw[end:offset].decode())
        except UnicodeDecodeError:
            raise _invalid(pointer, "a BYTES element is not UTF-8 text") from None
    return values


def _flat(given: Any, pointer: str) -> list[Any]:
    if not isinstance(given, list):
        raise _invalid(pointer, "data is a list")
    data: list[Any] = given
    for _ in range(DEEPEST):
        nested = [isinstance(item, list) for item in data]
        if not any(nested):
            return data
        if not all(nested):
            break
        data = list(chain.from_iterable(data))
    raise _invalid(pointer, f"data is a list of values, or nested evenly, at most {DEEPEST} deep")


def _check_count(values: list[Any], shape: Sequence[int], pointer: str) -> None:
    wanted = 1
    for size in shape:
        wanted *= size
    if len(values) != wanted:
        raise _invalid(pointer, f"{len(values)} values; the shape {list(shape)} takes {wanted}")


def written(name: str, datatype: str, array: Array | list[Any], binary: bool) -> tuple[dict[str, Any], bytes]:
    """An output tensor's JSON, and its raw bytes if they go behind the JSON."""
    if isinstance(array, list):
        shape, values = [len(array)], array
    else:
        shape, values = list(array.shape), array.ravel().tolist()
    tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if not binary:
        return {**tensor, "data": values}, b""
    if datatype == "BYTES":
        raw = b"".join(_LENGTH.pack(len(text)) + text for text in (str(value).encode() for value in values))
    else:
        raw = np.array(values, DTYPES[datatype]).tobytes()
    return {**tensor, "parameters": {"binary_data_size": len(raw)}}, raw


def _invalid(pointer: str, detail: str) -> Invalid:
    return Invalid(f"{pointer}: {detail}", [(pointer, detail)])
