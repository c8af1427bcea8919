"""What a file's columns mean: the label, the kind of each feature, and what a row teaches a model."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

from service.client.source import NUMBER, FileError, Record, Source, open_source

INSPECTED_ROWS = 1_000
"""Rows that the kinds of the columns are told from."""

CATEGORY_LIMIT = 32
"""A column of at most this many distinct strings is a category; with more it is hashed."""

HASH_BUCKETS = 256

MISSING = frozenset({"", "?", "na", "n/a", "nan", "nil", "none", "null"})
"""How files write a missing number or truth value, in lower case."""

BOOLEANS = {"true": True, "false": False}

Observation = dict[str, Any]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Columns:
    """Which columns are not features. A file of observations (`nested`) says so itself."""

    label: str = "label"
    id: str | None = None
    weight: str | None = None
    dropped: frozenset[str] = frozenset()
    nested: bool = False

    @property
    def special(self) -> dict[str, str]:
        """By column, the member of an observation that it becomes."""
        members = {"label": self.label, "id": self.id, "weight": self.weight}
        return {column: member for member, column in members.items() if column is not None}

    def features(self, record: Record) -> Record:
        """The features of a record by column."""
        others = self.special.keys() | self.dropped
        return {column: value for column, value in record.items() if column not in others}


def choose_columns(
    source: Source, label: str | None, id: str | None, weight: str | None, dropped: Iterable[str], note: Note
) -> Columns:
    """The columns as named; a label that is not named is `label`, or in CSV the last column.

    Raises FileError if the file has no rows or no such column.
    """
    head = source.head(1)
    if not head:
        raise FileError(f"{source.name} holds no rows")
    first = head[0]
    if isinstance(first.get("features"), list | dict):
        return Columns(nested=True)
    if label is None and "label" not in first and source.format == "csv":
        label = list(first)[-1]
        note(f"the label is the last column, {label!r}")
    columns = Columns(label or "label", id, weight, frozenset(dropped))
    if absent := sorted((columns.special.keys() | columns.dropped) - first.keys()):
        raise FileError(f"{source.name} has no column {absent[0]!r}; it has {', '.join(first)}")
    return columns


def infer_spec(task: str, source: Source, columns: Columns, note: Note) -> dict[str, Any]:
    """A spec for a model that can learn this file, told from its first rows; classes from all rows if it can.

    Raises FileError if the rows are of different shapes, or have too few or too many classes.
    """
    head = source.head(INSPECTED_ROWS)
    spec: dict[str, Any] = {"task": task, "features": _infer_features(head, columns)}
    if task != "regression":
        classes = _infer_classes(task, source, columns, note)
        if task == "multiclass" or not set(classes) <= {0, 1} or isinstance(classes[0], bool):
            spec["classes"] = classes
    return spec


def _infer_features(head: list[Record], columns: Columns) -> int | list[dict[str, Any]]:
    rows: list[Any] = [
        record.get("features") if columns.nested else columns.features(record) for record in head
    ]
    if all(isinstance(row, list) for row in rows):
        return _count_features(rows)
    if not all(isinstance(row, dict) for row in rows):
        raise FileError("some rows have their features as a list, others by name or not at all")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [infer_feature(name, (row.get(name) for row in rows)) for name in names]


def _count_features(rows: list[list[Any]]) -> int:
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise FileError(f"rows have from {min(lengths)} to {max(lengths)} features")
    if not all(value is None or isinstance(value, int | float) for row in rows for value in row):
        raise FileError("features in a list must be numbers; give others by name")
    return lengths.pop()


def infer_feature(name: str, values: Iterable[object]) -> dict[str, Any]:
    """A feature for a spec, of the kind that all values have; None and MISSING have none.

    Raises FileError if a value is a list or an object.
    """
    present = [value for value in values if not is_missing(value)]
    if nested := next((value for value in present if isinstance(value, list | dict)), None):
        raise FileError(f"column {name!r} holds {nested!r}; a feature is a number, a boolean or a string")
    if present and all(_is_boolean(value) for value in present):
        return {"name": name, "kind": "boolean"}
    if all(_is_number(value) for value in present):
        return {"name": name, "kind": "number"}
    distinct = list(dict.fromkeys(as_text(value) for value in present))
    if len(distinct) <= CATEGORY_LIMIT:
        return {"name": name, "kind": "category", "values": distinct}
    return {"name": name, "kind": "hash", "buckets": HASH_BUCKETS}


def _infer_classes(task: str, source: Source, columns: Columns, note: Note) -> list[Any]:
    """The classes of all rows of the file; of the first rows where it can be read only once."""
    if source.path is not None:
        with open_source(source.path) as again:
            seen = _distinct_labels(again, columns, stop_at=2 if task == "binary" else None)
    else:
        head = source.head(INSPECTED_ROWS)
        seen = _distinct_labels(head, columns)
        if task == "multiclass" and len(head) == INSPECTED_ROWS:
            note(f"the classes are those of the first {INSPECTED_ROWS:,} rows; a later one will be refused")
    if task == "binary" and (len(seen) > 2 or (len(seen) < 2 and not set(seen) <= {0, 1})):
        raise FileError(f"a binary label has two values; {columns.label!r} has {len(seen)}: {seen[:5]}")
    if task == "multiclass" and len(seen) < 2:
        raise FileError(f"{columns.label!r} has {len(seen)} classes; two or more are needed")
    return _sorted_classes(seen)


def _distinct_labels(records: Iterable[Record], columns: Columns, stop_at: int | None = None) -> list[Any]:
    seen: dict[Any, None] = {}
    for record in records:
        label = as_class(record.get(columns.label))
        if not is_missing(label):
            seen.setdefault(as_text(label) if isinstance(label, list | dict) else label)
        if len(seen) == stop_at:
            break
    return list(seen)


def _sorted_classes(seen: list[Any]) -> list[Any]:
    """Booleans and whole numbers by value, anything else as text: classes are all of one type."""
    if len({type(label) for label in seen}) == 1 and isinstance(seen[0], bool | int | str):
        return sorted(seen)
    return sorted(str(as_text(label)) for label in seen)


def observations(source: Source, columns: Columns, spec: dict[str, Any]) -> Iterator[Observation]:
    """What the records teach a model of this spec, in order.

    A value that does not fit goes as it is, for the server to name. Raises FileError for a column that is no
    feature of the model, and for a feature that has no column in a CSV file.
    """
    if columns.nested:
        return iter(source)
    features = _feature_converters(source, columns, spec["features"])
    converters = {"label": _label_converter(spec), "id": as_text, "weight": as_number}
    special = [(member, column, converters[member]) for column, member in columns.special.items()]
    known = features.keys() | columns.special.keys() | columns.dropped
    return (
        {
            "features": [convert(record.get(column)) for column, convert in features.items()],
            **{member: convert(record.get(column)) for member, column, convert in special},
        }
        for record in _only_known(source, known)
    )


def _only_known(source: Source, known: set[str]) -> Iterator[Record]:
    for record in source:
        if not record.keys() <= known:
            strange = next(column for column in record if column not in known)
            raise FileError(
                f"row {source.row:,}: the model has no feature {strange!r}; leave it out with --drop"
            )
        yield record


def _feature_converters(
    source: Source, columns: Columns, features: int | list[dict[str, Any]]
) -> dict[str, Callable[[object], object]]:
    """By column, in the model's order of features: what makes a feature's value of the file's."""
    present = list(columns.features(source.head(1)[0]))
    if isinstance(features, int):
        if len(present) != features:
            raise FileError(f"the model takes {features} features; {source.name} has {len(present)}")
        return dict.fromkeys(present, as_number)
    converters = {feature["name"]: _converter(feature) for feature in features}
    absent = [name for name in converters if name not in present]
    if absent and source.format == "csv":
        raise FileError(f"{source.name} has no column for the model's feature {absent[0]!r}")
    return converters


