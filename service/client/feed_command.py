"""`freshet feed`: the command and what it shows."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from service.client.feed import Display, Report

LINE_INTERVAL = 5.0
"""Seconds between two lines where there is no terminal for a progress bar."""

# Each score with the baselines worth a look beside it: (name, how it reads, baselines).
SCORES: dict[str, tuple[str, tuple[str, ...]]] = {
    "log_loss": ("log loss", ("majority",)),
    "accuracy": ("accuracy", ("majority", "no_change")),
    "mae": ("MAE", ("mean", "no_change")),
    "r2": ("R²", ()),
}


@click.command(short_help="Stream a CSV or NDJSON file to a server as feedback.")
@click.argument("file")
@click.option("--model", required=True, metavar="NAME", help="The model to teach.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The server.")
@click.option("--label", metavar="COLUMN", help="The label. [default: label, or in CSV the last column]")
@click.option("--id", metavar="COLUMN", help="Observation ids: a row sent twice is then learned once.")
@click.option("--weight", metavar="COLUMN", help="Weights of the rows.")
@click.option("--drop", metavar="COLUMN", multiple=True, help="A column to leave out; may be repeated.")
@click.option(
    "--create",
    type=click.Choice(["binary", "multiclass", "regression"]),
    help="Create the model from the file's columns if there is none.",
)
@click.option("--batch", default=500, show_default=True, type=click.IntRange(1), help="Rows in a request.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Stop after N rows.")
@click.option(
    "--patience",
    default=60.0,
    show_default=True,
    type=float,
    help="Seconds to wait for a server that is away.",
)
@click.option("--quiet", is_flag=True, help="Show nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Show nothing but the result, as JSON.")
def feed(quiet: bool, as_json: bool, **options: Any) -> None:
    """Stream FILE to a server as feedback, in order, and show the model's running score.

    FILE is CSV with a header, or NDJSON: one object a line, flat or {"features": ..., "label": ...}.
    It may be gzipped; - is standard input. Rows before a row that is refused stay learned.
    """
    # Imported here: the other commands must not wait for it.
    from service.client.feed import Options, run
    from service.client.source import FeedError

    display = _display(silent=quiet or as_json)
    try:
        report = run(Options(**options), display)
    except FeedError as error:
        raise click.ClickException(str(error)) from error
    finally:
        display.close()
    if as_json:
        click.echo(json.dumps(result(report)))
    elif not quiet:
        click.echo(summary(report))


def result(report: "Report") -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "rows": report.sent,
        "applied": report.applied,
        "duplicates": report.duplicates,
        "step": report.step,
        "seconds": round(report.seconds, 3),
        "metrics": report.metrics,
    }


def summary(report: "Report") -> str:
    """The last lines: what became of the rows, and how the model does beside the baselines."""
    counts = (
        f"{report.sent:,} rows sent: {report.applied:,} applied, {report.duplicates:,} duplicates; "
        f"step {report.step:,}; {report.rate:,.0f} rows/s"
    )
    scores = score_text(report.metrics.get("total", {}))
    return f"{counts}\n{scores}" if scores else counts


def score_text(scores: dict[str, Any]) -> str:
    """Scores in words, each with its baselines."""
    return ", ".join(
        f"{words} {scores[name]:.3f}{_baseline_text(scores.get('baselines', {}), name, baselines)}"
        for name, (words, baselines) in SCORES.items()
        if scores.get(name) is not None
    )


def _baseline_text(values: dict[str, Any], score: str, baselines: tuple[str, ...]) -> str:
    known = [(name, values.get(name, {}).get(score)) for name in baselines]
    texts = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in known if value is not None]
    return f" ({', '.join(texts)})" if texts else ""


def _display(silent: bool) -> "Display":
    if silent:
        return Silence()
    return Bar() if sys.stderr.isatty() else Lines()


class Silence:
    """Shows nothing."""

    def note(self, text: str) -> None:
        pass

    def update(self, report: "Report") -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._shown = time.monotonic()
        self._noted = ""

    def note(self, text: str) -> None:
        # While a server is away the same note comes again and again.
        if text != self._noted:
            click.echo(text, err=True)
        self._noted = text

    def update(self, report: "Report") -> None:
        if time.monotonic() - self._shown >= LINE_INTERVAL:
            self._shown = time.monotonic()
            share = f" ({report.read_bytes / report.total_bytes:.0%})" if report.total_bytes else ""
            scores = score_text(report.metrics.get("window", {}))
            line = f"{report.sent:,} rows{share}, {report.rate:,.0f} rows/s"
            click.echo(f"{line}, {scores}" if scores else line, err=True)

    def close(self) -> None:
        pass


class Bar:
    """A progress bar, by bytes read where the file's size is known, with the scores below it."""

    def __init__(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._progress = Progress(
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s"),
        )
        self._task = self._progress.add_task("", total=None, rows=0, rate=0.0)
        self._scores = self._noted = ""
        self._live = Live(
            get_renderable=lambda: Group(self._progress, self._scores), console=Console(stderr=True)
        )
        self._live.start()

    def note(self, text: str) -> None:
        if text != self._noted:
            self._live.console.print(text, markup=False, highlight=False)
        self._noted = text

    def update(self, report: "Report") -> None:
        self._scores = score_text(report.metrics.get("window", {}))
        self._progress.update(
            self._task,
            total=report.total_bytes,
            completed=report.read_bytes,
            rows=report.sent,
            rate=report.rate,
        )

    def close(self) -> None:
        self._live.stop()
