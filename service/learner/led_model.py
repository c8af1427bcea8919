"""One model under a learner's lead: its state, and how far in the log it is."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import Histogram
from pydantic_core import to_json

from model import Learned, ModelSpec, OnlineModel
from service import failpoints
from service.counters import PUBLICATIONS, SNAPSHOTS
from service.errors import CommandRefused, LogGap, StoreFull, StoreUnavailable, WrongGeneration
from service.learner.events import Events
from service.learner.log_sizes import LogSizes
from service.learner.saving import Saver, Saving
from service.logs import log
from service.replay.commands import REPLACING, apply_command, hyperparameters
from service.replay.states import newest_state
from service.settings import Settings
from service.store.blocks import Block, join
from service.store.checkpoints import Checkpoint, Reason
from service.store.connection import Link
from service.store.entries import START, Entry, LogId, follows
from service.store.messages import Publication, Result, publish_commands, publish_results_commands
from service.store.model_part import Fence
from service.store.model_store import ModelStore, OfModel
from service.store.models import Meta
from service.store.refusals import Refusal
from service.store.snapshots import Keep

LARGE = 4_000_000  # bytes of a state that is copied in a thread: the other models go on learning meanwhile
ROWS_AT_ONCE = 4096  # learned between two publications, at most
FIRST_ROWS = 128  # learned in a turn before it is known what a row costs
SNAPSHOT_SHARE = 20  # a snapshot is due after this many times its own cost
ACTIONS: dict[str, Reason] = {"promote": "promotion", "rollback": "rollback", "weights": "weights"}
PUBLISH_SHARE = 5  # a publication is due after this many times its own cost,
CALM_SHARE = 1  # and earlier where little is learned: somebody waits for it, and nothing else would be done
CALM_ROWS = 32  # learned in the last turn, at most, with nothing left over


class Cost:
    """Seconds that something takes: the smaller of the last two timings, so that one pause doesn't count."""

    def __init__(self, histogram: Histogram) -> None:
        self._last = deque([0.0], maxlen=2)
        self._histogram = histogram

    @property
    def seconds(self) -> float:
        """The cost now."""
        return min(self._last)

    def note(self, seconds: float) -> None:
        """Note the newest timing."""
        self._last.append(seconds)
        self._histogram.observe(seconds)


