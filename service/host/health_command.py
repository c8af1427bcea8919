"""`freshet health`: for the health checks of containers."""

import http.client
import sys

import click

from service.host import listening
from service.settings import load_settings


@click.command()
@click.option("--metrics", is_flag=True, help="Ask a learner or trainer, at FRESHET_METRICS_PORT.")
def health(metrics: bool) -> None:
    """Whether the web server, or with --metrics the learner or trainer, of these settings answers on this machine.

    Exit status: 0 if it does, 1 if not.
    """
    settings = load_settings()
    tls = settings.tls_certificate is not None and not metrics
    host = listening.LOOPBACK.get(settings.host, settings.host)
    port = settings.metrics_port if metrics else settings.port
    path = "/metrics" if metrics else "/livez"
    try:
        status = listening.status_of(host, port, tls, timeout=3.0, path=path)
    except (OSError, http.client.HTTPException) as error:
        click.echo(f"{host} port {port} does not answer: {error}", err=True)
        sys.exit(1)
    sys.exit(0 if status < 500 else 1)
