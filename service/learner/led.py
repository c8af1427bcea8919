"""One model under a learner's lead: its state, and where in the log it stands."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client import Histogram
from pydantic_core import to_json

from model import ModelSpec, OnlineModel
from service import failpoints
from service.counters import PUBLICATIONS, SNAPSHOTS
from service.errors import CommandRefused, LogGap, StoreFull, StoreUnavailable, TermLost, WrongGeneration
from service.logs import log
from service.replay.commands import REPLACING, Sources, hyperparameters, obey
from service.settings import Settings
from service.store import checkpoints, lease, models, refusals, snapshots
from service.store.blocks import join
from service.store.checkpoints import Checkpoint, Reason
from service.store.connection import Link
from service.store.lease import Fence
from service.store.log import START, Entry, LogId, sizes, token_at
from service.store.messages import Publication, Result, publish_command, publish_results_command
from service.store.refusals import Refusal

ROWS_AT_ONCE = 4096  # learned between two publications, at most
SIZE_SAMPLES = 256
SNAPSHOT_SHARE = 20  # a snapshot is due after this many times its own cost
ACTIONS: dict[str, Reason] = {"promote": "promotion", "rollback": "rollback", "weights": "weights"}
PUBLISH_SHARE = 5  # a publication is due after this many times its own cost


class Cost:
    """What something costs, in seconds by the clock: the lesser of its last two times, so that one pause is no cost."""

    def __init__(self, histogram: Histogram) -> None:
        self._last = deque([0.0], maxlen=2)
        self._histogram = histogram

    @property
    def seconds(self) -> float:
        """The cost now."""
        return min(self._last)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure it once more."""
        started = time.monotonic()
        yield
        self._last.append(time.monotonic() - started)
        self._histogram.observe(self._last[-1])


