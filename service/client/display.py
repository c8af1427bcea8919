"""What a command shows while it works: a progress bar on a terminal, lines elsewhere, or nothing."""

import sys
import time
from dataclasses import dataclass
from typing import Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

LINE_INTERVAL = 5.0
"""Seconds between two lines where there is no terminal for a progress bar."""


@dataclass(frozen=True)
class Progressed:
    """How far a command has come."""

    stage: str = ""  # what it does; a change is shown at once
    done: int = 0
    total: int | None = None
    text: str = ""  # beside the bar
    scores: str = ""  # below the bar


class Display(Protocol):
    """Whoever shows the user how a command goes."""

    def note(self, text: str) -> None:
        """Something the user should know, once."""

    def update(self, progressed: Progressed) -> None:
        """The command has come further."""

    def close(self) -> None:
        """The command is over."""


def display(silent: bool) -> Display:
    """The display that fits where the output goes."""
    if silent:
        return Silence()
    return Bar() if sys.stderr.isatty() else Lines()


class Silence:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def update(self, progressed: Progressed) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class Lines:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._shown = time.monotonic()
        self._stage = self._noted = ""

    def note(self, text: str) -> None:
        """Show a line; not the same one twice in a row, as while a server is away."""
        if text != self._noted:
            click.echo(text, err=True)
        self._noted = text

    def update(self, progressed: Progressed) -> None:
        """Show a line for a new stage, and one now and then."""
        due = time.monotonic() - self._shown >= LINE_INTERVAL
        if progressed.stage != self._stage and not due:
            click.echo(progressed.stage, err=True)
        elif due:
            self._shown = time.monotonic()
            share = f"{progressed.done / progressed.total:.0%}" if progressed.total else ""
            parts = [progressed.stage, share, progressed.text, progressed.scores]
            click.echo(", ".join(part for part in parts if part), err=True)
        self._stage = progressed.stage

    def close(self) -> None:
        """Nothing to end."""


class Bar:
    """A progress bar with the scores below it."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._task = self._progress.add_task("", total=None, text="")
        self._scores = self._noted = ""
        self._live = Live(
            get_renderable=lambda: Group(self._progress, Text(self._scores)), console=Console(stderr=True)
        )
        self._live.start()

    def note(self, text: str) -> None:
        """Show a line above the bar."""
        if text != self._noted:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._noted = text

    def update(self, progressed: Progressed) -> None:
        """Move the bar."""
        self._scores = progressed.scores
        self._progress.update(
            self._task,
            description=progressed.stage,
            total=progressed.total,
            completed=progressed.done,
            text=progressed.text,
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self._live.stop()
