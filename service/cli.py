"""The command line: `freshet serve | web | learner | trainer | verify | feed | retrain`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from service import failpoints, logs
from service.client.feed_command import feed
from service.client.retrain_command import retrain
from service.errors import ServiceError, StoreUnavailable
from service.host import compiled_cache, listening
from service.host.embedded import opened
from service.host.exposure import check_exposure
from service.host.keys_command import keys
from service.settings import Settings, load_settings, redis_url
from service.store.connection import Link, check_server
from service.telemetry import folder_of_web, serve_counters, share_counters


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="freshet")
def cli() -> None:
    """Freshet serves a neural network that learns from every labelled observation, exactly once.

    Every setting is also an environment variable, FRESHET_<NAME>; see the README.
    """


@cli.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder of the embedded server."
)
@click.option("--redis-url", help="Redis or Valkey to use instead of the embedded server.")
@click.option("--web-workers", type=int, help="Web processes.")
@click.option(
    "--insecure", is_flag=True, default=None, help="Serve other addresses although there is no API key."
)
@click.option(
    "--appendfsync", type=click.Choice(["always", "everysec"]), help="Sync policy of the embedded server."
)
def serve(**options: Any) -> None:
    """Run everything on this machine: Redis (unless REDIS_URL is set), learner and web."""
    from service.host.supervisor import Supervisor

    settings = load_settings(**options)
    logs.configure(settings, "serve")
    Supervisor(settings).run()


@cli.command()
@click.option("--fd", type=int, hidden=True, help="The socket to serve on, inherited from `serve`.")
def web(fd: int | None) -> None:
    """Run the web processes: gunicorn, in the foreground."""
    settings = load_settings()
    logs.configure(settings, "web")
    _check(settings)
    check_exposure(settings)
    if fd is None:
        listening.bind(settings.host, settings.port).close()  # gunicorn would try for long, and say less
    share_counters(folder_of_web(settings.port))
    configuration = Path(__file__).parent / "web" / "gunicorn_conf.py"
    arguments = ["-c", str(configuration), *([] if fd is None else ["--bind", f"fd://{fd}"])]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "service.web.gunicorn_app", *arguments])


@cli.command()
def learner() -> None:
    """Run a learner: it leads the models that no other learner leads."""
    from service.learner.learner import Learner

    settings = load_settings()
    logs.configure(settings, "learner")
    _check(settings)
    failpoints.configure(settings)
    serve_counters(settings.host, settings.metrics_port)
    worker = Learner(settings, redis_url(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()


@cli.command()
def trainer() -> None:
    """Run a trainer: it retrains models when it is asked to, or when their schedules say so."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported
    from service.trainer.worker import Trainer

    settings = load_settings()
    logs.configure(settings, "trainer")
    _check(settings)
    os.nice(settings.trainer_nice)
    serve_counters(settings.host, settings.metrics_port)
    worker = Trainer(settings, redis_url(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()


@cli.command("warm-up")
def warm_up() -> None:
    """Compile what learning needs and keep it, so that a learner starts at once. For installations and images."""
    from service.replay.compiling import compile_loop

    compile_loop()


@cli.command()
@click.argument("model")
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder of the embedded server."
)
@click.option("--redis-url", help="Redis or Valkey to use instead of the embedded server.")
def verify(model: str, **options: Any) -> None:
    """Replay MODEL's log between the states that are kept and compare with them, bit for bit.

    Exit status: 0 if all is equal, 1 if a state differs, 3 if there is a stretch that cannot be replayed or nothing to
    compare. Needs no running server, and may run beside one.
    """
    from service.replay.verify import LINK_SECONDS, verify

    settings = load_settings(**options)
    with opened(settings) as url:
        spans = verify(Link(url, LINK_SECONDS), model)
    for span in spans:
        click.echo(span)
    if not spans:
        click.echo("there is no stretch of the log between two states that are kept")
    sys.exit(1 if any(span.difference for span in spans) else 3 * (not spans or any(s.gap for s in spans)))


cli.add_command(feed)
cli.add_command(retrain)
cli.add_command(keys)


def _check(settings: Settings) -> None:
    """Refuse a Redis that cannot keep the promises; one that is away is waited for later."""
    try:
        check_server(Link(redis_url(settings), settings.redis_timeout))
    except StoreUnavailable as error:
        logs.log.warning("Redis is not there yet", error=str(error))


def main() -> None:
    """Run the command line; errors are one line."""
    # A user's own `model.py` or `service/` in the current folder must not be imported by any child process.
    os.environ["PYTHONSAFEPATH"] = "1"
    compiled_cache.prepare()
    try:
        cli()
    except ServiceError as error:
        click.echo(f"freshet: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
