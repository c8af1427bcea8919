"""`freshet undo`: rebuilds a model without what one API key has taught it."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from service.client.display import display
from service.client.http import model_path
from service.client.options import connected, server_options
from service.client.retrain_command import follow, start


@click.command(short_help="Rebuild a model without what one API key taught it.")
@click.argument("model")
@click.option("--key", "name", metavar="NAME", required=True, help="Name of the API key.")
@click.option("--since", metavar="TIME", help="Undo what it taught since a time, in ISO 8601. [default: all]")
@click.option("--quiet", is_flag=True, help="Show nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Show nothing but the job as it ended, as JSON.")
@server_options
def undo(
    model: str,
    name: str,
    since: str | None,
    url: str,
    key_file: Path | None,
    wait: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Rebuild MODEL from its log without the observations that the API key NAME has sent.

    The newest state from before the first of them is taken, and what the others have taught since is learned again, in
    order. Revoke the key first, or what it sends meanwhile is left out too, and what it sends later is learned.

    \b
    Examples:
      freshet undo fraud --key partner-7 --since 2026-01-31T12:00:00Z

    Exit status: 0 if the model was rebuilt; 1 if not; 3 if the server could not be reached.
    """
    shown = display(silent=quiet or as_json)
    try:
        client = connected(url, key_file, wait, shown.note)
        asked = {"key": name, **({} if since is None else {"since": since})}
        job = start(client, model_path(model, "/undo"), asked)
        job = follow(client, job, shown, f"{client.url}/v1/jobs/{job['job']}")
    finally:
        shown.close()
    if as_json:
        click.echo(json.dumps(job))
    elif not quiet or job["state"] != "succeeded":
        click.echo(summary(job))
    if job["state"] != "succeeded":
        sys.exit(1)


def summary(job: dict[str, Any]) -> str:
    """How it ended."""
    if job["state"] != "succeeded":
        return f"{job['state']}{': ' + job['detail'] if job['detail'] else ''}"
    rows = job["result"]["rows"]
    return f"{rows['undone']:,} observations undone, {rows['learned']:,} learned again"
