"""The learner: the only writer of a model. It reads the log, takes a step per observation, publishes, snapshots."""

import math
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from model import ModelSpec, OnlineModel
from service.blocks import join
from service.errors import LogGap, StoreError, StoreUnavailable, TermLost
from service.logs import log
from service.settings import Settings
from service.store import lease, models, snapshots
from service.store.connection import Link
from service.store.log import START, Entry, LogId, parse_read, read_after, read_command, sizes, token_at
from service.store.messages import Result, Weights, publish_results_command, publish_weights_command
from service.store.snapshots import Snapshot

ROWS_AT_ONCE = 4096  # learned between two publications, at most
ENTRIES_AT_ONCE = 256  # read from a log at once, at most
WAIT = 0.1  # seconds that a read waits for the first entry
BEAT = 0.25  # seconds between heartbeats, and between looks for models without a learner
SIZE_SAMPLES = 256
STUCK = 30.0  # seconds without progress of the main thread after which the heart stops
SNAPSHOT_SHARE = 20  # a snapshot is due after this many times its own cost
PUBLISH_SHARE = 5  # a publication is due after this many times its own cost


@dataclass
class Led:
    """A model that this learner leads."""

    name: str
    generation: bytes
    term: int
    timeline: int
    spec: ModelSpec
    model: OnlineModel
    log_id: LogId  # of the last entry that was applied
    token: bytes | None = None  # of that entry, if this learner applied it
    published: LogId = START  # log id of the last publication
    published_at: float = 0.0
    publish_cost: float = 0.0
    snapshot_id: LogId = START
    snapshot_at: float = 0.0
    snapshot_cost: float = 0.0
    sizes: deque[tuple[int, int]] = field(default_factory=deque)  # (position, bytes of all blocks up to it)
    newest_size: int = 0
    republish: bool = True  # publish even though nothing is new
    lost: bool = False  # set by the heart when another learner leads

    def note_size(self, position: int, size: int) -> None:
        """Remember how many bytes the log took up to a position: some hundred samples over what it keeps."""
        self.newest_size = size
        if (
            not self.sizes
            or position - self.sizes[-1][0] >= self.spec.keep // SIZE_SAMPLES
            or size - self.sizes[-1][1] >= self.spec.keep_bytes // SIZE_SAMPLES
        ):
            self.sizes.append((position, size))

    def trim_below(self) -> int:
        """The position below which entries may go: the log keeps `keep` observations and at most `keep_bytes`."""
        position = self.log_id.position - self.spec.keep
        while self.sizes and (
            self.sizes[0][0] < position or self.newest_size - self.sizes[0][1] > self.spec.keep_bytes
        ):
            position = max(position, self.sizes.popleft()[0] + 1)
        return position


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
            self.led[name] = led = self._load(name, meta, term)
            self._catch_up(led)
        except (StoreError, ValueError) as error:
            self.led.pop(name, None)
            if isinstance(error, StoreUnavailable):
                raise
            log.error("cannot lead a model", model=name, error=str(error))
            return
        log.info("leads", model=name, term=term, step=led.model.step, timeline=led.timeline)

    def _load(self, name: str, meta: models.Meta, term: int) -> Led:
        spec = ModelSpec.model_validate_json(meta.spec)
        snapshot = snapshots.load(self.link, name, meta.generation)
        model = OnlineModel(spec) if snapshot is None else OnlineModel.from_bytes(snapshot.state)
        log_id = START if snapshot is None else snapshot.log_id
        led = Led(name, meta.generation, term, meta.timeline, spec, model, log_id)
        led.snapshot_id = log_id
        led.token = token_at(self.link, name, log_id)
        for position, size in sizes(self.link, name):
            led.note_size(position, size)
        return led

    def _catch_up(self, led: Led) -> None:
        """Apply the whole tail of the log, before any weights are published."""
        while entries := read_after(self.link, led.name, led.log_id, ENTRIES_AT_ONCE):
            for group in grouped(entries):
                self._send(self._apply(led, group))
            self.progress_at = time.monotonic()

    def _drop(self, led: Led, why: str) -> None:
        self.led.pop(led.name, None)
        log.warning("leads no longer", model=led.name, term=led.term, why=why)

    # -- learning --------------------------------------------------------------------------------------------

    def _read_and_learn(self) -> None:
        now = time.monotonic()
        due = [led for led in self.led.values() if self._publication_due(led, now)]
        self._learn_and_send([self._publication(led) for led in due])
        for led in list(self.led.values()):
            self._snapshot_if_due(led)

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
                    commands = self._apply(led, group)
                except LogGap as error:
                    self._reload(led, str(error))
                    break
                if self._publication_due(led, time.monotonic()):
                    commands.append(self._publication(led))
                self._send(commands)

    def _send(self, commands: list[tuple[object, ...]]) -> None:
        if commands:
            self._stream.send(commands)
            self._unanswered += len(commands)

    def _apply(self, led: Led, entries: list[Entry]) -> list[tuple[object, ...]]:
        """Learn the rows of entries that follow each other; returns the commands that publish their results."""
        block = join([entry.block for entry in entries], led.spec.outputs)
        last = entries[-1]
        if led.log_id.position + len(block) != last.log_id.position:
            raise LogGap(f"after {led.log_id} come {len(block)} rows up to {last.log_id}")
        learned = led.model.learn(block.features, block.labels, block.weights, block.served)
        led.log_id, led.token = last.log_id, last.token
        for entry in entries:
            led.note_size(entry.log_id.position, entry.size)
        waiting: dict[bytes, list[Result]] = {}
        start = 0
        for entry in entries:
            end = start + len(entry.block)
            if entry.web:
                waiting.setdefault(entry.web, []).append(
                    Result(
                        entry.token,
                        entry.log_id.position,
                        learned.predictions[start:end],
                        learned.losses[start:end],
                        learned.skipped[start:end],
                    )
                )
            start = end
        return [publish_results_command(web, results) for web, results in waiting.items()]

    def _patience(self) -> float:
        """Seconds to wait for entries: until the next publication that is held back, at most WAIT."""
        now = time.monotonic()
        pending = [
            led.published_at + self._publish_interval(led) - now
            for led in self.led.values()
            if led.published != led.log_id or led.republish
        ]
        return max(0.001, min([WAIT, *pending]))

    # -- publishing and keeping -------------------------------------------------------------------------------

    def _publish_interval(self, led: Led) -> float:
        return max(self.settings.publish_seconds, PUBLISH_SHARE * led.publish_cost)

    def _publication_due(self, led: Led, now: float) -> bool:
        fresh = led.published != led.log_id or led.republish
        return fresh and now - led.published_at >= self._publish_interval(led)

    def _publication(self, led: Led) -> tuple[object, ...]:
        started = time.monotonic()
        weights = Weights(
            led.generation.decode(),
            led.timeline,
            led.term,
            led.log_id,
            led.model.metrics(),
            led.model.predictor_bytes(),
        )
        command = publish_weights_command(led.name, weights)
        led.published, led.published_at, led.republish = led.log_id, started, False
        led.publish_cost = time.monotonic() - started
        return command

    def _snapshot_if_due(self, led: Led) -> None:
        interval = max(self.settings.snapshot_seconds, SNAPSHOT_SHARE * led.snapshot_cost)
        if led.snapshot_id != led.log_id and time.monotonic() - led.snapshot_at >= interval:
            self._snapshot(led)

    def _snapshot(self, led: Led) -> None:
        started = time.monotonic()
        snapshot = Snapshot(led.log_id, led.timeline, led.model.to_bytes())
        try:
            snapshots.save(self.link, led.name, led.generation, led.term, snapshot, led.trim_below())
        except TermLost:
            self._drop(led, "another learner leads it")
            return
        led.snapshot_id, led.snapshot_at = led.log_id, time.monotonic()
        led.snapshot_cost = led.snapshot_at - started

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
        fresh = self._load(led.name, found[0], led.term)
        fresh.timeline = timeline
        self.led[led.name] = fresh
        self._catch_up(fresh)


