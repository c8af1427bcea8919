"""What learners publish and web processes listen to. A lost message is made up for by a poll, see replica.py."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from service.errors import StoreError
from service.store import keys
from service.store.connection import Link
from service.store.entries import LogId

Array = np.ndarray

_RESULTS_VERSION = b"\x03"  # of a message of results
# generation, length of the token, position, rows, columns, whether the columns are of the most likely classes
_RESULT = struct.Struct("<16sHqII?")
_COLUMN = np.dtype("<u4")
LONGEST_MESSAGE = 2**20
"""Bytes in one message, about: a longer one holds up others, and Redis cuts off whom too much is waiting for."""
LONGEST_ROUND = 2**22
"""Bytes of results for one web process at a time; beyond them only losses are sent."""
_PUBLICATION_VERSION = b"\x03"
# generation, timeline, term, log id, length of the metrics, of the spec, of the hyperparameters and of the token
_PUBLICATION = struct.Struct("<16sqqqqIIII")
_KEY_BYTES = 16
_PART_VERSION = b"\x04"  # of a part of a large message
_PART = struct.Struct(f"<{_KEY_BYTES}sII")  # key of the message, number of the part, number of parts
_PUBLICATION_0_1 = struct.Struct("<16sqqqqII")  # version 0.1 wrote no version: a generation is hexadecimal


@dataclass(frozen=True, slots=True)
class Publication:
    """A model as it is at a log id: what predicting needs, and its scores.

    It carries all that changes with it, so that a reader swaps all at once. The parts are bytes that are read only
    when somebody asks: many publications are never looked at.
    """

    generation: bytes
    timeline: int
    term: int
    log_id: LogId
    metrics: bytes  # JSON
    predictor: bytes
    spec: bytes = b""  # JSON, of a rebuilt model; empty: the spec that it was created by
    hyperparameters: bytes = b""  # JSON: those in force; empty: not known, from version 0.1
    token: bytes = b""  # of the entry at the log id; empty: not known, from version 0.1 or within an entry

    def to_bytes(self) -> bytes:
        """A version, a head of fixed length, then metrics, spec, hyperparameters, token and predictor."""
        return self.head + self.predictor

    @property
    def head(self) -> bytes:
        """All of its bytes but the predictor, which comes last."""
        parts = self.metrics, self.spec, self.hyperparameters, self.token
        head = _PUBLICATION.pack(self.generation, self.timeline, self.term, *self.log_id, *map(len, parts))
        return b"".join((_PUBLICATION_VERSION, head, *parts))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Publication":
        """The message that `to_bytes` wrote, now or in version 0.1. Raises StoreError for one that is neither."""
        if blob[:1] == _PUBLICATION_VERSION:
            offset, head = len(_PUBLICATION_VERSION), _PUBLICATION
        elif blob[:1] and blob[:1] in b"0123456789abcdef":
            offset, head = 0, _PUBLICATION_0_1
        else:
            raise StoreError("a publication of a version that this program does not read")
        generation, timeline, term, position, command, *lengths = head.unpack_from(blob, offset)
        offset += head.size
        parts = []
        for length in lengths:
            parts.append(blob[offset : offset + length])
            offset += length
        metrics, spec, hyperparameters, token = (*parts, b"", b"")[:4]
        log_id = LogId(position, command)
        return cls(generation, timeline, term, log_id, metrics, blob[offset:], spec, hyperparameters, token)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one append: for each row the prediction made before learning, the loss, whether it was skipped.

    `position` is that of its last row. predictions (n, columns) float64, losses (n,) float64, skipped (n,) bool.
    `classes` (n, columns) are given where the predictions are of the most likely classes only. Predictions that were
    not asked for have no columns.
    """

    generation: bytes
    token: bytes
    position: int
    predictions: Array
    losses: Array
    skipped: Array
    classes: Array | None = None

    def cut(self, columns: int) -> "Result":
        """The result with the predictions of so many classes, the most likely ones."""
        if columns >= self.predictions.shape[1]:
            return self
        if not columns:
            return replace(self, predictions=self.predictions[:, :0], classes=None)
        classes, predictions = most_likely(self.predictions, columns)
        return replace(self, predictions=predictions, classes=classes.astype(_COLUMN))

    def to_bytes(self) -> bytes:
        """The result as bytes; several may follow each other."""
        return b"".join(
            [
                _RESULT.pack(
                    *(self.generation, len(self.token), self.position, *self.predictions.shape),
                    self.classes is not None,
                ),
                self.token,
                b"" if self.classes is None else self.classes.tobytes(),
                self.predictions.tobytes(),
                self.losses.tobytes(),
                self.skipped.tobytes(),
            ]
        )


def parse_results(blob: bytes) -> Iterator[Result]:
    """The results in a message. Raises StoreError for a message of another version."""
    if not blob.startswith(_RESULTS_VERSION):
        raise StoreError("results of a version that this program does not read")
    offset = len(_RESULTS_VERSION)
    while offset < len(blob):
        generation, length, position, rows, columns, is_cut = _RESULT.unpack_from(blob, offset)
        offset += _RESULT.size
        token = blob[offset : offset + length]
        offset += length
        classes = None
        if is_cut:
            classes = np.frombuffer(blob, _COLUMN, rows * columns, offset).reshape(rows, columns)
            offset += classes.nbytes
        predictions = np.frombuffer(blob, np.float64, rows * columns, offset).reshape(rows, columns)
        offset += predictions.nbytes
        losses = np.frombuffer(blob, np.float64, rows, offset)
        offset += losses.nbytes
        skipped = np.frombuffer(blob, np.bool_, rows, offset)
        offset += rows
        yield Result(generation, token, position, predictions, losses, skipped, classes)


