"""Retraining jobs: what each is and how far, changed only by its current attempt; and RQ, which hands them out."""

import json
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis
from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from service.errors import StoreUnavailable, WrongGeneration
from service.store import job_scripts, keys
from service.store.connection import Link
from service.store.log import LogId

FUNCTION = "service.trainer.job.retrain"
"""What RQ calls, with the model's name, the job's id and the number of the attempt."""

SILENCE = 15.0
"""Seconds without a sign of life after which a job is given to another trainer."""
ATTEMPTS = 3
ENDED = {"succeeded", "failed", "cancelled"}
_FIELDS = (
    *("id", "state", "request", "attempt", "created", "beat", "started", "ended", "stage"),
    *("progress", "result", "detail", "cancel", "log_id"),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stands. Times are seconds since the epoch by Redis's clock."""

    model: str
    id: str
    state: str
    request: dict[str, Any]
    attempt: int
    created: float
    beat: float
    started: float | None
    ended: float | None
    stage: str
    progress: dict[str, Any]
    result: dict[str, Any] | None
    detail: str
    cancelled: bool
    log_id: str | None  # of its promote command


@dataclass(frozen=True, slots=True)
class Started:
    """What came of starting a job: "started", "same" (it was there), "different" (by another body), "busy"."""

    outcome: str
    id: str  # of the job, or of the one that runs already


def new_id(name: str, part: str | None = None) -> str:
    """An id for a job; it says whose. The same `part` gives the same id."""
    return f"{name}.{part or secrets.token_hex(8)}"


def model_of(job_id: str) -> str:
    """The name of the model whose job this is."""
    return job_id.rpartition(".")[0]


def start(
    link: Link, name: str, generation: bytes, job_id: str, request: dict[str, Any], digest: str
) -> Started:
    """Start a job, unless the model has one. `digest` is of the body it came with. Raises WrongGeneration."""
    outcome, *busy = link.run(
        job_scripts.START,
        [keys.meta(name), keys.job(name, job_id), keys.jobs(name)],
        [generation, job_id, json.dumps(request), digest, keys.job(name, "")],
    )
    if outcome == b"gone":
        raise WrongGeneration(f"model {name} was deleted")
    return Started(outcome.decode(), busy[0].decode() if busy else job_id)


def load(link: Link, name: str, job_id: str) -> Job | None:
    """A job; None if there is none of this id any more."""
    values = link.call("HMGET", keys.job(name, job_id), *_FIELDS)
    found = dict(zip(_FIELDS, values, strict=True))
    if found["id"] is None:
        return None

    def seconds(field: str) -> float | None:
        return None if found[field] is None else float(found[field])

    return Job(
        name,
        job_id,
        found["state"].decode(),
        json.loads(found["request"]),
        int(found["attempt"]),
        float(found["created"]),
        float(found["beat"]),
        seconds("started"),
        seconds("ended"),
        (found["stage"] or b"").decode(),
        json.loads(found["progress"] or b"{}"),
        json.loads(found["result"]) if found["result"] else None,
        (found["detail"] or b"").decode(),
        found["cancel"] is not None,
        found["log_id"].decode() if found["log_id"] else None,
    )


def current(link: Link, name: str) -> str | None:
    """The id of the job that a model has queued or running."""
    job_id = link.call("HGET", keys.meta(name), "job")
    return job_id.decode() if job_id else None


def cancel(link: Link, name: str, job_id: str) -> str | None:
    """Cancel a job: at once if it waits, at its next batch if it runs. Its state then; None: no such job."""
    state = link.run(job_scripts.CANCEL, [keys.meta(name), keys.job(name, job_id)], [job_id])
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

    def begin(self, link: Link) -> bool:
        """Take the job up; False if it is not to be run, or not by this attempt."""
        return bool(link.run(job_scripts.BEGIN, self._keys, [self.id, self.number]))

    def pulse(self, link: Link, pin: int | None, stage: str, progress: dict[str, Any] | None) -> int:
        """Show that it goes on, and hold the log after the position `pin`. `progress` None is as before.

        Returns 1 to go on, 2 if it is cancelled, 0 if the job is not this attempt's any more.
        """
        held = "" if pin is None else pin
        arguments = [self.id, self.number, held, stage, "" if progress is None else json.dumps(progress)]
        return int(link.run(job_scripts.PULSE, self._keys, arguments))

    def finish(self, link: Link, state: str, result: dict[str, Any] | None, detail: str = "") -> bool:
        """End it without a promotion; False if the job is not this attempt's any more."""
        arguments = [self.id, self.number, state, json.dumps(result) if result else "", detail]
        return bool(link.run(job_scripts.FINISH, self._keys, arguments))

    def promote(
        self,
        link: Link,
        generation: bytes,
        candidate: bytes,
        read: LogId,
        *,
        behind: int,
        result: dict[str, Any],
        blobs: int,
    ) -> tuple[str, LogId | None]:
        """Append the promote command, if the job is this attempt's and the candidate is close to the log's head.

        `read` is the log id of the last entry that the candidate has seen; no command replaced the weights since.
        Returns "appended" with the log id, "behind", "late" (not its job any more), "cancelled" or "full".
        """
        position = read.position
        command = {"do": "promote", "job": self.id, "position": position}
        outcome, *rest = link.run(
            job_scripts.PROMOTE,
            [*self._keys, keys.log(self.name), keys.blobs(self.name)],
            [
                *(self.id, self.number, generation, f"promote:{self.id}", json.dumps(command), candidate),
                *(position, behind, json.dumps(result), 2 * blobs, str(read)),
            ],
        )
        return outcome.decode(), LogId.parse(rest[0]) if outcome == b"appended" else None

    def take_back(self, link: Link, state: str, silence: float = SILENCE) -> int:
        """Give the job to the next attempt if it was silent so long: its number; 0: it is well, −1: it ended."""
        arguments = [self.id, self.number, state, silence, ATTEMPTS]
        return int(link.run(job_scripts.TAKE_BACK, self._keys, arguments))


# -- RQ ------------------------------------------------------------------------------------------------------


class NamedJob(RqJob):
    """A job of RQ's that can call nothing but the trainer."""

    def perform(self) -> Any:
        if self.func_name != FUNCTION:
            raise ValueError(f"a trainer does not run {self.func_name!r}")
        return super().perform()


@lru_cache(maxsize=8)
def queue(url: str, timeout: float) -> Queue:
    """RQ's queue of jobs. Nothing in it is executable: names and JSON."""
    client = redis.Redis.from_url(url, socket_timeout=timeout)
    return Queue(keys.TRAINING, connection=client, serializer=JSONSerializer, job_class=NamedJob)


def enqueue(waiting: Queue, attempt: Attempt, seconds: int) -> None:
    """Hand an attempt to the trainers; they give it up after so many seconds. Raises StoreUnavailable."""
    try:
        waiting.enqueue_call(
            FUNCTION,
            args=[attempt.name, attempt.id, attempt.number],
            job_id=_rq_id(attempt),
            timeout=seconds,
            result_ttl=60,
            failure_ttl=3600,
            description=f"retrain {attempt.name}",
        )
    except redis.RedisError as error:
        raise StoreUnavailable(f"lost Redis: {error}") from error


def is_enqueued(link: Link, attempt: Attempt) -> bool:
    """Whether an attempt waits for a trainer."""
    return link.call("LPOS", f"rq:queue:{keys.TRAINING}", _rq_id(attempt)) is not None


def _rq_id(attempt: Attempt) -> str:
    return f"{attempt.id}-{attempt.number}".replace(".", "_")


def look_after(link: Link, waiting: Queue, name: str, job_id: str, seconds: int) -> Job | None:
    """The job as it stands, after giving it to another trainer if its own has died or RQ has lost it."""
    job = load(link, name, job_id)
    if job is None or job.state in ENDED:
        return job
    attempt = Attempt(name, job_id, job.attempt)
    if job.state == "queued" and is_enqueued(link, attempt):
        return job
    number = attempt.take_back(link, job.state)
    if number > 0:
        enqueue(waiting, Attempt(name, job_id, number), seconds)
    return load(link, name, job_id) if number else job
