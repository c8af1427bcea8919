"""Schedules by a clock of the test's own: each due time fires once, however many trainers look."""

import secrets
from datetime import UTC, datetime
from typing import Any

import pytest

from service.jobs import schedules
from service.jobs.schedules import SETTLING, Schedule
from service.store import models
from service.store.appending import NewSchedule
from service.store.connection import Link
from service.store.entries import LogId
from service.store.schedules import StoredSchedule
from tests.stored import Stored

HOUR = 3600.0
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


class Scheduled:
    """A model with a schedule that was set at noon."""

    def __init__(self, link: Link, **schedule: Any) -> None:
        self.model = Stored(link)
        self.schedule = Schedule.model_validate(schedule)
        self.set(self.schedule, NOON)
        self.term = self.model.lead()
        self.position = 0

    def set(self, schedule: Schedule | None, now: float) -> None:
        """Set another schedule."""
        text = "" if schedule is None else schedule.model_dump_json()
        due = None if schedule is None else schedule.next_due(now)
        model, key = self.model, secrets.token_bytes(8)
        new = NewSchedule(text, due)
        assert model.store.log.append_command(key, None, b"", schedule=new)

    def reach(self, position: int, loss: float | None = None) -> None:
        """Let the model be so far, with a fading loss."""
        self.position = self.model.append(position - self.position)
        self.model.snapshot(self.model.fence(self.term, LogId(position, 0)), loss=loss)

    @property
    def stored(self) -> StoredSchedule:
        """What is stored now."""
        found = self.model.store.schedule.load()
        assert found is not None
        return found

    def tick(self, now: float, seen: StoredSchedule | None = None) -> bool:
        """A trainer's look at a time, at what it has `seen`; whether the schedule fired. The job ends at once."""
        model = self.model
        fired = schedules.tick(model.store, seen or self.stored, now)
        if fired is not None:
            assert model.store.jobs.cancel(fired) == "cancelled"
        return fired is not None


def test_each_due_time_fires_once(link: Link) -> None:
    hourly = Scheduled(link, every=HOUR)
    assert not hourly.tick(NOON + HOUR - 1)
    assert hourly.tick(NOON + HOUR)
    assert not hourly.tick(NOON + HOUR + 1)
    assert not hourly.tick(NOON + 2 * HOUR - 1)
    assert hourly.tick(NOON + 2 * HOUR)


def test_missed_due_times_fire_once_and_the_phase_is_kept(link: Link) -> None:
    hourly = Scheduled(link, every=HOUR)
    assert hourly.tick(NOON + 5.5 * HOUR)
    assert not hourly.tick(NOON + 5.9 * HOUR)
    assert hourly.tick(NOON + 6 * HOUR)


def test_of_two_trainers_that_look_at_once_one_fires(link: Link) -> None:
    hourly = Scheduled(link, every=HOUR)
    seen = hourly.stored
    assert hourly.tick(NOON + HOUR, seen)
    assert not hourly.tick(NOON + HOUR, seen)
    assert len(hourly.model.store.jobs.history()) == 1


def test_a_schedule_waits_for_a_job_that_is_under_way(link: Link) -> None:
    hourly = Scheduled(link, every=HOUR)
    attempt = hourly.model.attempt()
    assert not hourly.tick(NOON + HOUR)
    assert attempt.finish(link, "succeeded", None)
    assert hourly.tick(NOON + HOUR + 10)
    assert not hourly.tick(NOON + HOUR + 11)


def test_a_schedule_that_was_seen_before_a_change_does_not_fire(link: Link) -> None:
    hourly = Scheduled(link, every=HOUR)
    seen = hourly.stored
    hourly.set(Schedule(every=2 * HOUR), NOON)
    assert not hourly.tick(NOON + HOUR, seen)
    hourly.set(None, NOON)
    hourly.set(hourly.schedule, NOON + HOUR)
    assert not hourly.tick(NOON + HOUR, seen)
    assert not hourly.model.store.jobs.history()


def test_a_removed_schedule_is_gone(link: Link) -> None:
    hourly = Scheduled(link, every=HOUR)
    hourly.set(None, NOON)
    assert schedules.load(hourly.model.store) is None


def test_the_schedule_of_an_earlier_model_of_the_name_does_not_fire(link: Link) -> None:
    hourly = Scheduled(link, every=HOUR)
    seen = hourly.stored
    assert models.delete(link, hourly.model.name)
    Stored(link, hourly.model.name)
    assert not hourly.tick(NOON + HOUR, seen)


def test_after_counts_observations_since_the_last_firing(link: Link) -> None:
    counted = Scheduled(link, after=100)
    counted.reach(99)
    assert not counted.tick(NOON)
    counted.reach(130)
    assert counted.tick(NOON)
    counted.reach(229)
    assert not counted.tick(NOON)
    counted.reach(230)
    assert counted.tick(NOON)


def test_when_worse_compares_with_the_best_loss_since_the_last_firing(link: Link) -> None:
    watched = Scheduled(link, when_worse=1.5)
    steps = [(SETTLING - 1, 0.1), (SETTLING, 0.4), (SETTLING + 1, 0.2), (SETTLING + 2, 0.3)]
    for position, loss in steps:  # the loss before the window has settled does not count
        watched.reach(position, loss)
        assert not watched.tick(NOON)
    assert watched.stored.best == 0.2
    watched.reach(SETTLING + 3, 0.31)
    assert watched.tick(NOON)
    assert watched.stored.best is None
    watched.reach(SETTLING + 4, 5.0)
    assert not watched.tick(NOON), "it settles anew"
    watched.reach(2 * SETTLING + 3, 5.0)
    assert not watched.tick(NOON)
    assert watched.stored.best == 5.0


def test_cron_is_in_utc(link: Link) -> None:
    nightly = Scheduled(link, cron="30 3 * * *")
    due = datetime(2026, 3, 2, 3, 30, tzinfo=UTC).timestamp()
    assert not nightly.tick(due - 1)
    assert nightly.tick(due)
    assert nightly.stored.due == due + 24 * HOUR


def test_of_several_triggers_each_fires(link: Link) -> None:
    both = Scheduled(link, every=HOUR, after=100)
    both.reach(100)
    assert both.tick(NOON)
    assert both.tick(NOON + HOUR)


def test_what_a_job_is_asked_to_do_comes_with_it(link: Link) -> None:
    hourly = Scheduled(link, every=HOUR, job={"epochs": 3, "promote": "always"})
    assert hourly.tick(NOON + HOUR)
    [job] = hourly.model.store.jobs.history()
    assert job.request["by"] == "schedule"
    assert (job.request["retrain"]["epochs"], job.request["retrain"]["promote"]) == (3, "always")


@pytest.mark.parametrize(
    "cron", ["* * * * *", "0 3 * * mon-fri", "0 0 29 2 *", "*/5 1-3 1,15 jan *", "0 0 L * *"]
)
def test_a_cron_that_is_due_some_day_is_taken(cron: str) -> None:
    due = Schedule(cron=cron).next_due(NOON)
    assert due is not None
    assert due == Schedule(cron=cron).next_due(NOON) > NOON
