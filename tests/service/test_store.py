"""What the scripts refuse: writes by a learner that leads no longer, and all that is older than what is stored."""

from collections.abc import Iterator

import pytest

from service.store.connection import Link
from service.store.log import LogId, read_after
from service.store.snapshots import Keep
from tests.faults import Valkey
from tests.stored import Stored


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
    assert stored.promote(attempt, LogId(10, 0)) == "gone"
    assert stored.promote(attempt, LogId(20, 1)) == "appended"
