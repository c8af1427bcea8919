"""A trainer's process. Where the code has jobs handed out by RQ, this takes them up as RQ's worker would."""

import importlib
from contextlib import suppress
from typing import Any

import imitations
from scheduler import Process, world
from wire import URL

LOOK = 0.3  # seconds between looks for a job


def train(process: Process, settings: Any) -> None:
    """Be a trainer until killed."""
    worker = importlib.import_module("service.trainer.worker")
    if hasattr(worker, "TrainingWorker"):
        _train_without_rq(settings)
    else:
        worker.Trainer(settings, URL).run()


def _train_without_rq(settings: Any) -> None:
    from service.store import jobs, models
    from service.store.connection import Link
    from service.trainer.job import retrain
    from service.trainer.worker import Keeper

    keeper = Keeper(Link(URL, settings.redis_timeout), None, settings.max_job_seconds)
    keeper.start()
    link = Link(URL, settings.redis_timeout)
    from service.errors import StoreError

    while True:
        with suppress(StoreError):
            for name in sorted(models.names(link)):
                job_id = jobs.current(link, name)
                job = None if job_id is None else jobs.load(link, name, job_id)
                if job is not None and job.state == "queued":
                    with suppress(Exception):  # RQ's worker would log it and go on
                        retrain(name, job.id, job.attempt)
        world().task().park(LOOK)


def _adapt_jobs(module: Any) -> None:
    """Without RQ's queue a queued job waits for whoever looks next."""
    if hasattr(module, "enqueue"):
        module.queue = lambda *_: None
        module.enqueue = lambda *_: None
        module.is_enqueued = lambda *_: True


imitations.ADAPTED["service.store.jobs"] = [_adapt_jobs]
