"""What learners publish and web processes listen to. A lost message is made up for by a poll, see replica.py."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.store import keys
from service.store.connection import Link
from service.store.log import LogId

Array = np.ndarray

_RESULT = struct.Struct("<HqII")  # length of the token, position, rows, outputs


@dataclass(frozen=True, slots=True)
class Weights:
    """A model as it stands at a log id: what predicting needs, and its scores."""

    generation: str
    timeline: int
    term: int
    log_id: LogId
    metrics: dict[str, Any]
    predictor: bytes
    spec: str | None = None  # of a rebuilt model; None: the spec that it was created by

    def to_bytes(self) -> bytes:
        """A line of JSON, then the predictor's bytes."""
        head = [self.generation, self.timeline, self.term, *self.log_id, self.metrics, self.spec]
        return json.dumps(head).encode() + b"\n" + self.predictor

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Weights":
        """The message that `to_bytes` wrote."""
        head, _, predictor = blob.partition(b"\n")
        generation, timeline, term, position, command, metrics, spec = json.loads(head)
        return cls(generation, timeline, term, LogId(position, command), metrics, predictor, spec)


@dataclass(frozen=True, slots=True)
class Result:
    """What one append came to: for each row the prediction made before learning, the loss, whether it was skipped.

    `position` is that of its last row. predictions (n, outputs) float64, losses (n,) float64, skipped (n,) bool.
    """

    token: bytes
    position: int
    predictions: Array
    losses: Array
    skipped: Array

    def to_bytes(self) -> bytes:
        """The result as bytes; several may stand one behind the other."""
        return b"".join(
            [
                _RESULT.pack(len(self.token), self.position, *self.predictions.shape),
                self.token,
                self.predictions.tobytes(),
                self.losses.tobytes(),
                self.skipped.tobytes(),
            ]
        )


def parse_results(blob: bytes) -> Iterator[Result]:
    """The results that stand one behind the other in a message."""
    offset = 0
    while offset < len(blob):
        length, position, rows, outputs = _RESULT.unpack_from(blob, offset)
        offset += _RESULT.size
        token = blob[offset : offset + length]
        offset += length
        predictions = np.frombuffer(blob, np.float64, rows * outputs, offset).reshape(rows, outputs)
        offset += predictions.nbytes
        losses = np.frombuffer(blob, np.float64, rows, offset)
        offset += losses.nbytes
        skipped = np.frombuffer(blob, np.bool_, rows, offset)
        offset += rows
        yield Result(token, position, predictions, losses, skipped)


def publish_weights_command(name: str, weights: Weights) -> tuple[object, ...]:
    """The command that publishes a model's weights."""
    return ("PUBLISH", keys.weights(name), weights.to_bytes())


def publish_results_command(web: bytes, results: list[Result]) -> tuple[object, ...]:
    """The command that publishes results to the web process that waits for them."""
    return ("PUBLISH", keys.results(web.decode()), b"".join(result.to_bytes() for result in results))


@dataclass(frozen=True, slots=True)
class Message:
    """What came over a subscription. `model` is the name of the model it is about, empty for results."""

    kind: str  # "weights", "results", "event": a model was created or deleted
    model: str
    payload: bytes


class Subscription:
    """The messages for one web process: weights of all models, its results, and which models came and went."""

    def __init__(self, link: Link, web: str) -> None:
        self._link = link
        self._results = keys.results(web)

    def open(self) -> None:
        """Subscribe; returns when the server has confirmed it."""
        self._link.close()
        self._link.send([("SUBSCRIBE", keys.EVENTS, self._results), ("PSUBSCRIBE", keys.WEIGHTS_PATTERN)])
        for _ in range(3):
            self._link.read()

    def ping(self) -> None:
        """Ask for a sign of life: the answer comes out of `read` as None."""
        self._link.send([("PING",)])

    def wait(self, timeout: float) -> bool:
        """Whether a message can be read within `timeout` seconds."""
        return self._link.readable(timeout)

    def read(self) -> Message | None:
        """The next message; None for a sign of life. Raises StoreUnavailable."""
        answer = self._link.read()
        match answer[0]:
            case b"pmessage":
                name = answer[2].decode().split("{", 1)[1].rsplit("}", 1)[0]
                return Message("weights", name, answer[3])
            case b"message" if answer[1] == self._results:
                return Message("results", "", answer[2])
            case b"message":
                return Message("event", answer[2].decode(), b"")
        return None
