"""Appending observations and commands to a model's log, and what is kept with the key of a request."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from service import failpoints
from service.errors import KeyUsed, LogCrowded, WrongGeneration
from service.store import keys, scripts
from service.store.blocks import Block
from service.store.connection import Link
from service.store.entries import LogId


@dataclass(frozen=True, slots=True)
class Append:
    """A block that is to be appended, and what must hold for it.

    `key` is the Idempotency-Key, or what stands for it; `record` is kept with it, and `known` is what the caller knows
    to be kept with it so far (empty: nothing). `joined` are the rows whose prediction must still await its label.
    `step` is one that the model is known to have reached in `timeline`. `web` is who waits for the result, or empty.
    `by` is the name of the API key that teaches, or empty.
    """

    token: bytes
    block: Block
    key: bytes
    record: bytes = b""
    known: bytes = b""
    joined: frozenset[int] = frozenset()
    step: int = 0
    timeline: int = 0
    web: str = ""
    by: str = ""
    encoded: bytes = b""  # the block's bytes, if they were made beside the event loop


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append did: it wrote the block up to `position`, or nothing, for the first reason that is set here."""

    position: int = 0
    timeline: int = 0  # in which the block was appended
    seen: bytes = b""  # what is kept with the key: position, blank, record
    answer: bytes = b""  # what was answered then, if it is kept
    duplicates: dict[int, int] = field(default_factory=dict)  # row -> its position
    unknown: list[int] = field(
        default_factory=list
    )  # rows whose prediction does not await its label any more
    awaiting: dict[int, bytes] = field(
        default_factory=dict
    )  # row that does not join -> its awaiting prediction
    lag: int = 0  # observations that are not applied: too many,
    lag_bytes: int = 0  # or too many bytes, if this is not 0
    older: bool = False  # the log ends before what the caller has seen: Redis came back older


def append(
    link: Link,
    name: str,
    generation: bytes,
    wanted: Append,
    limits: "Limits",
) -> Appended:
    """Append a block, unless there is a reason not to.

    Raises WrongGeneration if the model is not of that generation, StoreFull and StoreUnavailable.
    """
    block = wanted.block
    ids = [] if block.ids is None else [f"i{known}" if known else "" for known in block.ids]
    joined = (
        "".join("1" if row in wanted.joined else "0" for row in range(len(block))) if wanted.joined else ""
    )
    answer = link.run(
        scripts.APPEND,
        _append_keys(name),
        [
            *(
                generation,
                wanted.token,
                len(block),
                wanted.encoded or block.to_bytes(),
                wanted.web,
                limits.segment,
            ),
            *(wanted.record, wanted.known, wanted.step, wanted.timeline),
            *(limits.max_lag, limits.label_ttl_ms, joined),
            *(wanted.key, wanted.by, limits.max_lag_bytes, *ids),
        ],
    )
    return _appended(name, answer)


@lru_cache(maxsize=1024)
def _append_keys(name: str) -> list[bytes]:
    return [
        *(keys.meta(name), keys.log(name), *keys.seen(name), keys.lease(name)),
        *(
            keys.awaiting(name),
            keys.awaiting_times(name),
            keys.awaiting_counts(name),
            *keys.answers(name),
        ),
    ]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is remembered and how much may be unapplied."""

    remembered: int
    max_lag: int
    label_ttl_ms: int
    max_lag_bytes: int = 2**53

    @property
    def segment(self) -> int:
        """Observations after which the next hash of what was seen begins: all but the newest are complete."""
        return -(-self.remembered // (keys.SEEN - 1))


def _appended(name: str, answer: list[Any]) -> Appended:
    kind, *values = answer
    match kind:
        case b"appended":
            failpoints.reach("after-append")
            return Appended(int(values[0]), int(values[1]))
        case b"seen":
            return Appended(seen=values[0], answer=values[1])
        case b"duplicates":
            pairs = zip(values[::2], values[1::2], strict=True)
            return Appended(duplicates={row: int(position) for row, position in pairs})
        case b"unknown":
            return Appended(unknown=values)
        case b"awaiting":
            return Appended(awaiting=dict(zip(values[::2], values[1::2], strict=True)))
        case b"lag":
            return Appended(lag=int(values[0]), lag_bytes=int(values[1]) if len(values) > 1 else 0)
        case b"older":
            return Appended(older=True)
    raise WrongGeneration(f"model {name} was deleted")


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to be set (JSON; "": none any more), and when it is due first, seconds since the epoch."""

    text: str
    due: float | None = None

    def to_arguments(self) -> tuple[str, str]:
        """What the script takes."""
        return self.text or "none", "" if self.due is None else repr(self.due)


