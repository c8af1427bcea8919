"""What the scripts refuse: writes by a learner that leads no longer, and all that is older than what is stored."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from service.store import jobs, lease, models, snapshots
from service.store.appending import Append, Limits, append, append_command
from service.store.blocks import Block
from service.store.connection import Link
from service.store.jobs import Attempt
from service.store.log import LogId, read_after
from service.store.snapshots import Keep, Snapshot
from tests.faults import Valkey

LIMITS = Limits(remembered=1000, max_lag=1000, label_ttl_ms=1000)
KEEP = Keep(trim_below=0, keep_bytes=1000, blobs=10)
_names = (f"store-{number}" for number in itertools.count())


@dataclass
class Stored:
    """A model in Redis, without any process around it."""

    link: Link
    name: str = field(default_factory=lambda: next(_names))
    generation: bytes = b""
    appended: int = 0

    def __post_init__(self) -> None:
        _, self.generation = models.create(self.link, self.name, b"{}")

    def append(self, rows: int = 1) -> int:
        """Append a block; returns the log's position."""
        self.appended += 1
        token = f"token-{self.appended}".encode()
        block = Block(np.zeros((rows, 1)), np.zeros((rows, 1)))
        wanted = Append(token, block, token)
        return append(self.link, self.name, self.generation, wanted, LIMITS).position

    def command(self, **command: object) -> LogId | None:
        """Append a command."""
        self.appended += 1
        token = f"token-{self.appended}".encode()
        blob = b"blob" if command["do"] == "weights" else b""
        return append_command(self.link, self.name, self.generation, token, command, b"", blob=blob)

    def lead(self) -> int:
        """Take the lead; returns the term."""
        _, lead = self.described()
        term = lease.acquire(self.link, self.name, self.generation, lead, "test")
        assert term is not None
        return term

    def described(self) -> tuple[models.Meta, models.Lead]:
        """What Redis holds of it."""
        found = models.describe(self.link, [self.name])[self.name]
        assert found is not None
        return found

    def snapshot(self, term: int, log_id: LogId, state: bytes = b"", keep: Keep = KEEP) -> None:
        """Keep a snapshot."""
        snapshots.save(self.link, self.name, self.generation, term, Snapshot(log_id, 1, state), keep)

    def attempt(self) -> Attempt:
        """A job that has begun."""
        job_id = jobs.new_id(self.name)
        assert jobs.start(self.link, self.name, self.generation, job_id, {}, "").outcome == "started"
        attempt = Attempt(self.name, job_id, 1)
        assert attempt.begin(self.link)
        return attempt

    def promote(self, attempt: Attempt, read: LogId) -> str:
        """Promote a candidate that has read the log up to an entry; returns what came of it."""
        outcome, _ = attempt.promote(
            self.link, self.generation, b"candidate", read, behind=100, result={}, blobs=10
        )
        return outcome


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    valkey = Valkey(tmp_path_factory.mktemp("store")).start()
    link = Link(valkey.url, 5)
    yield link
    link.close()
    valkey.kill()


@pytest.fixture
def stored(link: Link) -> Stored:
    """A fresh model."""
    return Stored(link)


def test_a_candidate_whose_following_rows_were_trimmed_is_not_promoted(stored: Stored) -> None:
    term = stored.lead()
    for _ in range(20):
        stored.append()
    attempt = stored.attempt()
    assert stored.promote(attempt, LogId(9, 0)) == "appended"
    attempt = stored.attempt()
    stored.snapshot(term, LogId(20, 1), keep=Keep(trim_below=15, keep_bytes=1000, blobs=10))
    assert read_after(stored.link, stored.name, LogId(0, 0), 1)[0].log_id == (15, 0)
    assert stored.promote(attempt, LogId(10, 0)) == "behind"
    assert stored.promote(attempt, LogId(20, 1)) == "appended"
