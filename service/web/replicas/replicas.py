"""All models of a web process, kept fresh: predictions do not wait for Redis."""

import threading
import time
from collections import Counter
from contextlib import suppress

from model import ModelError
from service.errors import NotFound, StoreError, StoreUnavailable
from service.logs import log
from service.store import lease, models
from service.store.connection import Link
from service.store.messages import Message, Subscription, Weights, parse_results
from service.web.replicas.replica import Replica, Served, load, replay
from service.web.waiting import Waiting

POLL = 0.25  # seconds between looks at what was published and who leads
POLL_MODEL = 0.0005  # seconds more for each model
POLL_START = 0.05  # seconds between looks until the models are where others have served them
ALONE = (
    3.0  # seconds without a heartbeat after which a process that starts takes a model along the log itself
)
DEAF = 0.5  # seconds after a republication was asked for within which it must have come
TICK = 0.25  # seconds that the listener waits at a time
QUIET = 3.0  # seconds without a message or a sign of life after which a subscription is dead
STALE = 2.0  # seconds without an answer from Redis after which predictions are called stale


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

    def get(self, name: str) -> Served | None:
        """A model by name; None if none of this name is known here."""
        return self._served.get(name)

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
                served = self._served[name] = load(link, name, meta, lead)
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
                if all(served.floor is None for served in self.all()):
                    self._ready.set()
            except StoreUnavailable:
                pass
            except Exception:  # noqa: BLE001 - a bug must not leave this process deaf
                log.exception("the poller failed")
            self._look.wait(POLL + POLL_MODEL * len(self._served) if self.ready else POLL_START)
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
        beats = (lead.term, lead.counter) != (served.lead.term, served.lead.counter)
        if beats:
            served.beat_at = now
        served.lead, served.head = lead, meta.head
        if served.floor is not None:
            self._reach(served, meta, beats)
        newest = served.replica
        if (meta.timeline, meta.head) < newest.order and self._is_older(served, meta, newest):
            return
        self._note(name, lead.failure, "failed")
        if (meta.timeline, lead.published) > newest.order:
            self._ask_again(served, now)

    def _reach(self, served: Served, meta: models.Meta, beats: bool) -> None:
        """See whether a model is where others have served it, before this process does. With no learner, go there."""
        lead, newest = served.lead, served.replica.order
        assert served.floor is not None
        there = newest >= served.floor or bool(lead.failure)
        # So far a learner is alive, and nobody can have got more from it.
        there = there or (beats and newest >= (meta.timeline, lead.published))
        if not there and time.monotonic() - served.beat_at < ALONE:
            return
        if not there:
            log.warning(
                "no learner: this process replays the log", model=served.name, step=served.replica.step
            )
            try:
                served.swap(replay(self._poll_link, served.name, meta, lead))
            except StoreUnavailable:
                raise
            except (StoreError, ModelError) as error:  # the snapshot is better than nothing
                log.error("the log cannot be replayed", model=served.name, error=str(error))
        served.floor = None

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
