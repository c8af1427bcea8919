"""`freshet serve`, `freshet web` and `freshet config`."""

import json
from typing import Any

import click

from service import logs
from service.host import listening
from service.host.exposure import check_exposure
from service.host.forked import RunCommand
from service.host.options import Command, redis_options
from service.host.preloading import WEB, preload
from service.host.supervisor import Supervisor
from service.settings import check_certificate, in_force, load_settings
from service.start import start
from service.telemetry import share_counters
from service.web import gunicorn_app


def _serve_options(command: Command) -> Command:
    for option in (
        click.option(
            "--appendfsync", type=click.Choice(["always", "everysec"]), help="When the embedded server syncs."
        ),
        click.option(
            "--insecure",
            is_flag=True,
            default=None,
            help="Serve other addresses although there is no API key.",
        ),
        click.option("--web-workers", type=int, help="Web processes."),
        redis_options,
        click.option("--port", type=int, help="Port to listen on; 0 takes a free one."),
        click.option("--host", help="Address to listen on."),
    ):
        command = option(command)
    return command


@click.command()
@_serve_options
def serve(**options: Any) -> None:
    """Run everything on this machine: Redis (unless REDIS_URL is set), learner, trainer and web.

    SIGTERM stops it, SIGHUP replaces the web processes by new ones. Every option is also a setting.

    \b
    Examples:
      freshet serve
      freshet serve --port 9000 --data-dir /srv/freshet
      REDIS_URL=redis://redis:6379/0 freshet serve --host 0.0.0.0

    Exit status: 0 after a stop; 2 if it cannot start, with the reason in one line.
    """
    settings = load_settings(**options)
    logs.configure(settings, "serve")
    try:
        Supervisor(settings).run()
    except RunCommand as forked:
        command = forked
    else:
        return
    command.run()


@click.command()
@click.option("--fd", type=int, hidden=True, help="The socket to serve on, inherited from `serve`.")
def web(fd: int | None) -> None:
    """Run the web processes: gunicorn, in the foreground.

    SIGTERM stops it, SIGHUP replaces the processes by new ones.
    """
    settings = start("web")
    check_exposure(settings)
    check_certificate(settings)
    if fd is None:
        listening.bind(settings.host, settings.port).close()  # gunicorn would try for long, and say less
    share_counters()
    preload(WEB)
    gunicorn_app.run([] if fd is None else ["--bind", f"fd://{fd}"])


@click.command()
@_serve_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(as_json: bool, **options: Any) -> None:
    """Print every setting, its value and what gave it: default, variable, file or option. Secrets are hidden."""
    rows = list(in_force(load_settings(**options), options))
    if as_json:
        click.echo(
            json.dumps({name: {"value": value, "source": source} for name, value, source in rows}, indent=2)
        )
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        click.echo(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}")
