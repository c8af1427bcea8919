"""Feedback: observations are encoded, appended to the log exactly once, and their result is waited for."""

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.errors import RowError
from service.blocks import Block
from service.errors import Invalid, NotFound, OutcomeUnknown, StoreUnavailable, Unavailable, WrongGeneration
from service.replica import Served
from service.schemas import Observation
from service.settings import Settings
from service.store.connection import Links
from service.store.log import Appended, append
from service.store.messages import Result
from service.waiting import Waiting


@dataclass(slots=True)
class Outcome:
    """What became of the observations of one append.

    `rows` are the indices, in the request, of those that were appended; `duplicates` maps the others to the position
    they have. `result` is None if it was not waited for or did not come; `applied` then tells whether the model's
    step is known to have passed `position`.
    """

    position: int
    rows: list[int]
    duplicates: dict[int, int] = field(default_factory=dict)
    applied: bool = False
    result: Result | None = None


def encode(served: Served, observations: Sequence[Observation], prefix: str = "/observations") -> Block:
    """The observations as a block. Raises Invalid, naming the row and the field."""
    weights = ids = None
    if any(observation.weight is not None for observation in observations):
        weights = np.array([1.0 if o.weight is None else o.weight for o in observations])
    if any(observation.id is not None for observation in observations):
        ids = [observation.id for observation in observations]

    def where(error: RowError, part: str) -> Invalid:
        place = (prefix and f"{prefix}/{error.row}") + f"/{part}{error.pointer}"
        return Invalid(f"{place}: {error.detail}", [(place, error.detail)])

    try:
        features = served.features.encode([observation.features for observation in observations])
    except RowError as error:
        raise where(error, "features") from None
    try:
        labels = served.labels.encode([observation.label for observation in observations])
    except RowError as error:
        raise where(error, "label") from None
    return Block(features, labels, weights, None, ids)


class Feedback:
    """Appends blocks for one web process, and waits for their results where a place to wait is free."""

    def __init__(self, settings: Settings, links: Links, web: str, waiting: Waiting) -> None:
        self._settings = settings
        self._links = links
        self._web = web
        self._waiting = waiting

    def submit(self, served: Served, block: Block, key: str | None = None, body: bytes = b"") -> Outcome:
        """Append a block and wait for its result, at most `apply_timeout` seconds.

        `key` is the request's Idempotency-Key and `body` what it came with. Raises Problem and StoreError.
        """
        token = (key or uuid.uuid4().hex).encode()
        digest = hashlib.sha256(body).hexdigest() if key else ""
        with self._waiting.place() as may_wait, self._waiting.waiter(token) as waiter:
            wait = may_wait and not served.is_late
            outcome = self._append(served, block, token, digest, wait)
            if not outcome.rows:
                outcome.applied = served.replica.step >= outcome.position
            elif wait and outcome.result is None:
                outcome.result = waiter.wait(self._settings.apply_timeout)
                outcome.applied = outcome.result is not None or served.replica.step >= outcome.position
            else:
                outcome.applied = served.replica.step >= outcome.position
            return outcome

    def _append(self, served: Served, block: Block, token: bytes, digest: str, wait: bool) -> Outcome:
        rows = list(range(len(block)))
        duplicates = _repeated(block)
        positions: dict[int, int] = {}
        while True:
            fresh = [row for row in rows if row not in duplicates and row not in positions]
            if not fresh:
                break
            part = block if len(fresh) == len(rows) else block.without(set(rows) - set(fresh))
            record = _record(digest, len(rows), positions) if digest else b""
            appended = self._append_once(served, part, token, record, wait)
            if appended.seen:
                return _first_outcome(appended, digest, rows)
            if not appended.duplicates:
                return Outcome(
                    appended.position, fresh, positions | _positions(duplicates, fresh, appended.position)
                )
            positions |= {fresh[row]: position for row, position in appended.duplicates.items()}
        known = positions | {row: positions[first] for row, first in duplicates.items()}
        return Outcome(max(known.values()), [], known)

    def _append_once(self, served: Served, block: Block, token: bytes, record: bytes, wait: bool) -> Appended:
        """Append, and should Redis vanish in the middle, ask again with the same token."""
        deadline = time.monotonic() + self._settings.redis_timeout
        unknown = False
        while True:
            try:
                return append(
                    self._links.mine(),
                    served.name,
                    served.generation,
                    token,
                    block,
                    remembered=self._settings.remembered,
                    web=self._web if wait else "",
                    record=record,
                )
            except WrongGeneration as error:
                raise NotFound(str(error)) from error
            except StoreUnavailable as error:
                unknown = unknown or error.sent
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                if unknown:
                    raise OutcomeUnknown(
                        "Redis vanished in the middle of the append; retry with the Idempotency-Key in `token`",
                        retry_after=1,
                        token=token.decode(),
                    ) from error
                raise Unavailable(f"{error}; nothing was appended", retry_after=1) from error


def _repeated(block: Block) -> dict[int, int]:
    """Rows whose id stands in an earlier row of the same request: row -> that earlier row."""
    if block.ids is None:
        return {}
    first: dict[str, int] = {}
    return {
        row: first[observation]
        for row, observation in enumerate(block.ids)
        if observation is not None and first.setdefault(observation, row) != row
    }


def _positions(repeated: dict[int, int], fresh: list[int], position: int) -> dict[int, int]:
    """The positions of repeated rows, given the rows that were appended up to `position`."""
    start = position - len(fresh) + 1
    place = {row: start + index for index, row in enumerate(fresh)}
    return {row: place[first] for row, first in repeated.items() if first in place}


def _record(digest: str, rows: int, duplicates: dict[int, int]) -> bytes:
    """What is kept with an Idempotency-Key: which body it came with, and what became of its rows."""
    return json.dumps({"body": digest, "rows": rows, "duplicates": list(duplicates.items())}).encode()


def _first_outcome(appended: Appended, digest: str, rows: list[int]) -> Outcome:
    """The outcome of the request that used this token first. Raises Invalid if it had another body."""
    record: dict[str, Any] = json.loads(appended.record) if appended.record else {}
    if record and digest and record["body"] != digest:
        raise Invalid(
            "this Idempotency-Key was used with another body",
            [("Idempotency-Key", "was used with another body")],
        )
    duplicates = {int(row): int(position) for row, position in record.get("duplicates", [])}
    return Outcome(appended.position, [row for row in rows if row not in duplicates], duplicates)
