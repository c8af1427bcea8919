"""The learner: the only writer of a model. It reads the log, takes a step per observation, publishes, snapshots."""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from service import failpoints
from service.errors import LogGap, StoreError, StoreUnavailable, TermLost, WrongGeneration
from service.learner.leadership import BEAT, Bench, Candidates, LeaderHeartbeat
from service.learner.led_model import LedModel
from service.learner.saving import Saver
from service.logs import log
from service.processes import identity
from service.replay.compiling import compile_loop
from service.settings import Settings
from service.store import models
from service.store.connection import Link
from service.store.leadership import Sight
from service.store.log import parse_entries, parse_read, read_command
from service.store.model_store import ModelStore

ENTRIES_AT_ONCE = 256  # read from a log at once, at most
UNANSWERED = 1000  # commands sent without their answers being read, at most
GATHER = 0.001  # seconds to gather entries in while several come at a time: a round costs more than an entry
ENOUGH = 32  # entries in one read from which gathering is not worth while
WAIT = 0.1  # seconds that a read waits for the first entry
BYTES_AT_ONCE = 8e6  # read from a log at once, about
ALONE = 0.05  # seconds of a model's turn, if no other model has something to learn
SHARED = 0.005  # seconds of a model's turn, if others have
DELETED = "the model was deleted"
RECENT = 1.0  # seconds since its last entry for which a model counts among those that have


