"""One attempt at a job. A trainer calls `run` in a process of its own."""

import signal
import sys
from contextlib import suppress

from model import ModelError
from service import failpoints
from service.errors import ServiceError, StoreUnavailable
from service.logs import log
from service.processes import die_with_parent
from service.settings import Settings, redis_url
from service.store.connection import Link
from service.store.jobs import Attempt, Job
from service.store.model_store import ModelStore
from service.trainer.heartbeat import JobHeartbeat, JobLost
from service.trainer.job import REDIS_TIMEOUT, Run
from service.trainer.undo import UndoRun


def run(settings: Settings, attempt: Attempt, parent: int) -> None:
    """Do one attempt at a job, in a process of its own. The live model goes on as it is until a promote command.

    The process ends with another status than 0 if another attempt is to take the job up.
    """
    die_with_parent(parent, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which ends this process
    failpoints.configure(settings)
    link = Link(redis_url(settings), REDIS_TIMEOUT)
    heartbeat = JobHeartbeat(attempt, Link(redis_url(settings), REDIS_TIMEOUT))
    heartbeat.start()
    try:
        _run(settings, link, attempt, heartbeat).go()
    except JobLost:
        with suppress(StoreUnavailable):
            log_loss(attempt, ModelStore(link, attempt.name).jobs.load(attempt.id))
    except StoreUnavailable as error:
        log.warning("a job lost Redis", job=attempt.id, error=str(error))
        sys.exit(1)
    except (ServiceError, ModelError) as error:
        attempt.finish(link, "failed", None, str(error))
    except Exception:  # noqa: BLE001 - whatever is wrong with one job, it must not end the trainer
        log.exception("a job failed", job=attempt.id)
        attempt.finish(link, "failed", None, "internal error, see the trainer's log")
    finally:
        heartbeat.end()


def log_loss(attempt: Attempt, job: Job | None) -> None:
    """Tell why an attempt at a job ends; `job` is what the job is now, None if its model is gone."""
    if job is None:
        log.info("a job ended: its model is gone", model=attempt.name, job=attempt.id)
    else:
        log.warning("another trainer has the job", model=attempt.name, job=attempt.id)


def _run(settings: Settings, link: Link, attempt: Attempt, heartbeat: JobHeartbeat) -> Run:
    """What the job is: a retraining, or an undo. Raises JobLost if it is gone."""
    job = ModelStore(link, attempt.name).jobs.load(attempt.id)
    if job is None:
        raise JobLost
    kind = UndoRun if "undo" in job.request else Run
    return kind(settings, link, attempt, heartbeat, job.request)
