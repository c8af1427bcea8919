"""`freshet learner`."""

import signal

import click

from service.learner.learner import Learner
from service.settings import redis_url
from service.start import start
from service.telemetry import serve_counters


@click.command()
def learner() -> None:
    """Run a learner: it leads the models that no other learner leads.

    Any number may run, on any number of machines with one REDIS_URL: they share the models, and take over from
    one that dies.
    """
    settings = start("learner")
    serve_counters(settings.host, settings.metrics_port)
    worker = Learner(settings, redis_url(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