@dataclass
class Led:
    """A model that a learner leads."""

    settings: Settings
    link: Link
    name: str
    generation: bytes
    term: int
    timeline: int
    model: OnlineModel
    log_id: LogId  # of the last entry that was applied
    token: bytes | None  # of that entry
    published: LogId = START  # log id of the last publication
    published_at: float = 0.0
    publish_cost: Cost = field(default_factory=lambda: Cost(PUBLICATIONS))  # with sending it
    snapshot_id: LogId = START
    snapshot_at: float = 0.0
    snapshot_cost: Cost = field(default_factory=lambda: Cost(SNAPSHOTS))  # with Redis's part in it
    rebuilt: bool = False  # the spec is not the one that the model was created by
    checkpoint_position: int = 0
    checkpoint_at: float = field(default_factory=time.monotonic)
    sizes: deque[tuple[int, int]] = field(default_factory=deque)  # (position, bytes of all blocks up to it)
    newest_size: int = 0
    republish: bool = True  # publish even though nothing is new
    lost: bool = False  # set by the heart when another learner leads
    renew: int = 0  # least number of the new timeline that a web process asks for; set by the heart

    @classmethod
    def load(cls, settings: Settings, link: Link, name: str, meta: models.Meta, term: int) -> "Led":
        """The model as its newest snapshot has it; without one, as it was created."""
        spec = ModelSpec.model_validate_json(meta.spec)
        snapshot = snapshots.load(link, name, meta.generation)
        model = OnlineModel(spec) if snapshot is None else OnlineModel.from_bytes(snapshot.state)
        log_id = START if snapshot is None else snapshot.log_id
        token = token_at(link, name, log_id) if snapshot is None or snapshot.token is None else snapshot.token
        led = cls(settings, link, name, meta.generation, term, meta.timeline, model, log_id, token)
        led.snapshot_id = led.published = log_id
        led.rebuilt = model.spec != spec
        for made in checkpoints.list_all(link, name):
            led.checkpoint_position = max(led.checkpoint_position, made.step)
        for position, size in sizes(link, name):
            led._note_size(position, size)
        return led

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self.model.spec

    # -- the log ---------------------------------------------------------------------------------------------

    def apply(self, entries: list[Entry]) -> list[tuple[object, ...]]:
        """Apply one of `grouped`'s runs of entries; returns the commands that publish its results.

        Raises LogGap; WrongGeneration for the entries of a model that took this one's name.
        """
        if not self.generation.startswith(entries[0].generation):
            raise WrongGeneration(self.name)
        results: list[tuple[object, ...]] = []
        if entries[0].command is None:
            results = self._learn(entries)
        else:
            self._obey(entries[0])
        self.log_id, self.token = entries[-1].log_id, entries[-1].token
        for entry in entries:
            self._note_size(entry.log_id.position, entry.size)
        if self._checkpoint_due():
            with suppress(StoreUnavailable):
                self._keep_checkpoint(self.log_id, "periodic", "")
        return results

    def _learn(self, entries: list[Entry]) -> list[tuple[object, ...]]:
        block = join([entry.block for entry in entries], self.spec.outputs)
        last = entries[-1].log_id
        if self.log_id.position + len(block) != last.position:
            raise LogGap(f"after {self.log_id} come {len(block)} rows up to {last}")
        learned = self.model.learn(block.features, block.labels, block.weights, block.served)
        waiting: dict[bytes, list[Result]] = {}
        start = 0
        for entry in entries:
            rows = slice(start, start + len(entry.block))
            start = rows.stop
            if entry.web:
                waiting.setdefault(entry.web, []).append(
                    Result(
                        self.generation,
                        entry.token,
                        entry.log_id.position,
                        learned.predictions[rows],
                        learned.losses[rows],
                        learned.skipped[rows],
                    )
                )
        return [publish_results_command(web, results) for web, results in waiting.items()]

    def _obey(self, entry: Entry) -> None:
        if entry.log_id != (self.log_id.position, self.log_id.command + 1):
            raise LogGap(f"after {self.log_id} comes the command {entry.log_id}")
        assert entry.command is not None
        action = entry.command["do"]
        if action == "checkpoint":
            self._keep_checkpoint(entry.log_id, "requested", entry.command["note"])
        elif action in REPLACING:
            self._keep_checkpoint(entry.log_id, ACTIONS[action], "")
        if action == "promote":
            failpoints.reach("before-promotion")
        try:
            model = obey(self.model, entry, Sources(self.link, self.name))
        except CommandRefused as error:
            self._refuse(entry, error)
            return
        if model.spec != self.spec:
            self._note_rebuild(entry, model.spec)
        self.model = model
        if action == "promote":
            failpoints.reach("after-promotion")
        self.snapshot_at = -math.inf  # so that what was commanded can be read from the snapshot at once

    def _refuse(self, entry: Entry, error: CommandRefused) -> None:
        """Record that a command cannot be carried out, and go on without it. Raises StoreUnavailable."""
        assert entry.command is not None
        log.error("a command was refused", model=self.name, log_id=str(entry.log_id), why=str(error))
        refusal = Refusal(
            str(entry.log_id), entry.command["do"], str(error), time.time(), entry.token.decode()
        )
        with self._noticing_loss():
            refusals.record(self.link, self._fence(entry.log_id, entry.token), refusal)
        self.snapshot_at = -math.inf  # whoever waits for the command is answered at once

    def _note_rebuild(self, entry: Entry, spec: ModelSpec) -> None:
        self.rebuilt = True
        with self._noticing_loss():
            lease.note_rebuild(self.link, self._fence(entry.log_id, entry.token), spec.model_dump_json())

    def _fence(self, log_id: LogId, token: bytes | None) -> Fence:
        """What is shown with a write that is about the entry at a log id."""
        return Fence(self.name, self.generation, self.term, self.timeline, log_id, token)

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """Note that another learner leads, should a write be refused for that."""
        try:
            yield
        except TermLost:
            self.lost = True

    # -- checkpoints -----------------------------------------------------------------------------------------

    def _checkpoint_due(self) -> bool:
        """Whether so many observations or seconds have passed since the last checkpoint."""
        rows, seconds = self.settings.checkpoint_observations, self.settings.checkpoint_seconds
        fresh = self.log_id.position - self.checkpoint_position
        if rows and fresh >= rows:
            return True
        return bool(seconds and fresh and time.monotonic() - self.checkpoint_at >= seconds)

    def _keep_checkpoint(self, at: LogId, reason: Reason, note: str) -> None:
        """Keep the state as it is under the log id `at`. Raises StoreUnavailable."""
        state = self.model.to_bytes()
        made = Checkpoint(
            str(at), str(self.log_id), self.log_id.position, time.time(), reason, note, len(state)
        )
        most = self.settings.checkpoints
        try:
            with self._noticing_loss():
                checkpoints.save(self.link, self._fence(self.log_id, self.token), made, state, most)
        except StoreFull as error:
            log.error("no checkpoint: Redis is full", model=self.name, at=str(at), error=str(error))
        self.checkpoint_position, self.checkpoint_at = self.log_id.position, time.monotonic()

    def _note_size(self, position: int, size: int) -> None:
        """Remember how many bytes the log took up to a position: some hundred samples over what it keeps."""
        self.newest_size = size
        if (
            not self.sizes
            or position - self.sizes[-1][0] >= self.spec.keep // SIZE_SAMPLES
            or size - self.sizes[-1][1] >= self.spec.keep_bytes // SIZE_SAMPLES
        ):
            self.sizes.append((position, size))

    def _trim_below(self) -> int:
        """The position below which entries may go: the log keeps `keep` observations and at most `keep_bytes`."""
        position = self.log_id.position - self.spec.keep
        while self.sizes and (
            self.sizes[0][0] < position or self.newest_size - self.sizes[0][1] > self.spec.keep_bytes
        ):
            position = max(position, self.sizes.popleft()[0] + 1)
        return position

    # -- publishing and keeping ------------------------------------------------------------------------------

    def publication_due_at(self) -> float | None:
        """The monotonic time from which a publication is due; None if nothing is new."""
        if self.published == self.log_id and not self.republish:
            return None
        return self.published_at + max(
            self.settings.publish_seconds, PUBLISH_SHARE * self.publish_cost.seconds
        )

    @property
    def publication_is_due(self) -> bool:
        """Whether the weights are to be published now."""
        due_at = self.publication_due_at()
        return due_at is not None and due_at <= time.monotonic()

    def publication(self) -> tuple[object, ...]:
        """The command that publishes the weights as they are."""
        publication = Publication(
            self.generation,
            self.timeline,
            self.term,
            self.log_id,
            to_json(self.model.metrics()),
            self.model.predictor_bytes(),
            self.spec.model_dump_json().encode() if self.rebuilt else b"",
            to_json(hyperparameters(self.model)),
        )
        self.published, self.published_at, self.republish = self.log_id, time.monotonic(), False
        return publish_command(self.name, publication)

    def snapshot_due(self) -> bool:
        """Whether there is something new to keep, and long enough after the last snapshot."""
        interval = max(self.settings.snapshot_seconds, SNAPSHOT_SHARE * self.snapshot_cost.seconds)
        return self.snapshot_id != self.log_id and time.monotonic() - self.snapshot_at >= interval

    def snapshot(self, link: Link) -> None:
        """Keep the state in Redis and trim the log. Raises TermLost, StaleWrite."""
        with self.snapshot_cost.measured():
            loss = self.model.metrics()["window"]["loss"]
            keep = snapshots.Keep(self._trim_below(), self.spec.keep_bytes, self.settings.checkpoints)
            fence = self._fence(self.log_id, self.token)
            snapshots.save(link, fence, self.model.to_bytes(), loss, keep)
        self.snapshot_id, self.snapshot_at = self.log_id, time.monotonic()


def grouped(entries: list[Entry]) -> list[list[Entry]]:
    """Entries cut into what is applied at once: a single command, or blocks of at most ROWS_AT_ONCE rows."""
    groups: list[list[Entry]] = []
    rows = ROWS_AT_ONCE
    for entry in entries:
        size = ROWS_AT_ONCE if entry.command is not None else len(entry.block)
        if rows + size > ROWS_AT_ONCE:
            groups.append([])
            rows = 0
        groups[-1].append(entry)
        rows += size
    return groups
