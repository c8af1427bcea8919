"""Reading the log of a model."""

from collections.abc import Iterator, Sequence

from service.errors import LogGap
from service.store import keys, scripts
from service.store.entries import LAST_COMMAND, START, Entry, LogId, follows
from service.store.model_part import ModelPart

ENTRIES_AT_ONCE = 64
RawEntry = tuple[bytes, list[bytes]]


class Log(ModelPart):
    """A model's log."""

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
