"""`freshet retrain`: starts a retraining and follows it."""

import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import click

from service.client.display import Display, Progressed, display
from service.client.errors import ClientError
from service.client.http import Client, model_path
from service.client.options import connected, server_options

LOOK = 0.25  # seconds between looks at the job
ENDED = {"succeeded", "failed", "cancelled"}


@click.command(short_help="Retrain a model over its log, and follow it.")
@click.argument("model")
@click.option("--epochs", type=int, help="Passes over the window.")
@click.option("--batch-size", type=click.IntRange(0), help="Rows in a mini-batch; 0 for all at once.")
@click.option("--learning-rate", type=float, help="While it retrains. [default: the model's]")
@click.option("--optimizer", metavar="NAME", help="While it retrains. [default: the model's]")
@click.option("--start", type=click.Choice(["current", "scratch"]), help="The weights to begin with.")
@click.option("--last", metavar="N", type=int, help="Take the last N observations. [default: the whole log]")
@click.option("--since", metavar="TIME", help="Take the observations since a time, in ISO 8601.")
@click.option("--validation", type=float, help="Share of the window, the newest, to judge by.")
@click.option("--seed", type=int, help="Of the order of rows and of dropout.")
@click.option(
    "--patience", metavar="N", type=int, help="Stop after N epochs without a better validation loss."
)
@click.option(
    "--promote", type=click.Choice(["if_better", "always", "never"]), help="Whether it goes live after."
)
@click.option("--detach", is_flag=True, help="Do not follow the job; print its address.")
@click.option("--quiet", is_flag=True, help="Show nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Show nothing but the job as it ended, as JSON.")
@server_options
def retrain(
    model: str,
    url: str,
    key_file: Path | None,
    wait: float,
    detach: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Retrain MODEL in mini-batches over its log, and show the losses of each epoch.

    What is not given has the server's default. The model goes on predicting and learning meanwhile.
    Ctrl-C stops watching; the job goes on.

    \b
    Examples:
      freshet retrain spam --epochs 20
      freshet retrain spam --last 10000 --optimizer adam --learning-rate 0.001
      freshet retrain spam --start scratch --promote never --json

    Exit status: 0 if the job succeeded, promoted or not; 1 if it failed, was cancelled or was refused;
    3 if the server could not be reached.
    """
    shown = display(silent=quiet or as_json or detach)
    try:
        client = connected(url, key_file, wait, shown.note)
        job = start(client, model_path(model, "/retrain"), body(options))
        where = f"{client.url}/v1/jobs/{job['job']}"
        if not detach:
            job = follow(client, job, shown, where)
    finally:
        shown.close()
    if detach:
        click.echo(json.dumps(job) if as_json else where)
        return
    if as_json:
        click.echo(json.dumps(job))
    elif not quiet:
        click.echo(summary(job))
    if job["state"] != "succeeded":
        sys.exit(1)


def start(client: Client, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Start a job. Sent again under one key, it is started once."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    return client.request("POST", path, asked, key)


def follow(client: Client, job: dict[str, Any], shown: Display, where: str) -> dict[str, Any]:
    """Show the job until it ends; returns it as it ended."""
    epochs = 0
    try:
        while True:
            for losses in job["losses"][epochs:]:
                shown.note(epoch_text(losses))
            epochs = len(job["losses"])
            shown.update(progressed(job))
            if job["state"] in ENDED:
                return job
            time.sleep(LOOK)
            job = client.request("GET", f"/v1/jobs/{job['job']}")
    except KeyboardInterrupt:
        raise ClientError(f"no longer watching; the job goes on: {where}") from None


def progressed(job: dict[str, Any]) -> Progressed:
    """How far a job has come, for a display."""
    left = job["seconds_left"]
    return Progressed(
        stage=job["stage"] or job["state"],
        done=job["epoch"],
        total=job["epochs"],
        text=f"epoch {job['epoch']} of {job['epochs']}" + (f", {left:.0f} s left" if left else ""),
    )


def body(options: dict[str, Any]) -> dict[str, Any]:
    """The request's body: what was given."""
    given = {name: value for name, value in options.items() if value is not None}
    window = {name: given.pop(name) for name in ("last", "since") if name in given}
    if window:
        given["window"] = window
    if given.get("batch_size") == 0:
        given["batch_size"] = None
    return given


def summary(job: dict[str, Any]) -> str:
    """How it ended, with the losses of both sides."""
    if job["state"] != "succeeded":
        return f"{job['state']}{': ' + job['detail'] if job['detail'] else ''}"
    result = job["result"]
    lines = ["promoted" if result["promoted"] else job["detail"]]
    for measure, words in (("prequential_loss", "while learning"), ("validation_loss", "before")):
        losses = [
            f"{side} {result[name][measure]:.4f}"
            for name, side in (("candidate", "candidate"), ("live", "live model"))
            if result[name] is not None and result[name][measure] is not None
        ]
        if losses:
            lines.append(f"loss on the validation rows, {words}: {', '.join(losses)}")
    return "\n".join(lines)


def epoch_text(losses: dict[str, Any]) -> str:
    """An epoch's two losses in words."""
    words = {"loss": losses["loss"], "validation": losses["validation_loss"]}
    known = [f"{word} {loss:.4f}" for word, loss in words.items() if loss is not None]
    return f"epoch {losses['epoch']}: {', '.join(known) or 'loss is not finite'}"
