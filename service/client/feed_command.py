"""`freshet feed`: the command and its last lines."""

import json
from pathlib import Path
from typing import Any

import click

from service.client.display import display
from service.client.feed import Feed, Options, Plan, Report
from service.client.inference import KINDS
from service.client.options import connected, server_options
from service.client.scores import score_text


@click.command(short_help="Stream a CSV or NDJSON file to a server as feedback.")
@click.argument("file")
@click.option("--model", required=True, metavar="NAME", help="The model to teach.")
@click.option("--label", metavar="COLUMN", help="The label. [default: label, or in CSV the last column]")
@click.option("--id", metavar="COLUMN", help="Observation ids: a row sent twice is then learned once.")
@click.option("--weight", metavar="COLUMN", help="Weights of the rows.")
@click.option("--drop", metavar="COLUMN", multiple=True, help="A column to leave out; may be repeated.")
@click.option(
    "--create",
    type=click.Choice(["binary", "multiclass", "regression"]),
    help="Create the model from the file's columns if there is none.",
)
@click.option(
    "--kind",
    "kinds",
    metavar="COLUMN=KIND",
    multiple=True,
    help=f"With --create, a column's kind ({', '.join(KINDS)}), instead of the one inferred from its values.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out rows that cannot be read or that are refused.")
@click.option("--dry-run", is_flag=True, help="Send nothing: show the columns and bad rows, print the spec.")
@click.option("--batch", default=500, show_default=True, type=click.IntRange(1), help="Rows in a request.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Stop after N rows.")
@click.option("--patience", type=float, hidden=True, help="The former name of --wait.")
@click.option("--quiet", is_flag=True, help="Show nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Show nothing but the result, as JSON.")
@server_options
def feed(
    url: str,
    key_file: Path | None,
    wait: float,
    patience: float | None,
    kinds: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Stream FILE to a server as feedback, in order, and show the model's running score.

    FILE is CSV with a header, or NDJSON: one object a line, flat or {"features": ..., "label": ...}.
    It may be gzipped; - is standard input. Rows before a row that is refused stay learned.

    \b
    Examples:
      freshet feed mails.csv --model spam --create binary --label is_spam --id message_id
      freshet feed mails.csv --model spam --create binary --kind zip=category --dry-run
      tail -F events.ndjson | freshet feed - --model clicks

    Exit status: 0 if all rows were learned; 1 if a row was refused or could not be read; 2 for a wrong option;
    3 if the server could not be reached.
    """
    wait = wait if patience is None else patience
    shown = display(silent=quiet or as_json)
    try:
        client = connected(url, key_file, wait, shown.note)
        run = Feed(Options(kinds=_parsed(kinds, options["create"]), patience=wait, **options), client, shown)
        result = run.plan() if dry_run else run.run()
    finally:
        shown.close()
    if isinstance(result, Plan):
        _print_plan(result, as_json)
    elif as_json:
        click.echo(json.dumps(as_object(result)))
    elif not quiet:
        click.echo(summary(result))


def _parsed(kinds: tuple[str, ...], create: str | None) -> dict[str, str]:
    """Kinds by column. Raises UsageError."""
    if kinds and create is None:
        raise click.UsageError("--kind is of a model that is made by --create")
    found = {}
    for text in kinds:
        column, _, kind = text.rpartition("=")
        if not column or kind not in KINDS:
            raise click.UsageError(f"--kind {text}: COLUMN=KIND, where KIND is one of {', '.join(KINDS)}")
        found[column] = kind
    return found


def _print_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"spec": plan.spec, "rows": plan.rows, "bad": plan.bad}))
        return
    click.echo(json.dumps(plan.spec, indent=2))
    click.echo(f"nothing was sent; {plan.rows:,} rows could be read, {plan.bad:,} rows are bad", err=True)


def as_object(report: Report) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "rows": report.sent,
        "applied": report.applied,
        "duplicates": report.duplicates,
        "skipped": report.skipped,
        "step": report.step,
        "seconds": round(report.seconds, 3),
        "metrics": report.metrics,
    }


def summary(report: Report) -> str:
    """The last lines: what became of the rows, and how the model does beside the baselines."""
    left_out = f", {report.skipped:,} left out" if report.skipped else ""
    counts = (
        f"{report.sent:,} rows sent: {report.applied:,} applied, {report.duplicates:,} duplicates{left_out}; "
        f"step {report.step:,}; {report.rate:,.0f} rows/s"
    )
    scores = score_text(report.metrics.get("total", {}))
    return f"{counts}\n{scores}" if scores else counts
