"""Schedules of retraining as they are stored, and firing one once however many trainers ask."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from service.store import keys, scripts
from service.store.connection import Link
from service.store.model_part import ModelPart

_FIELDS = ("schedule", "number", "due", "from", "best")


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A model's schedule. `number` counts its firings and changes."""

    text: bytes  # JSON
    number: int
    due: float | None  # seconds since the epoch
    start: int  # position at the last firing
    best: float | None  # fading loss since


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a model is, as of its newest snapshot."""

    position: int = 0
    loss: float | None = None  # in the fading window


def load_many(link: Link, names: Iterable[str]) -> dict[str, StoredSchedule]:
    """The schedules of those models that have one."""
    wanted = list(names)
    commands = [("HMGET", keys.schedule(name), *_FIELDS) for name in wanted]
    answers = link.call_many(commands) if commands else []
    return {name: _stored(*values) for name, values in zip(wanted, answers, strict=True) if values[0]}


def _stored(
    text: bytes, number: bytes, due: bytes | None, start: bytes, best: bytes | None
) -> StoredSchedule:
    return StoredSchedule(
        text, int(number), float(due) if due else None, int(start), float(best) if best else None
    )


def clock(link: Link) -> float:
    """Seconds since the epoch, by Redis's clock."""
    seconds, microseconds = link.call("TIME")
    return int(seconds) + int(microseconds) / 1e6


class Schedules(ModelPart):
    """A model's schedule."""

    def load(self) -> StoredSchedule | None:
        """The schedule; None if there is none."""
        return load_many(self.link, [self.name]).get(self.name)

    def fire(
        self,
        seen: StoredSchedule,
        job_id: str,
        request: dict[str, Any],
        *,
        due: float | None,
        position: int,
    ) -> bool:
        """Start the job of a schedule that was seen, and note when it is due next; False if another was faster."""
        name = self.name
        return bool(
            self.link.run(
                scripts.SCHEDULE_FIRE,
                [keys.meta(name), keys.job(name, job_id), keys.jobs(name), keys.schedule(name)],
                [
                    *(
                        self.generation,
                        job_id,
                        json.dumps(request),
                        keys.job(name, ""),
                        seen.number,
                        seen.text,
                    ),
                    *("" if due is None else repr(due), position),
                ],
            )
        )

    def note_put(self, text: str) -> None:
        """Note the schedule (JSON; "": none) that a model was PUT with: a repetition of the PUT is known by it."""
        self.link.run(scripts.SCHEDULE_PUT, [keys.meta(self.name)], [self.generation, text])

    def last_put(self) -> str:
        """The schedule (JSON; "": none) that the model was PUT with last."""
        return str((self.link.call("HGET", keys.meta(self.name), "retrain") or b"").decode())

    def note_best(self, seen: StoredSchedule, loss: float) -> None:
        """Note the best fading loss since the last firing of a schedule that was seen."""
        keys_of_model = [keys.meta(self.name), keys.schedule(self.name)]
        self.link.run(scripts.SCHEDULE_BEST, keys_of_model, [self.generation, seen.number, repr(loss)])

    def standing(self) -> Standing:
        """A model's position and fading loss."""
        found, step, loss = self.link.call("HMGET", keys.snapshot(self.name), "generation", "step", "loss")
        return Standing(int(step), float(loss) if loss else None) if found == self.generation else Standing()
