"""Who leads a model: which are free to take over, and the heartbeat that shows that a learner lives."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.errors import StoreError, StoreUnavailable, TermLost
from service.logs import log
from service.processes import has_died
from service.store import leadership, models
from service.store.connection import Link

if TYPE_CHECKING:
    from service.learner.learner import Learner
    from service.learner.led_model import LedModel

LONGEST_BENCH = 60.0  # seconds
BEAT = 0.25  # seconds between heartbeats, and between looks for models without a learner
AT_ONCE = 100  # heartbeats sent together: Redis does nothing else meanwhile
STUCK = 30.0  # seconds without progress of the main thread after which the heartbeat stops


class Candidates:
    """Which models may be taken over: those whose heartbeat has not moved for the lease time.

    Time counts only between looks that followed each other promptly: after a stall of Redis or of this process
    the leader gets its whole lease again. A leader that has died on this machine is not waited for.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._still: dict[str, tuple[models.Lead, float, float]] = {}  # lead, seconds still, last look

    def free(
        self, found: dict[str, tuple[models.Meta, models.Lead] | None], now: float
    ) -> list[tuple[str, tuple[models.Meta, models.Lead]]]:
        """The models of `found` that nobody leads, as of the monotonic time `now`."""
        still: dict[str, tuple[models.Lead, float, float]] = {}
        free = []
        for name, pair in found.items():
            if pair is None:
                continue
            lead, seconds, looked_at = self._still.get(name, (None, 0.0, now))
            same = lead is not None and (lead.term, lead.counter) == (pair[1].term, pair[1].counter)
            seconds = seconds + min(now - looked_at, 2 * BEAT) if same else 0.0
            still[name] = (pair[1], seconds, now)
            if pair[1].counter == 0 or seconds >= self._lease_seconds or has_died(pair[1].holder):
                free.append((name, pair))
        self._still = still
        return free


class Bench:
    """Models that could not be led, by generation: each is tried again after 1 s, then 2 s, 4 s, at most a minute."""

    def __init__(self) -> None:
        self._sitting: dict[str, tuple[bytes, float, float]] = {}  # generation, pause, free again at

    def sit(self, name: str, generation: bytes, now: float) -> None:
        """Leave a model alone for a while, as of the monotonic time `now`."""
        known, pause, _ = self._sitting.get(name, (generation, 0.0, now))
        pause = min(max(1.0, 2 * pause), LONGEST_BENCH) if known == generation else 1.0
        self._sitting[name] = generation, pause, now + pause

    def has(self, name: str, generation: bytes, now: float) -> bool:
        """Whether a model is to be left alone."""
        known, _, free_at = self._sitting.get(name, (b"", 0.0, 0.0))
        return known == generation and now < free_at

    def leave(self, name: str) -> None:
        """Forget that a model could not be led."""
        self._sitting.pop(name, None)


class LeaderHeartbeat(threading.Thread):
    """Moves the heartbeat of every led model, in its own thread, as long as the main thread makes progress."""

    def __init__(self, learner: "Learner", link: Link, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._learner = learner
        self._link = link
        self._clock = clock
        self._progress: tuple[float, int] | None = None
        self._moved_at = clock()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Beat until stopped."""
        while not self._stopped.wait(BEAT):
            if not self.is_stuck():
                self.beat()

    def is_stuck(self) -> bool:
        """Whether the main thread has made no progress for `STUCK` seconds, as far as was looked."""
        # The main thread's rounds, and within a block that takes long the steps of the models.
        steps = sum(led.model.step for led in list(self._learner.led.values()))
        if self._progress != (self._learner.progress_at, steps):
            self._progress, self._moved_at = (self._learner.progress_at, steps), self._clock()
        return self._clock() - self._moved_at >= STUCK

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self.join(timeout=2 * self._link.timeout)

    def beat(self) -> None:
        """One heartbeat for every led model."""
        leds = list(self._learner.led.values())
        for start in range(0, len(leds), AT_ONCE):
            try:
                self._beat(leds[start : start + AT_ONCE])
            except StoreUnavailable:
                return

    def _beat(self, leds: list["LedModel"]) -> None:
        held = [
            leadership.Held(
                led.name,
                led.generation,
                led.term,
                led.timeline,
                led.published,
                led.sizes.newest,
                led.is_caught_up,
            )
            for led in leds
        ]
        for led, answer in zip(leds, leadership.beat(self._link, held), strict=True):
            if isinstance(answer, StoreUnavailable):
                raise answer
            if isinstance(answer, TermLost):
                led.lost = True
            elif isinstance(answer, StoreError):  # of this model's keys: the others' heartbeats go on
                log.error("cannot beat for a model", model=led.name, error=str(answer))
            else:
                republish, renew = answer
                led.republish = led.republish or republish
                led.renew = max(led.renew, renew)
