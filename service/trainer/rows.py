"""What a retraining reads: pieces of the log in order, and a state of the live model from before its validation."""

from dataclasses import dataclass

import numpy as np

from model import ModelSpec, OnlineModel
from service.errors import StoreError
from service.replay.commands import Sources, apply_command, entries_between
from service.store import checkpoints, log, models, snapshots
from service.store.blocks import Block, join
from service.store.connection import Link
from service.store.log import LAST_COMMAND, NO_ROWS, START, Entry, LogId

Array = np.ndarray


@dataclass(frozen=True)
class Base:
    """A state of the live model, and where in the log it stands."""

    log_id: LogId
    state: bytes | None
    created_by: bytes

    def model(self) -> OnlineModel:
        """The model in this state; without one, as it was created."""
        if self.state is None:
            return OnlineModel(ModelSpec.model_validate_json(self.created_by))
        return OnlineModel.from_bytes(self.state)


def base_before(link: Link, name: str, meta: models.Meta, position: int, head: int) -> Base | None:
    """The newest known state at or before a position from which the log can be replayed; else the oldest after it."""
    oldest = log.oldest(link, name, head)
    places: list[tuple[LogId, str | None]] = [
        (made.stands_at, made.id) for made in checkpoints.list_all(link, name)
    ]
    snapshot = snapshots.load(link, name, meta.generation)
    if snapshot is not None:
        places.append((snapshot.log_id, None))
    if oldest == 0:
        places.append((START, ""))
    places = [place for place in places if oldest <= place[0].position <= head]
    before = sorted((place for place in places if place[0].position <= position), key=_log_id, reverse=True)
    after = sorted((place for place in places if place[0].position > position), key=_log_id)
    for log_id, checkpoint in before + after:
        if checkpoint == "":
            return Base(log_id, None, meta.spec)
        if checkpoint is None and snapshot is not None:
            return Base(log_id, snapshot.state, meta.spec)
        state = checkpoints.state(link, name, checkpoint or "")
        if state is not None:
            return Base(log_id, state, meta.spec)
    return None


def _log_id(place: tuple[LogId, str | None]) -> LogId:
    return place[0]


@dataclass(frozen=True)
class Piece:
    """An entry of the log, or a part of one: the rows after one position up to and with another, or a command."""

    entry: Entry
    block: Block
    after: int
    position: int

    def apply(self, model: OnlineModel, sources: Sources) -> OnlineModel:
        """Let the live model take it; returns the model to go on with."""
        if self.entry.command is not None:
            return apply_command(model, self.entry, sources)
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


def read_pieces(link: Link, name: str, after: int, cut: int, to: int) -> list[Piece]:
    """The log after one position up to and with another, cut at a third. Raises StoreError if it lacks a row.

    Commands that stand at `after` are read too.
    """
    pieces: list[Piece] = []
    position: int | None = None
    before = LogId(after - 1, LAST_COMMAND) if after else START
    for entry in entries_between(link, name, before, to):
        rows = len(entry.block)
        first = entry.log_id.position - rows
        if first > after if position is None else first != position:
            raise StoreError(f"the log lacks observations after {position or after}")
        position = entry.log_id.position
        pieces += Piece(entry, entry.block, first, position).cut(cut)
    if position != to:
        raise StoreError(f"the log ends at {position}, not at {to}")
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
