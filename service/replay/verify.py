"""`freshet verify`: whether a replay of the log from its oldest state gives the live state, bit for bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from model import ModelError, compare_states
from service.errors import NotFound, StoreError
from service.replay.applying import apply_entry
from service.replay.states import State, newest_state
from service.store.connection import Link
from service.store.entries import LogId
from service.store.model_store import ModelStore

LINK_SECONDS = 30.0  # for states of large models


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the log between two states that are known, and the outcome of replaying it."""

    start: LogId
    end: LogId
    difference: str = ""  # where the replayed state differs from the stored one; "": nowhere
    gap: str = ""  # why it cannot be replayed; "": it can
    other_builds: tuple[str, ...] = ()  # that computed part of it: then a difference is no sign of corruption

    @property
    def is_comparable(self) -> bool:
        """Whether the stretch could be replayed, and a difference would be a sign of corruption."""
        return not self.gap and not (self.difference and self.other_builds)

    def __str__(self) -> str:
        outcome = self.difference or "equal"
        if self.gap:
            outcome = f"cannot be replayed: {self.gap}"
        elif not self.is_comparable:
            builds = "; ".join(self.other_builds)
            outcome = f"not comparable: computed in part by another build or kind of processor ({builds}); {outcome}"
        return f"{self.start} to {self.end}: {outcome}"


def verify(link: Link, name: str) -> list[Span]:
    """Replay the log between all states that Redis holds, oldest first; the last is the newest snapshot.

    The first is the model as it was created or a checkpoint, if the log still holds all that came after it. Empty if
    there is no snapshot yet. Raises NotFound, StoreError.
    """
    found = ModelStore(link, name).describe()
    if found is None:
        raise NotFound(f"there is no model {name!r}")
    meta, _ = found
    store = ModelStore(link, name, meta.generation)
    newest = newest_state(store, meta.spec)
    if newest.blob is None:
        return []
    states = [state for state in _states(store, meta.spec) if state.log_id < newest.log_id]
    return [_replay(store, *pair) for pair in pairwise(_within_log(store, [*states, newest]))]


def _states(store: ModelStore, created_by: bytes) -> Iterator[State]:
    """The model as it was created, then its checkpoints, oldest first; one for each log id."""
    newest = State(created_by)
    yield newest
    for checkpoint in sorted(store.checkpoints.list_all(), key=lambda made: made.state_id):
        blob = store.checkpoints.state(checkpoint.id)
        if blob is not None and checkpoint.state_id > newest.log_id:
            newest = State(created_by, checkpoint.state_id, blob)
            yield newest


def _within_log(store: ModelStore, states: list[State]) -> list[State]:
    """The states after which the log has not been trimmed, and the newest in any case."""
    for index, state in enumerate(states[:-1]):
        if store.log.goes_on_from(state.log_id):
            return states[index:]
    return states[-1:]


def _replay(store: ModelStore, start: State, end: State) -> Span:
    """Replay from one state to another, and compare."""
    model = start.model()
    step = model.step
    try:
        for entry in store.log.follow(start.log_id, end.log_id):
            if entry.command is not None and entry.log_id.position == start.log_id.position:
                # Another build, which ended at this very step, may have carried it out.
                step = start.log_id.position - 1
            model = apply_entry(model, entry, store)
    except StoreError as error:  # what a command named is gone by now, or the log was trimmed meanwhile
        return Span(start.log_id, end.log_id, gap=str(error))
    assert end.blob is not None
    try:
        found = compare_states(end.blob, model.to_bytes(), step)
    except ModelError as error:
        return Span(start.log_id, end.log_id, difference=f"the stored state cannot be read: {error}")
    return Span(start.log_id, end.log_id, found.difference, other_builds=found.other_builds)
