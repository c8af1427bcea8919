"""The learner: the only writer of a model. It reads the log, takes a step per observation, publishes, snapshots."""

import math
import random
import threading
import time

from service.errors import LogGap, StoreError, StoreUnavailable, TermLost
from service.leadership import BEAT, Candidates, Heart
from service.led import Led, grouped
from service.logs import log
from service.settings import Settings
from service.store import lease, models
from service.store.connection import Link
from service.store.log import parse_read, read_after, read_command, token_at

ENTRIES_AT_ONCE = 256  # read from a log at once, at most
WAIT = 0.1  # seconds that a read waits for the first entry


class Learner:
    """Leads the models that nobody leads. `step()` does one round; `run()` repeats it until `stop()`."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings = settings
        self.link = Link(url, settings.redis_timeout)
        self._stream = Link(url, settings.redis_timeout)  # for publishing and reading logs
        self._unanswered = 0  # commands that were sent on it
        self.led: dict[str, Led] = {}
        self._heart = Heart(self, Link(url, settings.redis_timeout))
        self._candidates = Candidates(settings.lease_seconds)
        self._looked_at = -math.inf
        self._connected = True
        self._stopping = threading.Event()
        self.progress_at = time.monotonic()

    def run(self) -> None:
        """Learn until `stop()` is called, then snapshot and give up the lead of every model."""
        self._heart.start()
        while not self._stopping.is_set():
            try:
                self.step()
            except StoreUnavailable as error:
                self._disconnected(error)
        self._heart.stop()
        self._hand_over()

    def stop(self) -> None:
        """Let `run` end after its current round. Only sets a flag: safe in a signal handler."""
        self._stopping.set()

    def step(self) -> None:
        """One round: take over models without a learner, then read the logs and learn."""
        self.progress_at = now = time.monotonic()
        if not self._connected:
            self._resume()
        if now - self._looked_at >= BEAT:
            self._looked_at = now
            self._look_for_models()
        for led in [led for led in self.led.values() if led.lost]:
            self._drop(led, "another learner leads it")
        if not self.led:
            time.sleep(BEAT / 5)
            return
        self._read_and_learn()

    # -- leading ---------------------------------------------------------------------------------------------

    def _look_for_models(self) -> None:
        known = models.names(self.link)
        for led in list(self.led.values()):
            if known.get(led.name) != led.generation:
                self._drop(led, "the model was deleted")
        unled = [name for name in known if name not in self.led]
        free = self._candidates.free(models.describe(self.link, unled), time.monotonic())
        random.shuffle(free)
        # Half of what is free: learners that start together share the models.
        for name, (meta, lead) in free[: (len(free) + 1) // 2]:
            term = lease.acquire(self.link, name, meta.generation, lead)
            if term is not None:
                self._take_over(name, meta, term)

    def _take_over(self, name: str, meta: models.Meta, term: int) -> None:
        try:
            self.led[name] = led = Led.load(self.settings, self.link, name, meta, term)
            self._catch_up(led)
        except (StoreError, ValueError) as error:
            self.led.pop(name, None)
            if isinstance(error, StoreUnavailable):
                raise
            log.error("cannot lead a model", model=name, error=str(error))
            return
        log.info("leads", model=name, term=term, step=led.model.step, timeline=led.timeline)

    def _catch_up(self, led: Led) -> None:
        """Apply the whole tail of the log, before any weights are published."""
        while entries := read_after(self.link, led.name, led.log_id, ENTRIES_AT_ONCE):
            for group in grouped(entries):
                self._send(led.apply(group))
            self.progress_at = time.monotonic()

    def _drop(self, led: Led, why: str) -> None:
        self.led.pop(led.name, None)
        log.warning("leads no longer", model=led.name, term=led.term, why=why)

    # -- learning --------------------------------------------------------------------------------------------

    def _read_and_learn(self) -> None:
        self._learn_and_send([led.publication() for led in self.led.values() if self._publication_due(led)])
        for led in [led for led in self.led.values() if led.snapshot_due()]:
            self._snapshot(led)

    def _learn_and_send(self, publications: list[tuple[object, ...]]) -> None:
        """Publish and read in one go. Publications are not waited for: their answers come with the next read's."""
        positions = {name: led.log_id for name, led in self.led.items()}
        self._send([*publications, read_command(positions, ENTRIES_AT_ONCE, self._patience())])
        sent, self._unanswered = self._unanswered, 0
        answers = self._stream.receive(sent, timeout=self.settings.redis_timeout + WAIT)
        for name, entries in parse_read(list(positions), answers[-1]).items():
            led = self.led[name]
            for group in grouped(entries):
                try:
                    commands = led.apply(group)
                except LogGap as error:
                    self._reload(led, str(error))
                    break
                if self._publication_due(led):
                    commands.append(led.publication())
                self._send(commands)

    def _send(self, commands: list[tuple[object, ...]]) -> None:
        if commands:
            self._stream.send(commands)
            self._unanswered += len(commands)

    def _patience(self) -> float:
        """Seconds to wait for entries: until the next publication that is held back, at most WAIT."""
        now = time.monotonic()
        due = [led.publication_due_at() for led in self.led.values()]
        return max(0.001, min([WAIT, *(at - now for at in due if at is not None)]))

    def _publication_due(self, led: Led) -> bool:
        due_at = led.publication_due_at()
        return due_at is not None and due_at <= time.monotonic()

    def _snapshot(self, led: Led) -> None:
        try:
            led.snapshot(self.link)
        except TermLost:
            self._drop(led, "another learner leads it")

    def _hand_over(self) -> None:
        for led in list(self.led.values()):
            try:
                if led.snapshot_id != led.log_id:
                    self._snapshot(led)
                lease.release(self.link, led.name, led.term)
            except StoreError as error:
                log.warning("could not hand over", model=led.name, error=str(error))

    # -- when Redis was away ----------------------------------------------------------------------------------

    def _disconnected(self, error: StoreUnavailable) -> None:
        if self._connected:
            log.warning("lost Redis", error=str(error))
        self._connected = False
        self._stream.close()
        self._unanswered = 0
        self.progress_at = time.monotonic()
        self._stopping.wait(0.1)

    def _resume(self) -> None:
        """After a reconnect: go on if the log is the one that was applied, else say so and reload."""
        known = models.describe(self.link, list(self.led))
        for led in list(self.led.values()):
            found = known[led.name]
            if found is None or found[0].generation != led.generation:
                self._drop(led, "after a reconnect the model is gone")
            elif found[1].term != led.term:
                self._drop(led, "another learner leads it")
            elif led.token is not None and token_at(self.link, led.name, led.log_id) != led.token:
                self._reload(led, "after a reconnect the log is not the one that was applied")
            else:
                led.republish = True
        self._connected = True
        log.info("Redis is back")

    def _reload(self, led: Led, why: str) -> None:
        """Start a new timeline from the snapshot: Redis does not hold what was applied."""
        log.error("new timeline", model=led.name, step=led.model.step, why=why)
        try:
            timeline = lease.new_timeline(self.link, led.name, led.generation, led.term, led.timeline + 1)
        except TermLost:
            self._drop(led, "another learner leads it")
            return
        found = models.describe(self.link, [led.name])[led.name]
        if found is None:
            self._drop(led, "the model was deleted")
            return
        fresh = Led.load(self.settings, self.link, led.name, found[0], led.term)
        fresh.timeline = timeline
        self.led[led.name] = fresh
        self._catch_up(fresh)