def _converter(feature: dict[str, Any]) -> Callable[[object], object]:
    if feature["kind"] == "category":
        values = {as_text(value): value for value in feature["values"]}
        return lambda value: values.get(as_text(value), as_text(value))
    return {"number": as_number, "boolean": as_boolean, "hash": as_text}[feature["kind"]]


def _label_converter(spec: dict[str, Any]) -> Callable[[object], object]:
    if spec["task"] == "regression":
        return as_number
    # As declared first: among the classes "1" and "01" both are themselves.
    classes = {as_class(name): name for name in spec["classes"]} | {name: name for name in spec["classes"]}

    def convert(value: object) -> object:
        if isinstance(value, list | dict):
            return value
        return classes[value] if value in classes else classes.get(as_class(value), value)

    return convert


def is_missing(value: object) -> bool:
    """Whether a file means by this that it has no value."""
    return value is None or (isinstance(value, str) and value.lower() in MISSING)


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in BOOLEANS)


def _is_number(value: object) -> bool:
    return isinstance(as_number(value), int | float)


def as_number(value: object) -> object:
    """The number that a text says; None for a missing one. What is no number stays as it is."""
    if isinstance(value, str):
        if NUMBER.fullmatch(value) and isfinite(number := float(value)):
            return number
        return None if is_missing(value) else value
    return int(value) if isinstance(value, bool) else value


def as_boolean(value: object) -> object:
    """The truth that a text, 0 or 1 says; None for a missing one. What is no truth value stays as it is."""
    if is_missing(value):
        return None
    number = as_number(value)
    if number in (0, 1):
        return bool(number)
    return BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value


def as_text(value: object) -> str | None:
    """A value as text; None for a missing one."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def as_class(value: object) -> object:
    """A label as a class would be declared: a boolean or whole number where its text says one."""
    if isinstance(value, str) and value.lower() in BOOLEANS:
        return BOOLEANS[value.lower()]
    number = as_number(value) if isinstance(value, str | float) else value
    if isinstance(number, float) and number.is_integer():
        return int(number)
    return value
