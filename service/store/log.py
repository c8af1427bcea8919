"""The log of a model: append with its token and ids, and reading it in order."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from service import failpoints
from service.blocks import Block
from service.errors import LogCrowded, WrongGeneration
from service.store import keys, scripts
from service.store.connection import Link
from service.store.feedback_scripts import APPEND, KEEP, KEEP_ANSWER, KEPT, SEEN


class LogId(NamedTuple):
    """`<position>-<command>`: the observations up to and with an entry, and the commands since."""

    position: int
    command: int

    @classmethod
    def parse(cls, text: bytes) -> "LogId":
        """The log id that Redis writes as bytes."""
        position, _, command = text.partition(b"-")
        return cls(int(position), int(command or 0))

    def __str__(self) -> str:
        return f"{self.position}-{self.command}"


START = LogId(0, 0)
COMMANDS_AT_ONCE = 1024  # at one position, as the scripts have it
NO_ROWS = Block(np.empty((0, 0)), np.empty((0, 0)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log: a block of observations, or a command."""

    log_id: LogId
    token: bytes
    web: bytes  # the web process that waits for the result, or empty
    size: int  # bytes that all blocks up to and with this one took
    block: Block  # without rows, if it is a command
    command: dict[str, Any] | None = None
    generation: bytes = b""  # how that of the model begins that a block was appended to

    @classmethod
    def parse(cls, log_id: bytes, fields: Sequence[bytes]) -> "Entry":
        """The entry from Redis's answer: field, value, field, value, ..."""
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        command = values.get(b"c")
        return cls(
            LogId.parse(log_id),
            values[b"t"],
            values[b"w"],
            int(values[b"s"]),
            NO_ROWS if command is not None else Block.from_bytes(values[b"b"]),
            None if command is None else json.loads(command),
            values.get(b"g", b""),
        )


