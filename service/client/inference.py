"""The spec of a model that can learn a file: the kind of each column, why, and what to look at first."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.client.columns import Columns
from service.client.errors import FileError
from service.client.http import Note
from service.client.source import Record, Source, open_source
from service.client.values import as_class, as_number, as_text, is_boolean, is_missing, is_number

INSPECTED_ROWS = 1_000
"""Rows from which the kinds of the columns are inferred."""

CATEGORY_LIMIT = 32
"""A column of at most this many different strings is a category; with more it is hashed."""

HASH_BUCKETS = 256
LEAST_TOKENS = 256
CLASS_LIMIT = 1_000
MOST = 0.9
"""Share of a column's values that decides its kind; the others are bad values."""

ENOUGH = 20
"""Values below which nothing is said about how they are spread."""

DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}( .*)?|\d{4}/\d{1,2}/\d{1,2}( .*)?"
)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
NAME_OF_ID = re.compile(r"(^|[_\W])(id|uuid|guid|key|index|idx|nr|no)$|[a-z]I[dD]$", re.ASCII)

KINDS = ("number", "boolean", "category", "hash")


@dataclass
class Guess:
    """A column's feature for a spec, why it is of that kind, and warnings for the user."""

    feature: dict[str, Any]
    why: str
    warnings: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """One line for the user."""
        return f"{self.feature['name']}: {self.feature['kind']}, {self.why}"


def infer_spec(
    task: str, source: Source, columns: Columns, kinds: Mapping[str, str], note: Note
) -> dict[str, Any]:
    """A spec for a model that can learn this file, inferred from its first rows; classes from all rows if it can.

    `kinds` are the kinds that the user gives, by column. Each column's kind and the reason for it are noted.
    Raises FileError if the rows are of different shapes, or the labels do not fit the task.
    """
    head = source.head(INSPECTED_ROWS)
    features = _infer_features(head, columns, kinds, note)
    spec: dict[str, Any] = {"task": task, "features": features}
    if task == "regression":
        _check_numbers(head, columns)
    else:
        classes = _infer_classes(task, source, columns, note)
        if task == "multiclass" or not set(classes) <= {0, 1} or isinstance(classes[0], bool):
            spec["classes"] = classes
    return spec


def _infer_features(
    head: list[Record], columns: Columns, kinds: Mapping[str, str], note: Note
) -> int | list[dict[str, Any]]:
    found: list[Any] = [
        record.get("features") if columns.nested else columns.features(record) for record in head
    ]
    if all(isinstance(row, list) for row in found):
        if kinds:
            raise FileError("--kind names a column, but the features of this file are lists without names")
        return _count_features(found)
    if not all(isinstance(row, dict) for row in found):
        raise FileError("some rows have their features as a list, others by name or not at all")
    names = list(dict.fromkeys(name for row in found for name in row))
    if strange := sorted(kinds.keys() - set(names)):
        raise FileError(f"--kind {strange[0]}: no such feature; the features are {', '.join(names)}")
    guesses = [infer_feature(name, [row.get(name) for row in found], kinds.get(name)) for name in names]
    for guess in guesses:
        note(guess.text)
        for warning in guess.warnings:
            note(f"  warning: {warning}")
    return [guess.feature for guess in guesses]


def _count_features(found: list[list[Any]]) -> int:
    lengths = {len(row) for row in found}
    if len(lengths) > 1:
        raise FileError(f"rows have from {min(lengths)} to {max(lengths)} features")
    if not all(value is None or isinstance(value, int | float) for row in found for value in row):
        raise FileError("features in a list must be numbers; give others by name")
    return lengths.pop()


def infer_feature(name: str, values: list[object], kind: str | None = None) -> Guess:
    """A feature for a spec, of the given kind or the one that fits nearly all values.

    Raises FileError if a value is a list or an object.
    """
    present = [value for value in values if not is_missing(value)]
    tokens: list[list[object]] = [value for value in present if isinstance(value, list)]
    if any(isinstance(value, dict) for value in present) or (tokens and not _are_tokens(present)):
        nested = next(value for value in present if isinstance(value, list | dict))
        raise FileError(
            f"column {name!r} holds {nested!r}; a feature is a number, a boolean, a string or a list of strings"
        )
    found = kind or ("hash" if tokens else _kind_of(present))
    guess = Guess({"name": name, "kind": found}, f"{'as told' if kind else _why(found, present)}")
    if found == "category":
        guess.feature["values"] = _distinct(present)
    elif found == "hash":
        guess.feature["buckets"] = HASH_BUCKETS
        if tokens:
            guess.feature["tokens"] = max(LEAST_TOKENS, 2 * max(map(len, tokens)))
    missing = len(values) - len(present)
    if missing:
        guess.why += f"; {missing:,} missing"
    if kind is None:
        guess.warnings.extend(_warnings(name, found, present, values))
    return guess


def _are_tokens(present: list[object]) -> bool:
    return all(
        isinstance(value, list) and all(isinstance(token, str) for token in value) for value in present
    )


def _kind_of(present: list[object]) -> str:
    if not present:
        return "number"
    if _most(is_boolean, present):
        return "boolean"
    if _most(is_number, present):
        return "number"
    return "category" if len(_distinct(present)) <= CATEGORY_LIMIT else "hash"


