"""Feedback: one observation, a list, or a stream of lines."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from flask import Blueprint, Response, request
from pydantic_core import from_json, to_json

from service.errors import Problem
from service.web import arrow
from service.web.bodies import RequestBody
from service.web.bounds import check_rows, columns_of_results
from service.web.context import Web, answer, idempotency_key, json_body, raw_answer, request_body, web
from service.web.feedback.counting import count_losses, count_rows
from service.web.feedback.reading import Lines
from service.web.feedback.results import mean_loss, row_results, summary
from service.web.feedback.stream import upload_stream
from service.web.feedback.stream_results import Results, StreamOptions
from service.web.feedback.submit import Outcome, Repetition
from service.web.feedback.tables import TablePart
from service.web.lines import line_blocks
from service.web.replicas.replica import ServedModel
from service.web.slicing import read_observations
from service.web.streaming import LINES, choice, lines_at_once, stream_answer, top

routes = Blueprint("feedback", __name__)
_LIST = re.compile(rb'\s*\{\s*"observations"\s*:')
ANSWER_BYTES = 1024
"""Longest answer to a request with an Idempotency-Key that is kept whole."""


@routes.post("/v1/models/<name>/feedback")
def feedback(name: str) -> Response:
    """Learn from labelled observations, each exactly once."""
    context = web()
    served = context.served(name)
    if request.mimetype in (LINES, arrow.MEDIA_TYPE):
        return _stream(context, served)
    key = idempotency_key()
    return raw_answer(*feedback_json(context, name, json_body(), key, top()))


def feedback_json(
    context: Web, name: str, raw: bytes, key: str | None, asked_top: int | None = None
) -> tuple[bytes, HTTPStatus]:
    """The answer to a body of JSON that came with an Idempotency-Key, and its status. Raises Problem.

    `asked_top` is how many classes the results are to tell of.
    """
    served = context.served(name)
    check = partial(_check, context, served)
    observations = read_observations(raw, check)
    check(len(observations))
    columns = columns_of_results(len(observations), served.spec, asked_top, "top")
    context.access.take_observations(len(observations))
    prefix = _prefix(raw)
    draft = context.feedback.draft(served, observations, prefix)
    outcome = context.feedback.submit(served, draft, prefix, key, raw, columns)
    if isinstance(outcome, Repetition):
        return _repeated(served, outcome)
    count_rows(name, appended=len(outcome.rows), duplicate=len(outcome.duplicates))
    count_losses(outcome.result)
    body, status = to_response(served, outcome, len(observations))
    if key is not None and outcome.applied and outcome.rows:
        context.feedback.keep_answer(served, key, _kept(body))
    return to_json(body) + b"\n", status


def _stream(context: Web, served: ServedModel) -> Response:
    """Learn from a stream."""
    options = StreamOptions(
        choice("on_error", ("skip", "stop")) == "stop",
        cast(Results, choice("results", ("none", "blocks", "each"))),
        idempotency_key(),
    )
    if options.results == "each":
        options = replace(options, columns=columns_of_results(1, served.spec, top(), "top"))
    body = request_body()
    parts = (
        _tables(context, served, body)
        if request.mimetype == arrow.MEDIA_TYPE
        else _lines(context, served, body)
    )
    records = upload_stream(context, served, parts, options, body.is_idle)
    if options.results != "none":
        return stream_answer(records, body)
    try:
        [[end]] = records
    except Problem:
        body.drain()
        raise
    return answer(end, HTTPStatus.ACCEPTED if end["pending"] else HTTPStatus.OK)


def _lines(context: Web, served: ServedModel, body: RequestBody) -> Iterator[Lines]:
    blocks = line_blocks(body.pieces(), context.settings.max_line_bytes, lines_at_once(served.spec))
    return (Lines(number, lines) for number, lines in blocks)


def _tables(context: Web, served: ServedModel, body: RequestBody) -> Iterator[TablePart]:
    arrow.load()
    longest, at_once = context.settings.max_body_bytes, lines_at_once(served.spec)
    return map(TablePart, arrow.read_rows(body.pieces(), served.spec, longest, at_once, labelled=True))


def _check(context: Web, served: ServedModel, rows: int) -> None:
    check_rows(rows, served.spec, context.settings, "/observations")


def _prefix(raw: bytes) -> str:
    """JSON pointer to the observations in the body."""
    return "/observations" if _LIST.match(raw) else ""


def _kept(body: dict[str, Any]) -> bytes:
    """What is kept of an answer for its repetitions: all, or without the single results where they are many."""
    whole = to_json(body)
    return whole if len(whole) <= ANSWER_BYTES else to_json({**body, "results": None})


def _repeated(served: ServedModel, repetition: Repetition) -> tuple[bytes, HTTPStatus]:
    """The first answer again; as far as it is known, where it was never given."""
    if repetition.answer is not None:
        first = {name: value for name, value in from_json(repetition.answer).items() if value is not None}
        return to_json({"loss": None, **first, "repeated": True}) + b"\n", HTTPStatus.OK
    known = repetition.position, repetition.appended, repetition.applied, repetition.duplicates
    body = summary(served, *known) | {"repeated": True}
    return to_json(body) + b"\n", HTTPStatus.OK if repetition.applied else HTTPStatus.ACCEPTED


def to_response(served: ServedModel, outcome: Outcome, rows: int) -> tuple[dict[str, Any], HTTPStatus]:
    """The response to an append: 200 if it is applied, 202 if it will be."""
    result = outcome.result
    appended, duplicates = len(outcome.rows), len(outcome.duplicates)
    body = summary(served, outcome.position, appended, outcome.applied, duplicates, loss=mean_loss(result))
    if result is not None:
        body["results"] = row_results(served.labels_at(outcome.position), outcome, rows)
    return body, HTTPStatus.OK if outcome.applied else HTTPStatus.ACCEPTED
