"""Jobs in Redis: claimed once, changed only by their current attempt, promoted only over what was seen."""

import json
import time

import pytest

from service.store import jobs, models
from service.store.connection import Link
from service.store.entries import START, LogId
from service.store.jobs import Attempt, JobNews
from service.store.snapshots import Keep
from tests.faults import Valkey
from tests.stored import Stored


@pytest.fixture
def stored(link: Link) -> Stored:
    """A fresh model with ten observations."""
    made = Stored(link)
    for _ in range(10):
        made.append()
    return made


HEAD = LogId(10, 0)


def test_a_queued_job_is_claimed_by_one_trainer_only(stored: Stored) -> None:
    job = stored.job()
    assert stored.claimed(job).number == 1
    assert jobs.claim(stored.link, job, "another") == 0
    running = stored.loaded(job.id)
    assert (running.state, running.attempt, running.holder) == ("running", 1, "test")


def test_a_running_job_whose_heartbeat_has_moved_is_not_claimed(stored: Stored) -> None:
    attempt = stored.attempt()
    seen = stored.loaded(attempt.id)
    time.sleep(0.002)  # heartbeats are stored in milliseconds
    assert attempt.beat(stored.link, None, "training", None)
    assert jobs.claim(stored.link, seen, "another") == 0
    assert stored.claimed(stored.loaded(attempt.id)).number == 2


def test_a_job_has_failed_when_its_third_attempt_has_died(stored: Stored) -> None:
    job = stored.job()
    for number in (1, 2, 3):
        assert stored.claimed(stored.loaded(job.id)).number == number
    assert jobs.claim(stored.link, stored.loaded(job.id), "another") == -1
    ended = stored.loaded(job.id)
    assert (ended.state, ended.detail) == ("failed", "its trainer died 3 times")


def test_deaths_of_its_process_count_and_stops_do_not(stored: Stored) -> None:
    job = stored.job()
    for _ in range(5):
        assert stored.claimed(stored.loaded(job.id)).give_back(stored.link, died=False)
    for _ in range(2):
        assert stored.claimed(stored.loaded(job.id)).give_back(stored.link, died=True)
    last = stored.claimed(stored.loaded(job.id))
    assert last.number == 8
    assert not last.give_back(stored.link, died=True)
    assert stored.loaded(job.id).state == "failed"


def outcomes(stored: Stored, attempt: Attempt) -> list[object]:
    """What a trainer may do with a job, each refused if the attempt is not the current one."""
    return [
        attempt.beat(stored.link, 1, "training", {}),
        stored.promote(attempt, HEAD),
        attempt.finish(stored.link, "failed", None),
        attempt.give_back(stored.link, died=False),
    ]


REFUSED = [False, "late", False, False]


def test_an_earlier_attempt_changes_nothing(stored: Stored) -> None:
    first = stored.attempt()
    second = stored.claimed(stored.loaded(first.id))
    before = stored.loaded(first.id)
    assert outcomes(stored, first) == REFUSED
    assert stored.loaded(first.id) == before
    assert stored.promote(second, HEAD) == "appended"


def test_another_job_of_the_model_changes_nothing(stored: Stored) -> None:
    old = stored.attempt()
    assert old.finish(stored.link, "failed", None)
    current = stored.attempt()
    assert current.number == old.number
    stored.link.call("HSET", f"freshet:{{{stored.name}}}:job:{old.id}", "state", "running")
    assert outcomes(stored, old) == REFUSED
    assert stored.loaded(current.id).state == "running"


def test_a_job_of_an_earlier_model_of_the_name_changes_nothing(stored: Stored) -> None:
    attempt = stored.attempt()
    assert models.delete(stored.link, stored.name)
    again = Stored(stored.link, stored.name)
    for _ in range(10):
        again.append()
    assert outcomes(again, attempt) == REFUSED
    assert stored.store.jobs.load(attempt.id) is None


def test_a_candidate_of_another_generation_is_not_promoted(stored: Stored) -> None:
    attempt = stored.attempt()
    stored.generation = b"another"
    assert stored.promote(attempt, HEAD) == "late"


def test_a_cancelled_job_is_never_promoted(stored: Stored) -> None:
    attempt = stored.attempt()
    assert stored.store.jobs.cancel(attempt.id) == "running"
    assert stored.promote(attempt, HEAD) == "cancelled"
    assert stored.loaded(attempt.id).state == "cancelled"
    assert all(entry.command is None for entry in stored.store.log.read(START, 100))
    assert stored.job().state == "queued"


def test_a_running_job_without_a_trainer_is_cancelled_at_once(stored: Stored) -> None:
    attempt = stored.attempt()
    seconds, _ = stored.link.call("TIME")
    stored.link.call(
        "HSET", f"freshet:{{{stored.name}}}:job:{attempt.id}", "beat", f"{int(seconds) - 61}.000"
    )
    assert stored.store.jobs.cancel(attempt.id) == "cancelled"
    assert outcomes(stored, attempt) == REFUSED
    assert stored.job().state == "queued"


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_cancelled_job_is_not_claimed(state: str, stored: Stored) -> None:
    job = stored.job()
    if state == "running":
        stored.claimed(job)
    stored.store.jobs.cancel(job.id)
    assert jobs.claim(stored.link, stored.loaded(job.id), "test") <= 0
    assert stored.loaded(job.id).state == "cancelled"


