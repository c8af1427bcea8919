"""What a file's columns are: the label, the features, and the observation that a row becomes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from service.client.errors import FileError
from service.client.http import Note
from service.client.source import Record, Source
from service.client.values import as_boolean, as_class, as_number, as_text, as_tokens

Observation = dict[str, Any]


class Row(NamedTuple):
    """A row of a file: its number, as it was read, and the observation that it becomes."""

    number: int
    record: Record
    observation: Observation


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


def rows(source: Source, columns: Columns, spec: dict[str, Any]) -> Iterator[Row]:
    """What the records teach a model of this spec, in order.

    A row of an id and a label alone is a label that comes later: the server has the features. A value that does not
    fit goes as it is, for the server to refuse. Raises FileError for a column that is no feature of the model, and for
    a feature that has no column in a CSV file.
    """
    if columns.nested:
        return (Row(source.row, record, record) for record in source)
    late = columns.id is not None and not columns.features(source.head(1)[0])
    fixed = source.format == "csv" or isinstance(spec["features"], int)
    features = {} if late and fixed else feature_converters(source, columns, spec["features"])
    converters = {"label": _label_converter(spec), "id": as_text, "weight": as_number}
    special = [(member, column, converters[member]) for column, member in columns.special.items()]
    known = features.keys() | columns.special.keys() | columns.dropped
    return (
        Row(
            source.row,
            record,
            {
                **_features_of(record, features, may_be_late=columns.id is not None),
                **{member: convert(record.get(column)) for member, column, convert in special},
            },
        )
        for record in _only_known(source, known)
    )


def _features_of(
    record: Record, converters: dict[str, Callable[[object], object]], may_be_late: bool
) -> dict[str, Any]:
    """The member `features` of an observation; nothing for a label that comes later."""
    if may_be_late and not record.keys() & converters.keys():
        return {}
    return {"features": [convert(record.get(column)) for column, convert in converters.items()]}


def _only_known(source: Source, known: set[str]) -> Iterator[Record]:
    for record in source:
        if not record.keys() <= known:
            strange = next(column for column in record if column not in known)
            raise FileError(
                f"row {source.row:,}: the model has no feature {strange!r}; leave it out with --drop"
            )
        yield record


def feature_converters(
    source: Source, columns: Columns, features: int | list[dict[str, Any]]
) -> dict[str, Callable[[object], object]]:
    """By column, in the model's order of features: what makes a feature's value of the file's.

    Raises FileError as `rows` does.
    """
    present = list(columns.features(source.head(1)[0]))
    if isinstance(features, int):
        if len(present) != features:
            raise FileError(f"the model takes {features} features; {source.name} has {len(present)}")
        return dict.fromkeys(present, as_number)
    converters = {feature["name"]: _converter(feature) for feature in features}
    absent = [name for name in converters if name not in present]
    if absent and source.format == "csv":
        raise FileError(
            f"{source.name} has no column for the model's feature {absent[0]!r}; if it holds labels for predictions "
            "that were made with ids, name the column of these with --id"
        )
    return converters


def _converter(feature: dict[str, Any]) -> Callable[[object], object]:
    if feature["kind"] == "category":
        values = {as_text(value): value for value in feature["values"]}
        return lambda value: values.get(as_text(value), as_text(value))
    return {"number": as_number, "boolean": as_boolean, "hash": as_tokens}[feature["kind"]]


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
