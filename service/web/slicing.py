"""Requests of many rows, a slice at a time: the loop goes on between two slices, so no request waits for them all."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from model import FeatureEncoder, LabelEncoder, RowError
from service.schemas import Observation, Observations, PredictRequest, parse, parse_feedback
from service.store.messages import most_likely
from service.web import loop
from service.web.replicas.replica import ModelVersion

Array = np.ndarray

# Each takes about a millisecond.
SLICE_BYTES = 16 * 1024  # of JSON
LINES_AT_A_TURN = 100  # of a stream
LONGEST_ROW = 2**20  # bytes; with a longer one the body is read as a whole
SLICE_CELLS = 10_000  # numbers read or written
SLICE_WORK = 2_000_000  # multiplications, or numbers copied, in the loop; more are left to a thread


class _Elements:
    """The elements of the list that a large body begins with, in pieces that are JSON lists.

    What is cut in the wrong spot is no JSON: whoever reads the pieces stops there and reads what is left as a whole.
    """

    def __init__(self, raw: bytes, name: bytes) -> None:
        self._raw = raw
        head = (
            re.match(rb'\s*\{\s*"%b"\s*:\s*\[\s*(?=([\[{]))' % name, raw) if len(raw) > SLICE_BYTES else None
        )
        if (
            head is not None and raw.find(b'"%b"' % name, head.end()) < 0
        ):  # of two such lists the last would count
            self._head = head[0]
            self._at = head.end()
            self._end = b"]," if head[1] == b"[" else b"},"  # of an element
        else:
            self._head, self._at = b"", len(raw)

    def pieces(self) -> Iterator[bytes]:
        """Each piece. It counts as taken when the next one is asked for."""
        raw = self._raw
        while len(raw) - self._at > SLICE_BYTES:
            cut = raw.find(self._end, self._at + SLICE_BYTES, self._at + LONGEST_ROW)
            if cut < 0:
                break
            yield b"[" + raw[self._at : cut + 1] + b"]"
            self._at = cut + 2
            loop.breathe()

    def left(self) -> bytes:
        """The body without the pieces that were taken."""
        return self._head + self._raw[self._at :] if self._head else self._raw


def read_instances(
    raw: bytes, encoder: FeatureEncoder, check: Callable[[int], None]
) -> tuple[PredictRequest, Array]:
    """The body of a prediction, and all its rows encoded (the body itself has the last ones only).

    `check` is given how many rows there are at least, before they are encoded. Raises BadRequest, Invalid, RowError.
    """
    elements = _Elements(raw, b"instances")
    parts: list[Array] = []
    rows = 0
    for piece in elements.pieces():
        try:
            values = from_json(piece)
        except ValueError:
            break
        check(rows + len(values))
        parts.append(_shifted(encoder.encode, values, rows))
        rows += len(values)
    body = parse(PredictRequest, elements.left())
    check(rows + len(body.instances))
    for part in loop.slices(len(body.instances), max(1, SLICE_CELLS // encoder.width)):
        parts.append(_shifted(encoder.encode, body.instances[part], rows + part.start))
    return body, _joined(parts)


def read_observations(raw: bytes, check: Callable[[int], None]) -> list[Observation]:
    """The observations of a feedback body. `check` is given how many there are at least. Raises BadRequest, Invalid."""
    elements = _Elements(raw, b"observations")
    observations: list[Observation] = []
    for piece in elements.pieces():
        try:
            observations += Observations.model_validate({"observations": from_json(piece)}).observations
        except (ValueError, ValidationError):
            break
        check(len(observations))
    if not observations:
        return parse_feedback(raw, check)
    try:
        return observations + Observations.model_validate(from_json(elements.left())).observations
    except ValueError:
        return parse_feedback(raw, check)  # as a whole, for the right pointers in its errors


def encode_rows(encoder: FeatureEncoder, rows: Sequence[Any]) -> Array:
    """See FeatureEncoder.encode. Raises RowError."""
    return _encoded(encoder.encode, rows, max(1, SLICE_CELLS // encoder.width))


def encode_labels(encoder: LabelEncoder, labels: Sequence[Any]) -> Array:
    """See LabelEncoder.encode. Raises RowError."""
    return _encoded(encoder.encode, labels, SLICE_CELLS // 10)


def _encoded(encode: Callable[[Sequence[Any]], Array], rows: Sequence[Any], size: int) -> Array:
    if len(rows) <= size:
        return encode(rows)
    return _joined([_shifted(encode, rows[part], part.start) for part in loop.slices(len(rows), size)])


def _shifted(encode: Callable[[Sequence[Any]], Array], rows: Sequence[Any], first: int) -> Array:
    """Rows encoded of which the first has this number."""
    try:
        return encode(rows)
    except RowError as error:
        raise RowError(first + error.row, error.pointer, error.detail) from None


def _joined(parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    if sum(part.size for part in parts) <= SLICE_WORK / 10:
        return np.concatenate(parts)
    return loop.run(np.concatenate, parts)


def predict_rows(version: ModelVersion, features: Array) -> Array:
    """The predictions for raw rows; in a thread beside the loop where that takes long."""
    if len(features) * version.codec.parameters <= SLICE_WORK:
        return version.predictor.predict(features)
    return loop.run(lambda: version.predictor.predict(features))


def decoded(version: ModelVersion, made: Array, columns: int) -> list[dict[str, Any]]:
    """What a client reads of predictions: all of each, or so many of its classes."""
    if columns < made.shape[1]:
        return version.labels.decode_classes(*most_likely(made, columns))
    return version.labels.decode(made)


def written(version: ModelVersion, made: Array, ids: list[str] | None, columns: int) -> bytes:
    """Predictions as a JSON list, each with its id if there are ids, and with so many of its classes."""
    return b"[" + b",".join(_written(version, made, ids, columns)) + b"]"


def _written(version: ModelVersion, made: Array, ids: list[str] | None, columns: int) -> Iterator[bytes]:
    for part in loop.slices(len(made), max(1, SLICE_CELLS // (4 * made.shape[1]))):
        predictions = decoded(version, made[part], columns)
        if ids is not None:
            predictions = [{"id": known, **one} for known, one in zip(ids[part], predictions, strict=True)]
        yield to_json(predictions)[1:-1]
