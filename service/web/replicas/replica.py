"""One model in a web process: its newest version, immutable and swapped whole, and how it is read from Redis."""

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from pydantic_core import from_json, to_json

from model import FeatureEncoder, LabelEncoder, ModelSpec, OnlineModel, Predictor
from service.errors import NotFound, Problem, StoreUnavailable, Unavailable
from service.replay.applying import apply_entry
from service.replay.commands import hyperparameters
from service.replay.states import State, newest_state
from service.store import models
from service.store.entries import START, LogId
from service.store.model_store import ModelStore, OfModel
from service.web import loop

LATE = 3.0  # seconds without a sign of life after which a learner is late: longer than another takes to take over
REPLAY_SECONDS = 5.0  # of work that a replay goes on beyond what the last heartbeat named as published


@dataclass(frozen=True)
class Codec:
    """How a model's rows, labels and predictions are read and written: given by its spec."""

    spec: ModelSpec
    spec_json: str

    @classmethod
    def of(cls, spec: ModelSpec) -> "Codec":
        """The codec of a spec."""
        return cls(spec, spec.model_dump_json())

    @cached_property
    def parameters(self) -> int:
        """How many weights and biases the network has."""
        return self.spec.parameter_count

    @cached_property
    def features(self) -> FeatureEncoder:
        """Reads rows."""
        return FeatureEncoder(self.spec)

    @cached_property
    def labels(self) -> LabelEncoder:
        """Reads labels, and writes predictions."""
        return LabelEncoder(self.spec)


@dataclass(frozen=True)
class ModelVersion:
    """A model as it was at a log id: immutable, swapped whole. What it holds is read when it is first asked for."""

    timeline: int
    term: int
    log_id: LogId
    codec: Codec
    metrics_json: bytes
    state: bytes  # that the predictor is made of
    hyperparameters_json: bytes = b""  # those in force; empty: not known
    token: bytes = b""  # of the log's entry at this log id; empty: not known

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self.codec.spec

    @property
    def features(self) -> FeatureEncoder:
        """Reads rows."""
        return self.codec.features

    @property
    def labels(self) -> LabelEncoder:
        """Reads labels, and writes predictions."""
        return self.codec.labels

    @cached_property
    def predictor(self) -> Predictor:
        """Predicts as the model did at this log id."""
        return Predictor(self.codec.spec, self.state)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The prequential scores up to this log id."""
        return cast(dict[str, Any], from_json(self.metrics_json))

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters in force, which a PATCH may have changed."""
        if self.hyperparameters_json:
            return cast(dict[str, Any], from_json(self.hyperparameters_json))
        optimizer = self.spec.members[0]
        return {"learning_rate": optimizer.learning_rate, "clip_norm": optimizer.clip_norm}

    @property
    def step(self) -> int:
        """How many observations the model has taken."""
        return self.log_id.position

    def has_reached(self, timeline: int, step: int) -> bool:
        """Whether it is of a timeline or a later one, and of a step or a later one."""
        return self.timeline >= timeline and self.log_id.position >= step

    @property
    def order(self) -> tuple[int, LogId]:
        """Versions of one generation are ordered by this, never by arrival."""
        return self.timeline, self.log_id


