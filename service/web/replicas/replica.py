"""One model in a web process: the newest copy of it, immutable and swapped whole, and how it is read from Redis."""

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from pydantic_core import from_json, to_json

from model import FeatureEncoder, LabelEncoder, ModelSpec, OnlineModel, Predictor
from service.errors import NotFound, Problem, StoreUnavailable, Unavailable
from service.replay.applying import entries, take
from service.replay.commands import Sources
from service.store import models, snapshots
from service.store.connection import Link
from service.store.log import START, LogId

LATE = 1.2  # seconds without a heartbeat after which a learner is late
REPLAY_SECONDS = 5.0  # that a replay takes at most, once it has come to what was published


@dataclass(frozen=True)
class Replica:
    """A model as it stood at a log id: immutable, swapped whole. What it holds is read when it is first asked for."""

    timeline: int
    term: int
    log_id: LogId
    spec: ModelSpec
    metrics_json: bytes
    state: bytes  # that the predictor is made of

    @cached_property
    def predictor(self) -> Predictor:
        """Predicts as the model did at this log id."""
        return Predictor(self.spec, self.state)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The prequential scores up to this log id."""
        return cast(dict[str, Any], from_json(self.metrics_json))

    @property
    def step(self) -> int:
        """How many observations the model has taken."""
        return self.log_id.position

    @property
    def order(self) -> tuple[int, LogId]:
        """Replicas of one generation are ordered by this, never by arrival."""
        return self.timeline, self.log_id


@dataclass(slots=True)
class Served:
    """One model, in one generation: what is fixed, and its newest replica."""

    name: str
    generation: bytes
    spec: ModelSpec
    created: float
    features: FeatureEncoder
    labels: LabelEncoder
    replica: Replica
    lead: models.Lead
    created_by: str  # the spec that the model was created by, as JSON
    now: str  # the spec that it is of now
    head: LogId = START  # of the log, when Redis was asked last
    floor: tuple[int, LogId] | None = (
        None  # that other processes may have served before this one had the model
    )
    beat_at: float = field(default_factory=time.monotonic)  # when the learner's heartbeat was seen to move
    behind_since: float | None = None  # when a publication was first seen to be missing
    changed: threading.Condition = field(default_factory=threading.Condition)

    def swap(self, replica: Replica) -> None:
        """Serve another replica from now on, if it is newer."""
        with self.changed:
            if replica.order > self.replica.order and (
                replica.timeline > self.replica.timeline or replica.term >= self.replica.term
            ):
                self.replica = replica
                self.behind_since = None
                self.changed.notify_all()

    def become(self, spec: str) -> None:
        """Take on the spec of a rebuild, if it is another one. Its features, task and classes are the same."""
        if spec != self.now:
            self.now = spec
            self.spec = ModelSpec.model_validate_json(spec)
            self.features, self.labels = FeatureEncoder(self.spec), LabelEncoder(self.spec)

    def wait_for(self, step: int, timeout: float) -> bool:
        """Wait until the replica has reached a step; False if it has not within `timeout` seconds."""
        with self.changed:
            return self.changed.wait_for(lambda: self.replica.step >= step, timeout)

    @property
    def has_learner(self) -> bool:
        """Whether a learner's heart beats for this model."""
        return self.lead.counter > 0 and not self.is_late

    @property
    def is_late(self) -> bool:
        """Whether the heart of its learner has not beaten for long. A new model gets this long to find its learner."""
        return time.monotonic() - self.beat_at > LATE


def load(link: Link, name: str, meta: models.Meta, lead: models.Lead) -> Served:
    """Read a model's newest snapshot; without one, it is as it was created. Raises StoreError."""
    created_by = ModelSpec.model_validate_json(meta.spec)
    model, timeline, log_id = _newest(link, name, meta)
    replica = _replica(model, timeline, log_id)
    floor = meta.timeline, meta.head
    encoders = FeatureEncoder(model.spec), LabelEncoder(model.spec)
    return Served(
        *(name, meta.generation, model.spec, meta.created, *encoders, replica, lead),
        created_by=created_by.model_dump_json(),
        now=model.spec.model_dump_json(),
        head=meta.head,
        floor=None if replica.order >= floor else floor,
    )


def replay(link: Link, name: str, meta: models.Meta, lead: models.Lead) -> Replica:
    """The model as the log has it: from the newest snapshot to the log's end, if that does not take too long.

    For a model that nobody leads: others have served it later than the snapshot. Raises StoreError.
    """
    model, _, log_id = _newest(link, name, meta)
    deadline = time.monotonic() + REPLAY_SECONDS
    for entry in entries(link, name, log_id, meta.head):
        model = take(model, entry, Sources(link, name))
        log_id = entry.log_id
        if log_id >= lead.published and time.monotonic() > deadline:
            break
    return _replica(model, meta.timeline, log_id)


def missing(link: Link, served: Served) -> Problem:
    """What a client is told of a model that Redis has not: NotFound if it was deleted, Unavailable if it was lost."""
    try:
        if models.was_deleted(link, served.generation):
            return NotFound(f"model {served.name} was deleted")
    except StoreUnavailable as error:
        return Unavailable(f"{error}; nothing was written", retry_after=1)
    return Unavailable(f"Redis has lost model {served.name}; nothing was written", retry_after=1)


def _newest(link: Link, name: str, meta: models.Meta) -> tuple[OnlineModel, int, LogId]:
    """The model as its newest snapshot has it, the snapshot's timeline and its place in the log."""
    snapshot = snapshots.load(link, name, meta.generation)
    if snapshot is None:
        return OnlineModel(ModelSpec.model_validate_json(meta.spec)), meta.timeline, START
    return OnlineModel.from_bytes(snapshot.state), snapshot.timeline, snapshot.log_id


def _replica(model: OnlineModel, timeline: int, log_id: LogId) -> Replica:
    return Replica(timeline, 0, log_id, model.spec, to_json(model.metrics()), model.predictor_bytes())
