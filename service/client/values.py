"""What a file's values mean: numbers, truth values, text, and what is missing."""

import json
from math import isfinite

from service.client.source import NUMBER

MISSING = frozenset({"", "?", "na", "n/a", "nan", "nil", "none", "null"})
"""How files write a missing number or truth value, in lower case."""

BOOLEANS = {"true": True, "false": False}


def is_missing(value: object) -> bool:
    """Whether a file means by this that it has no value."""
    return value is None or (isinstance(value, str) and value.lower() in MISSING)


def is_boolean(value: object) -> bool:
    """Whether a value is a truth value, or its text."""
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in BOOLEANS)


def is_number(value: object) -> bool:
    """Whether a value is a number, or its text."""
    return isinstance(as_number(value), int | float)


def as_number(value: object) -> object:
    """The number that a text says; None for a missing one. What is no number stays as it is."""
    if isinstance(value, str):
        if NUMBER.fullmatch(value) and isfinite(number := float(value)):
            return number
        return None if is_missing(value) else value
    return int(value) if isinstance(value, bool) else value


def as_boolean(value: object) -> object:
    """The truth value that a text, 0 or 1 says; None for a missing one. Anything else stays as it is."""
    if is_missing(value):
        return None
    number = as_number(value)
    if number in (0, 1):
        return bool(number)
    return BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value


def as_text(value: object) -> str | None:
    """A value as text; None for a missing one."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def as_tokens(value: object) -> object:
    """A list of strings stays a list; anything else becomes text."""
    return value if isinstance(value, list) else as_text(value)


def as_class(value: object) -> object:
    """A label as a class would be declared: a boolean or whole number where its text says one."""
    if isinstance(value, str) and value.lower() in BOOLEANS:
        return BOOLEANS[value.lower()]
    number = as_number(value) if isinstance(value, str | float) else value
    if isinstance(number, float) and number.is_integer():
        return int(number)
    return value
