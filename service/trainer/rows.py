"""What a retraining reads: pieces of the log in order, and a state of the live model from before its validation."""

from dataclasses import dataclass
from itertools import chain

import numpy as np

from model import OnlineModel
from service.errors import LogGap
from service.replay.commands import apply_command
from service.replay.states import State, newest_state
from service.store.blocks import Block, join
from service.store.entries import LAST_COMMAND, NO_ROWS, START, Entry, LogId
from service.store.model_store import ModelStore

Array = np.ndarray


def base_before(store: ModelStore, created_by: bytes, position: int, head: int) -> State | None:
    """The newest known state at or before a position from which the log can be replayed; else the oldest after it."""
    oldest, newest = store.log.oldest(head), newest_state(store, created_by)
    checkpoints = {made.state_id: made.id for made in store.checkpoints.list_all()}
    known = sorted({START, newest.log_id, *checkpoints})
    known = [log_id for log_id in known if oldest <= log_id.position <= head]
    before = [log_id for log_id in known if log_id.position <= position]
    for log_id in filter(store.log.goes_on_from, [*reversed(before), *known[len(before) :]]):
        if log_id == newest.log_id:
            return newest
        if log_id == START:
            return State(created_by)
        blob = store.checkpoints.state(checkpoints[log_id])
        if blob is not None:
            return State(created_by, log_id, blob)
    return None


@dataclass(frozen=True)
class Piece:
    """An entry of the log, or a part of one: the rows after one position up to and with another, or a command."""

    entry: Entry
    block: Block
    after: int
    position: int

    def apply(self, model: OnlineModel, store: ModelStore) -> OnlineModel:
        """Let the live model take it; returns the model to go on with."""
        if self.entry.command is not None:
            return apply_command(model, self.entry, store)
        self.learn(model, live=True)
        return model

    def learn(self, model: OnlineModel, live: bool = False) -> Array:
        """Let a model learn the rows; the predictions (n, outputs) that it made before."""
        served = self.block.served if live else None
        learned = model.learn(self.block.features, self.block.labels, self.block.weights, served)
        return learned.predictions

    def cut(self, position: int) -> list["Piece"]:
        """The piece in two, if a position falls into it."""
        if not self.after < position < self.position:
            return [self]
        at = position - self.after
        first, second = self.block.take(slice(0, at)), self.block.take(slice(at, None))
        return [
            Piece(self.entry, first, self.after, position),
            Piece(self.entry, second, position, self.position),
        ]


def read_pieces(store: ModelStore, after: int, cut: int, to: int) -> list[Piece]:
    """The log after one position up to and with another, cut at a third. Raises LogGap if it lacks a row.

    Commands at the position `after` are read too.
    """
    pieces: list[Piece] = []
    first = store.log.read(LogId(after - 1, LAST_COMMAND) if after else START, 1)
    if not first or first[0].log_id.position - len(first[0].block) > after:
        raise LogGap(f"the log lacks observations after {after}")
    for entry in chain(first, store.log.follow(first[0].log_id, LogId(to, LAST_COMMAND))):
        position = entry.log_id.position
        pieces += Piece(entry, entry.block, position - len(entry.block), position).cut(cut)
    return pieces


@dataclass(frozen=True)
class Rows:
    """The window's rows: for training, and the newest for validation."""

    training: Block
    validation: Block

    @classmethod
    def of(cls, pieces: list[Piece], start: int, split: int, head: int) -> "Rows":
        """The rows after `start`, up to `split` and up to `head`."""
        return cls(_rows(pieces, start, split), _rows(pieces, split, head))

    @property
    def spread(self) -> Array:
        """The deviation of each target's labels; 1 where they are constant."""
        labels = np.concatenate([block.labels for block in (self.training, self.validation) if len(block)])
        deviation = labels.std(axis=0)
        return np.where((deviation > 0) & np.isfinite(deviation), deviation, 1.0)


def _rows(pieces: list[Piece], after: int, to: int) -> Block:
    """The rows after one position up to and with another, as one block without what was served."""
    blocks = []
    for piece in pieces:
        low, high = max(piece.after, after), min(piece.position, to)
        if low < high:
            rows = piece.block.take(slice(low - piece.after, high - piece.after))
            blocks.append(Block(rows.features, rows.labels, rows.weights))
    if blocks:
        return join(blocks, 0)
    return Block(NO_ROWS.features, NO_ROWS.labels)
