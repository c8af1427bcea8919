"""Rows as they come from JSON → float64.

A raw row has one column for each feature: a number as it is, 0 or 1 for a boolean, the place in `values` of
a category (`len(values)` for a value outside them), the bucket of a hashed value, NaN for what is missing. It
is what the log keeps; scaling and one-hot expansion come later, in the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import RowError
from model.feature_spec import MAX_TEXT_BYTES, FeatureSpec
from model.hashing import murmur3_32
from model.spec import ModelSpec

Array = NDArray[np.float64]


class UnreadableError(Exception):
    """A value that its feature cannot take; the message says what it can."""


class FeatureEncoder:
    """Reads rows by the spec alone: it needs no state of the model, so any process can do it."""

    def __init__(self, spec: ModelSpec) -> None:
        features = spec.feature_list
        self.width = spec.width
        self.names = tuple(feature.name for feature in features)
        self._places = {name: place for place, name in enumerate(self.names)}
        self._values_of = itemgetter(*self.names)
        self._readers = [_reader(feature) for feature in features]
        self._only_numbers = all(feature.kind == "number" for feature in features)

    def encode(self, rows: Sequence[Any]) -> Array:
        """Raw rows (n, width) from lists in feature order or objects by feature name.

        A null or an absent name is a missing value.
        Raises RowError for the first row that cannot be read.
        """
        if self._only_numbers:
            block = self._encode_numbers(rows)
            if block is not None:
                return block
        values = [self._read_row(index, row) for index, row in enumerate(rows)]
        return np.array(values, dtype=np.float64).reshape(len(values), self.width)

    def _encode_numbers(self, rows: Sequence[Any]) -> Array | None:
        """The usual case, fast: finite floats, integers and nulls, none left out. None if it is not that."""
        try:
            lists = rows if {list}.issuperset(map(type, rows)) else [self._in_order(row) for row in rows]
            if not {self.width}.issuperset(map(len, lists)):
                return None
            # The types first: NumPy would read "1" and true as numbers.
            if not {float, int, NoneType}.issuperset(map(type, chain.from_iterable(lists))):
                return None
            block = np.array(lists, dtype=np.float64).reshape(len(lists), self.width)
        except (KeyError, TypeError, OverflowError):
            return None
        finite = np.isfinite(block)
        if not finite.all():
            missing = zip(*(places.tolist() for places in np.nonzero(~finite)), strict=True)
            if any(lists[row][column] is not None for row, column in missing):
                return None
        return block

    def _in_order(self, row: Any) -> Sequence[Any]:
        """The values in feature order. Raises KeyError or TypeError if it is no list nor complete object."""
        if type(row) is list:
            return row
        values = self._values_of(row)
        if len(row) != self.width:
            raise KeyError
        return (values,) if self.width == 1 else values

    def _read_row(self, index: int, row: Any) -> list[float]:
        if isinstance(row, dict):
            return self._read_object(index, row)
        if not isinstance(row, list):
            raise RowError(
                index, "", f"a row is a list of {self.width} values or an object, not {kind_of(row)}"
            )
        if len(row) != self.width:
            raise RowError(index, "", f"expected {self.width} features, got {len(row)}")
        return [
            self._read_value(index, str(place), reader, value)
            for place, (reader, value) in enumerate(zip(self._readers, row, strict=True))
        ]

    def _read_object(self, index: int, row: dict[Any, Any]) -> list[float]:
        for name in row:
            if name not in self._places:
                raise RowError(index, _pointer(name), f"unknown feature; known are {listed(self.names)}")
        return [
            self._read_value(index, name, reader, row.get(name))
            for name, reader in zip(self.names, self._readers, strict=True)
        ]

    def _read_value(self, index: int, key: str, reader: Callable[[Any], float], value: Any) -> float:
        try:
            return reader(value)
        except UnreadableError as error:
            raise RowError(index, _pointer(key), str(error)) from None


def read_number(value: Any) -> float:
    """A finite number as float; true, false and strings are none. Raises UnreadableError."""
    if type(value) is float:
        if math.isfinite(value):
            return value
        raise UnreadableError("a number must be finite")
    if type(value) is not int:
        raise UnreadableError(f"expected a number, got {kind_of(value)}")
    try:
        return float(value)
    except OverflowError:
        raise UnreadableError("the number is too large for 64-bit floating point") from None


def _read_boolean(value: Any) -> float:
    if type(value) is not bool:
        raise UnreadableError(f"expected true or false, got {kind_of(value)}")
    return float(value)


def _key(value: Any) -> int | str:
    """A string or integer; 1.0 is the integer 1, since JSON knows one kind of number only."""
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str:
        # Four bytes a character at most: short texts are not encoded to be measured.
        if 4 * len(value) > MAX_TEXT_BYTES and len(value.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
            raise UnreadableError(f"a string has at most {MAX_TEXT_BYTES:,} bytes in UTF-8")
        return value
    if type(value) is not int:
        raise UnreadableError(f"expected a string or an integer, got {kind_of(value)}")
    return value


def _category_reader(values: Sequence[int | str]) -> Callable[[Any], float]:
    places = {value: float(place) for place, value in enumerate(values)}
    unseen = float(len(values))
    return lambda value: places.get(_key(value), unseen)


def hash_bucket(value: int | str, buckets: int) -> int:
    """The bucket of a value: MurmurHash3 of its text in UTF-8, modulo `buckets`. 7 and "7" share theirs."""
    return murmur3_32(str(value).encode("utf-8", "surrogatepass")) % buckets


def _hash_reader(buckets: int) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            return float(hash_bucket(_key(value), buckets))
        except ValueError:  # Python turns integers of more than 4,300 digits into no text
            raise UnreadableError("the integer has too many digits") from None

    return read


def _reader(feature: FeatureSpec) -> Callable[[Any], float]:
    """The function that reads one value of a feature; null is NaN for every kind."""
    if feature.kind == "category":
        read = _category_reader(feature.values or ())
    elif feature.kind == "hash":
        read = _hash_reader(feature.buckets or 1)
    else:
        read = _read_boolean if feature.kind == "boolean" else read_number
    return lambda value: math.nan if value is None else read(value)


def _pointer(key: Any) -> str:
    """A JSON pointer to a member (RFC 6901)."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for an error message: the first few and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


_KINDS = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def kind_of(value: Any) -> str:
    """What JSON calls a value, for an error message."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)