def append_command(
    link: Link,
    name: str,
    generation: bytes,
    key: bytes,
    command: dict[str, Any] | None,
    digest: bytes,
    *,
    blob: bytes = b"",
    checkpoint: str = "",
    hyperparameters: dict[str, Any] | None = None,
    schedule: NewSchedule | None = None,
    blobs: int = 10,
    max_lag_bytes: int = 2**53,
) -> LogId | None:
    """Append a command, or find the one that was appended with this key and digest. Returns its log id.

    What it names is kept with it: `blob`, or a copy of the state of `checkpoint`; then None is returned if there is no
    such checkpoint. `hyperparameters` are noted as the model's live ones, and `schedule` as its schedule; without a
    command that is all, and the log id is that of the log's head. `blobs` of the newest commands are kept.
    Raises WrongGeneration; KeyUsed if something else was done with the key; LogCrowded if too much waits for the
    learner.
    """
    kind, *values = link.run(
        scripts.COMMAND,
        [
            *(keys.meta(name), keys.log(name), keys.blobs(name), keys.checkpoint_states(name)),
            *(keys.schedule(name), keys.lease(name), *keys.seen(name), *keys.answers(name)),
        ],
        [
            *(generation, key, json.dumps(command) if command else "", blob, checkpoint, 2 * blobs),
            *(json.dumps(hyperparameters) if hyperparameters else "", digest),
            *(("", "") if schedule is None else schedule.to_arguments()),
            max_lag_bytes,
        ],
    )
    match kind:
        case b"appended":
            return LogId.parse(values[0])
        case b"seen":
            position, record, *first = values[0].split(b" ")
            if not record.startswith(b"c") or first != [digest]:
                raise KeyUsed
            return LogId(int(position), int(record[1:]))
        case b"full":
            raise LogCrowded("too much waits for the learner")
        case b"unknown":
            return None
    raise WrongGeneration(f"model {name} was deleted")


def keep(
    link: Link, name: str, generation: bytes, key: bytes, known: bytes, value: bytes, most_bytes: int
) -> bytes | None:
    """Keep with a key what came of its request: position, blank, record. Returns what is kept already, if not `known`.

    `most_bytes` are about what all answers take, among which is kept what appended nothing. Raises WrongGeneration.
    """
    kind, *values = link.run(
        scripts.KEEP,
        [keys.meta(name), *keys.seen(name), *keys.answers(name)],
        [generation, key, known, value, most_bytes // 2],
    )
    if kind == b"gone":
        raise WrongGeneration(f"model {name} was deleted")
    return values[0] if values else None


def kept(link: Link, name: str, key: bytes) -> bytes | None:
    """What is kept with the key of a request: position, blank, record."""
    value: bytes | None = link.run(
        scripts.KEPT, [keys.meta(name), *keys.seen(name), *keys.answers(name)], [key]
    )
    return value


def keep_answer(link: Link, name: str, generation: bytes, key: bytes, answer: bytes, most_bytes: int) -> None:
    """Keep the answer, a JSON object, to a request with a key that appended something."""
    link.run(
        scripts.KEEP_ANSWER,
        [keys.meta(name), *keys.answers(name)],
        [generation, key, answer, most_bytes // 2],
    )


def kept_answer(link: Link, name: str, key: bytes) -> bytes | None:
    """The answer to the request with a key, if it is kept."""
    found = link.call_many([("HGET", slot, key) for slot in keys.answers(name)])
    return next((answer for answer in found if answer is not None and answer.startswith(b"{")), None)