@dataclass(frozen=True, slots=True)
class Append:
    """A block that is to be appended, and what must hold for it.

    `key` is the Idempotency-Key, or what stands for it; `record` is kept with it, and `known` is what the caller knows
    to be kept with it so far (empty: nothing). `joined` are the rows whose prediction must still await its label.
    `step` is one that the model is known to have reached. `web` is who waits for the result, or empty.
    """

    token: bytes
    block: Block
    key: bytes
    record: bytes = b""
    known: bytes = b""
    joined: frozenset[int] = frozenset()
    step: int = 0
    web: str = ""


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append did: it wrote the block up to `position`, or nothing, for the first reason that is set here."""

    position: int = 0
    seen: bytes = b""  # what is kept with the key: position, blank, record
    answer: bytes = b""  # what was answered then, if it is kept
    duplicates: dict[int, int] = field(default_factory=dict)  # row -> its position
    unknown: list[int] = field(
        default_factory=list
    )  # rows whose prediction does not await its label any more
    awaiting: dict[int, bytes] = field(
        default_factory=dict
    )  # row that does not join -> its awaiting prediction
    lag: int = 0  # observations that are not applied: too many


def append(
    link: Link,
    name: str,
    generation: bytes,
    wanted: Append,
    limits: "Limits",
    meanwhile: Callable[[], object] | None = None,
) -> Appended:
    """Append a block, if nothing speaks against it. `meanwhile` is called before Redis's answer is read.

    Raises WrongGeneration if the model is not of that generation, StoreFull and StoreUnavailable.
    """
    block = wanted.block
    ids = [] if block.ids is None else [f"i{known}" if known else "" for known in block.ids]
    joined = (
        "".join("1" if row in wanted.joined else "0" for row in range(len(block))) if wanted.joined else ""
    )
    answer = link.run(
        APPEND,
        _append_keys(name),
        [
            *(generation, wanted.token, len(block), block.to_bytes(), wanted.web, limits.segment),
            *(wanted.record, wanted.known, wanted.step, limits.max_lag, limits.label_ttl_ms, joined),
            *(b"t" + wanted.key, *ids),
        ],
        meanwhile,
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

    @property
    def segment(self) -> int:
        """Observations after which the next hash of what was seen begins: all but the newest are complete."""
        return -(-self.remembered // (SEEN - 1))


def _appended(name: str, answer: list[Any]) -> Appended:
    kind, *values = answer
    match kind:
        case b"appended":
            failpoints.reach("after-append")
            return Appended(int(values[0]))
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
            return Appended(lag=int(values[0]))
    raise WrongGeneration(f"model {name} was deleted")


def keep(link: Link, name: str, generation: bytes, key: bytes, value: bytes) -> None:
    """Keep with the key of a stream how far it has come."""
    link.run(KEEP, [keys.meta(name), *keys.seen(name)], [generation, b"t" + key, value])


def kept(link: Link, name: str, key: bytes) -> bytes | None:
    """What is kept with the key of a request: position, blank, record."""
    value: bytes | None = link.run(KEPT, [keys.meta(name), *keys.seen(name)], [b"t" + key])
    return value


def keep_answer(link: Link, name: str, generation: bytes, key: bytes, answer: bytes, most_bytes: int) -> None:
    """Keep the answer to the request with a key; all kept answers take about `most_bytes` at most."""
    link.run(KEEP_ANSWER, [keys.meta(name), *keys.answers(name)], [generation, key, answer, most_bytes // 2])


def kept_answer(link: Link, name: str, key: bytes) -> bytes | None:
    """The answer to the request with a key, if it is kept."""
    found = link.call_many([("HGET", slot, key) for slot in keys.answers(name)])
    return next((answer for answer in found if answer is not None), None)


def append_command(
    link: Link,
    name: str,
    generation: bytes,
    token: bytes,
    command: dict[str, Any],
    *,
    blob: bytes = b"",
    checkpoint: str = "",
    hyperparameters: dict[str, Any] | None = None,
    blobs: int = 10,
) -> LogId | None:
    """Append a command, or find the one that was appended with this token. Returns its log id.

    What it names is kept with it: `blob`, or a copy of the state of `checkpoint`; then None is returned if there is no
    such checkpoint. `hyperparameters` are noted as the model's live ones. `blobs` of the newest commands are kept.
    Raises WrongGeneration; LogCrowded if too many commands stand at this position or wait for the learner.
    """
    answer = link.run(
        scripts.COMMAND,
        [
            *(keys.meta(name), keys.log(name), keys.tokens(name)),
            *(keys.blobs(name), keys.checkpoint_states(name)),
        ],
        [
            *(generation, token, json.dumps(command), blob, checkpoint, 2 * blobs),
            json.dumps(hyperparameters) if hyperparameters else "",
        ],
    )
    match answer[0]:
        case b"appended":
            return LogId.parse(answer[1])
        case b"seen":
            position, share = divmod(float(answer[1]), 1)
            return LogId(int(position), round(share * COMMANDS_AT_ONCE))
        case b"full":
            raise LogCrowded(
                "too many commands wait for the learner, or stand without an observation between them"
            )
        case b"unknown":
            return None
    raise WrongGeneration(f"model {name} was deleted")


def read_command(positions: dict[str, LogId], count: int, block_seconds: float) -> tuple[object, ...]:
    """The command that reads at most `count` entries of each log after its position, waiting for the first."""
    streams = [keys.log(name) for name in positions]
    return (
        *("XREAD", "COUNT", count, "BLOCK", max(1, round(block_seconds * 1000)), "STREAMS"),
        *streams,
        *map(str, positions.values()),
    )


RawEntry = tuple[bytes, list[bytes]]


def parse_read(
    names: Sequence[str], answer: list[tuple[bytes, list[RawEntry]]] | None
) -> dict[str, list[RawEntry]]:
    """The entries by model, from the answer to `read_command`; parsed one by one, as a bad one may be among them."""
    by_key = {keys.log(name): name for name in names}
    return {by_key[key]: entries for key, entries in answer or []}


def parse_entries(entries: list[RawEntry]) -> list[Entry]:
    """Entries as Redis answers them. Raises StoreError, KeyError, ValueError for what is none."""
    return [Entry.parse(log_id, fields) for log_id, fields in entries]


def read_after(link: Link, name: str, after: LogId, count: int) -> list[Entry]:
    """At most `count` entries after a log id, without waiting."""
    answer = link.call("XRANGE", keys.log(name), f"({after}", "+", "COUNT", count)
    return [Entry.parse(log_id, fields) for log_id, fields in answer]


def token_at(link: Link, name: str, log_id: LogId) -> bytes | None:
    """The token of the entry with this log id; None if there is none."""
    answer = link.call("XRANGE", keys.log(name), str(log_id), str(log_id))
    if not answer:
        return None
    _, fields = answer[0]
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"t")


def sizes(link: Link, name: str) -> Iterator[tuple[int, int]]:
    """(position, bytes of all blocks up to it) of the log's entries, oldest first."""
    start = b"-"
    while answer := link.run(scripts.SIZES, [keys.log(name)], [start]):
        for log_id, size in zip(answer[::2], answer[1::2], strict=True):
            yield LogId.parse(log_id).position, int(size)
        start = b"(" + answer[-2]


def oldest(link: Link, name: str, head: int) -> int:
    """The position after which the log holds every observation; `head` is that of its newest."""
    answer = link.call("XRANGE", keys.log(name), "-", "+", "COUNT", 1)
    if not answer:
        return head
    entry = Entry.parse(*answer[0])
    return entry.log_id.position - len(entry.block)


def position_before(link: Link, name: str, time: float, low: int, high: int) -> int:
    """The position, from `low` to `high`, of the last entry that was appended before a time (since the epoch)."""
    while low < high:
        middle = (low + high) // 2
        found = link.run(scripts.TIME_AFTER, [keys.log(name)], [middle])
        if found is None or float(found[1]) >= time:
            high = middle
        else:
            low = min(LogId.parse(found[0]).position, high)
    return low