@dataclass
class LedModel(OfModel):
    """A model that a learner leads, by a monotonic clock.

    Entries of the log are queued as they are read, and applied in turns of bounded time: a slow model does not hold up
    the others.
    """

    settings: Settings
    store: ModelStore
    saver: Saver
    term: int
    timeline: int
    model: OnlineModel
    log_id: LogId  # of the last entry that was applied as a whole
    token: bytes | None  # of that entry
    clock: Callable[[], float] = time.monotonic
    queue: deque[Entry] = field(default_factory=deque)  # entries that are to be applied
    gap_at: LogId | None = None  # of the last entry before a gap, for which the model was loaded anew
    read_id: LogId = START  # of the last entry that was read
    read_at: float = -math.inf  # when the last entry was read
    entry_bytes: float = 0.0  # of the entries that were read last, on average
    learned: list[Learned] = field(
        default_factory=list
    )  # the first parts of an entry that is applied in parts
    row_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=2))  # what a row cost
    silent_until: LogId = START  # the log's head at the takeover: nothing is published before it is applied
    published: LogId = START  # log id of the last publication
    published_at: float = 0.0
    turn_rows: int = 0  # that the last turn has applied
    publish_cost: Cost = field(init=False)  # with sending it
    snapshot_id: LogId = START
    snapshot_at: float = 0.0
    snapshot_cost: Cost = field(init=False)  # with Redis's part in it
    saving: Saving | None = None  # the snapshot that is being written
    rebuilt: bool = False  # the spec is not the one that the model was created by
    checkpoint_position: int = 0
    checkpoint_at: float = field(init=False)
    sizes: LogSizes = field(default_factory=LogSizes)
    republish: bool = True  # publish even though nothing is new
    lost: bool = False  # set by the heartbeat when another learner leads
    renew: int = 0  # least number of the new timeline that a web process asks for; set by the heartbeat
    checkpoints: list[Saving] = field(default_factory=list)  # that are being written
    events: Events = field(init=False)  # drifts, and what they ask for
    _next: tuple[object, ...] | None = (
        None  # command with the next part of a large publication that is being sent,
    )
    _parts: Iterator[tuple[object, ...]] = field(default_factory=lambda: iter(()))  # and those after it
    _publishing: LogId = START  # log id of that publication
    _publish_seconds: float = 0.0  # that it has taken so far
    _copying: threading.Thread | None = None  # copies a large state for it

    def __post_init__(self) -> None:
        self.publish_cost = Cost(PUBLICATIONS)
        self.snapshot_cost = Cost(SNAPSHOTS)
        self.checkpoint_at = self.clock()
        self.events = Events(self.model)

    @classmethod
    def load(
        cls,
        settings: Settings,
        store: ModelStore,
        saver: Saver,
        meta: Meta,
        term: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> "LedModel":
        """The model in its newest state."""
        state = newest_state(store, meta.spec)
        model, log_id = state.model(), state.log_id
        token = store.log.token_at(log_id) if state.token is None else state.token
        led = cls(settings, store, saver, term, meta.timeline, model, log_id, token, clock)
        led.snapshot_id = led.published = led.read_id = log_id
        led.silent_until = meta.head
        led.rebuilt = model.spec != ModelSpec.model_validate_json(meta.spec)
        for made in store.checkpoints.list_all():
            led.checkpoint_position = max(led.checkpoint_position, made.step)
        for position, size in store.log.sizes():
            led.sizes.note(position, size, model.spec)
        return led

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self.model.spec

    # -- the log ---------------------------------------------------------------------------------------------

    def read(self, entries: list[Entry], now: float) -> None:
        """Queue entries that were read. Raises WrongGeneration for those of a model that took this one's name."""
        for entry in entries:
            if not self.generation.startswith(entry.generation):
                raise WrongGeneration(self.name)
        size = self.sizes.newest if not self.queue else self.queue[-1].size
        self.entry_bytes = max(0, entries[-1].size - size) / len(entries)
        self.queue.extend(entries)
        self.read_id, self.read_at = entries[-1].log_id, now

    @property
    def position_id(self) -> LogId:
        """The log id up to which the model has learned, which may be within an entry."""
        taken = sum(len(part.losses) for part in self.learned)
        return LogId(self.log_id.position + taken, 0) if taken else self.log_id

    def take_turn(self, seconds: float) -> list[tuple[object, ...]]:
        """Apply what is queued, about so many seconds' worth. Returns the commands that publish results.

        Raises LogGap.
        """
        entry = self.queue[0]
        if not self.learned and not follows(self.log_id, entry):
            raise LogGap(f"after {self.log_id} comes {entry.log_id}")
        if entry.command is not None:
            self._apply_command(entry)
            self._advance([self.queue.popleft()])
            return []
        rows = self._rows_within(seconds)
        if self.learned or len(entry.block) > rows:
            return self._learn_part(entry, rows)
        entries = [self.queue.popleft()]
        rows -= len(entry.block)
        while self.queue and follows(entries[-1].log_id, self.queue[0]) and not self.queue[0].command:
            rows -= len(self.queue[0].block)
            if rows < 0:
                break
            entries.append(self.queue.popleft())
        return self._finish(entries, self._learn(join([each.block for each in entries], self.spec.outputs)))

    def _rows_within(self, seconds: float) -> int:
        """How many rows are learned within a time, as far as is known."""
        if not self.row_seconds:
            return FIRST_ROWS
        cost = min(self.row_seconds)
        return ROWS_AT_ONCE if cost * ROWS_AT_ONCE <= seconds else max(1, int(seconds / cost))

    def _learn(self, block: Block) -> Learned:
        started = self.clock()
        learned = self.model.learn(block.features, block.labels, block.weights, block.served)
        self.row_seconds.append((self.clock() - started) / len(block))
        self.turn_rows = len(block)
        self.events.note(self.model)
        return learned

    def _learn_part(self, entry: Entry, rows: int) -> list[tuple[object, ...]]:
        """Learn the next rows of an entry."""
        taken = self.position_id.position - self.log_id.position
        self.learned.append(self._learn(entry.block.take(slice(taken, taken + rows))))
        if taken + rows < len(entry.block):
            return []
        parts, self.learned = self.learned, []
        whole = Learned(
            np.concatenate([part.predictions for part in parts]),
            np.concatenate([part.losses for part in parts]),
            np.concatenate([part.skipped for part in parts]),
        )
        return self._finish([self.queue.popleft()], whole)

    def _finish(self, entries: list[Entry], learned: Learned) -> list[tuple[object, ...]]:
        """Note that entries are applied; returns the commands that publish their results."""
        self._advance(entries)
        waiting: dict[bytes, list[Result]] = {}
        start = 0
        for entry in entries:
            rows = slice(start, start + len(entry.block))
            start = rows.stop
            if entry.web:
                web, columns = entry.waiting
                waiting.setdefault(web, []).append(
                    Result(
                        self.generation,
                        entry.token,
                        entry.log_id.position,
                        learned.predictions[rows],
                        learned.losses[rows],
                        learned.skipped[rows],
                    ).cut(self.spec.outputs if columns is None else columns)
                )
        return [
            command for web, results in waiting.items() for command in publish_results_commands(web, results)
        ]

    def _advance(self, entries: list[Entry]) -> None:
        self.log_id, self.token = entries[-1].log_id, entries[-1].token
        for entry in entries:
            self.sizes.note(entry.log_id.position, entry.size, self.spec)
        if self._checkpoint_due():
            self._keep_checkpoint(self.log_id, "periodic", "")

    def _apply_command(self, entry: Entry) -> None:
        assert entry.command is not None
        action = entry.command["do"]
        if action == "checkpoint":
            self._keep_checkpoint(entry.log_id, "requested", entry.command["note"])
        elif action in REPLACING:
            self._keep_checkpoint(entry.log_id, ACTIONS[action], "")
        if action == "promote":
            failpoints.reach("before-promotion")
        try:
            model = apply_command(self.model, entry, self.store)
        except CommandRefused as error:
            self._refuse(entry, error)
            return
        if model.spec != self.spec:
            self._note_rebuild(entry, model.spec)
        self.model = model
        self.events.note(model)
        if action == "promote":
            failpoints.reach("after-promotion")
        self.snapshot_at = -math.inf  # so that what was commanded can be read from the snapshot at once

    def _refuse(self, entry: Entry, error: CommandRefused) -> None:
        """Record that a command cannot be carried out, and go on without it.

        Raises StoreUnavailable; TermLost: then nothing that rests on the refusal is published.
        """
        assert entry.command is not None
        refusal = Refusal(
            str(entry.log_id), entry.command["do"], str(error), time.time(), entry.token.decode()
        )
        self.store.refusals.record(self._fence(entry.log_id, entry.token), refusal)
        log.error("a command was refused", model=self.name, log_id=str(entry.log_id), why=str(error))
        self.snapshot_at = -math.inf  # whoever waits for the command is answered at once

    def _note_rebuild(self, entry: Entry, spec: ModelSpec) -> None:
        self.rebuilt = True
        self.store.leadership.note_rebuild(self._fence(entry.log_id, entry.token), spec.model_dump_json())

    def _fence(self, log_id: LogId, token: bytes | None) -> Fence:
        """What is shown with a write that is about the entry at a log id."""
        return Fence(self.term, self.timeline, log_id, token)

    def deal_with_events(self) -> None:
        """Log drifts, and start the retraining that one asks for. Raises StoreError."""
        self.events.tell(self.name, self.model, self.clock())
        self.events.start_retraining(self.store)

    # -- checkpoints -----------------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        """Whether so many observations or seconds have passed since the last checkpoint."""
        rows, seconds = self.settings.checkpoint_observations, self.settings.checkpoint_seconds
        fresh = self.log_id.position - self.checkpoint_position
        if rows and fresh >= rows:
            return True
        return bool(seconds and fresh and self.clock() - self.checkpoint_at >= seconds)

    def _keep_checkpoint(self, at: LogId, reason: Reason, note: str) -> None:
        """Keep the state as it is under the log id `at`. It is written beside; a later snapshot waits for it."""
        log_id, token, created = self.log_id, self.token, time.time()

        def store(link: Link, state: bytes) -> None:
            made = Checkpoint(str(at), str(log_id), log_id.position, created, reason, note, len(state))
            try:
                self.store.over(link).checkpoints.save(
                    self._fence(log_id, token), made, state, self.settings.checkpoints
                )
            except StoreFull as error:
                log.error("no checkpoint: Redis is full", model=self.name, at=str(at), error=str(error))

        saving = Saving(self.model.capture, store, must=True)
        self.checkpoints.append(self.saver.copy_and_submit(saving))
        self.checkpoint_position, self.checkpoint_at = self.log_id.position, self.clock()

    # -- publishing and keeping ------------------------------------------------------------------------------

    @property
    def is_caught_up(self) -> bool:
        """Whether all is applied that others can have published before this learner led."""
        return self.position_id >= self.silent_until

    def publication_due_at(self) -> float | None:
        """The monotonic time from which a publication is due; None if nothing is new."""
        if self._next is not None:
            return self.published_at
        is_new = self.published != self.position_id or self.republish
        if not is_new or not self.is_caught_up:
            return None
        calm = self.turn_rows <= CALM_ROWS and not self.queue
        share = CALM_SHARE if calm else PUBLISH_SHARE
        return self.published_at + max(self.settings.publish_seconds, share * self.publish_cost.seconds)

    @property
    def publication_is_due(self) -> bool:
        """Whether the weights are to be published now."""
        due_at = self.publication_due_at()
        return due_at is not None and due_at <= self.clock()

    @contextmanager
    def publication(self) -> Iterator[tuple[object, ...]]:
        """The command that publishes the weights as they are, which the block sends; large ones are sent in parts."""
        started = self.clock()
        command = self._next or self._begin_publication()
        self._next = next(self._parts, None)
        yield command
        self._publish_seconds += self.clock() - started
        if self._next is None:
            self.publish_cost.note(self._publish_seconds)
            self.published, self.published_at = self._publishing, self.clock()

    def _begin_publication(self) -> tuple[object, ...]:
        publication = Publication(
            self.generation,
            self.timeline,
            self.term,
            self.position_id,
            to_json(self.model.metrics()),
            self.model.predictor_bytes(),
            self.spec.model_dump_json().encode() if self.rebuilt else b"",
            to_json(hyperparameters(self.model)),
            b"" if self.learned or self.token is None else self.token,
        )
        self._parts = publish_commands(self.name, publication)
        self._publishing, self._publish_seconds, self.republish = self.position_id, 0.0, False
        return next(self._parts)

    def publish_anew(self) -> None:
        """Publish all of the weights, even though nothing is new: what was sent may not have arrived."""
        self._next = None
        self.republish = True

    def snapshot_due(self) -> bool:
        """Whether there is something new to keep, and long enough after the last snapshot."""
        if self.learned or self.saving is not None or self.snapshot_id == self.log_id:
            return False
        interval = max(self.settings.snapshot_seconds, SNAPSHOT_SHARE * self.snapshot_cost.seconds)
        return self.clock() - self.snapshot_at >= interval

    @property
    def is_copied(self) -> bool:
        """Whether its state is being copied for a snapshot: it must not change meanwhile."""
        return self._copying is not None and self._copying.is_alive()

    def begin_snapshot(self) -> Saving:
        """Copy the state and let the copy be written beside: `settle` sees what came of it.

        A large state is copied in a thread, too: the model has no turn until it `is_copied` no longer.
        """
        log_id, token = self.log_id, self.token
        loss = self.model.metrics()["window"]["loss"]
        below = self.sizes.trim_below(self.log_id.position, self.spec)
        keep = Keep(below, self.spec.keep_bytes, self.settings.checkpoints)

        def store(link: Link, state: bytes) -> None:
            self.store.over(link).snapshots.save(self._fence(log_id, token), state, loss, keep)
            self.snapshot_id = log_id

        self.snapshot_at = self.clock()
        self.saving = Saving(self.model.capture, store, must=False)
        if self.model.nbytes < LARGE:
            return self.saver.copy_and_submit(self.saving)
        self._copying = threading.Thread(target=self.saver.copy_and_submit, args=[self.saving], daemon=True)
        self._copying.start()
        return self.saving

    def settle(self) -> None:
        """Deal with what came of states that were written beside. Raises TermLost, StaleWrite."""
        for saving in self.checkpoints:
            if saving.is_done and saving.error is not None and not isinstance(saving.error, StoreUnavailable):
                raise saving.error
        self.checkpoints = [saving for saving in self.checkpoints if not saving.is_done]
        if self.saving is None or not self.saving.is_done:
            return
        saving, self.saving = self.saving, None
        if saving.error is None:
            self.snapshot_cost.note(saving.copy_seconds + saving.seconds)
        elif isinstance(saving.error, StoreFull):
            # The lead is kept, the log too; the next try is due like a next snapshot.
            log.error("no snapshot", model=self.name, error=str(saving.error))
        elif not isinstance(saving.error, StoreUnavailable):
            raise saving.error
