"""The errors of this package.

    ModelError
    ├── RowError      a row or a label cannot be read
    └── StateError    saved bytes cannot be read, or do not fit

A bad spec raises pydantic's ValidationError, arrays of the wrong shape ValueError.
"""


class ModelError(Exception):
    """Base of the errors of this package."""


class RowError(ModelError):
    """A row or a label cannot be read.

    `row` is its index in the list, `pointer` a JSON pointer into the row ("/3", "/amount"; "" is the whole row),
    `detail` what is wrong and what is allowed.
    """

    def __init__(self, row: int, pointer: str, detail: str) -> None:
        super().__init__(f"row {row}{pointer}: {detail}")
        self.row = row
        self.pointer = pointer
        self.detail = detail


class StateError(ModelError):
    """Saved bytes are no state, or do not fit their spec: names, shapes, types, or numbers that are not finite."""
