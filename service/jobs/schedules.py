"""When a model is retrained by itself: every so many seconds, by cron, after n observations, or when its loss grows."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from croniter import croniter
from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.jobs.retraining import Retraining
from service.schemas import Strict
from service.store import job_scripts, jobs, keys
from service.store.connection import Link

SETTLING = 1000
"""Observations after a firing until the loss is looked at again: by then the fading window is the new model's."""


class Schedule(Strict):
    """What fires a retraining, one or several; `job` says how to retrain. Cron is in UTC."""

    every: Annotated[float, Field(ge=1, le=1e9)] | None = None
    cron: Annotated[str, Field(max_length=200)] | None = None
    after: Annotated[int, Field(ge=1)] | None = None
    when_worse: Annotated[float, Field(gt=1, le=1000)] | None = None
    job: Retraining = Retraining()

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, cron: str | None) -> str | None:
        if cron is not None and (len(cron.split()) != 5 or not croniter.is_valid(cron)):
            raise PydanticCustomError(
                "cron", "cron is minute, hour, day, month and weekday, such as 0 3 * * 1"
            )
        return cron

    @model_validator(mode="after")
    def _check_any(self) -> "Schedule":
        if not any((self.every, self.cron, self.after, self.when_worse)):
            raise PydanticCustomError("schedule", "a schedule has every, cron, after or when_worse")
        return self

    def next_due(self, now: float, last_due: float | None = None) -> float | None:
        """The first time after `now` that it is due by the clock; `every` keeps to the times of `last_due`."""
        times = []
        if self.every is not None:
            start = now if last_due is None else last_due
            times.append(start + self.every * (max(0, (now - start) // self.every) + 1))
        if self.cron is not None:
            moment = datetime.fromtimestamp(now, UTC)
            times.append(croniter(self.cron, moment).get_next(datetime).timestamp())
        return min(times, default=None)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A model's schedule and where it stands. `number` counts its firings and changes."""

    schedule: Schedule
    raw: bytes
    number: int
    due: float | None  # seconds since the epoch
    start: int  # position at the last firing
    best: float | None  # fading loss since

    def is_due(self, now: float, position: int, loss: float | None) -> bool:
        """Whether it is to fire, at a time, a position of the log and a fading loss."""
        schedule = self.schedule
        if self.due is not None and now >= self.due:
            return True
        if schedule.after is not None and position - self.start >= schedule.after:
            return True
        if schedule.when_worse is None or loss is None or self.best is None:
            return False
        return position - self.start >= SETTLING and loss > self.best * schedule.when_worse

    def told(self) -> dict[str, Any]:
        """What a client is told of it."""
        told: dict[str, Any] = {
            **self.schedule.model_dump(mode="json"),
            "next_due": None,
            "best_loss": self.best,
        }
        if self.due is not None:
            told["next_due"] = datetime.fromtimestamp(self.due, UTC).isoformat()
        if self.schedule.after is not None:
            told["next_due_position"] = self.start + self.schedule.after
        return told


def load(link: Link, name: str) -> Scheduled | None:
    """A model's schedule; None if it has none."""
    raw, number, due, start, best = link.call(
        "HMGET", keys.schedule(name), "schedule", "number", "due", "from", "best"
    )
    if raw is None:
        return None
    schedule = Schedule.model_validate_json(raw)
    return Scheduled(
        schedule, raw, int(number), float(due) if due else None, int(start), float(best) if best else None
    )


def replace(link: Link, name: str, generation: bytes, schedule: Schedule | None) -> bool:
    """Set a model's schedule, or take it away; False if the model is gone."""
    due = None if schedule is None else schedule.next_due(clock(link))
    raw = "" if schedule is None else schedule.model_dump_json()
    arguments = [generation, raw, "" if due is None else repr(due)]
    return bool(link.run(job_scripts.SCHEDULE, [keys.meta(name), keys.schedule(name)], arguments))


def clock(link: Link) -> float:
    """Seconds since the epoch, by Redis's clock."""
    seconds, microseconds = link.call("TIME")
    return int(seconds) + int(microseconds) / 1e6


def tick(link: Link, name: str, generation: bytes) -> str | None:
    """Fire a model's schedule if it is due, once however many ask. Returns the id of the job it started."""
    scheduled = load(link, name)
    if scheduled is None:
        return None
    now = clock(link)
    position, loss = _standing(link, name, generation)
    if scheduled.is_due(now, position, loss):
        return _fire(link, name, generation, scheduled, now, position)
    settled = position - scheduled.start >= SETTLING
    if loss is not None and settled and (scheduled.best is None or loss < scheduled.best):
        link.run(
            job_scripts.BEST,
            [keys.meta(name), keys.schedule(name)],
            [generation, scheduled.number, repr(loss)],
        )
    return None


def _standing(link: Link, name: str, generation: bytes) -> tuple[int, float | None]:
    """A model's position and its fading loss, as of its newest snapshot."""
    found, step, loss = link.call("HMGET", keys.snapshot(name), "generation", "step", "loss")
    if found != generation:
        return 0, None
    return int(step), float(loss) if loss else None


def _fire(
    link: Link, name: str, generation: bytes, scheduled: Scheduled, now: float, position: int
) -> str | None:
    job_id = jobs.new_id(name)
    due = scheduled.schedule.next_due(now, scheduled.due)
    request = {"retrain": scheduled.schedule.job.model_dump(mode="json"), "by": "schedule"}
    fired = link.run(
        job_scripts.FIRE,
        [keys.meta(name), keys.job(name, job_id), keys.jobs(name), keys.schedule(name)],
        [
            *(generation, job_id, json.dumps(request), keys.job(name, ""), scheduled.number, scheduled.raw),
            *("" if due is None else repr(due), position),
        ],
    )
    return job_id if fired else None
