"""What the scripts refuse: writes by a learner that leads no longer, and all that is older than what is stored."""

import pytest

from service.errors import StaleWrite, TermLost
from service.store.connection import Link
from service.store.entries import START, LogId
from service.store.refusals import Refusal
from service.store.snapshots import Keep
from tests.stored import Stored


@pytest.fixture
def stored(link: Link) -> Stored:
    """A fresh model."""
    return Stored(link)


def test_a_candidate_whose_following_rows_were_trimmed_is_not_promoted(stored: Stored) -> None:
    term = stored.lead()
    for _ in range(20):
        stored.append()
    attempt = stored.attempt()
    stored.snapshot(stored.fence(term, LogId(20, 0)), keep=Keep(trim_below=15, keep_bytes=1, blobs=10))
    assert stored.store.log.read(START, 1)[0].log_id == (15, 0)
    assert stored.promote(attempt, LogId(10, 0)) == "gone"
    assert stored.promote(attempt, LogId(20, 0)) == "appended"


def test_a_late_snapshot_never_overwrites_a_newer_one(stored: Stored) -> None:
    term = stored.lead()
    for _ in range(5):
        stored.append()
    stored.snapshot(stored.fence(term, LogId(4, 0)), b"new")
    with pytest.raises(StaleWrite):
        stored.snapshot(stored.fence(term, LogId(2, 0)), b"late", Keep(trim_below=2, keep_bytes=1, blobs=1))
    assert stored.state() == b"new"
    assert stored.store.log.read(START, 1)[0].log_id == (1, 0)


def test_a_late_snapshot_of_an_earlier_timeline_never_overwrites_one_of_a_later(stored: Stored) -> None:
    term = stored.lead()
    for _ in range(5):
        stored.append()
    assert stored.store.leadership.new_timeline(term, 2) == 2
    stored.snapshot(stored.fence(term, LogId(2, 0), timeline=2), b"new")
    with pytest.raises(StaleWrite):
        stored.snapshot(stored.fence(term, LogId(5, 0)), b"late")
    assert stored.state() == b"new"


@pytest.mark.parametrize(("log_id", "token"), [((9, 0), None), ((3, 0), b"another"), ((4, 0), b"any")])
def test_a_state_of_another_log_is_never_kept(stored: Stored, log_id: tuple[int, int], token: bytes) -> None:
    """Redis came back older: the log ends before the state, or holds something else where the state was made."""
    term = stored.lead()
    for rows in (1, 2, 2):
        stored.append(rows)
    fence = stored.fence(term, LogId(*log_id), token=token)
    with pytest.raises(StaleWrite):
        stored.snapshot(fence)
    with pytest.raises(StaleWrite):
        stored.checkpoint(fence)
    assert stored.checkpoints() == []
    stored.snapshot(stored.fence(term, LogId(3, 0), token=b"token-2"))


def test_nothing_is_written_by_a_learner_whose_term_is_over(stored: Stored) -> None:
    old = stored.lead()
    stored.append()
    new = stored.lead()
    fence = stored.fence(old, LogId(1, 0))
    refusal = Refusal("1-0", "weights", "", 0.0)
    for write in (
        lambda: stored.snapshot(fence, b"late"),
        lambda: stored.checkpoint(fence),
        lambda: stored.store.leadership.note_rebuild(fence, "{}"),
        lambda: stored.store.refusals.record(fence, refusal),
        lambda: stored.store.leadership.new_timeline(old, 2),
    ):
        with pytest.raises(TermLost):
            write()
    assert isinstance(stored.beat(old, LogId(1, 0)), TermLost)
    stored.store.leadership.release(old, "late")
    meta, lead = stored.described()
    assert (lead.term, lead.counter, lead.failure, lead.published) == (new, 1, "", (0, 0))
    assert (meta.timeline, meta.rebuilt) == (1, None)
    assert stored.store.snapshots.load() is None
    assert stored.checkpoints() == []
    assert stored.store.refusals.list_all() == []


def test_what_was_published_last_does_not_go_back_on_a_takeover(stored: Stored) -> None:
    first = stored.lead()
    for _ in range(5):
        stored.append()
    stored.beat(first, LogId(5, 0))
    second = stored.lead()
    stored.beat(second, LogId(0, 0))
    assert stored.described()[1].published == (5, 0)
    stored.beat(second, LogId(2, 0), timeline=2)
    assert stored.described()[1].published == (2, 0)
    stored.beat(second, LogId(5, 0))  # late
    assert stored.described()[1].published == (2, 0)


def test_a_late_note_of_a_rebuild_does_not_replace_a_newer_one(stored: Stored) -> None:
    term = stored.lead()
    for _ in range(3):
        stored.append()
    stored.store.leadership.note_rebuild(stored.fence(term, LogId(3, 0)), "new")
    with pytest.raises(StaleWrite):
        stored.store.leadership.note_rebuild(stored.fence(term, LogId(2, 0)), "late")
    assert stored.described()[0].rebuilt == b"new"


def test_the_lead_is_not_taken_if_the_heartbeat_has_moved_since_it_was_looked_at(stored: Stored) -> None:
    term = stored.lead()
    _, seen = stored.described()
    stored.beat(term, LogId(0, 0))
    assert stored.store.leadership.acquire(seen, "another") is None
    _, seen = stored.described()
    assert stored.store.leadership.acquire(seen, "another") == term + 1
    assert stored.store.leadership.acquire(seen, "a third") is None
