"""`freshet predict`: predictions for the rows of a file, one JSON object a line."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from service.client.columns import Columns, feature_converters
from service.client.errors import FileError
from service.client.http import model_path
from service.client.options import connected, server_options
from service.client.source import Source, open_source
from service.client.values import as_text


@click.command(short_help="Predict the rows of a file.")
@click.argument("model")
@click.argument("file", default="-")
@click.option("--id", "id_column", metavar="COLUMN", help="Ids of the rows, for labels that come later.")
@click.option("--drop", metavar="COLUMN", multiple=True, help="A column to leave out; may be repeated.")
@click.option("--batch", default=500, show_default=True, type=click.IntRange(1), help="Rows in a request.")
@server_options
def predict(
    model: str,
    file: str,
    id_column: str | None,
    drop: tuple[str, ...],
    batch: int,
    url: str,
    key_file: Path | None,
    wait: float,
) -> None:
    """Predict the rows of FILE with MODEL: one JSON object a line, in the order of the rows.

    FILE is CSV with a header, or NDJSON: one object a line, flat or {"features": ...}. It may be gzipped; - is
    standard input. Columns that are no feature of the model are left out if the model names its features.

    \b
    Examples:
      freshet predict spam new-mails.csv
      echo '{"links": 7, "sender": "new"}' | freshet predict spam
      freshet predict spam new-mails.csv --id message_id > predictions.ndjson
    """
    client = connected(url, key_file, wait)
    spec = client.request("GET", model_path(model))["spec"]
    with open_source(file) as source:
        rows = _instances(source, spec["features"], id_column, drop)
        while block := list(islice(rows, batch)):
            body: dict[str, Any] = {"instances": [features for features, _ in block]}
            if id_column is not None:
                body["ids"] = [row_id for _, row_id in block]
            for prediction in client.request("POST", model_path(model, "/predict"), body)["predictions"]:
                click.echo(json.dumps(prediction))


def _instances(
    source: Source, features: int | list[dict[str, Any]], id_column: str | None, drop: tuple[str, ...]
) -> Iterator[tuple[Any, str | None]]:
    """The features and the id of each row. Raises FileError."""
    head = source.head(1)
    if not head:
        raise FileError(f"{source.name} holds no rows")
    nested = isinstance(head[0].get("features"), list | dict)
    others = set(drop) | ({id_column} if id_column else set())
    known: set[str] | None = None  # columns
    if not (nested or isinstance(features, int)):
        names = {feature["name"] for feature in features}
        strange, absent = sorted(head[0].keys() - names - others), sorted(names - head[0].keys())
        if strange and absent:
            raise FileError(
                f"the model has no feature {strange[0]!r}, and {source.name} has no {absent[0]!r}; "
                "leave out with --drop what is no feature"
            )
        others |= set(strange)
        known = names | others
    converters = (
        {} if nested else feature_converters(source, Columns(label="", dropped=frozenset(others)), features)
    )
    for record in source:
        row_id = as_text(record.get(id_column)) if id_column else None
        if id_column and row_id is None:
            raise FileError(f"row {source.row:,} has no {id_column!r}")
        if known is not None and not record.keys() <= known:
            strange = sorted(record.keys() - known)
            raise FileError(
                f"row {source.row:,}: the model has no feature {strange[0]!r}; leave it out with --drop"
            )
        if nested:
            yield record.get("features"), row_id
        else:
            yield [convert(record.get(column)) for column, convert in converters.items()], row_id
