"""`freshet verify`: whether the log, replayed from its oldest state, comes to the live state bit for bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from model import ModelError, ModelSpec, OnlineModel, compare_states
from service.errors import NotFound, StoreError
from service.replay.applying import apply_entry, entries, follows
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
    step = model.step
    try:
        for entry in entries(link, name, start.log_id, end.log_id):
            if entry.command is not None and entry.log_id.position == start.log_id.position:
                step = (
                    start.log_id.position - 1
                )  # another build, which ended at this very step, may have obeyed it
            model = apply_entry(model, entry, Sources(link, name))
    except StoreError as error:  # what a command named is gone by now, or the log was trimmed meanwhile
        return Span(start.log_id, end.log_id, gap=str(error))
    assert end.state is not None
    try:
        found = compare_states(end.state, model.to_bytes(), step)
    except ModelError as error:
        return Span(start.log_id, end.log_id, difference=f"the stored state cannot be read: {error}")
    return Span(start.log_id, end.log_id, found.difference, other_builds=found.other_builds)
