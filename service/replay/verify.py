"""`freshet verify`: whether the log, replayed from its oldest state, comes to the live state bit for bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from safetensors.numpy import load as load_tensors

from model import ModelSpec, OnlineModel
from service.errors import NotFound, StoreError
from service.replay.applying import entries, follows, take
from service.replay.commands import Sources
from service.store import checkpoints, models, snapshots
from service.store.connection import Link
from service.store.log import START, LogId, read_after

LINK_SECONDS = 30.0  # for states of large models


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the log between two states that are known, and what replaying it came to."""

    start: LogId
    end: LogId
    difference: str = ""  # where the replayed state parts from the kept one; "": nowhere
    gap: str = ""  # why it cannot be replayed; "": it can

    def __str__(self) -> str:
        outcome = self.gap and f"cannot be replayed: {self.gap}"
        return f"{self.start} to {self.end}: {outcome or self.difference or 'equal'}"


@dataclass(frozen=True, slots=True)
class _State:
    """A whole state that Redis holds; without bytes the model as it was created."""

    log_id: LogId
    state: bytes | None


def verify(link: Link, name: str) -> list[Span]:
    """Replay the log between all states that Redis holds, oldest first; the last is the newest snapshot.

    The first is the model as it was created or a checkpoint, if the log still holds all that came after it. Empty if
    there is no snapshot yet. Raises NotFound, StoreError.
    """
    found = models.describe(link, [name])[name]
    if found is None:
        raise NotFound(f"there is no model {name!r}")
    snapshot = snapshots.load(link, name, found[0].generation)
    if snapshot is None:
        return []
    spec = ModelSpec.model_validate_json(found[0].spec)
    newest = _State(snapshot.log_id, snapshot.state)
    states = [state for state in _states(link, name) if state.log_id < newest.log_id]
    states = _within_log(link, name, [*states, newest])
    return [_replay(link, name, spec, *pair) for pair in pairwise(states)]


def _states(link: Link, name: str) -> Iterator[_State]:
    """The model as it was created, then its checkpoints, oldest first; one for each place in the log."""
    yield _State(START, None)
    seen = START
    for checkpoint in sorted(checkpoints.list_all(link, name), key=lambda made: made.stands_at):
        state = checkpoints.state(link, name, checkpoint.id)
        if state is not None and checkpoint.stands_at > seen:
            seen = checkpoint.stands_at
            yield _State(seen, state)


def _within_log(link: Link, name: str, states: list[_State]) -> list[_State]:
    """The states after which the log has not been trimmed, and the newest in any case."""
    for place, state in enumerate(states[:-1]):
        first = read_after(link, name, state.log_id, 1)
        if first and follows(state.log_id, first[0]):
            return states[place:]
    return states[-1:]


def _replay(link: Link, name: str, spec: ModelSpec, start: _State, end: _State) -> Span:
    """Replay from one state to another, and compare."""
    model = OnlineModel(spec) if start.state is None else OnlineModel.from_bytes(start.state)
    try:
        for entry in entries(link, name, start.log_id, end.log_id):
            model = take(model, entry, Sources(link, name))
    except StoreError as error:  # what a command named is gone by now, or the log was trimmed meanwhile
        return Span(start.log_id, end.log_id, gap=str(error))
    assert end.state is not None
    return Span(start.log_id, end.log_id, difference(end.state, model.to_bytes()))


def difference(kept: bytes, replayed: bytes) -> str:
    """Where two states part first: the tensor, the place in it and both values. "" if they are equal bit for bit."""
    if kept == replayed:
        return ""
    ours, theirs = load_tensors(kept), load_tensors(replayed)
    for tensor in sorted(ours.keys() | theirs.keys()):
        if tensor not in ours or tensor not in theirs:
            return f"{tensor} is in one state only"
        one, other = ours[tensor], theirs[tensor]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return f"{tensor} is {one.dtype} {one.shape}, replayed {other.dtype} {other.shape}"
        bits = [
            np.frombuffer(value.tobytes(), np.uint8).reshape(-1, one.dtype.itemsize) for value in (one, other)
        ]
        places = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
        if len(places):
            first = int(places[0])
            return (
                f"{tensor} parts at {first} (of {one.size}, {len(places)} differ): "
                f"{one.ravel()[first]!r} is kept, {other.ravel()[first]!r} replayed"
            )
    return "the tensors are equal, the headers differ"