def test_a_cancelled_job_that_is_given_back_has_ended(stored: Stored) -> None:
    attempt = stored.attempt()
    stored.store.jobs.cancel(attempt.id)
    assert not attempt.give_back(stored.link, died=True)
    assert stored.loaded(attempt.id).state == "cancelled"


def test_a_candidate_is_not_promoted_over_weights_that_were_replaced_since(stored: Stored) -> None:
    attempt = stored.attempt()
    read = stored.entry(HEAD)
    replaced = stored.command(do="weights")
    assert replaced is not None
    assert stored.promote(attempt, read) == "behind"
    stored.append()
    assert stored.promote(attempt, read) == "behind"
    assert stored.promote(attempt, replaced) == "appended"


def test_a_candidate_that_is_too_far_behind_is_not_promoted(stored: Stored) -> None:
    attempt = stored.attempt()
    assert stored.promote(attempt, LogId(5, 0), behind=4) == "behind"
    assert stored.promote(attempt, LogId(5, 0), behind=5) == "appended"


def test_a_candidate_from_a_log_that_is_no_more_is_not_promoted(stored: Stored, link: Link) -> None:
    read = stored.entry(HEAD)
    other = Stored(link)
    for _ in range(9):
        other.append()
    other.appended += 1  # as if Redis had come back older, and another observation had come since
    other.append()
    assert other.promote(other.attempt(), read) == "gone"


def test_a_promotion_ends_the_job_with_its_result(stored: Stored) -> None:
    attempt = stored.attempt()
    assert attempt.beat(stored.link, 3, "promoting", None)
    assert stored.promote(attempt, HEAD) == "appended"
    ended = stored.loaded(attempt.id)
    assert (ended.state, ended.result, ended.log_id) == ("succeeded", {"promoted": True}, "10-1")
    assert jobs.current(stored.link, [stored.name]) == {}
    assert stored.link.call("HMGET", f"freshet:{{{stored.name}}}:meta", "pin", "pinned_at") == [None, None]


def test_the_log_is_not_trimmed_beyond_what_a_running_job_has_pinned(stored: Stored) -> None:
    term = stored.lead()
    attempt = stored.attempt()
    assert attempt.beat(stored.link, 4, "training", None)
    stored.snapshot(stored.fence(term, HEAD), keep=Keep(trim_below=8, keep_bytes=10**6, blobs=10))
    assert stored.store.log.read(START, 1)[0].log_id == (4, 0)
    assert attempt.finish(stored.link, "failed", None)
    stored.append()
    stored.snapshot(stored.fence(term, LogId(11, 0)), keep=Keep(trim_below=8, keep_bytes=10**6, blobs=10))
    assert stored.store.log.read(START, 1)[0].log_id == (8, 0)


def test_a_pin_that_would_hold_too_many_bytes_is_not_kept(stored: Stored) -> None:
    term = stored.lead()
    assert stored.attempt().beat(stored.link, 4, "training", None)
    stored.snapshot(stored.fence(term, HEAD), keep=Keep(trim_below=8, keep_bytes=10, blobs=10))
    assert stored.store.log.read(START, 1)[0].log_id == (8, 0)


def test_a_job_that_version_0_1_has_queued_is_claimed(stored: Stored) -> None:
    """Its record and its place in `meta`, as they were stored when another program handed jobs out."""
    name, job_id = stored.name, f"{stored.name}.0123456789abcdef"
    request = {"retrain": {"epochs": 5}, "by": "request"}
    stored.link.call(
        *("HSET", f"freshet:{{{name}}}:job:{job_id}", "id", job_id, "state", "queued"),
        *("request", json.dumps(request), "digest", "", "attempt", 2),
        *("created", "1700000000.000", "beat", "1700000000.000"),
    )
    stored.link.call("HSET", f"freshet:{{{name}}}:meta", "job", job_id)
    stored.link.call("LPUSH", f"freshet:{{{name}}}:jobs", job_id)
    assert jobs.current(stored.link, [name]) == {name: job_id}
    assert stored.claimed(stored.loaded(job_id)).number == 2
    assert stored.claimed(stored.loaded(job_id)).number == 3
    assert jobs.claim(stored.link, stored.loaded(job_id), "test") == -1  # its first attempt had died, too
    assert stored.loaded(job_id).detail == "its trainer died 3 times"


def test_only_the_newest_jobs_of_a_model_are_kept(stored: Stored) -> None:
    made = []
    for _ in range(55):
        made.append(stored.job().id)
        stored.store.jobs.cancel(made[-1])
    assert [job.id for job in stored.store.jobs.history()] == made[:4:-1]
    assert stored.store.jobs.load(made[4]) is None


def test_trainers_are_told_of_a_job_that_starts_is_cancelled_or_given_back(
    stored: Stored, valkey: Valkey
) -> None:
    subscriber = Link(valkey.url, 5)
    news = JobNews(subscriber)
    assert news.wait(0)  # the subscription has just begun: whatever was told before is not known
    assert not news.wait(0.01)
    attempt = stored.attempt()
    assert news.wait(1)
    assert attempt.give_back(stored.link, died=False)
    assert news.wait(1)
    stored.claimed(stored.loaded(attempt.id))
    stored.store.jobs.cancel(attempt.id)
    assert news.wait(1)
    assert not news.wait(0.01)
    subscriber.close()
