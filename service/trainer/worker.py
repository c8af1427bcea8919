"""The process of a trainer: it claims jobs, runs each in a child process, and fires the schedules that are due."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from service.counters import JOB_SECONDS, JOBS
from service.errors import StoreError, StoreUnavailable
from service.jobs import schedules
from service.jobs.retraining import NOT_BETTER
from service.logs import log
from service.processes import ending, has_died, identity
from service.replay.compiling import compile_loop
from service.settings import Settings
from service.store import jobs, models
from service.store import schedules as stored_schedules
from service.store.connection import Link
from service.store.jobs import Attempt, Job, JobNews
from service.store.model_store import ModelStore
from service.trainer import attempt as training

LOOK = 1.0  # seconds between looks at all models, if no message asks for one
WAIT = 0.25  # seconds that a step waits for a message, at most: a signal is noticed so late
SILENCE = 15.0  # seconds without a heartbeat after which a job is given to another trainer


class SilentJobs:
    """Which running jobs have lost their trainer: those whose heartbeat has not moved for `SILENCE`.

    Time counts only between looks that followed each other promptly: after a stall of Redis or of this process, a
    trainer gets its whole time again. A trainer that has died on this machine is not waited for.
    """

    def __init__(self) -> None:
        self._still: dict[str, tuple[str, float, float]] = {}  # beat, seconds still, last look

    def among(self, running: Iterable[Job], now: float) -> list[Job]:
        """The silent ones of all running jobs, as of the monotonic time `now`."""
        still: dict[str, tuple[str, float, float]] = {}
        silent = []
        for job in running:
            beat, seconds, looked_at = self._still.get(job.id, ("", 0.0, now))
            seconds = seconds + min(now - looked_at, 2 * LOOK) if beat == job.beat else 0.0
            still[job.id] = (job.beat, seconds, now)
            if seconds >= SILENCE or has_died(job.holder):
                silent.append(job)
        self._still = still
        return silent


@dataclass
class RunningJob:
    """A job in its child process."""

    attempt: Attempt
    process: BaseProcess
    give_up_at: float  # monotonic seconds
    verdict: tuple[str, str] | None = None  # the state and detail that it ends with, as it was killed

    def kill(self, verdict: tuple[str, str] | None) -> None:
        """End the process now."""
        self.process.kill()
        self.process.join()
        self.verdict = verdict


class Trainer:
    """Runs one job at a time. `step()` does one round; `run()` repeats it until `stop()`."""

    def __init__(self, settings: Settings, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._link = Link(url, settings.redis_timeout)
        self._news = JobNews(Link(url, settings.redis_timeout))
        self._silent = SilentJobs()
        self._holder = identity()
        self._running: RunningJob | None = None
        self._is_warm = False
        self._look_at = 0.0  # when all models are looked at again, by the clock
        self._connected = True
        self._stopping = False  # no Event: its lock may be held when a signal's handler sets it

    def run(self) -> None:
        """Run jobs until `stop()` is called; the job that runs then is given to another trainer."""
        while not self._stopping:
            try:
                self.step()
            except StoreUnavailable as error:
                if self._connected:
                    log.warning("lost Redis; a running job goes on", error=str(error))
                self._connected, self._look_at = False, 0.0
                time.sleep(WAIT)
            except StoreError:  # an answer that no single model can be blamed for
                log.exception("unexpected answer from Redis")
                time.sleep(LOOK)
        if self._running is not None:
            self._hand_over(self._running)

    def stop(self) -> None:
        """Let `run` end after its current round. Only sets a flag: safe in a signal handler."""
        self._stopping = True

    def step(self) -> None:
        """One round: the running job, all models if it is time, a wait for a message. Raises StoreError."""
        now = self._clock()
        self._check_running(now)
        if now >= self._look_at:
            self._look(now)
            self._look_at = now + LOOK
        if not self._connected:
            log.info("Redis is back")
            self._connected = True
        if self._news.wait(WAIT):
            self._look_at = now

    # -- the running job -------------------------------------------------------------------------------------

    def _check_running(self, now: float) -> None:
        """End a job that takes too long, and tidy up after one whose process has ended."""
        running = self._running
        if running is None:
            return
        if running.process.is_alive() and now >= running.give_up_at:
            running.kill(("failed", f"it took more than {self._settings.max_job_seconds} s"))
        if not running.process.is_alive():
            self._tidy_up(running)
            self._running = None
            self._look_at = now  # another job may be waiting
            if (
                not self._is_warm
            ):  # load the compiled loop, which the first job has cached: the next ones start at once
                compile_loop()
                self._is_warm = True

    def _tidy_up(self, running: RunningJob) -> None:
        """End a job whose process was killed, give back one whose process died. Raises StoreUnavailable."""
        attempt = running.attempt
        if running.verdict is not None:
            state, detail = running.verdict
            attempt.finish(self._link, state, None, detail)
        elif running.process.exitcode != 0:
            again = attempt.give_back(self._link, died=True)
            how = ending(running.process.exitcode)
            log.warning("a training process died", job=attempt.id, how=how, again=again)
        self._report_end(attempt)

    def _report_end(self, attempt: Attempt) -> None:
        """Log and count how a job has ended, if it has."""
        job = ModelStore(self._link, attempt.name).jobs.load(attempt.id)
        if job is None or job.state not in jobs.ENDED or job.attempt != attempt.number:
            return
        result = job.result or {}
        if job.state != "succeeded":
            outcome = job.state
        elif result.get("promoted"):
            outcome = "promoted"
        else:
            outcome = "refused" if result.get("why") == NOT_BETTER else "not promoted"
        seconds = round((job.ended or 0.0) - (job.started or job.created), 3)
        detail = job.detail or result.get("why") or ""
        log.info("a job ended", model=job.model, job=job.id, outcome=outcome, detail=detail, seconds=seconds)
        JOBS.labels(outcome).inc()
        JOB_SECONDS.observe(seconds)

    def _mind(self, running: RunningJob, silent: list[Job]) -> None:
        """End the running job's process if the job was cancelled, is silent, or is not this trainer's any more."""
        attempt = running.attempt
        job = ModelStore(self._link, attempt.name).jobs.load(attempt.id)
        if job is None or job.attempt != attempt.number or job.state == "queued":
            training.log_loss(attempt, job)
            running.kill(None)
            self._running = None
        elif job.cancelled and job.state == "running":
            running.kill(("cancelled", ""))
        elif job in silent:
            running.kill(None)

    def _hand_over(self, running: RunningJob) -> None:
        """End the running job's process, and give the job to another trainer."""
        running.kill(None)
        with suppress(StoreError):
            if running.attempt.give_back(self._link, died=False):
                log.info("gave a job back", model=running.attempt.name, job=running.attempt.id)

    # -- all models ------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Look at all models: fire schedules, mind the running job, take up another."""
        known = models.names(self._link)
        busy = jobs.current(self._link, known)
        self._fire({name: generation for name, generation in known.items() if name not in busy})
        found = [job for job in jobs.load_many(self._link, busy.items()) if job is not None]
        silent = self._silent.among([job for job in found if job.state == "running"], now)
        if self._running is not None:
            self._mind(self._running, silent)
        queued = [job for job in found if job.state == "queued"]
        for job in sorted(queued + silent, key=lambda job: job.created):
            if self._running is None:
                self._claim(job)

    def _fire(self, idle: dict[str, bytes]) -> None:
        """Fire the schedules that are due, of models without a job; `idle` maps their names to generations."""
        now = stored_schedules.clock(self._link)
        for name, stored in stored_schedules.load_many(self._link, idle).items():
            try:
                fired = schedules.tick(ModelStore(self._link, name, idle[name]), stored, now)
            except StoreUnavailable:
                raise
            except Exception:  # noqa: BLE001 - whatever is wrong with one model, it must not end the others' schedules
                log.exception("a schedule cannot be looked at", model=name)
                continue
            if fired is not None:
                log.info("a schedule fired", model=name, job=fired)

    def _claim(self, job: Job) -> None:
        """Take up a job and start its process, unless another trainer was faster."""
        number = jobs.claim(self._link, job, self._holder)
        if number <= 0:
            if number < 0:
                self._report_end(Attempt(job.model, job.id, job.attempt))
            return
        attempt = Attempt(job.model, job.id, number)
        asked_by = job.request.get("by")
        log.info("a job starts", model=job.model, job=job.id, attempt=number, asked_by=asked_by)
        # A fork: it has the compiled loop that this process has loaded. This process has no threads.
        process = multiprocessing.get_context("fork").Process(
            target=training.run, args=(self._settings, attempt, os.getpid()), daemon=True
        )
        process.start()
        self._running = RunningJob(attempt, process, self._clock() + self._settings.max_job_seconds)
