"""A web process's own copies of the models: predictions do not wait for Redis."""

import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from pydantic_core import from_json, to_json

from model import FeatureEncoder, LabelEncoder, ModelError, ModelSpec, OnlineModel, Predictor
from service.errors import NotFound, StoreError, StoreUnavailable
from service.logs import log
from service.store import lease, models, snapshots
from service.store.connection import Link
from service.store.log import START, LogId
from service.store.messages import Message, Subscription, Weights, parse_results
from service.waiting import Waiting

POLL = 0.25  # seconds between looks at what was published and who leads
POLL_MODEL = 0.0005  # seconds more for each model
DEAF = 0.5  # seconds after a republication was asked for within which it must have come
LATE = 1.2  # seconds without a heartbeat after which a learner is late
TICK = 0.25  # seconds that the listener waits at a time
QUIET = 3.0  # seconds without a message or a sign of life after which a subscription is dead
STALE = 2.0  # seconds without an answer from Redis after which predictions are called stale


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


class Replicas:
    """All models, kept fresh by two threads: one listens for what is published, one polls for what was missed."""

    def __init__(self, url: str, timeout: float, web: str, waiting: Waiting) -> None:
        self._served: dict[str, Served] = {}
        self._adding = threading.Lock()
        self._waiting = waiting
        self._poll_link = Link(url, timeout)
        self._subscription = Subscription(Link(url, timeout), web)
        self._subscribed = threading.Event()
        self._look = threading.Event()
        self._deaf = threading.Event()  # publications are missing: subscribe anew
        self._ready = threading.Event()
        self._heard_at = 0.0  # monotonic seconds: when something came over the subscription last
        self._lost: set[str] = set()  # models that Redis has lost
        self.troubles: dict[str, str] = {}  # what is wrong in Redis, by model
        self.counts: Counter[str] = Counter()  # what went wrong with Redis, by kind, since the start
        self._stopped = threading.Event()
        self.contact_at = time.monotonic()  # monotonic seconds: when Redis answered last
        self._threads = [
            threading.Thread(target=self._listen, name="listener", daemon=True),
            threading.Thread(target=self._poll, name="poller", daemon=True),
        ]

    def start(self) -> None:
        """Start both threads. Weights are subscribed to before a model is loaded."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let both threads end."""
        self._stopped.set()
        self._look.set()

    @property
    def ready(self) -> bool:
        """Whether the models were read from Redis since the start."""
        return self._ready.is_set()

    def wait_ready(self, seconds: float) -> bool:
        """Wait until the models were read; False if they were not within so many seconds."""
        return self._ready.wait(seconds)

    @property
    def age(self) -> float:
        """Seconds since Redis answered last."""
        return time.monotonic() - self.contact_at

    @property
    def stale(self) -> bool:
        """Whether newer weights may have been missed, because Redis does not answer."""
        return self.age > STALE

    def all(self) -> list[Served]:
        """The models that are served, by name."""
        return [self._served[name] for name in sorted(self._served)]

    def get(self, name: str, link: Link) -> Served:
        """A model by name. `link` is asked for a name that is not known yet. Raises NotFound, StoreError."""
        served = self._served.get(name)
        return served if served is not None else self.add(name, link)

    def add(self, name: str, link: Link) -> Served:
        """Load a model from Redis, also in place of one of another generation. Raises NotFound, StoreError."""
        found = models.describe(link, [name])[name]
        if found is None:
            self._served.pop(name, None)
            raise NotFound(f"there is no model {name!r}")
        meta, lead = found
        with self._adding:
            served = self._served.get(name)
            if served is None or served.generation != meta.generation:
                served = self._served[name] = _load(link, name, meta, lead)
        return served

    def lost(self, name: str) -> Served | None:
        """The model of this name if Redis has lost it."""
        return self._served.get(name) if name in self._lost else None

    def forget(self, name: str) -> None:
        """Serve a model no longer."""
        self._served.pop(name, None)
        self.troubles.pop(name, None)
        self._lost.discard(name)

    # -- listening -------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                self._subscription.open()
                self._subscribed.set()
                self._look.set()
                self._receive()
            except StoreUnavailable as error:
                if self._subscribed.is_set():
                    self.counts["subscriptions_lost"] += 1
                    log.warning("lost the subscription", error=str(error))
                self._subscribed.clear()
                self._stopped.wait(0.1)
            except Exception:  # noqa: BLE001 - a bug must not leave this process deaf
                log.exception("the listener failed")
                self._stopped.wait(0.2)

    def _receive(self) -> None:
        self._heard_at, pinged = time.monotonic(), False
        while not self._stopped.is_set():
            if self._deaf.is_set():
                self._deaf.clear()
                raise StoreUnavailable("publications do not arrive")
            message = self._subscription.next(TICK)
            if message is not None:
                self._handle(message)
                self._heard_at, pinged = time.monotonic(), False
                continue
            quiet = time.monotonic() - self._heard_at
            if quiet > QUIET:
                raise StoreUnavailable("no sign of life from Redis")
            if quiet > QUIET / 2 and not pinged:
                self._subscription.ping()
                pinged = True

    def _handle(self, message: Message) -> None:
        if message.kind == "results":
            for result in parse_results(message.payload):
                self._waiting.deliver(result)
        elif message.kind == "event":
            self._look.set()
        elif message.kind == "weights":
            self._receive_weights(message.model, Weights.from_bytes(message.payload))

    def _receive_weights(self, name: str, weights: Weights) -> None:
        served = self._served.get(name)
        if served is None or served.generation != weights.generation:
            self._look.set()
            return
        if (weights.timeline, weights.log_id) <= served.replica.order:
            return
        served.become(weights.spec.decode() or served.created_by)
        place = weights.timeline, weights.term, weights.log_id
        served.swap(Replica(*place, served.spec, weights.metrics, weights.predictor))

    # -- polling ---------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._subscribed.wait()  # before the first load, so that nothing is missed between
        while not self._stopped.is_set():
            try:
                self._compare()
                self.contact_at = time.monotonic()
                self._ready.set()
            except StoreUnavailable:
                pass
            except Exception:  # noqa: BLE001 - a bug must not leave this process deaf
                log.exception("the poller failed")
            self._look.wait(POLL + POLL_MODEL * len(self._served))
            self._look.clear()

    def _compare(self) -> None:
        """Compare with Redis: models that came or went, heartbeats, and what was published and not received."""
        names = models.names(self._poll_link)
        for served in self.all():
            if served.name not in names:
                self._gone(served)
        now = time.monotonic()
        for name, found in models.describe(self._poll_link, list(names)).items():
            try:
                self._compare_one(name, found, now)
            except StoreUnavailable:
                raise
            except (StoreError, ModelError, ValueError) as error:  # the others are compared all the same
                self._note(name, f"{type(error).__name__}: {error}", "unreadable")

    def _compare_one(self, name: str, found: tuple[models.Meta, models.Lead] | None, now: float) -> None:
        served = self._served.get(name)
        if found is None:
            if served is not None:
                self._gone(served)
            return
        meta, lead = found
        self._lost.discard(name)
        if served is not None and served.generation != meta.generation:
            self._gone(served)
        if served is None or served.generation != meta.generation:
            with suppress(NotFound):
                self.add(name, self._poll_link)
            return
        if (lead.term, lead.counter) != (served.lead.term, served.lead.counter):
            served.beat_at = now
        served.lead, served.head = lead, meta.head
        newest = served.replica
        if (meta.timeline, meta.head) < newest.order and self._is_older(served, meta, newest):
            return
        self._note(name, lead.failure, "failed")
        if (meta.timeline, lead.published) > newest.order:
            self._ask_again(served, now)

    def _ask_again(self, served: Served, now: float) -> None:
        """Ask for what was published and has not arrived. If nothing at all comes then, subscribe anew."""
        lease.ask_republication(self._poll_link, served.name, served.generation)
        if served.behind_since is None:
            served.behind_since = now
        elif now - served.behind_since > DEAF and served.has_learner and not self._subscription.reading:
            if self._heard_at < served.behind_since:
                self.counts["deaf"] += 1
                self._deaf.set()
            served.behind_since = now

    def _gone(self, served: Served) -> None:
        """A model is gone from Redis: deleted, or lost. One that was lost is still served as it was, and told of."""
        found = models.describe(self._poll_link, [served.name])[served.name]
        if found is not None and found[0].generation == served.generation:
            return  # it is being created
        if models.was_deleted(self._poll_link, served.generation):
            self.forget(served.name)
        else:
            self._lost.add(served.name)
            self._note(served.name, "Redis has lost this model: it came back empty or older", "lost")

    def _is_older(self, served: Served, meta: models.Meta, newest: Replica) -> bool:
        """Whether the log ends before what this process has seen. Then the learner is to start a new timeline."""
        order = newest.timeline, newest.log_id
        older = lease.ask_new_timeline(self._poll_link, served.name, served.generation, *order)
        if older:
            seen = f"it was seen at {newest.log_id}, the log ends at {meta.head}"
            self._note(served.name, f"Redis came back older: {seen}", "older")
        return older

    def _note(self, name: str, trouble: str, kind: str) -> None:
        """Keep what is wrong with a model, or that all is well ("" as trouble); log and count what is new."""
        if not trouble:
            self.troubles.pop(name, None)
        elif self.troubles.get(name) != trouble:
            self.troubles[name] = trouble
            self.counts[kind] += 1
            log.error("trouble with a model", model=name, trouble=trouble)


def _load(link: Link, name: str, meta: models.Meta, lead: models.Lead) -> Served:
    """Read a model's newest snapshot; without one, it is as it was created."""
    created_by = ModelSpec.model_validate_json(meta.spec)
    snapshot = snapshots.load(link, name, meta.generation)
    model = OnlineModel(created_by) if snapshot is None else OnlineModel.from_bytes(snapshot.state)
    spec, state = model.spec, model.predictor_bytes()
    replica = Replica(
        meta.timeline if snapshot is None else snapshot.timeline,
        0,
        START if snapshot is None else snapshot.log_id,
        spec,
        to_json(model.metrics()),
        state,
    )
    encoders = FeatureEncoder(spec), LabelEncoder(spec)
    return Served(
        *(name, meta.generation, spec, meta.created, *encoders, replica, lead),
        created_by=created_by.model_dump_json(),
        now=spec.model_dump_json(),
        head=meta.head,
    )
