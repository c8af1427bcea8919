"""Replaying the log: its entries one after the other, none left out, and what each does to a model."""

from collections.abc import Iterator

from model import OnlineModel
from service.errors import LogGap
from service.replay.commands import Sources, apply_command
from service.store.connection import Link
from service.store.log import Entry, LogId, read_after

ENTRIES_AT_ONCE = 256


def apply_entry(model: OnlineModel, entry: Entry, sources: Sources) -> OnlineModel:
    """Let a model learn a block or carry out a command. Returns the model to go on with. Raises StoreError."""
    if entry.command is not None:
        return apply_command(model, entry, sources)
    block = entry.block
    model.learn(block.features, block.labels, block.weights, block.served)
    return model


def follows(log_id: LogId, entry: Entry) -> bool:
    """Whether an entry is the very next after a log id."""
    if entry.command is None:
        return log_id.position + len(entry.block) == entry.log_id.position
    return entry.log_id == (log_id.position, log_id.command + 1)


def entries(link: Link, name: str, after: LogId, to: LogId) -> Iterator[Entry]:
    """The entries after one log id up to and with another. Raises LogGap if one is missing, StoreError."""
    while after < to:
        found = [entry for entry in read_after(link, name, after, ENTRIES_AT_ONCE) if entry.log_id <= to]
        if not found:
            raise LogGap(f"the log has nothing between {after} and {to}")
        for entry in found:
            if not follows(after, entry):
                raise LogGap(f"after {after} comes {entry.log_id}")
            yield entry
            after = entry.log_id
