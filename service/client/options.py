"""What the commands of the client have in common: where the server is, the API key, and how errors end."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from service.client.errors import ClientError
from service.client.http import Client, Note

URL = "http://127.0.0.1:8000"
Command = Callable[..., Any]


def server_options(command: Command) -> Command:
    """Give a command `--url`, `--key-file` and `--wait`, and end it with one line if a ClientError comes."""
    for option in reversed(
        [
            click.option(
                "--url",
                default=URL,
                envvar="FRESHET_URL",
                show_default=True,
                show_envvar=True,
                help="The server.",
            ),
            click.option(
                "--key-file",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                envvar="FRESHET_KEY_FILE",
                help="File that holds the API key. [default: the key in FRESHET_KEY]",
            ),
            click.option(
                "--wait",
                metavar="SECONDS",
                default=60.0,
                type=click.FloatRange(0),
                show_default=True,
                help="How long to wait for a server that is away or busy.",
            ),
        ]
    ):
        command = option(command)
    return one_line_errors(command)


def json_option(command: Command) -> Command:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the server's answer, as JSON.")(
        command
    )


def one_line_errors(command: Command) -> Command:
    """End a command with one line on standard error and the error's exit status."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except ClientError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_status)

    return run


def connected(url: str, key_file: Path | None, wait: float, note: Note | None = None) -> Client:
    """A client as the options say. Raises ClientError."""
    key = os.environ.get("FRESHET_KEY", "") if key_file is None else key_file.read_text().strip()
    return Client(url, key or None, wait, note or _note)


def _note(text: str) -> None:
    click.echo(text, err=True)