class Learner:
    """Leads the models that nobody leads. `step()` does one round; `run()` repeats it until `stop()`.

    A round waits at most `wait` seconds for entries, and `sleep`s where there is nothing to do.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wait: float = WAIT,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._sleep = sleep
        self._wait = wait
        # Steady: after a reconnect the log is looked at first, see `_resume`.
        self.link = Link(url, settings.redis_timeout, steady=True)
        self._stream = Link(url, settings.redis_timeout, steady=True)  # for publishing and reading logs
        self._crowded = False  # entries come faster than one by one: gather some before the next read
        self._unanswered = 0  # commands that were sent on it
        self.led: dict[str, LedModel] = {}
        self._last_terms: dict[str, int] = {}  # of the models that it has led
        self._heartbeat = LeaderHeartbeat(self, Link(url, settings.redis_timeout), clock)
        self._saver = Saver(Link(url, settings.redis_timeout))
        self._candidates = Candidates(settings.lease_seconds)
        self._bench = Bench()
        self._holder = identity()
        self._looked_at = -math.inf
        self._connected = True
        self._stopping = False  # no Event: its lock may be held when a signal's handler sets it
        self.progress_at = self._clock()

    def run(self) -> None:
        """Learn until `stop()` is called, then snapshot and give up the lead of every model."""
        self._warm_up()
        self._heartbeat.start()
        while not self._stopping:
            try:
                self.step()
            except StoreUnavailable as error:
                self._disconnected(error)
            except StoreError as error:  # an answer that no single model can be blamed for yet
                log.exception("unexpected answer from Redis")
                self._disconnected(error)
        self._heartbeat.stop()
        self._hand_over()
        self._saver.stop()

    def stop(self) -> None:
        """Let `run` end after its current round. Only sets a flag: safe in a signal handler."""
        self._stopping = True

    def step(self) -> None:
        """One round: take over models without a learner, then read the logs and learn."""
        self.progress_at = now = self._clock()
        if not self._connected:
            self._resume()
        if now - self._looked_at >= BEAT:
            self._looked_at = now
            self._look_for_models()
        for led in list(self.led.values()):
            with self._only(led):
                if led.lost:
                    self._lose(led)
                elif led.renew:
                    self._renew(led)
        if not self.led:
            self._sleep(BEAT / 5)
            return
        self._read_and_learn()

    def _warm_up(self) -> None:
        """Load the compiled loop. Meanwhile the leases of learners that have died run out."""
        compiling = threading.Thread(target=compile_loop, name="compile", daemon=True)
        compiling.start()
        while compiling.is_alive() and not self._stopping:
            with suppress(StoreError):
                found = models.describe(self.link, list(models.names(self.link)))
                self._candidates.free(found, self._clock())
            compiling.join(BEAT)

    @contextmanager
    def _only(self, led: LedModel) -> Iterator[None]:
        """What goes wrong with one model stays with it: it is dropped and reported, the others are led on."""
        try:
            yield
        except StoreUnavailable:
            raise
        except (TermLost, WrongGeneration):
            self._lose(led)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must not end the others
            log.exception("a model cannot be led", model=led.name, step=led.model.step)
            self._give_up(led.store, led.term, error)

    # -- leading ---------------------------------------------------------------------------------------------

    def _look_for_models(self) -> None:
        known = models.names(self.link)
        for led in list(self.led.values()):
            if known.get(led.name) != led.generation:
                self._look_at_unlisted(led)
        now = self._clock()
        unled = [
            name for name in known if name not in self.led and not self._bench.has(name, known[name], now)
        ]
        free = self._candidates.free(models.describe(self.link, unled), now)
        random.shuffle(free)
        # Half of what is free: learners that start together share the models.
        for name, (meta, lead) in free[: (len(free) + 1) // 2]:
            least = self._last_terms.get(name, 0) + 1
            store = ModelStore(self.link, name, meta.generation)
            term = store.leadership.acquire(lead, self._holder, least)
            if term is not None:
                self._last_terms[name] = term
                self._take_over(store, meta, term)

    def _look_at_unlisted(self, led: LedModel) -> None:
        """Drop a model that is not listed as it was, unless it is there all the same: then list it."""
        found = led.store.describe()
        models.relist(self.link, led.name)
        if found is None or found[0].generation != led.generation:
            self._drop(led, self._why_gone(led))

    def _take_over(self, store: ModelStore, meta: models.Meta, term: int) -> None:
        try:
            led = LedModel.load(self.settings, store, self._saver, meta, term, self._clock)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it must not end the others
            log.exception("a model cannot be loaded", model=store.name)
            self._give_up(store, term, error)
            return
        self.led[store.name] = led
        log.info("leads", model=store.name, term=term, step=led.model.step, timeline=led.timeline)

    def _drop(self, led: LedModel, why: str) -> None:
        self.led.pop(led.name, None)
        tell = log.info if why == DELETED else log.warning
        tell("leads no longer", model=led.name, term=led.term, why=why)

    def _lose(self, led: LedModel) -> None:
        """Leave a model that is gone, or to the learner that leads it.

        If Redis came back older, that learner is to start a new timeline.
        """
        found = led.store.describe()
        if found is None or found[0].generation != led.generation:
            self._drop(led, self._why_gone(led))
            return
        token = led.store.log.token_at(led.log_id)
        is_gone = None not in (token, led.token) and token != led.token
        if led.store.leadership.ask_new_timeline(Sight(led.timeline, led.log_id, led.term, is_gone)):
            log.error("Redis came back older", model=led.name, step=led.model.step, term=led.term)
        self._drop(led, "another learner leads it")

    def _give_up(self, store: ModelStore, term: int, error: Exception) -> None:
        """Let another learner try a model, say why, and leave it alone for a while."""
        self.led.pop(store.name, None)
        self._bench.sit(store.name, store.generation, self._clock())
        with suppress(StoreError):
            store.leadership.release(term, f"{type(error).__name__}: {error}"[:1000])

    def _why_gone(self, led: LedModel) -> str:
        if led.store.was_deleted():
            return DELETED
        log.error("Redis has lost a model: it came back empty or older", model=led.name, step=led.model.step)
        return "Redis has lost the model"

    # -- learning --------------------------------------------------------------------------------------------

    def _read_and_learn(self) -> None:
        for led in list(self.led.values()):
            with self._only(led):
                led.settle()
                self._send_with_weights(led, [])
        self._read_logs([led for led in self.led.values() if not led.queue])
        seconds = self._turn_seconds()
        if self.led and all(led.queue and led.is_copied for led in self.led.values()):
            self._sleep(GATHER)
        for led in list(self.led.values()):
            with self._only(led):
                if led.queue and not led.is_copied:
                    self._take_turn(led, seconds)
                led = self.led.get(led.name, led)  # it may have been loaded anew
                led.deal_with_events()
                if led.snapshot_due():
                    led.begin_snapshot()

    def _turn_seconds(self) -> float:
        """How long one model may learn before the next has its turn: less, where several have something to learn."""
        since = self._clock() - RECENT
        return ALONE if sum(led.read_at > since for led in self.led.values()) < 2 else SHARED

    def _read_logs(self, leds: list[LedModel]) -> None:
        """Read what comes next of models that have nothing queued; wait for it if that is so for all."""
        if not leds:
            return
        wait = len(leds) == len(self.led)
        if self._crowded and wait:
            self._sleep(GATHER)
        positions = {led.name: led.read_id for led in leds}
        most = max(led.entry_bytes for led in leds)
        count = max(1, min(ENTRIES_AT_ONCE, int(BYTES_AT_ONCE / most))) if most else ENTRIES_AT_ONCE
        self._send([read_command(positions, count, self._wait if wait else None)])
        if wait:
            self._publish_while_waiting()
        answer = self._answers(self.settings.redis_timeout + self._wait)[-1]
        read = parse_read(list(positions), answer)
        self._crowded = 1 < sum(map(len, read.values())) < ENOUGH
        now = self._clock()
        for name, entries in read.items():
            led = self.led.get(name)  # it may have been lost meanwhile
            if led is None:
                continue
            with self._only(led):
                led.read(parse_entries(entries), now)

    def _publish_while_waiting(self) -> None:
        """Publish what is held back when it falls due, although no entries come.

        Redis looks at the end of a blocking read only `hz` times a second (10 by default): a short one would end late.
        """
        while (patience := self._patience()) < self._wait:
            if self._unanswered > 1:
                self._stream.receive(self._unanswered - 1)
                self._unanswered = 1
            if self._stream.readable(patience):
                return
            for led in list(self.led.values()):
                with self._only(led):
                    if led.publication_is_due:
                        with led.publication() as command:
                            self.link.call_many([command])

    def _take_turn(self, led: LedModel, seconds: float) -> None:
        try:
            commands = led.take_turn(seconds)
        except LogGap as error:
            if led.log_id == led.gap_at:
                raise  # the gap is still there: to load it once more would not help
            self._reload(led, str(error))
            self.led[led.name].gap_at = led.log_id
            return
        failpoints.reach("after-step")
        self._send_with_weights(led, commands)
        if led.is_caught_up:
            self._bench.leave(led.name)

    def _send_with_weights(self, led: LedModel, commands: list[tuple[object, ...]]) -> None:
        """Send commands, and the model's weights with them if that is due: web processes wake once for both."""
        if not led.publication_is_due:
            return self._send(commands)
        with led.publication() as command:
            return self._send([*commands, command])

    def _send(self, commands: list[tuple[object, ...]]) -> None:
        if commands:
            self._stream.send(commands)
            self._unanswered += len(commands)
        if self._unanswered > UNANSWERED:
            self._answers(self.settings.redis_timeout)

    def _answers(self, timeout: float) -> list[Any]:
        sent, self._unanswered = self._unanswered, 0
        return self._stream.receive(sent, timeout)

    def _patience(self) -> float:
        """Seconds to wait for entries: until the next publication that is held back."""
        now = self._clock()
        due = [led.publication_due_at() for led in self.led.values()]
        return max(0.001, min([self._wait, *(at - now for at in due if at is not None)]))

    def _hand_over(self) -> None:
        self._saver.hurry()
        for led in list(self.led.values()):
            try:
                while led.learned:  # the rest of an entry: a state is kept of whole ones
                    led.take_turn(ALONE)
                led.deal_with_events()
                if led.saving is not None:
                    self._saver.wait(led.saving)
                if led.snapshot_id != led.log_id:
                    self._saver.wait(led.begin_snapshot())
                led.settle()
                led.store.leadership.release(led.term)
            except StoreError as error:
                log.warning("could not hand over", model=led.name, error=str(error) or type(error).__name__)

    # -- when Redis was away ----------------------------------------------------------------------------------

    def _disconnected(self, error: StoreError) -> None:
        if self._connected:
            log.warning("lost Redis", error=str(error))
        self._connected = False
        self.link.close()
        self._stream.close()
        self._unanswered = 0
        self.progress_at = self._clock()
        self._sleep(0.1)

    def _resume(self) -> None:
        """After a reconnect: go on if the log is the one that was applied, else say so and reload."""
        self.link.open()
        self._stream.open()
        known = models.describe(self.link, list(self.led))
        for led in list(self.led.values()):
            found = known[led.name]
            with self._only(led):
                if found is None or found[0].generation != led.generation:
                    self._drop(led, self._why_gone(led))
                elif found[1].term != led.term:
                    self._lose(led)
                elif self._is_older(led, found[0]):
                    self._reload(led, "after a reconnect the log is not the one that was applied")
                else:
                    led.timeline = found[0].timeline  # the answer to a new one's start may have been lost
                    led.publish_anew()
        self._connected = True
        log.info("Redis is back")

    def _is_older(self, led: LedModel, meta: models.Meta) -> bool:
        """Whether Redis does not hold what this learner has applied, or the timeline that it has started."""
        if meta.timeline < led.timeline:
            return True
        return led.token is not None and led.store.log.token_at(led.log_id) != led.token

    def _reload(self, led: LedModel, why: str) -> None:
        """Start a new timeline from the snapshot: Redis does not hold what was applied. Raises TermLost, StoreError."""
        log.error("new timeline", model=led.name, step=led.model.step, why=why)
        timeline = led.store.leadership.new_timeline(led.term, led.timeline + 1)
        found = led.store.describe()
        if found is None:
            self._drop(led, self._why_gone(led))
            return
        fresh = LedModel.load(self.settings, led.store, self._saver, found[0], led.term, self._clock)
        fresh.timeline = timeline
        self.led[led.name] = fresh

    def _renew(self, led: LedModel) -> None:
        """Start the new timeline that a web process asks for: it has seen more than Redis and this learner know of."""
        least, led.renew = led.renew, 0
        if led.timeline < least:
            why = "a web process has seen the model at a later step than the log reaches"
            log.error("new timeline", model=led.name, step=led.model.step, why=why)
            led.timeline = led.store.leadership.new_timeline(led.term, least)
            led.publish_anew()
