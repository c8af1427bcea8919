"""Retraining jobs: what each is and how far, changed only by its current attempt."""

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from service.errors import StoreUnavailable, WrongGeneration
from service.store import keys, scripts
from service.store.appending import NewSchedule
from service.store.connection import Link
from service.store.entries import Entry, LogId
from service.store.model_part import ModelPart, check_complete
from service.store.pieces import Pieces

ENDED = {"succeeded", "failed", "cancelled"}
_FIELDS = (
    *("id", "state", "request", "attempt", "created", "beat", "started", "ended", "stage"),
    *("progress", "result", "detail", "cancel", "log_id", "holder"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it is stored. Times are seconds since the epoch by Redis's clock."""

    model: str
    id: str
    state: str
    request: dict[str, Any]
    attempt: int
    created: float
    beat: str  # when its trainer showed last that it goes on, as it is stored
    started: float | None
    ended: float | None
    stage: str
    progress: dict[str, Any]
    result: dict[str, Any] | None
    detail: str
    cancelled: bool
    log_id: str | None  # of its promote command
    holder: str  # the trainer's process, see service.processes


@dataclass(frozen=True, slots=True)
class Started:
    """What came of starting a job: "started", "same" (it was there), "different" (by another body), "busy"."""

    outcome: str
    id: str  # of the job, or of the one that runs already


def new_id(name: str, part: str | None = None) -> str:
    """An id for a job; it names the model. The same `part` gives the same id."""
    return f"{name}.{part or secrets.token_hex(8)}"


def model_of(job_id: str) -> str:
    """The name of the model whose job this is."""
    return job_id.rpartition(".")[0]


def token_of(job_id: str) -> str:
    """The token of the promote command of a job."""
    return f"promote:{job_id}"


def load_many(link: Link, wanted: Iterable[tuple[str, str]]) -> list[Job | None]:
    """Jobs by their models' names and their ids; None for one that is gone."""
    pairs = list(wanted)
    commands = [("HMGET", keys.job(name, job_id), *_FIELDS) for name, job_id in pairs]
    answers = link.call_many(commands) if commands else []
    return [_job(name, values) for (name, _), values in zip(pairs, answers, strict=True)]


def _job(name: str, values: list[bytes | None]) -> Job | None:
    found = {field: value and value.decode() for field, value in zip(_FIELDS, values, strict=True)}
    if not found["id"]:
        return None

    def seconds(field: str) -> float | None:
        return float(found[field] or 0) if found[field] else None

    def read(field: str) -> Any:
        return json.loads(found[field] or "null")

    return Job(
        model=name,
        id=found["id"],
        state=found["state"] or "",
        request=read("request"),
        attempt=int(found["attempt"] or 0),
        created=seconds("created") or 0.0,
        beat=found["beat"] or "",
        started=seconds("started"),
        ended=seconds("ended"),
        stage=found["stage"] or "",
        progress=read("progress") or {},
        result=read("result"),
        detail=found["detail"] or "",
        cancelled=found["cancel"] is not None,
        log_id=found["log_id"] or None,
        holder=found["holder"] or "",
    )


def current(link: Link, names: Iterable[str]) -> dict[str, str]:
    """The id of the job that each model has queued or running, for those that have one."""
    wanted = list(names)
    answers = link.call_many([("HGET", keys.meta(name), "job") for name in wanted]) if wanted else []
    return {name: job_id.decode() for name, job_id in zip(wanted, answers, strict=True) if job_id}


class Jobs(ModelPart):
    """A model's jobs."""

    def start(
        self,
        job_id: str,
        request: dict[str, Any],
        digest: str,
        key: str = "",
        schedule: NewSchedule | None = None,
        put: str | None = None,
    ) -> Started:
        """Start a job, unless the model has one, once for an Idempotency-Key. `digest` is of the body it came with.

        With a rebuild `schedule` is set, and `put` noted: the schedule (JSON; "": none) of the PUT that asks for it.
        Raises WrongGeneration.
        """
        name = self.name
        outcome, *busy = self.link.run(
            scripts.JOB_START,
            [
                *(keys.meta(name), keys.job(name, job_id), keys.jobs(name), keys.schedule(name)),
                *(*keys.seen(name), *keys.answers(name)),
            ],
            [
                *(self.generation, job_id, json.dumps(request), digest, keys.job(name, ""), key or job_id),
                *(("", "") if schedule is None else schedule.to_arguments()),
                "" if put is None else f"={put}",
            ],
        )
        if outcome == b"gone":
            raise WrongGeneration(f"model {name} was deleted")
        return Started(outcome.decode(), busy[0].decode() if busy else job_id)

    def load(self, job_id: str) -> Job | None:
        """A job; None if there is none of this id any more."""
        return load_many(self.link, [(self.name, job_id)])[0]

    def history(self) -> list[Job]:
        """The newest jobs of a model, newest first: queued, running and ended ones."""
        ids = self.link.call("LRANGE", keys.jobs(self.name), 0, -1)
        found = load_many(self.link, [(self.name, job_id.decode()) for job_id in ids])
        return [job for job in found if job is not None]

    def cancel(self, job_id: str) -> str | None:
        """Cancel a job: at once if it waits; its trainer ends one that runs. Its state then; None: no such job."""
        state = self.link.run(
            scripts.JOB_CANCEL, [keys.meta(self.name), keys.job(self.name, job_id)], [job_id]
        )
        return state.decode() if state else None


# -- for the trainer -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a job: what a trainer shows with every change it makes."""

    name: str
    id: str
    number: int

    @property
    def _keys(self) -> list[bytes]:
        return [keys.meta(self.name), keys.job(self.name, self.id)]

    def beat(self, link: Link, pin: int | None, stage: str, progress: dict[str, Any] | None) -> bool:
        """Show that it goes on, and hold the log after the position `pin`. `progress` None is as before.

        False if the job is not this attempt's any more.
        """
        held = "" if pin is None else pin
        arguments = [self.id, self.number, held, stage, "" if progress is None else json.dumps(progress)]
        return bool(link.run(scripts.JOB_BEAT, self._keys, arguments))

    def finish(self, link: Link, state: str, result: dict[str, Any] | None, detail: str = "") -> bool:
        """End it without a promotion; False if the job is not this attempt's any more."""
        arguments = [self.id, self.number, state, json.dumps(result) if result else "", detail]
        return bool(link.run(scripts.JOB_FINISH, self._keys, arguments))

    def promote(
        self,
        link: Link,
        generation: bytes,
        candidate: bytes,
        read: Entry,
        *,
        behind: int,
        result: dict[str, Any],
        blobs: int,
        more: dict[str, Any],
    ) -> tuple[str, LogId | None]:
        """Append the promote command, if the job is this attempt's and the candidate is close to the log's head.

        `read` is the last entry that the candidate has learned; no command replaced the weights since. `more` goes into
        the command. Returns "appended" with the log id, "behind", "late" (not its job any more), "cancelled", "full",
        or "gone" if the log does not hold that entry.
        """
        command = {"do": "promote", "job": self.id, "position": read.log_id.position, **more}
        pieces = Pieces(link, self.name, generation)
        with pieces.written(candidate) as stored:
            outcome, *rest = link.run(
                scripts.JOB_PROMOTE,
                [*self._keys, keys.log(self.name), keys.blobs(self.name), keys.pieces(self.name)],
                [
                    *(self.id, self.number, generation, token_of(self.id), json.dumps(command), stored),
                    *(str(read.log_id), read.token, behind, json.dumps(result), 2 * blobs),
                ],
            )
        if outcome != b"appended":
            pieces.drop(stored)
        check_complete(outcome, self.name)
        return outcome.decode(), LogId.parse(rest[0]) if outcome == b"appended" else None

    def give_back(self, link: Link, *, died: bool) -> bool:
        """Queue the job again for any trainer; False if that is not to be, as it has ended or is another's."""
        return int(link.run(scripts.JOB_GIVE_BACK, self._keys, [self.id, self.number, int(died)])) > 0


def claim(link: Link, job: Job, holder: str) -> int:
    """Take up a job that is queued, or running without a heartbeat, for the process `holder`.

    The number of the attempt; 0 if the job is not as it was seen any more; −1 if it has ended now: it was cancelled, or
    had its last attempt.
    """
    arguments = [job.id, job.attempt, job.state, job.beat, holder]
    return int(link.run(scripts.JOB_CLAIM, [keys.meta(job.model), keys.job(job.model, job.id)], arguments))


class JobNews:
    """Messages that a job was started, cancelled or given back."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._subscribed = False

    def wait(self, seconds: float) -> bool:
        """Whether there may be news; returns after `seconds` at most. Raises StoreUnavailable."""
        try:
            if not self._subscribed:
                self._link.send([("SUBSCRIBE", keys.JOB_NEWS)])
                self._link.read()
                self._subscribed = True
                return True
            news = self._link.read_within(seconds) is not None
            while news and self._link.read_within(0.001) is not None:
                pass
            return news
        except StoreUnavailable:
            self._subscribed = False
            raise
