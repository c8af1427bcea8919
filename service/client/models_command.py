"""`freshet models`: list, show, create and delete models."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from service.client.errors import ClientError
from service.client.http import model_path
from service.client.options import connected, json_option, server_options
from service.client.scores import score_text
from service.client.table import print_table


@click.group()
def models() -> None:
    """List, show, create and delete models.

    \b
    Examples:
      freshet models list
      freshet models create spam spec.json
      freshet models show spam --json
    """


@models.command("list")
@json_option
@server_options
def list_all(url: str, key_file: Path | None, wait: float, as_json: bool) -> None:
    """List the models: name, task, step and how far the learner is behind."""
    answer = connected(url, key_file, wait).request("GET", "/v1/models")
    if as_json:
        click.echo(json.dumps(answer))
        return
    rows = [
        [model.get("model") or model.get("name"), model.get("task"), model.get("step"), model.get("lag")]
        for model in answer["models"]
    ]
    print_table(["model", "task", "step", "lag"], rows)


@models.command()
@click.argument("model")
@json_option
@server_options
def show(model: str, url: str, key_file: Path | None, wait: float, as_json: bool) -> None:
    """Show MODEL: its spec, step, scores and lag."""
    answer = connected(url, key_file, wait).request("GET", model_path(model))
    if as_json:
        click.echo(json.dumps(answer))
        return
    spec = answer["spec"]
    features = spec["features"]
    click.echo(
        f"{model}: {spec['task']}, {features if isinstance(features, int) else len(features)} features"
    )
    click.echo(f"step {answer['step']:,}, {answer.get('lag') or 0:,} observations behind")
    for window in ("total", "window"):
        scores = score_text((answer.get("metrics") or {}).get(window, {}))
        if scores:
            click.echo(f"{window}: {scores}")


@models.command()
@click.argument("model")
@click.argument("spec", type=click.File())
@json_option
@server_options
def create(model: str, spec: Any, url: str, key_file: Path | None, wait: float, as_json: bool) -> None:
    """Create MODEL by the spec in a JSON file; - is standard input.

    It is no error if the model was created by the same spec before.
    """
    try:
        parsed = json.load(spec)
    except ValueError as error:
        raise ClientError(f"{spec.name} is not JSON: {error}") from None
    status, answer = connected(url, key_file, wait).status_and_answer("PUT", model_path(model), parsed)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"created {model}" if status == 201 else f"{model} was created by this spec before")


@models.command()
@click.argument("model")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_options
def delete(model: str, yes: bool, url: str, key_file: Path | None, wait: float) -> None:
    """Delete MODEL and all that belongs to it: log, checkpoints, jobs."""
    client = connected(url, key_file, wait)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete {model} and all that belongs to it?", abort=True, err=True)
    elif not yes:
        raise click.UsageError("say --yes, as there is no terminal to ask on")
    client.request("DELETE", model_path(model))
