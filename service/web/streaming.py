"""Answers as streams of NDJSON, written while the request is read."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from flask import Response, request, stream_with_context
from pydantic_core import to_json

from model import ModelSpec
from service.errors import Invalid, ServiceError
from service.schemas import MOST_CLASSES
from service.web import problems
from service.web.bodies import RequestBody

LINES = "application/x-ndjson"
LINES_AT_ONCE = 2000
CELLS_AT_ONCE = 2**20
"""Lines of a stream that are read together, and features or outputs in them, at most."""


def lines_at_once(spec: ModelSpec) -> int:
    """Lines of a stream that are read together."""
    return max(1, min(LINES_AT_ONCE, CELLS_AT_ONCE // max(spec.width, spec.outputs)))


def choice(name: str, allowed: Sequence[str]) -> str:
    """A parameter of the query, of which the first value is the default. Raises Invalid."""
    value = request.args.get(name, allowed[0])
    if value not in allowed:
        raise Invalid.at(name, f"one of {', '.join(allowed)}")
    return value


def top() -> int | None:
    """How many classes of each prediction the query asks for. Raises Invalid."""
    value = request.args.get("top")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 5 or not 1 <= int(value) <= MOST_CLASSES:
        raise Invalid.at("top", f"a number from 1 to {MOST_CLASSES}")
    return int(value)


def stream_answer(records: Iterator[list[dict[str, Any]]], body: RequestBody) -> Response:
    """Write each list of records as soon as it is made. What goes wrong before the first has a status of its own;
    later the problem document is the last line.
    """
    try:
        first = next(records, [])
    except ServiceError:
        body.drain()
        raise
    lines = stream_with_context(_lines(chain([first], records), body))
    return Response(lines, mimetype=LINES)


def _lines(records: Iterator[list[dict[str, Any]]], body: RequestBody) -> Iterator[bytes]:
    try:
        for together in records:
            if together:
                yield b"".join(to_json(record) + b"\n" for record in together)
    except Exception as error:  # noqa: BLE001 - the client is to learn how far it came, whatever went wrong
        yield to_json(problems.document(problems.of(error))) + b"\n"
        body.drain()
