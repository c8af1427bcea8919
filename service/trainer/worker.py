"""The process of a trainer: RQ's worker, which runs each job in a fork, and the keeper beside it."""

import ctypes
import signal
import threading
import time
from contextlib import suppress
from typing import Any

from rq import Queue, Worker
from rq.job import Job as RqJob

from service.errors import StoreError
from service.logs import log
from service.store import jobs, models
from service.store.connection import Link
from service.store.jobs import Attempt

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
LOOK = 1.0  # seconds between the keeper's looks at schedules and jobs


class Keeper(threading.Thread):
    """Fires schedules that are due, and gives jobs whose trainer has died to another. Any number may run."""

    def __init__(self, link: Link, queue: Queue, seconds: int) -> None:
        super().__init__(name="keeper", daemon=True)
        self._link = link
        self.queue = queue
        self.seconds = seconds
        self._stopped = threading.Event()
        self.at_work = threading.Lock()

    def run(self) -> None:
        """Look after all models once a second."""
        while not self._stopped.wait(LOOK):
            with self.at_work:
                try:
                    self.step()
                except StoreError as error:
                    log.warning("the keeper lost Redis", error=str(error))
                except Exception:  # noqa: BLE001 - a bug with one model must not end all schedules
                    log.exception("the keeper failed")

    def stop(self) -> None:
        """End after the current look."""
        self._stopped.set()

    def step(self) -> None:
        """One look at every model."""
        from service.jobs import schedules

        for name, generation in models.names(self._link).items():
            job_id = jobs.current(self._link, name)
            if job_id is not None:
                jobs.look_after(self._link, self.queue, name, job_id, self.seconds)
                continue
            fired = schedules.tick(self._link, name, generation)
            if fired is not None:
                log.info("a schedule fired", model=name, job=fired)
                jobs.enqueue(self.queue, Attempt(name, fired, 1), self.seconds)


class TrainingWorker(Worker):
    """RQ's worker, with a job's death told at once, and SIGTERM ending a job instead of waiting for it."""

    keeper: Keeper
    link: Link
    max_connection_wait_time = 2.0

    def execute_job(self, job: RqJob, queue: Queue) -> None:
        """Run a job; then load the compiled loop, which the first job has compiled if need be, for those to come."""
        from service.replay.compiling import compile_loop

        super().execute_job(job, queue)
        compile_loop()

    def fork_work_horse(self, job: RqJob, queue: Queue) -> None:
        """Fork while the keeper rests: a fork in the midst of its work would copy the locks that it holds."""
        with self.keeper.at_work:
            super().fork_work_horse(job, queue)

    def main_work_horse(self, job: RqJob, queue: Queue) -> None:
        """Run the job; die with the worker, so that no training goes on unseen."""
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        super().main_work_horse(job, queue)

    def handle_warm_shutdown_request(self) -> None:
        """End the running job with this process; another trainer takes it up."""
        self.kill_horse()

    def maintain_heartbeats(self, job: RqJob) -> None:
        """Tell that the job goes on; end it if it was silent for so long that another trainer has it."""
        super().maintain_heartbeats(job)
        name, job_id, number = job.args
        with suppress(StoreError):
            found = jobs.load(self.link, name, job_id)
            if found is None or found.attempt != number:
                log.warning("another trainer has the job", job=job_id, attempt=number)
                self.kill_horse()

    def handle_work_horse_killed(self, job: RqJob, retpid: Any, ret_val: Any, rusage: Any) -> None:
        """Give the job to another trainer."""
        attempt = Attempt(*job.args)
        log.warning("a training process died", job=attempt.id, attempt=attempt.number)
        try:
            number = attempt.take_back(self.link, "running", silence=0)
            if number > 0:
                jobs.enqueue(
                    self.keeper.queue, Attempt(attempt.name, attempt.id, number), self.keeper.seconds
                )
        except StoreError as error:
            log.warning("could not give the job back", job=attempt.id, error=str(error))


def work(url: str, timeout: float, seconds: int) -> None:
    """Run jobs until SIGTERM. Each may take so many seconds."""
    _wait_for_redis(Link(url, timeout))
    queue = jobs.queue(url, timeout)
    keeper = Keeper(Link(url, timeout), queue, seconds)
    worker = TrainingWorker(
        [queue],
        connection=queue.connection,
        serializer=queue.serializer,
        job_class=jobs.NamedJob,
        job_monitoring_interval=5,
        worker_ttl=30,
        maintenance_interval=60,
        log_job_description=False,
    )
    worker.keeper, worker.link = keeper, Link(url, timeout)
    worker.log_result_lifespan = False
    keeper.start()
    try:
        worker.work(logging_level="WARNING")
    finally:
        keeper.stop()


def _wait_for_redis(link: Link) -> None:
    """Wait until Redis answers: RQ's worker would end with a traceback."""
    while True:
        with suppress(StoreError):
            link.call("PING")
            return
        time.sleep(LOOK)
