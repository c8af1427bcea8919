"""`freshet jobs`: list, show and cancel retraining jobs."""

import json
import time
from pathlib import Path
from urllib.parse import quote

import click

from service.client.http import model_path
from service.client.options import connected, json_option, server_options
from service.client.retrain_command import ENDED, epoch_text, summary
from service.client.table import print_table


@click.group()
def jobs() -> None:
    """List, show and cancel retraining jobs.

    \b
    Examples:
      freshet jobs list spam
      freshet jobs show spam.2f6c
      freshet jobs cancel spam.2f6c
    """


@jobs.command("list")
@click.argument("model")
@json_option
@server_options
def list_all(model: str, url: str, key_file: Path | None, wait: float, as_json: bool) -> None:
    """List the jobs of MODEL, the newest first."""
    answer = connected(url, key_file, wait).request("GET", model_path(model, "/jobs"))
    if as_json:
        click.echo(json.dumps(answer))
        return
    rows = [[job["job"], job["state"], _moment(job["created"]), job["detail"]] for job in answer["jobs"]]
    print_table(["job", "state", "created", "detail"], rows)


@jobs.command()
@click.argument("job")
@json_option
@server_options
def show(job: str, url: str, key_file: Path | None, wait: float, as_json: bool) -> None:
    """Show JOB: its state, the losses of its epochs, its result."""
    found = connected(url, key_file, wait).request("GET", f"/v1/jobs/{quote(job, safe='')}")
    if as_json:
        click.echo(json.dumps(found))
        return
    for losses in found["losses"]:
        click.echo(epoch_text(losses))
    click.echo(summary(found) if found["state"] in ENDED else found["stage"] or found["state"])


@jobs.command()
@click.argument("job")
@json_option
@server_options
def cancel(job: str, url: str, key_file: Path | None, wait: float, as_json: bool) -> None:
    """Cancel JOB: at once if it waits; its trainer ends one that runs."""
    found = connected(url, key_file, wait).request("DELETE", f"/v1/jobs/{quote(job, safe='')}")
    click.echo(json.dumps(found) if as_json else f"{found['job']}: {found['state']}")


def _moment(seconds: float | str | None) -> str:
    if isinstance(seconds, int | float):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    return seconds or ""