def publish_commands(name: str, publication: Publication) -> Iterator[tuple[object, ...]]:
    """The commands that publish a model as it is: one, or one for each part if it is large. Made as they are taken."""
    is_small = len(publication.predictor) < LONGEST_MESSAGE
    messages = [publication.to_bytes()] if is_small else parts_of(publication.head, publication.predictor)
    return (("PUBLISH", keys.weights(name), message) for message in messages)


def parts_of(head: bytes, body: bytes) -> Iterator[bytes]:
    """A message, head and large body, in parts, as Parts reads them."""
    key, starts = os.urandom(_KEY_BYTES), range(0, len(body), LONGEST_MESSAGE)
    for number, start in enumerate(starts):
        mark = _PART_VERSION + _PART.pack(key, number, len(starts))
        yield b"".join((mark, b"" if number else head, memoryview(body)[start : start + LONGEST_MESSAGE]))


class Parts:
    """Puts large messages together again, of which the parts come in order. Of an incomplete one nothing is read."""

    def __init__(self) -> None:
        self._found: dict[
            str, tuple[bytes, list[bytes]]
        ] = {}  # name -> key of the message, and what has come of it

    def add(self, name: str, message: bytes) -> bytes | None:
        """A message about the model `name`, once it is whole."""
        if not message.startswith(_PART_VERSION):
            self._found.pop(name, None)
            return message
        offset = len(_PART_VERSION)
        key, number, count = _PART.unpack_from(message, offset)
        known, parts = self._found.get(name, (b"", []))
        if known != key:
            self._found[name] = (key, parts := [])
        if number != len(parts):
            del self._found[name]
            return None
        parts.append(message[offset + _PART.size :])
        if len(parts) < count:
            return None
        del self._found[name]
        return b"".join(parts)

    def forget(self, name: str) -> None:
        """Drop what has come of a message about a model."""
        self._found.pop(name, None)


def publish_results_commands(web: bytes, results: list[Result]) -> list[tuple[object, ...]]:
    """The commands that publish results to the web process that waits for them."""
    messages, size, total = [[_RESULTS_VERSION]], 0, 0
    for result in results:
        blob = (result if total < LONGEST_ROUND else result.cut(0)).to_bytes()
        if size and size + len(blob) > LONGEST_MESSAGE:
            messages.append([_RESULTS_VERSION])
            size = 0
        messages[-1].append(blob)
        size, total = size + len(blob), total + len(blob)
    return [("PUBLISH", keys.results(web.decode()), b"".join(message)) for message in messages]


def most_likely(predictions: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns of each row's largest numbers and the numbers (n, top), largest first, of equal ones the first."""
    columns = np.argpartition(predictions, -top, axis=1)[:, -top:]
    first = predictions.argmax(axis=1)
    is_lost = ~(columns == first[:, None]).any(axis=1)  # among too many equal ones
    columns[is_lost, 0] = first[is_lost]
    values = np.take_along_axis(predictions, columns, axis=1)
    order = np.lexsort((columns, -values), axis=1)
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)


@dataclass(frozen=True, slots=True)
class Message:
    """What came over a subscription. `model` is the name of the model it is about, empty for results."""

    kind: str  # "weights", "results", "event" (a model was created or deleted) or "life"
    model: str
    payload: bytes


SIGN_OF_LIFE = Message("life", "", b"")


class Subscription:
    """The messages for one web process: weights of all models, its results, and which models came and went."""

    def __init__(self, link: Link, web: str) -> None:
        self._link = link
        self._results = keys.results(web)
        self.reading = False  # whether a large message is on its way

    def open(self) -> None:
        """Subscribe; returns when the server has confirmed it."""
        self._link.close()
        self._link.send([("SUBSCRIBE", keys.EVENTS, self._results), ("PSUBSCRIBE", keys.WEIGHTS_PATTERN)])
        for _ in range(3):
            self._link.read()

    def ping(self) -> None:
        """Ask for a sign of life: SIGN_OF_LIFE comes out of `next`."""
        self._link.send([("PING",)])

    def next(self, timeout: float) -> Message | None:
        """The next message; None if none begins to come within `timeout` seconds. Raises StoreUnavailable."""
        answer = self._link.read_within(timeout)
        if answer is None and self._link.readable(0):
            self.reading = True
            try:
                answer = self._link.read()
            finally:
                self.reading = False
        if answer is None:
            return None
        if answer[0] == b"message":
            if answer[1] == self._results:
                return Message("results", "", answer[2])
            return Message("event", answer[2].decode(), b"")
        if answer[0] == b"pmessage":
            return Message("weights", answer[2].decode().split("{", 1)[1].rsplit("}", 1)[0], answer[3])
        return SIGN_OF_LIFE
