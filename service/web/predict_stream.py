"""Predictions as a stream: rows in, predictions out, in order, while the body still arrives.

Nothing is read while the client does not take what is written: a stream costs the same memory however long it is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from model import RowError
from service.errors import Invalid
from service.schemas import ObservationId, Strict, problem
from service.web import loop
from service.web.bounds import columns_of_results
from service.web.context import Web
from service.web.replicas.replica import ServedModel
from service.web.slicing import LINES_AT_A_TURN, decoded, encode_rows, predict_rows

Array = np.ndarray


class NamedRow(Strict):
    """A line of a stream of predictions whose labels come later."""

    id: ObservationId
    features: Any


@dataclass(slots=True)
class _Row:
    """One line that is JSON."""

    number: int
    features: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How a stream is predicted: each line is a row; `named`: an object of `id` and `features`.

    A bad line may stop it. `top` is how many classes of each prediction are sent; None: of very many the most likely.
    """

    named: bool = False
    stop_on_error: bool = False
    top: int | None = None


def predict_stream(
    context: Web, served: ServedModel, blocks: Iterable[tuple[int, list[bytes]]], options: PredictOptions
) -> Iterator[list[dict[str, Any]]]:
    """The predictions for lines of NDJSON. A bad line is reported in its turn, or ends the stream.

    Raises NotFound if the model is deleted meanwhile, Unauthorized if the API key is revoked.
    """
    for number, lines in blocks:
        loop.breathe()  # the next block may be there already
        served.check_exists()
        context.access.check_still()
        bad: dict[int, str] = {}
        rows = _parsed(number, lines, options.named, bad)
        rows, features = _encoded(served, rows, bad)
        records = _predicted(context, served, rows, features, options.top)
        if not options.stop_on_error:
            records |= {line: {"line": line, "error": detail} for line, detail in bad.items()}
        last = min(bad) if bad and options.stop_on_error else number + len(lines)
        yield [records[line] for line in sorted(records) if line < last]
        if last in bad:
            raise Invalid(f"line {last}: {bad[last]}", [(f"line {last}", bad[last])], line=last)


def _parsed(first: int, lines: list[bytes], named: bool, bad: dict[int, str]) -> list[_Row]:
    rows = []
    for number, line in enumerate(lines, first):
        if number % LINES_AT_A_TURN == 0:
            loop.breathe()
        if not line or line.isspace():
            continue
        try:
            if named:
                row = NamedRow.model_validate_json(line)
                rows.append(_Row(number, row.features, row.id))
            else:
                rows.append(_Row(number, from_json(line)))
        except ValidationError as error:
            bad[number] = problem(error, NamedRow).detail
        except ValueError as error:
            bad[number] = f"not JSON: {error}"
    return rows


def _encoded(served: ServedModel, rows: list[_Row], bad: dict[int, str]) -> tuple[list[_Row], Array]:
    """The rows that the model can read, and their features; the others are noted as bad."""
    try:
        return rows, encode_rows(served.features, [row.features for row in rows])
    except RowError:  # some row is bad: try each alone
        good, encoded = [], [np.empty((0, served.features.width))]
        for row in rows:
            try:
                encoded.append(served.features.encode([row.features]))
                good.append(row)
            except RowError as error:
                bad[row.number] = f"{error.pointer}: {error.detail}" if error.pointer else error.detail
        return good, np.concatenate(encoded)


def _predicted(
    context: Web, served: ServedModel, rows: list[_Row], features: Array, top: int | None
) -> dict[int, dict[str, Any]]:
    """The record of each row in the response, by its line. Rows with an id are remembered until their label comes."""
    version = served.version
    made = predict_rows(version, features)
    newest = {row.id: index for index, row in enumerate(rows) if row.id is not None}
    if newest:
        indices = list(newest.values())
        context.feedback.remember(served, list(newest), version.step, features[indices], made[indices])
    columns = columns_of_results(1, version.spec, top, "top")
    records = {}
    for row, prediction in zip(rows, decoded(version, made, columns), strict=True):
        known = {} if row.id is None else {"id": row.id}
        records[row.number] = {**known, "step": version.step, **prediction}
    return records
