"""A model in Redis, without any process around it."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from service.store import jobs, leadership, models
from service.store.appending import Append, Limits
from service.store.blocks import Block
from service.store.checkpoints import Checkpoint
from service.store.connection import Link
from service.store.entries import NO_ROWS, START, Entry, LogId
from service.store.jobs import Attempt, Job
from service.store.model_part import Fence
from service.store.model_store import ModelStore
from service.store.snapshots import Keep

LIMITS = Limits(dedup_window=1000, max_lag=100_000, label_ttl_ms=1000)
KEEP = Keep(trim_below=0, keep_bytes=1000, blobs=10)
_names = (f"store-{number}" for number in itertools.count())


@dataclass
class Stored:
    """A model in Redis, without any process around it."""

    link: Link
    name: str = field(default_factory=lambda: next(_names))
    generation: bytes = b""
    appended: int = 0
    spec: bytes = b"{}"

    def __post_init__(self) -> None:
        _, self.generation = models.create(self.link, self.name, self.spec)
        self.store = ModelStore(self.link, self.name, self.generation)

    def append(self, rows: int = 1) -> int:
        """Append a block; returns the log's position."""
        return self.teach(np.zeros((rows, 1)), np.zeros((rows, 1)))

    def teach(self, X: np.ndarray, y: np.ndarray) -> int:
        """Append rows (n, width) and labels (n, targets) as a block; returns the log's position."""
        self.appended += 1
        token = f"token-{self.appended}".encode()
        wanted = Append(token, Block(X, y), token)
        return self.store.log.append(wanted, LIMITS).position

    def command(self, max_lag_bytes: int = 2**53, **command: object) -> LogId | None:
        """Append a command."""
        self.appended += 1
        token = f"token-{self.appended}".encode()
        blob = b"blob" if command["do"] == "weights" else b""
        return self.store.log.append_command(token, command, b"", blob=blob, max_lag_bytes=max_lag_bytes)

    def lead(self) -> int:
        """Take the lead; returns the term."""
        _, lead = self.described()
        term = self.store.leadership.acquire(lead, "test")
        assert term is not None
        return term

    def described(self) -> tuple[models.Meta, models.Lead]:
        """What Redis holds of it."""
        found = self.store.describe()
        assert found is not None
        return found

    def fence(self, term: int, log_id: LogId, timeline: int = 1, token: bytes | None = None) -> Fence:
        """What a learner shows with a write."""
        return Fence(term, timeline, log_id, token)

    def snapshot(
        self, fence: Fence, state: bytes = b"", keep: Keep = KEEP, loss: float | None = None
    ) -> None:
        """Keep a snapshot, of a model with a fading loss."""
        self.store.snapshots.save(fence, state, loss, keep)

    def state(self) -> bytes:
        """The state of the newest snapshot."""
        stored = self.store.snapshots.load()
        assert stored is not None
        return stored.state

    def checkpoint(self, fence: Fence) -> None:
        """Keep a checkpoint."""
        made = Checkpoint(str(fence.log_id), str(fence.log_id), fence.log_id.position, 0.0, "periodic", "", 0)
        self.store.checkpoints.save(fence, made, b"", 3)

    def checkpoints(self) -> list[str]:
        """The ids of its checkpoints."""
        return [made.id for made in self.store.checkpoints.list_all()]

    def beat(self, term: int, published: LogId, timeline: int = 1, size: int = 0) -> object:
        """One heartbeat."""
        [answer] = leadership.beat(
            self.link, [leadership.Held(self.name, self.generation, term, timeline, published, size)]
        )
        return answer

    def job(self, **request: object) -> Job:
        """A new job, queued."""
        job_id = jobs.new_id(self.name)
        assert self.store.jobs.start(job_id, request, "").outcome == "started"
        return self.loaded(job_id)

    def loaded(self, job_id: str) -> Job:
        """A job as it is stored."""
        job = self.store.jobs.load(job_id)
        assert job is not None
        return job

    def claimed(self, job: Job) -> Attempt:
        """An attempt at a job by a trainer."""
        number = jobs.claim(self.link, job, "test")
        assert number > 0
        return Attempt(job.model, job.id, number)

    def attempt(self) -> Attempt:
        """The first attempt at a new job."""
        return self.claimed(self.job())

    def entry(self, log_id: LogId) -> Entry:
        """An entry of the log; where there is none, one that once was."""
        for entry in self.store.log.read(START, 10_000):
            if entry.log_id == log_id:
                return entry
        return Entry(log_id, b"gone", b"", 0, NO_ROWS)

    def promote(self, attempt: Attempt, read: LogId | Entry, behind: int = 100) -> str:
        """Promote a candidate that has read the log up to an entry; returns what came of it."""
        entry = self.entry(read) if isinstance(read, LogId) else read
        outcome, _ = attempt.promote(
            self.link,
            self.generation,
            b"candidate",
            entry,
            behind=behind,
            result={"promoted": True},
            blobs=10,
            more={},
        )
        return outcome
