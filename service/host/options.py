"""Options of the commands that find Redis themselves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def redis_options(command: Command) -> Command:
    """Give a command `--data-dir` and `--redis-url`."""
    command = click.option("--redis-url", help="Redis or Valkey to use instead of the embedded server.")(
        command
    )
    folder = click.Path(file_okay=False, path_type=Path)
    return click.option("--data-dir", type=folder, help="Folder of the embedded server.")(command)
