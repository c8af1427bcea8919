"""Reading rows of a table as observations: what is to be appended, and which rows are refused, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model import RowError
from service.schemas import LARGEST_WEIGHT
from service.store.blocks import Block
from service.web.arrow import Rows
from service.web.feedback.drafts import Draft
from service.web.feedback.reading import Reading
from service.web.feedback.submit import Feedback
from service.web.replicas.replica import ServedModel
from service.web.slicing import encode_labels, encode_rows

Array = np.ndarray
LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class TablePart:
    """Some rows of a table, as a part of a stream."""

    rows: Rows

    @property
    def number(self) -> int:
        """The number of the first row, from 1."""
        return self.rows.number

    def __len__(self) -> int:
        return len(self.rows)

    def slice(self, start: int, stop: int) -> "TablePart":
        """The rows from `start` up to `stop`, counted from 0."""
        return TablePart(self.rows.slice(start, stop))

    def to_bytes(self) -> bytes:
        """The rows, one behind the other."""
        rows = self.rows
        others = [column or [None] * len(rows) for column in (rows.labels, rows.ids, rows.weights)]
        if isinstance(rows.features, np.ndarray):
            heads = [row.tobytes() for row in rows.features]
        else:
            heads = [repr(row).encode("utf-8", "surrogatepass") for row in rows.features]
        tails = [repr(other).encode("utf-8", "surrogatepass") for other in zip(*others, strict=True)]
        return b"".join(head + tail + b"\n" for head, tail in zip(heads, tails, strict=True))

    def read(self, feedback: Feedback, served: ServedModel) -> Reading:
        """Read them as observations."""
        rows = self.rows
        bad: dict[int, str] = {}
        features = features_of(rows, served, bad)
        labels = _each(rows.labels or [], lambda part: encode_labels(served.labels, part), "/label", bad)
        for row, known in enumerate(rows.ids or []):
            if known is not None and not (isinstance(known, str) and 1 <= len(known) <= LONGEST_ID):
                bad.setdefault(row, f"/id: a string of 1 to {LONGEST_ID} characters")
        for row, weight in enumerate(rows.weights or []):
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if weight is not None and not (is_number and 0 < weight <= LARGEST_WEIGHT):
                bad.setdefault(row, f"/weight: a number above 0, at most {LARGEST_WEIGHT:g}")
        good = [row for row in range(len(rows)) if row not in bad]
        refused = sorted((rows.number + row, detail) for row, detail in bad.items())
        numbers = [rows.number + row for row in good]
        return Reading(_draft(rows, features, labels, good) if good else None, numbers, refused)


def _draft(rows: Rows, features: Array, labels: Array, good: list[int]) -> Draft:
    weights = ids = None
    if rows.weights is not None:
        weights = np.array(
            [1.0 if weight is None else weight for weight in (rows.weights[row] for row in good)]
        )
    if rows.ids is not None:
        ids = [rows.ids[row] for row in good]
    return Draft(Block(features[good], labels[good], weights, None, ids))


def features_of(rows: Rows, served: ServedModel, bad: dict[int, str]) -> Array:
    """The rows' features, encoded; those that cannot be read are noted as bad."""
    if isinstance(rows.features, np.ndarray):
        for row, column in np.argwhere(np.isinf(rows.features)).tolist():
            bad.setdefault(row, f"/{served.spec.feature_list[column].name}: a number must be finite")
        return rows.features
    return _each(rows.features, lambda part: encode_rows(served.features, part), "", bad)


def _each(
    values: Sequence[Any], encode: Callable[[Sequence[Any]], Array], prefix: str, bad: dict[int, str]
) -> Array:
    """The values encoded, those that cannot be read as NaN; why not is noted by their row."""
    try:
        return encode(values)
    except RowError:
        encoded: list[Array | None] = []
        for row, value in enumerate(values):
            try:
                encoded.append(encode([value]))
            except RowError as error:
                encoded.append(None)
                where = prefix + error.pointer
                bad.setdefault(row, f"{where}: {error.detail}" if where else error.detail)
        width = next((one.shape[1] for one in encoded if one is not None), 1)
        return np.concatenate([np.full((1, width), np.nan) if one is None else one for one in encoded])
