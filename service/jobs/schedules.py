"""When a model is retrained by itself: every so many seconds, by cron, after n observations, or when its loss grows."""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from croniter import CroniterError, croniter
from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.jobs.retraining import Retraining
from service.schemas import Strict
from service.store import schedules
from service.store.connection import Link
from service.store.jobs import new_id
from service.store.model_store import ModelStore
from service.store.schedules import Standing, StoredSchedule

SETTLING = 1000
"""Observations after a firing until the loss is looked at again: by then the fading window is the new model's."""

STORED = object()
"""Context of validation for a schedule from Redis: what was accepted by an earlier version is read."""

# croniter also reads R and H, which stand for a random and a hashed time.
_CRON_FIELD = re.compile(
    r"(?:[\d*/,?#-]|L|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC|SUN|MON|TUE|WED|THU|FRI|SAT)+",
    re.IGNORECASE,
)


class Schedule(Strict):
    """What fires a retraining, one or several; `job` says how to retrain. Cron is in UTC."""

    every: Annotated[float, Field(ge=1, le=1e9)] | None = None
    cron: Annotated[str, Field(max_length=200)] | None = None
    after: Annotated[int, Field(ge=1, le=2**53)] | None = None
    when_worse: Annotated[float, Field(gt=1, le=1000)] | None = None
    job: Retraining = Retraining()

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, cron: str | None, info: ValidationInfo) -> str | None:
        if cron is None or info.context is STORED:
            return cron
        fields = cron.split()
        if len(fields) != 5 or not all(map(_CRON_FIELD.fullmatch, fields)) or not croniter.is_valid(cron):
            raise PydanticCustomError(
                "cron", "cron is minute, hour, day, month and weekday, such as 0 3 * * 1"
            )
        if _next_by_cron(cron, time.time()) is None:
            raise PydanticCustomError("cron", "this cron never fires")
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
            # A due time that is still to come stays: another trigger has fired before it.
            times.append(start if start > now else start + self.every * ((now - start) // self.every + 1))
        if self.cron is not None:
            due = _next_by_cron(self.cron, now)
            times += [] if due is None else [due]
        return min(times, default=None)


def _next_by_cron(cron: str, now: float) -> float | None:
    """The first time after `now`, in seconds since the epoch; None if there is none."""
    try:
        return float(croniter(cron, datetime.fromtimestamp(now, UTC)).get_next(datetime).timestamp())
    except (CroniterError, ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A model's schedule, and what is stored of it."""

    schedule: Schedule
    stored: StoredSchedule

    @classmethod
    def of(cls, stored: StoredSchedule) -> "Scheduled":
        """From what is stored."""
        return cls(Schedule.model_validate_json(stored.text, context=STORED), stored)

    def is_due(self, now: float, standing: Standing) -> bool:
        """Whether it is to fire, at a time (seconds since the epoch), for a model that is so far."""
        schedule, stored = self.schedule, self.stored
        observations = standing.position - stored.start
        if stored.due is not None and now >= stored.due:
            return True
        if schedule.after is not None and observations >= schedule.after:
            return True
        if schedule.when_worse is None or standing.loss is None or stored.best is None:
            return False
        return standing.loss > stored.best * schedule.when_worse  # noted since it has settled, see `is_best`

    def is_best(self, standing: Standing) -> bool:
        """Whether the fading loss is the best since the last firing."""
        if standing.loss is None or standing.position - self.stored.start < SETTLING:
            return False
        return self.stored.best is None or standing.loss < self.stored.best

    def to_response(self) -> dict[str, Any]:
        """The schedule in a response."""
        response: dict[str, Any] = {
            **self.schedule.model_dump(mode="json"),
            "next_due": None,
            "best_loss": self.stored.best,
        }
        if self.stored.due is not None:
            response["next_due"] = datetime.fromtimestamp(self.stored.due, UTC).isoformat()
        if self.schedule.after is not None:
            response["next_due_position"] = self.stored.start + self.schedule.after
        return response


def load(store: ModelStore) -> Scheduled | None:
    """A model's schedule; None if it has none."""
    stored = store.schedule.load()
    return None if stored is None else Scheduled.of(stored)


def first_due(link: Link, schedule: Schedule | None) -> float | None:
    """When a schedule that is set now is due by the clock: seconds since the epoch."""
    return None if schedule is None else schedule.next_due(schedules.clock(link))


def tick(store: ModelStore, stored: StoredSchedule, now: float) -> str | None:
    """Fire a model's schedule if it is due at a time, once however many ask. Returns the id of the job it started."""
    scheduled = Scheduled.of(stored)
    standing = store.schedule.standing()
    if scheduled.is_due(now, standing):
        job_id = new_id(store.name)
        request = {"retrain": scheduled.schedule.job.model_dump(mode="json"), "by": "schedule"}
        due = scheduled.schedule.next_due(now, stored.due)
        fired = store.schedule.fire(stored, job_id, request, due=due, position=standing.position)
        return job_id if fired else None
    if scheduled.is_best(standing) and standing.loss is not None:
        store.schedule.note_best(stored, standing.loss)
    return None