@dataclass(eq=False, slots=True)
class ServedModel(OfModel):
    """One model, in one generation: what is fixed, its newest version, and what is known of its learner and its log."""

    store: ModelStore
    created: float
    created_by: Codec
    version: ModelVersion
    lead: models.Lead
    head: LogId = START  # of the log, when Redis was asked last
    floor: tuple[int, LogId] | None = (
        None  # that other processes may have served before this one had the model
    )
    beat_at: float = field(default_factory=time.monotonic)  # when its learner last gave a sign of life
    behind_since: float | None = None  # when a publication was first seen to be missing
    mark: tuple[LogId, bytes] | None = None  # the newest entry that is known to be in the log, and its token
    older_than: int | None = None  # timeline: what was seen in it is not in the log any more
    is_deleted: bool = False
    _before: tuple[int, LabelEncoder] | None = None  # who writes results up to a position: of the spec before
    _changing: threading.Lock = field(default_factory=lambda: threading.Lock())
    _waiting: dict[Any, tuple[int, int]] = field(
        default_factory=dict
    )  # lock of who waits -> for which timeline and step

    @property
    def spec(self) -> ModelSpec:
        """What the model is now."""
        return self.version.codec.spec

    @property
    def features(self) -> FeatureEncoder:
        """Reads rows: all specs of one model have the same features."""
        return self.version.codec.features

    @property
    def labels(self) -> LabelEncoder:
        """Reads labels, and writes predictions of the newest version."""
        return self.version.codec.labels

    def labels_at(self, position: int) -> LabelEncoder:
        """Writes the predictions that were made just before a position was reached."""
        if self._before is not None and position <= self._before[0]:
            return self._before[1]
        return self.version.codec.labels

    def codec_of(self, spec_json: str) -> Codec:
        """The codec of a spec, the one in use if that is it. "" is the spec that the model was created by."""
        for codec in (self.version.codec, self.created_by):
            if (spec_json or self.created_by.spec_json) == codec.spec_json:
                return codec
        return Codec(ModelSpec.model_validate_json(spec_json), spec_json)

    def swap(self, version: ModelVersion) -> None:
        """Serve another version from now on, if it is newer."""
        with self._changing:
            now = self.version
            if version.order <= now.order or (version.timeline == now.timeline and version.term < now.term):
                return
            if version.codec.spec_json != now.codec.spec_json:
                self._before = version.step, now.codec.labels
            if version.timeline > now.timeline:
                self.mark = self._before = self.older_than = None
            self.version = version
            if version.token:
                self.note_entry(version.log_id, version.token)
            self.behind_since = None
            if self.floor is not None and version.order >= self.floor:
                self.floor = None
            reached = [lock for lock, wanted in self._waiting.items() if version.has_reached(*wanted)]
            for lock in reached:
                del self._waiting[lock]
        for lock in reached:
            lock.release()

    def wait_for(self, step: int, timeout: float, timeline: int = 0) -> bool:
        """Wait until the newest version has reached a step, in a timeline or a later one; False if it takes longer.

        Raises NotFound if the model is deleted before.
        """
        if self.version.has_reached(timeline, step):
            return True
        self.check_exists()
        if timeout <= 0:
            return False
        lock = threading.Lock()  # cheaper than an Event
        lock.acquire()
        with self._changing:
            if self.is_deleted or self.version.has_reached(timeline, step):
                lock.release()
            else:
                self._waiting[lock] = timeline, step
        lock.acquire(timeout=timeout)
        with self._changing:
            self._waiting.pop(lock, None)
        if self.version.has_reached(timeline, step):
            return True
        self.check_exists()
        return False

    def check_exists(self) -> None:
        """Raise NotFound if the model was deleted."""
        if self.is_deleted:
            raise NotFound(f"model {self.name} was deleted")

    def end(self) -> None:
        """The model was deleted: whoever waits for it waits no longer."""
        with self._changing:
            self.is_deleted = True
            waiting = list(self._waiting)
            self._waiting.clear()
        for lock in waiting:
            lock.release()

    def note_entry(self, log_id: LogId, token: bytes) -> None:
        """Note that the log holds the entry of this token: if it is gone later, Redis came back older."""
        if self.mark is None or log_id > self.mark[0]:
            self.mark = log_id, token

    def note_older(self) -> None:
        """Note that the log does not hold what this process has seen of the model."""
        self.older_than = self.version.timeline

    @property
    def has_learner(self) -> bool:
        """Whether the model's learner shows a heartbeat."""
        return self.lead.counter > 0 and not self.is_late

    @property
    def is_late(self) -> bool:
        """Whether its learner has been silent for long. A new model gets this long to find a learner."""
        return time.monotonic() - self.beat_at > LATE


def load(store: ModelStore, meta: models.Meta, lead: models.Lead) -> ServedModel:
    """Read a model in its newest state. Raises StoreError, ModelError."""
    state = newest_state(store, meta.spec)
    created_by, version = loop.run(_read, meta, state, pool="long")
    floor = meta.timeline, meta.head
    return ServedModel(
        *(store, meta.created, created_by, version, lead),
        head=meta.head,
        floor=None if version.order >= floor else floor,
        mark=(version.log_id, version.token) if version.token else None,
    )


def _read(meta: models.Meta, state: State) -> tuple[Codec, ModelVersion]:
    """The spec that the model was created by, and its version in a state."""
    created_by = Codec.of(ModelSpec.model_validate_json(meta.spec))
    model = state.model()
    codec = created_by if model.spec == created_by.spec else Codec.of(model.spec)
    _ = codec.features, codec.labels  # made here, in a thread: those of many features take long
    timeline = meta.timeline if state.timeline is None else state.timeline
    return created_by, _version(codec, model, timeline, state.log_id, state.token or b"")


def _version(
    codec: Codec, model: OnlineModel, timeline: int, log_id: LogId, token: bytes = b""
) -> ModelVersion:
    return ModelVersion(
        timeline,
        0,
        log_id,
        codec,
        to_json(model.metrics()),
        model.predictor_bytes(),
        to_json(hyperparameters(model)),
        token,
    )


def replay(store: ModelStore, meta: models.Meta, lead: models.Lead) -> ModelVersion:
    """The model as the log has it: from the newest state to the log's end, if that does not take too long.

    For a model that nobody leads. Others have served it later than the snapshot, even later than its last heartbeat
    tells: beyond that the replay learns for longer than a learner can between two heartbeats. Takes seconds.
    Raises StoreError.
    """
    state = newest_state(store, meta.spec)
    model, log_id = state.model(), state.log_id
    until = None
    for entry in store.log.follow(log_id, meta.head):
        model = apply_entry(model, entry, store)
        log_id = entry.log_id
        if log_id < lead.published:
            continue
        if until is None:
            until = time.thread_time() + REPLAY_SECONDS
        elif time.thread_time() > until:
            break
    return _version(Codec.of(model.spec), model, meta.timeline, log_id)


def missing(served: ServedModel) -> Problem:
    """The problem of a model that Redis does not have: NotFound if it was deleted, Unavailable if it was lost."""
    try:
        if served.store.was_deleted():
            return NotFound(f"model {served.name} was deleted")
    except StoreUnavailable as error:
        return Unavailable(f"{error}; nothing was written", retry_after=1)
    return Unavailable(f"Redis has lost model {served.name}; nothing was written", retry_after=1)
