"""All models of a web process, kept fresh: predictions do not wait for Redis."""

import threading
import time
from collections.abc import Callable

from service.counters import REDIS_TROUBLES
from service.errors import NotFound, Problem, StoreUnavailable, Unavailable
from service.logs import log
from service.store import models
from service.store.connection import Link, SharedLink
from service.store.entries import START
from service.store.leadership import Sight
from service.store.messages import Message, Parts, Publication, Subscription, parse_results
from service.store.model_store import ModelStore
from service.web import loop
from service.web.replicas.replica import ModelVersion, ServedModel, load, replay
from service.web.waiting import Waiting

POLL = 0.25  # seconds between looks at what was published and who leads
POLL_MODEL = 0.0005  # seconds more for each model
POLL_START = 0.05  # seconds between looks until the models are where others have served them
ALONE = (
    3.0  # seconds without a heartbeat after which a process that starts takes a model along the log itself
)
START_UP = 10.0  # seconds after which a process is ready, though it has not caught up with some models
DEAF = 0.5  # seconds after a republication was asked for within which it must have come
TICK = 0.25  # seconds that the listener waits at a time
QUIET = 3.0  # seconds without a message or a sign of life after which a subscription is dead
STALE = 2.0  # seconds without an answer from Redis after which predictions are called stale

Found = tuple[models.Meta, models.Lead]