def _most(test: Callable[[object], bool], present: list[object]) -> bool:
    return sum(map(test, present)) >= MOST * len(present)


def _distinct(present: Iterable[object]) -> list[str | None]:
    return list(dict.fromkeys(as_text(value) for value in present))


def _why(kind: str, present: list[object]) -> str:
    if not present:
        return "no value in the rows looked at"
    if kind in ("number", "boolean"):
        return "all values are" if all(map(_TESTS[kind], present)) else "nearly all values are"
    distinct = len(_distinct(present))
    if kind == "category":
        shown = ", ".join(str(value) for value in _distinct(present)[:4])
        return f"{distinct} different values: {shown}{', …' if distinct > 4 else ''}"
    return f"{distinct:,} different values, hashed into {HASH_BUCKETS} inputs"


_TESTS: dict[str, Callable[[object], bool]] = {"number": is_number, "boolean": is_boolean}


def _warnings(name: str, kind: str, present: list[object], values: list[object]) -> list[str]:
    """What a user should look at before a model is made of this column."""
    if not present:
        return []
    if kind in _TESTS:
        bad = [
            (row, value)
            for row, value in enumerate(values, 1)
            if not is_missing(value) and not _TESTS[kind](value)
        ]
        if bad:
            row, value = bad[0]
            return [
                f"{len(bad)} of {len(present):,} values are no {kind}, the first {value!r} in row {row:,}: "
                f"such a row is refused, or left out with --skip-bad"
            ]
        return _identifier(name, present) if kind == "number" else []
    texts = [str(as_text(value)) for value in present]
    if _most(lambda text: DECIMAL_COMMA.fullmatch(str(text)) is not None, list(texts)):
        return [
            f"numbers with a decimal comma, such as {texts[0]!r}, are read as text: write them with a point"
        ]
    if _most(lambda text: DATE.fullmatch(str(text)) is not None, list(texts)):
        return [
            f"dates such as {texts[0]!r} are read as text, each of which means nothing to a later one: "
            f"leave them out with --drop {name}, or split them into numbers such as month and hour"
        ]
    return _identifier(name, present)


def _identifier(name: str, present: list[object]) -> list[str]:
    """A warning if a column seems to name the rows: all values differ, and it counts, is text, or is called so."""
    if len(present) < ENOUGH or len(set(_distinct(present))) < 0.98 * len(present):
        return []
    numbers = [as_number(value) for value in present]
    is_text = not all(isinstance(number, int | float) for number in numbers)
    steps = set() if is_text else {b - a for a, b in itertools.pairwise(numbers)}  # type: ignore[operator]
    if is_text or len(steps) == 1 or NAME_OF_ID.search(name):
        return [
            f"nearly every value is different, as of an identifier: use --id {name} so that a row sent twice "
            f"is learned once, or leave it out with --drop {name}"
        ]
    return []


def _check_numbers(head: list[Record], columns: Columns) -> None:
    labels = [value for record in head if not is_missing(value := record.get(columns.label))]
    if labels and not _most(is_number, labels):
        bad = next(label for label in labels if not is_number(label))
        raise FileError(
            f"a regression needs numbers as labels; {columns.label!r} has {bad!r}: use --create multiclass, or "
            "another --label"
        )


def _infer_classes(task: str, source: Source, columns: Columns, note: Note) -> list[Any]:
    """The classes of all rows of the file; of the first rows where it can be read only once."""
    head = source.head(INSPECTED_ROWS)
    seen = _distinct_labels(head, columns)
    if source.path is not None and not (task == "binary" and len(seen) >= 2):
        with open_source(source.path) as again:
            again.skip = source.skip and (lambda _row, _why: None)
            seen = _distinct_labels(again, columns, stop_at=2 if task == "binary" else CLASS_LIMIT + 1)
    elif task == "multiclass" and len(head) == INSPECTED_ROWS:
        note(f"the classes are those of the first {INSPECTED_ROWS:,} rows; a later one will be refused")
    _check_classes(task, seen, columns.label)
    return _sorted_classes(seen)


def _check_classes(task: str, seen: list[Any], label: str) -> None:
    shown = ", ".join(str(value) for value in seen[:5]) + (", …" if len(seen) > 5 else "")
    if task == "binary" and len(seen) > 2:
        other = "multiclass" if len(seen) <= CLASS_LIMIT and not _is_measured(seen) else "regression"
        raise FileError(
            f"a binary label has two values; {label!r} has {len(seen)}: {shown}; use --create {other}"
        )
    if task == "binary" and len(seen) < 2 and not set(seen) <= {0, 1}:
        raise FileError(f"a binary label has two values; {label!r} has {len(seen)}: {shown or 'none'}")
    if task == "multiclass" and len(seen) < 2:
        raise FileError(f"{label!r} has {len(seen)} classes; two or more are needed")
    if task == "multiclass" and (len(seen) > CLASS_LIMIT or _is_measured(seen)):
        raise FileError(
            f"{label!r} has more than {min(len(seen), CLASS_LIMIT):,} values, such as {shown}; use --create regression"
        )


def _is_measured(seen: list[Any]) -> bool:
    """Whether labels are numbers with fractions, and many."""
    return len(seen) > CATEGORY_LIMIT and any(
        is_number(label) and not isinstance(as_class(label), int) for label in seen
    )


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
