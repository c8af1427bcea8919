"""Feedback: one observation, a list, or a stream of lines."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request
from pydantic_core import from_json, to_json

from service.errors import Problem
from service.schemas import parse_feedback
from service.web.context import answer, idempotency_key, json_body, web
from service.web.feedback.lines import drain
from service.web.feedback.stream import feed_stream
from service.web.feedback.submit import Outcome, Repetition
from service.web.replicas.replica import Served
from service.web.routes.predict import check_rows

routes = Blueprint("feedback", __name__)
ANSWER_BYTES = 1024
"""Longest answer to a request with an Idempotency-Key that is kept whole."""


@routes.post("/v1/models/<name>/feedback")
def feedback(name: str) -> Response:
    """Learn from labelled observations, each exactly once."""
    here = web()
    served = here.served(name)
    key = idempotency_key()
    if request.mimetype == "application/x-ndjson":
        request.max_content_length = None
        try:
            return answer(*feed_stream(here, served, request.stream, request.content_length, key))
        except Problem:
            drain(request.stream, request.environ.get("gunicorn.socket"))
            raise
    raw = json_body()
    observations = parse_feedback(raw)
    check_rows(len(observations), here, "/observations")
    prefix = _prefix(raw)
    draft = here.feedback.draft(served, observations, prefix)
    outcome = here.feedback.submit(served, draft, prefix, key, raw)
    if isinstance(outcome, Repetition):
        return _repeated(served, outcome)
    body, status = told(served, outcome, len(observations))
    if key is not None and outcome.applied and outcome.rows:
        here.feedback.keep_answer(served, key, _kept(body))
    return answer(body, status)


def _prefix(raw: bytes) -> str:
    """Where the observations stand in the body."""
    return "/observations" if b'"observations"' in raw else ""


def _kept(body: dict[str, Any]) -> bytes:
    """What is kept of an answer for its repetitions: all, or without the single results where they are many."""
    whole = to_json(body)
    return whole if len(whole) <= ANSWER_BYTES else to_json({**body, "results": None})


def _repeated(served: Served, repetition: Repetition) -> Response:
    """The first answer again; as far as it is known, where it was never given."""
    if repetition.answer is not None:
        first = {name: value for name, value in from_json(repetition.answer).items() if value is not None}
        return answer({"loss": None, **first, "repeated": True})
    body = {
        "model": served.name,
        "step": served.replica.step,
        "position": repetition.position,
        "applied": repetition.appended if repetition.applied else 0,
        "pending": 0 if repetition.applied else repetition.appended,
        "duplicates": repetition.duplicates,
        "rejected": 0,
        "loss": None,
        "repeated": True,
    }
    return answer(body, HTTPStatus.OK if repetition.applied else HTTPStatus.ACCEPTED)


def told(served: Served, outcome: Outcome, rows: int) -> tuple[dict[str, Any], HTTPStatus]:
    """What a client is told of an outcome: 200 if it is applied, 202 if it will be."""
    result = outcome.result
    body = {
        "model": served.name,
        "step": served.version.step,
        "position": outcome.position,
        "applied": len(outcome.rows) if outcome.applied else 0,
        "pending": 0 if outcome.applied else len(outcome.rows),
        "duplicates": len(outcome.duplicates),
        "rejected": 0,
        "loss": None,
    }
    if result is not None:
        # Lists: for the usual single observation NumPy's calls would cost more than all of this.
        skipped = result.skipped.tolist()
        finite = [
            loss for loss, left_out in zip(result.losses.tolist(), skipped, strict=True) if not left_out
        ]
        body["loss"] = sum(finite) / len(finite) if finite else None
        body["results"] = _results(served, outcome, rows)
    return body, HTTPStatus.OK if outcome.applied else HTTPStatus.ACCEPTED


def _results(served: Served, outcome: Outcome, rows: int) -> list[dict[str, Any]]:
    """For each row of the request: the prediction made before learning it, or that it is a duplicate."""
    result = outcome.result
    assert result is not None
    predictions = served.labels_at(outcome.position).decode(result.predictions)
    losses, skips = result.losses.tolist(), result.skipped.tolist()
    results: list[dict[str, Any]] = [
        {"duplicate": True, "position": outcome.duplicates.get(row, 0)} for row in range(rows)
    ]
    first = outcome.position - len(outcome.rows) + 1
    for index, row in enumerate(outcome.rows):
        results[row] = {
            "position": first + index,
            "prediction": predictions[index],
            "loss": None if skips[index] else losses[index],
        }
        if skips[index]:
            results[row]["skipped"] = True
    return results
