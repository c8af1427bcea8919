"""Rows as they come from JSON → float64.

A raw row has one column for each feature: a number as it is, 0 or 1 for a boolean, the index in `values` of
a category (`len(values)` for a value outside them), the bucket of a hashed value, NaN for what is missing. A
feature with tokens has a column for each: bucket and weight, as `tokens` packs them, NaN where there are fewer. It
is what the log keeps; scaling and one-hot expansion come later, in the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import Any

import mmh3
import numpy as np
from numpy.typing import NDArray

from model import lines, tokens
from model.errors import RowError
from model.feature_spec import MAX_TEXT_BYTES, FeatureSpec
from model.spec import ModelSpec

Array = NDArray[np.float64]

MAX_TOKEN_WEIGHT = 1_000_000


_NUMBERS = frozenset((float, int))


class UnreadableError(Exception):
    """A value that its feature cannot take; the message says what it can."""


class FeatureEncoder:
    """Reads rows by the spec alone: it needs no state of the model, so any process can do it."""

    def __init__(self, spec: ModelSpec) -> None:
        features = spec.feature_list
        self.width = spec.width
        self.names = tuple(feature.name for feature in features)
        self._indices = {name: index for index, name in enumerate(self.names)}
        self._values_of = itemgetter(*self.names)
        self._readers = [_reader(feature) for feature in features]
        self._absent = [read(None) for read in self._readers]
        self._has_tokens = any(feature.tokens for feature in features)
        self._only_numbers = all(feature.kind == "number" for feature in features)

    def encode(self, rows: Sequence[Any]) -> Array:
        """Raw rows (n, width) from lists in feature order or objects by feature name.

        A null or an absent name is a missing value.
        Raises RowError for the first row that cannot be read.
        """
        if self._only_numbers:
            block = self._encode_row_of_numbers(rows[0]) if len(rows) == 1 else self._encode_numbers(rows)
            if block is not None:
                return block
        values = [self._read_row(index, row) for index, row in enumerate(rows)]
        if self._has_tokens:
            values = [_flat(row) for row in values]
        return np.array(values, dtype=np.float64).reshape(len(values), self.width)

    def encode_lines(self, text: bytes, rows: int) -> tuple[Array, list[Any]] | None:
        """Raw rows (n, width) and labels of lines of JSON, each with its line end; see `lines.read`. None: not so."""
        return lines.read(text, rows, self.width) if self._only_numbers else None

    def _encode_row_of_numbers(self, row: Any) -> Array | None:
        """The same for one row, which has no missing value either, in as few calls as possible."""
        try:
            values = row if type(row) is list else self._in_order(row)
            if len(values) != self.width or not _NUMBERS.issuperset(map(type, values)):
                return None
            block = np.array(values, np.float64)
            # The sum of huge numbers is infinite: the exact way looks at those again. NumPy's would warn of it.
            is_finite = math.isfinite(sum(values))
        except (KeyError, TypeError, OverflowError):
            return None
        return block.reshape(1, self.width) if is_finite else self._encode_numbers([row])

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
            missing = zip(*(indices.tolist() for indices in np.nonzero(~finite)), strict=True)
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

    def _read_row(self, index: int, row: Any) -> list[Any]:
        if isinstance(row, dict):
            return self._read_object(index, row)
        if not isinstance(row, list):
            raise RowError(
                index, "", f"a row is a list of {len(self.names)} values or an object, not {kind_of(row)}"
            )
        if len(row) != len(self.names):
            raise RowError(index, "", f"expected {len(self.names)} features, got {len(row)}")
        return [
            self._read_value(index, str(column), reader, value)
            for column, (reader, value) in enumerate(zip(self._readers, row, strict=True))
        ]

    def _read_object(self, index: int, row: dict[Any, Any]) -> list[Any]:
        for name in row:
            if name not in self._indices:
                raise RowError(index, _pointer(name), f"unknown feature; known are {listed(self.names)}")
        values = self._absent.copy()
        for name, value in row.items():
            column = self._indices[name]
            values[column] = self._read_value(index, name, self._readers[column], value)
        return values

    def _read_value(self, index: int, key: str, reader: Callable[[Any], Any], value: Any) -> Any:
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
    indices = {value: float(index) for index, value in enumerate(values)}
    unseen = float(len(values))
    return lambda value: indices.get(_key(value), unseen)


def hash_bucket(value: int | str, buckets: int) -> int:
    """The bucket of a value: MurmurHash3 of its text in UTF-8, modulo `buckets`. 7 and "7" share theirs."""
    return mmh3.hash(str(value).encode("utf-8", "surrogatepass"), signed=False) % buckets


def _hash_reader(buckets: int) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            return float(hash_bucket(_key(value), buckets))
        except ValueError:  # Python turns integers of more than 4,300 digits into no text
            raise UnreadableError("the integer has too many digits") from None

    return read


def _tokens_reader(feature: FeatureSpec) -> Callable[[Any], list[float]]:
    """Reads a list of tokens, or an object of weights by token, as the columns of a feature with tokens."""
    buckets, most = feature.buckets or 1, feature.tokens or 1
    scale = _SCALES[feature.combine or "norm"]
    absent = [math.nan] * most

    def read(value: Any) -> list[float]:
        if value is None:
            return absent
        weights = _bucket_weights(value, buckets)
        if len(weights) > most:
            raise UnreadableError(f"at most {most} different tokens, got {len(weights)}")
        factor = scale(weights.values(), len(value))
        packed = tokens.pack((bucket, weight * factor) for bucket, weight in weights.items())
        return [*(packed or [tokens.NOTHING]), *absent[max(len(packed), 1) :]]

    return read


def _bucket_weights(value: Any, buckets: int) -> dict[int, float]:
    """The weights of a value's tokens, added up by bucket."""
    if isinstance(value, list):
        pairs = [(token, 1.0) for token in value]
    elif isinstance(value, dict):
        pairs = [(token, _read_weight(token, weight)) for token, weight in value.items()]
    else:
        raise UnreadableError(
            f"expected a list of tokens, or an object of weights by token, got {kind_of(value)}"
        )
    weights: dict[int, float] = {}
    read = _hash_reader(buckets)
    for token, weight in pairs:
        bucket = int(read(token))
        weights[bucket] = weights.get(bucket, 0.0) + weight
    return weights


def _read_weight(token: str, weight: Any) -> float:
    number = read_number(weight)
    if abs(number) > MAX_TOKEN_WEIGHT:
        raise UnreadableError(f"the weight of a token is from −{MAX_TOKEN_WEIGHT:,} to {MAX_TOKEN_WEIGHT:,}")
    return number


_SCALES: dict[str, Callable[[Collection[float], int], float]] = {
    "sum": lambda weights, count: 1.0,
    "mean": lambda weights, count: 1.0 / max(count, 1),
    "norm": lambda weights, count: 1.0 / (math.sqrt(math.fsum(w * w for w in weights)) or 1.0),
}
"""What the weights of a row's tokens are multiplied by."""


def _flat(row: list[Any]) -> list[float]:
    """A row's columns, of values that are a column or a list of them."""
    columns: list[float] = []
    for value in row:
        if type(value) is list:
            columns += value
        else:
            columns.append(value)
    return columns


def _reader(feature: FeatureSpec) -> Callable[[Any], Any]:
    """The function that reads one value of a feature; null is NaN for every kind."""
    if feature.tokens:
        return _tokens_reader(feature)
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
