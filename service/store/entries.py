"""The entries of a model's log: blocks of observations and commands, each under its log id."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from service.store.blocks import Block


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
    web: bytes  # the waiting web process and, after a colon, how much it asks for; or empty
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


def follows(log_id: LogId, entry: Entry) -> bool:
    """Whether an entry is the very next after a log id."""
    if entry.command is None:
        return log_id.position + len(entry.block) == entry.log_id.position
    return entry.log_id == (log_id.position, log_id.command + 1)
