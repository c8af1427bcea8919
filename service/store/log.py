"""The log of a model: its entries, and reading them in order."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from service.store import keys, scripts
from service.store.blocks import Block
from service.store.connection import Link


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
LAST_COMMAND = 2**53  # greater than the number of any command at a position
NO_ROWS = Block(np.empty((0, 0)), np.empty((0, 0)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log: a block of observations, or a command."""

    log_id: LogId
    token: bytes
    web: (
        bytes  # the web process that waits for the result and, behind a colon, how much it asks for; or empty
    )
    size: int  # bytes that all blocks up to and with this one took
    block: Block  # without rows, if it is a command
    command: dict[str, Any] | None = None
    generation: bytes = b""  # how that of the model begins that a block was appended to
    by: str = ""  # the API key that taught it, by name
    time: int = 0  # when it was appended, seconds since the epoch by Redis's clock

    @property
    def waiting(self) -> tuple[bytes, int | None]:
        """The web process that waits, and how many numbers of each prediction it asks for; None: all."""
        web, _, columns = self.web.partition(b":")
        return web, int(columns) if columns else None

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
            values.get(b"k", b"").decode(),
            int(values.get(b"m", 0)),
        )


def read_command(positions: dict[str, LogId], count: int, wait: float | None) -> tuple[object, ...]:
    """The command that reads at most `count` entries of each log after its position.

    It waits so many seconds for the first; None: not at all.
    """
    streams = [keys.log(name) for name in positions]
    block = () if wait is None else ("BLOCK", max(1, round(wait * 1000)))
    return (
        *("XREAD", "COUNT", count, *block, "STREAMS"),
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
    while answer := link.run(scripts.ENTRY_SIZES, [keys.log(name)], [start]):
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
