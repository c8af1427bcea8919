"""A web process's own copies of the models: predictions do not wait for Redis."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from model import FeatureEncoder, LabelEncoder, ModelSpec, OnlineModel, Predictor
from service.errors import NotFound, StoreError, StoreUnavailable
from service.logs import log
from service.store import lease, models, snapshots
from service.store.connection import Link
from service.store.log import START, LogId
from service.store.messages import Message, Subscription, Weights, parse_results
from service.waiting import Waiting

POLL = 0.5  # seconds between looks at what was published and who leads
LATE = 1.2  # seconds without a heartbeat after which a learner is late
QUIET = 3.0  # seconds without a message or a sign of life after which a subscription is dead
STALE = 2.0  # seconds without an answer from Redis after which predictions are called stale


@dataclass(frozen=True, slots=True)
class Replica:
    """A model as it stood at a log id: immutable, swapped whole."""

    timeline: int
    term: int
    log_id: LogId
    metrics: dict[str, Any]
    predictor: Predictor
    state: bytes  # that the predictor was made of

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
    changed: threading.Condition = field(default_factory=threading.Condition)

    def swap(self, replica: Replica) -> None:
        """Serve another replica from now on, if it is newer."""
        with self.changed:
            if replica.order > self.replica.order and (
                replica.timeline > self.replica.timeline or replica.term >= self.replica.term
            ):
                self.replica = replica
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
        self._stopped = threading.Event()
        self.contact_at = 0.0  # monotonic seconds: when Redis answered last
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
        return self.contact_at > 0

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

    def forget(self, name: str) -> None:
        """Serve a model no longer."""
        self._served.pop(name, None)

    # -- listening -------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                self._subscription.open()
                self._subscribed.set()
                self._look.set()
                self._receive()
            except StoreUnavailable:
                self._stopped.wait(0.2)
            except Exception:  # noqa: BLE001 - a bug must not leave this process deaf
                log.exception("the listener failed")
                self._stopped.wait(0.2)

    def _receive(self) -> None:
        pinged = False
        while not self._stopped.is_set():
            if not self._subscription.wait(QUIET / 2):
                if pinged:
                    raise StoreUnavailable("no sign of life from Redis")
                self._subscription.ping()
                pinged = True
                continue
            message = self._subscription.read()
            pinged = False
            if message is not None:
                self._handle(message)

    def _handle(self, message: Message) -> None:
        if message.kind == "results":
            for result in parse_results(message.payload):
                self._waiting.deliver(result)
        elif message.kind == "event":
            self._look.set()
        else:
            self._receive_weights(message.model, Weights.from_bytes(message.payload))

    def _receive_weights(self, name: str, weights: Weights) -> None:
        served = self._served.get(name)
        if served is None or served.generation.decode() != weights.generation:
            self._look.set()
            return
        if (weights.timeline, weights.log_id) <= served.replica.order:
            return
        served.become(weights.spec or served.created_by)
        predictor = Predictor(served.spec, weights.predictor)
        served.swap(
            Replica(
                weights.timeline, weights.term, weights.log_id, weights.metrics, predictor, weights.predictor
            )
        )

    # -- polling ---------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._subscribed.wait()
        while not self._stopped.is_set():
            self._look.wait(POLL)
            self._look.clear()
            try:
                self._compare()
                self.contact_at = time.monotonic()
            except StoreError:
                self._stopped.wait(POLL / 2)
            except Exception:  # noqa: BLE001 - a bug must not leave this process deaf
                log.exception("the poller failed")
                self._stopped.wait(POLL)

    def _compare(self) -> None:
        """Compare with Redis: models that came or went, heartbeats, and what was published and not received."""
        names = list(models.names(self._poll_link))
        for name in set(self._served) - set(names):
            self.forget(name)
        now = time.monotonic()
        for name, found in models.describe(self._poll_link, names).items():
            if found is None:
                self.forget(name)
                continue
            meta, lead = found
            served = self._served.get(name)
            if served is None or served.generation != meta.generation:
                served = self._try_to_add(name)
                if served is None:
                    continue
            if (lead.term, lead.counter) != (served.lead.term, served.lead.counter):
                served.beat_at = now
            served.lead, served.head = lead, meta.head
            if (meta.timeline, lead.published) > served.replica.order:
                lease.ask_republication(self._poll_link, name, meta.generation)

    def _try_to_add(self, name: str) -> Served | None:
        try:
            return self.add(name, self._poll_link)
        except NotFound:
            return None
        except ValueError as error:
            log.error("cannot serve a model", model=name, error=str(error))
            return None


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
        model.metrics(),
        Predictor(spec, state),
        state,
    )
    encoders = FeatureEncoder(spec), LabelEncoder(spec)
    return Served(
        *(name, meta.generation, spec, meta.created, *encoders, replica, lead),
        created_by=created_by.model_dump_json(),
        now=spec.model_dump_json(),
        head=meta.head,
    )