class Replicas:
    """All models, kept fresh by two threads: one listens for what is published, one polls for what was missed.

    Whatever is wrong with one model stays with it: it is noted in `troubles`, and the others go on.
    """

    def __init__(self, link: SharedLink, web: str, waiting: Waiting) -> None:
        self._served: dict[str, ServedModel] = {}
        self._busy: set[str] = set()  # models that are being loaded or replayed
        self._link = link
        self._waiting = waiting
        self._poll_link = Link(link.url, link.timeout)
        self._connects = 0  # of the poller's link, when the log was last compared with what was seen
        self._subscription = Subscription(Link(link.url, link.timeout), web)
        self._parts = Parts()  # of large messages
        self._subscribed = threading.Event()
        self._look = threading.Event()
        self._deaf = threading.Event()  # publications are missing: subscribe anew
        self._ready = threading.Event()
        self._heard_at = 0.0  # monotonic seconds: when something came over the subscription last
        self._compared_at = 0.0  # monotonic seconds: when the models were first compared with Redis
        self._lost: set[str] = set()  # models that Redis has lost
        self.troubles: dict[str, str] = {}  # what is wrong in Redis, by model
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

    def all(self) -> list[ServedModel]:
        """The models that are served, by name."""
        return [self._served[name] for name in sorted(self._served)]

    def get(self, name: str) -> ServedModel | None:
        """A model by name; None if none of this name is known here."""
        return self._served.get(name)

    def add(self, name: str) -> ServedModel:
        """Load a model from Redis, also in place of one of another generation.

        Raises NotFound, StoreUnavailable; Unavailable for a model that cannot be loaded.
        """
        link, known = self._link, self._served.get(name)
        found = models.describe(link, [name])[name]
        if found is None:
            raise NotFound(f"there is no model {name!r}")
        meta, lead = found
        if known is not None and known.generation == meta.generation:
            return known
        try:
            served = load(ModelStore(link, name, meta.generation), meta, lead)
        except StoreUnavailable:
            raise
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
            self._note(name, trouble, "unreadable")
            raise Unavailable(f"model {name} cannot be loaded: {trouble}", retry_after=10) from error
        if self._served.get(name) is not known:
            return self.add(name)  # somebody else loaded one meanwhile, perhaps a newer one
        if self.ready:
            served.floor = None
        if known is not None:
            known.end()
        self._served[name] = served
        return served

    def lost(self, name: str) -> ServedModel | None:
        """The model of this name if Redis has lost it."""
        return self._served.get(name) if name in self._lost else None

    def forget(self, name: str, served: ServedModel | None) -> None:
        """Serve a model no longer: it was deleted. A newer one of its name, made meanwhile, stays."""
        if self._served.get(name) is served:
            self._served.pop(name, None)
            self._parts.forget(name)
            self.troubles.pop(name, None)
            self._lost.discard(name)
        if served is not None:
            served.end()

    # -- listening -------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        lost = False
        while not self._stopped.is_set():
            try:
                self._subscription.open()
                if lost:
                    log.info("the subscription is back")
                    lost = False
                self._subscribed.set()
                self._look.set()
                self._receive()
            except StoreUnavailable as error:
                if self._subscribed.is_set():
                    lost = True
                    REDIS_TROUBLES.labels("subscription_lost").inc()
                    log.warning("lost the subscription", error=str(error))
                self._subscribed.clear()
                self._stopped.wait(0.1)
            except Exception:  # noqa: BLE001 - a bug must not leave this process deaf
                log.exception("the listener failed")
                self._stopped.wait(0.2)

    def _receive(self) -> None:
        self._heard_at, quiet = time.monotonic(), 0.0
        while not self._stopped.is_set():
            if self._deaf.is_set():
                self._deaf.clear()
                raise StoreUnavailable("publications do not arrive")
            message = self._subscription.next(TICK)
            if message is not None:
                self._handle(message)
                self._heard_at, quiet = time.monotonic(), 0.0
                continue
            quiet += TICK  # of waiting: if this process stood still, that tells nothing of Redis
            if quiet > QUIET:
                raise StoreUnavailable("no sign of life from Redis")
            if quiet == QUIET / 2:
                self._subscription.ping()

    def _handle(self, message: Message) -> None:
        if message.kind == "event":
            self._look.set()
            return
        try:
            if message.kind == "results":
                for result in parse_results(message.payload):
                    self._waiting.deliver(result)
            elif message.kind == "weights":
                if message.model not in self._served:
                    self._look.set()
                elif (whole := self._parts.add(message.model, message.payload)) is not None:
                    self._receive_weights(message.model, Publication.from_bytes(whole))
        except Exception as error:  # noqa: BLE001 - one message that cannot be read; a poll makes up for it
            log.error(
                "a message that cannot be read", kind=message.kind, model=message.model, error=str(error)
            )

    def _receive_weights(self, name: str, weights: Publication) -> None:
        served = self._served.get(name)
        if served is None or served.generation != weights.generation:
            self._look.set()
            return
        if (weights.timeline, weights.log_id) > served.version.order:
            served.beat_at = time.monotonic()
        codec = served.codec_of(weights.spec.decode())
        served.swap(
            ModelVersion(
                *(weights.timeline, weights.term, weights.log_id, codec),
                *(weights.metrics, weights.predictor, weights.hyperparameters, weights.token),
            )
        )

    # -- polling ---------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._subscribed.wait()  # before the first load, so that nothing is missed between
        while not self._stopped.is_set():
            try:
                self._compare()
                self.contact_at = time.monotonic()
                self._compared_at = self._compared_at or self.contact_at
                self._see_whether_ready()
            except StoreUnavailable:
                pass
            except Exception:  # noqa: BLE001 - a bug must not leave this process deaf
                log.exception("the poller failed")
            self._look.wait(POLL + POLL_MODEL * len(self._served) if self.ready else POLL_START)
            self._look.clear()

    def _see_whether_ready(self) -> None:
        """A process is ready when each model is where others have served it, or has had its time."""
        waited = time.monotonic() - self._compared_at
        if waited > START_UP or not (self._busy or any(served.floor is not None for served in self.all())):
            self._ready.set()

    def _compare(self) -> None:
        """Compare with Redis: models that came or went, heartbeats, and what was published and not received."""
        names = models.names(self._poll_link)
        for served in self.all():
            if served.name not in names:
                self._gone(served)
        for name in self.troubles.keys() - names.keys() - self._served.keys():
            del self.troubles[name]
        reconnected = self._poll_link.connects != self._connects
        now = time.monotonic()
        for name, found in models.describe(self._poll_link, list(names)).items():
            try:
                if reconnected:
                    self._check_mark(name, found)
                self._compare_one(name, found, now)
            except StoreUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - the others are compared all the same
                self._note(name, f"{type(error).__name__}: {error}", "unreadable")
        self._connects = self._poll_link.connects

    def _compare_one(self, name: str, found: Found | None, now: float) -> None:
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
            self._beside(name, self._load, name)
            return
        beats = (lead.term, lead.counter) != (served.lead.term, served.lead.counter)
        if beats:
            served.beat_at = now
        is_older = self._is_older(served, meta, lead)
        served.lead, served.head = lead, meta.head
        if is_older:
            return
        if served.floor is not None:
            self._reach(served, meta, beats)
        self._note(name, lead.failure, "failed")
        if (meta.timeline, lead.published) > served.version.order:
            self._ask_again(served, now)

    def _beside(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        """Do something that takes long for one model, beside the others' poll."""
        if name in self._busy:
            return
        self._busy.add(name)

        def guarded() -> None:
            try:
                work(*arguments)
            except (StoreUnavailable, Problem):
                pass  # the next poll tries again; a trouble is noted
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is wrong with this model alone
                self._note(name, f"{type(error).__name__}: {error}", "unreadable")
            finally:
                self._busy.discard(name)
                self._look.set()

        loop.spawn(guarded)

    def _load(self, name: str) -> None:
        self.add(name)
        self.troubles.pop(name, None)

    def _reach(self, served: ServedModel, meta: models.Meta, beats: bool) -> None:
        """See whether a model is where others have served it, before this process does. With no learner, go there."""
        lead, newest = served.lead, served.version.order
        assert served.floor is not None
        # So far a learner is alive, and nobody can have got more from it, nor from one before it.
        alive = beats and lead.caught_up and newest >= (meta.timeline, lead.published)
        if newest >= served.floor or lead.failure or alive:
            served.floor = None
        elif time.monotonic() - served.beat_at >= ALONE:
            self._beside(served.name, self._replay, served, meta, lead)

    def _replay(self, served: ServedModel, meta: models.Meta, lead: models.Lead) -> None:
        """Take a model along the log to where others have served it."""
        log.warning("no learner: this process replays the log", model=served.name, step=served.version.step)
        try:
            served.swap(
                loop.run(
                    _replay, self._link.url, self._link.timeout, served.store, meta, lead, pool="compiler"
                )
            )
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the snapshot is better than nothing
            log.error("the log cannot be replayed", model=served.name, error=str(error))
        served.floor = None

    def _ask_again(self, served: ServedModel, now: float) -> None:
        """Ask for what was published and has not arrived. If nothing at all comes then, subscribe anew."""
        served.store.over(self._poll_link).leadership.ask_republication()
        if served.behind_since is None:
            served.behind_since = now
        elif now - served.behind_since > DEAF and served.has_learner and not self._subscription.reading:
            if self._heard_at < served.behind_since:
                REDIS_TROUBLES.labels("deaf").inc()
                self._deaf.set()
            served.behind_since = now

    def _gone(self, served: ServedModel) -> None:
        """A model is gone from Redis: deleted, or lost. One that was lost is still served as it was, and reported."""
        store = served.store.over(self._poll_link)
        found = store.describe()
        if found is not None and found[0].generation == served.generation:
            return  # it is being created
        if store.was_deleted():
            self.forget(served.name, served)
        else:
            self._lost.add(served.name)
            self._note(served.name, "Redis has lost this model: it came back empty or older", "lost")

    # -- a Redis that came back older --------------------------------------------------------------------------

    def _check_mark(self, name: str, found: Found | None) -> None:
        """After a reconnect: see whether the log still holds the newest entry that was seen in it."""
        served = self._served.get(name)
        if served is None or found is None or served.generation != found[0].generation or not served.mark:
            return
        at, token = served.mark
        meta = found[0]
        if meta.timeline > served.version.timeline:
            return
        log_of_model = served.store.over(self._poll_link).log
        there = log_of_model.token_at(at)
        if there is None:
            # Trimmed, if what comes after it comes right after it; else it was never in this log.
            oldest = log_of_model.read(START, 1)
            if meta.head >= at and oldest and oldest[0].log_id > at:
                return
        if there != token:
            served.note_older()

    def _is_older(self, served: ServedModel, meta: models.Meta, lead: models.Lead) -> bool:
        """Whether the log is older than what this process has seen. Then the learner is asked for a new timeline."""
        seen = served.version
        if served.older_than is not None and meta.timeline > served.older_than:
            served.older_than = None
        term = max(seen.term, served.lead.term) if meta.timeline <= seen.timeline else 0
        is_gone = served.older_than is not None
        if not is_gone and (meta.timeline, meta.head) >= seen.order and lead.term >= term:
            return False
        # Redis may have gone on since it was asked: it looks again before it asks.
        sight = Sight(seen.timeline, seen.log_id, term, is_gone)
        older = served.store.over(self._poll_link).leadership.ask_new_timeline(sight)
        if older:
            served.note_older()
            what = f"this process has seen the model at {seen.log_id}, the log of Redis ends at {meta.head}"
            self._note(served.name, f"Redis came back older: {what}", "older")
        return older

    def _note(self, name: str, trouble: str, kind: str) -> None:
        """Keep what is wrong with a model, or that all is well ("" as trouble); log and count what is new."""
        if not trouble:
            self.troubles.pop(name, None)
        elif self.troubles.get(name) != trouble:
            self.troubles[name] = trouble
            REDIS_TROUBLES.labels(kind).inc()
            log.error("trouble with a model", model=name, trouble=trouble)


def _replay(
    url: str, timeout: float, store: ModelStore, meta: models.Meta, lead: models.Lead
) -> ModelVersion:
    """A replay with a connection of its own: it runs in a thread beside the loop."""
    link = Link(url, timeout)
    try:
        return replay(store.over(link), meta, lead)
    finally:
        link.close()
