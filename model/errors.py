"""What `model` raises, apart from pydantic's ValidationError for a bad spec and ValueError for wrong shapes."""


class ModelError(Exception):
    """Base of the errors of this package."""


class RowError(ModelError):
    """A row or a label that cannot be read.

    `row` is its index in the list, `pointer` the place inside the row ("/3", "/amount", "" for the whole),
    `detail` a sentence that says what is wrong and what is allowed.
    """

    def __init__(self, row: int, pointer: str, detail: str) -> None:
        super().__init__(f"row {row}{pointer}: {detail}")
        self.row = row
        self.pointer = pointer
        self.detail = detail


class StateError(ModelError):
    """A saved state that does not fit its spec: wrong names, shapes, types, or values that are not finite."""
