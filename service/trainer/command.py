"""`freshet trainer`."""

import os
import signal

import click

from service.settings import redis_url
from service.start import start
from service.telemetry import serve_counters
from service.trainer.worker import Trainer


@click.command()
def trainer() -> None:
    """Run a trainer: it retrains models on request, or when their schedules say so.

    Any number may run; a job whose trainer dies is taken up by another.
    """
    settings = start("trainer")
    os.nice(settings.trainer_nice)
    serve_counters(settings.host, settings.metrics_port)
    worker = Trainer(settings, redis_url(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
