"""States of a model that Redis holds: the newest snapshot, a checkpoint, or the model as it was created."""

from dataclasses import dataclass

from model import ModelSpec, OnlineModel
from service.store.entries import START, LogId
from service.store.model_store import ModelStore


@dataclass(frozen=True, slots=True)
class State:
    """The state of a model after an entry of its log. Without a blob, the model as it was created."""

    created_by: bytes  # the spec, JSON
    log_id: LogId = START
    blob: bytes | None = None
    timeline: int | None = None  # None: not known
    token: bytes | None = None  # of the entry; None: not known

    def model(self) -> OnlineModel:
        """The model in this state. Raises ModelError."""
        if self.blob is None:
            return OnlineModel(ModelSpec.model_validate_json(self.created_by))
        return OnlineModel.from_bytes(self.blob)


def newest_state(store: ModelStore, created_by: bytes) -> State:
    """The newest snapshot of a model; without one, the model as it was created by a spec (JSON)."""
    snapshot = store.snapshots.load()
    if snapshot is None:
        return State(created_by)
    return State(created_by, snapshot.log_id, snapshot.state, snapshot.timeline, snapshot.token)