def grouped(entries: list[Entry]) -> list[list[Entry]]:
    """Entries cut into runs of at most ROWS_AT_ONCE rows."""
    groups: list[list[Entry]] = []
    rows = ROWS_AT_ONCE
    for entry in entries:
        if rows + len(entry.block) > ROWS_AT_ONCE:
            groups.append([])
            rows = 0
        groups[-1].append(entry)
        rows += len(entry.block)
    return groups


class Candidates:
    """Which models may be taken over: those whose heartbeat has not moved for the lease time.

    Time counts only between looks that followed each other promptly: after a stall of Redis or of this process
    the leader gets its whole lease again.
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
            if pair[1].counter == 0 or seconds >= self._lease_seconds:
                free.append((name, pair))
        self._still = still
        return free


class Heart(threading.Thread):
    """Moves the heartbeat of every led model, in its own thread, as long as the main thread makes progress."""

    def __init__(self, learner: Learner, link: Link) -> None:
        super().__init__(name="heart", daemon=True)
        self._learner = learner
        self._link = link
        self._stopped = threading.Event()

    def run(self) -> None:
        """Beat until stopped."""
        while not self._stopped.wait(BEAT):
            if time.monotonic() - self._learner.progress_at < STUCK:
                self.beat()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        self.join(timeout=2 * self._link.timeout)

    def beat(self) -> None:
        """One heartbeat for every led model."""
        for led in list(self._learner.led.values()):
            try:
                _, republish = lease.beat(self._link, led.name, led.generation, led.term, led.published)
            except TermLost:
                led.lost = True
            except StoreError:
                return
            else:
                led.republish = led.republish or republish
