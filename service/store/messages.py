"""What learners publish and web processes listen to. A lost message is made up for by a poll, see replica.py."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from service.errors import StoreError
from service.store import keys
from service.store.connection import Link
from service.store.log import LogId

Array = np.ndarray

_RESULTS_VERSION = b"\x02"  # of a message of results
_RESULT = struct.Struct("<16sHqII")  # generation, length of the token, position, rows, outputs
_WEIGHTS = struct.Struct(
    "<16sqqqqII"
)  # generation, timeline, term, log id, length of the metrics and of the spec


@dataclass(frozen=True, slots=True)
class Weights:
    """A model as it stands at a log id: what predicting needs, and its scores.

    The parts are bytes that are read only when somebody asks: many publications are never looked at.
    """

    generation: bytes
    timeline: int
    term: int
    log_id: LogId
    metrics: bytes  # JSON
    predictor: bytes
    spec: bytes = b""  # JSON, of a rebuilt model; empty: the spec that it was created by

    def to_bytes(self) -> bytes:
        """A head of fixed length, then metrics, spec and predictor."""
        head = _WEIGHTS.pack(
            *(self.generation, self.timeline, self.term, *self.log_id, len(self.metrics), len(self.spec))
        )
        return b"".join((head, self.metrics, self.spec, self.predictor))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Weights":
        """The message that `to_bytes` wrote."""
        generation, timeline, term, position, command, metrics, spec = _WEIGHTS.unpack_from(blob)
        spec_at = _WEIGHTS.size + metrics
        predictor_at = spec_at + spec
        return cls(
            *(generation, timeline, term, LogId(position, command), blob[_WEIGHTS.size : spec_at]),
            predictor=blob[predictor_at:],
            spec=blob[spec_at:predictor_at],
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What one append came to: for each row the prediction made before learning, the loss, whether it was skipped.

    `position` is that of its last row. predictions (n, outputs) float64, losses (n,) float64, skipped (n,) bool.
    """

    generation: bytes
    token: bytes
    position: int
    predictions: Array
    losses: Array
    skipped: Array

    def to_bytes(self) -> bytes:
        """The result as bytes; several may stand one behind the other."""
        return b"".join(
            [
                _RESULT.pack(self.generation, len(self.token), self.position, *self.predictions.shape),
                self.token,
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
        generation, length, position, rows, outputs = _RESULT.unpack_from(blob, offset)
        offset += _RESULT.size
        token = blob[offset : offset + length]
        offset += length
        predictions = np.frombuffer(blob, np.float64, rows * outputs, offset).reshape(rows, outputs)
        offset += predictions.nbytes
        losses = np.frombuffer(blob, np.float64, rows, offset)
        offset += losses.nbytes
        skipped = np.frombuffer(blob, np.bool_, rows, offset)
        offset += rows
        yield Result(generation, token, position, predictions, losses, skipped)


def publish_weights_command(name: str, weights: Weights) -> tuple[object, ...]:
    """The command that publishes a model's weights."""
    return ("PUBLISH", keys.weights(name), weights.to_bytes())


def publish_results_command(web: bytes, results: list[Result]) -> tuple[object, ...]:
    """The command that publishes results to the web process that waits for them."""
    message = b"".join([_RESULTS_VERSION, *(result.to_bytes() for result in results)])
    return ("PUBLISH", keys.results(web.decode()), message)


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
        if answer is None and self._link.has_part:
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
