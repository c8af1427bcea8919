"""The log of a model: appending to it, and reading it in order."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from service.errors import LogCrowded, LogGap, WrongGeneration
from service.store import keys, scripts
from service.store.appending import Append, Appended, Limits, NewSchedule
from service.store.entries import LAST_COMMAND, START, Entry, LogId, follows
from service.store.kept import Kept
from service.store.model_part import ModelPart, check_complete
from service.store.pieces import Pieces

ENTRIES_AT_ONCE = 64
RawEntry = tuple[bytes, list[bytes]]


class Log(ModelPart):
    """A model's log."""

    def append(self, wanted: Append, limits: Limits) -> Appended:
        """Append a block, unless there is a reason not to. Raises WrongGeneration, StoreFull, StoreUnavailable."""
        arguments = wanted.to_arguments(self.generation, limits)
        return Appended.parse(self.name, self.link.run(scripts.APPEND, _append_keys(self.name), arguments))

    def append_command(
        self,
        key: bytes,
        command: dict[str, Any] | None,
        digest: bytes,
        *,
        blob: bytes = b"",
        checkpoint: str = "",
        schedule: NewSchedule | None = None,
        blobs: int = 10,
        max_lag_bytes: int = 2**53,
    ) -> LogId | None:
        """Append a command, or find the one that was appended with this key and digest. Returns its log id.

        What it names is kept with it: `blob`, or a copy of the state of `checkpoint`; then None is returned if there
        is no such checkpoint. `schedule` is set with it; without a command that is all, and the log id is that of the
        log's head. The blobs of the newest `blobs` commands are kept. Raises WrongGeneration; KeyUsed if something
        else was done with the key; LogCrowded if too much waits for the learner.
        """
        name = self.name
        pieces = Pieces(self.link, name, self.generation)
        with pieces.written(blob) as stored:
            kind, *values = self.link.run(
                scripts.COMMAND,
                [
                    *(keys.meta(name), keys.log(name), keys.blobs(name), keys.checkpoint_states(name)),
                    *(keys.schedule(name), keys.lease(name), *keys.seen(name), *keys.answers(name)),
                    keys.pieces(name),
                ],
                [
                    *(self.generation, key, json.dumps(command) if command else "", stored, checkpoint),
                    *(2 * blobs, digest, *(("", "") if schedule is None else schedule.to_arguments())),
                    max_lag_bytes,
                ],
            )
        if kind != b"appended":
            pieces.drop(stored)
        check_complete(kind, name)
        match kind:
            case b"appended":
                return LogId.parse(values[0])
            case b"seen":
                return Kept.parse(values[0]).command_id(digest)
            case b"full":
                raise LogCrowded("too much waits for the learner")
            case b"unknown":
                return None
        raise WrongGeneration(f"model {name} was deleted")

    def read(self, after: LogId, count: int) -> list[Entry]:
        """At most `count` entries after a log id, without waiting. Some before them may be trimmed: see `follow`."""
        answer = self.link.call("XRANGE", keys.log(self.name), f"({after}", "+", "COUNT", count)
        return [Entry.parse(log_id, fields) for log_id, fields in answer]

    def follow(self, after: LogId, to: LogId | None = None) -> Iterator[Entry]:
        """The entries after one log id up to and with another, none missing. Raises LogGap.

        Without `to` up to the end of the log, as it is by then. The number of the last command of `to` may be
        LAST_COMMAND.
        """
        while to is None or after < to:
            entries = [
                entry for entry in self.read(after, ENTRIES_AT_ONCE) if to is None or entry.log_id <= to
            ]
            if not entries:
                break
            for entry in entries:
                if not follows(after, entry):
                    raise LogGap(f"after {after} comes {entry.log_id}")
                yield entry
                after = entry.log_id
        if to is not None and after < to and to != (after.position, LAST_COMMAND):
            raise LogGap(f"the log has nothing between {after} and {to}")

    def goes_on_from(self, log_id: LogId) -> bool:
        """Whether nothing after a log id was trimmed."""
        entries = self.read(log_id, 1)
        return not entries or follows(log_id, entries[0])

    def token_at(self, log_id: LogId) -> bytes | None:
        """The token of the entry with this log id; None if there is none."""
        answer = self.link.call("XRANGE", keys.log(self.name), str(log_id), str(log_id))
        if not answer:
            return None
        _, fields = answer[0]
        return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"t")

    def sizes(self) -> Iterator[tuple[int, int]]:
        """(position, bytes of all blocks up to it) of the log's entries, oldest first."""
        start = b"-"
        while answer := self.link.run(scripts.ENTRY_SIZES, [keys.log(self.name)], [start]):
            for log_id, size in zip(answer[::2], answer[1::2], strict=True):
                yield LogId.parse(log_id).position, int(size)
            start = b"(" + answer[-2]

    def oldest(self, head: int) -> int:
        """The position after which the log holds every observation; `head` is that of its newest."""
        entries = self.read(START, 1)
        return entries[0].log_id.position - len(entries[0].block) if entries else head

    def position_before(self, time: float, low: int, high: int) -> int:
        """The position, from `low` to `high`, of the last entry appended before a time (since the epoch)."""
        while low < high:
            middle = (low + high) // 2
            found = self.link.run(scripts.TIME_AFTER, [keys.log(self.name)], [middle])
            if found is None or float(found[1]) >= time:
                high = middle
            else:
                low = min(LogId.parse(found[0]).position, high)
        return low


@lru_cache(maxsize=1024)
def _append_keys(name: str) -> list[bytes]:
    return [
        *(keys.meta(name), keys.log(name), *keys.seen(name), keys.lease(name), keys.awaiting(name)),
        *(keys.awaiting_times(name), keys.awaiting_counts(name), *keys.answers(name)),
    ]


# -- several logs at once --------------------------------------------------------------------------------------


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


def parse_read(
    names: Sequence[str], answer: list[tuple[bytes, list[RawEntry]]] | None
) -> dict[str, list[RawEntry]]:
    """The entries by model, from the answer to `read_command`; parsed one by one, as a bad one may be among them."""
    by_key = {keys.log(name): name for name in names}
    return {by_key[key]: entries for key, entries in answer or []}


def parse_entries(entries: list[RawEntry]) -> list[Entry]:
    """Entries as Redis answers them. Raises StoreError, KeyError, ValueError for what is none."""
    return [Entry.parse(log_id, fields) for log_id, fields in entries]
