"""Feedback: one observation, a list, or a stream of lines."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request

from service.errors import Invalid
from service.feedback import Outcome, encode
from service.replica import Served
from service.routes.predict import check_rows
from service.schemas import parse_feedback
from service.stream import feed_stream
from service.web import answer, json_body, web

routes = Blueprint("feedback", __name__)


@routes.post("/v1/models/<name>/feedback")
def feedback(name: str) -> Response:
    """Learn from labelled observations, each exactly once."""
    here = web()
    served = here.served(name)
    key = idempotency_key()
    if request.mimetype == "application/x-ndjson":
        request.max_content_length = None
        return answer(*feed_stream(here, served, request.stream, key))
    raw = json_body()
    observations = parse_feedback(raw)
    check_rows(len(observations), here, "/observations")
    block = encode(served, observations, _prefix(raw))
    outcome = here.feedback.submit(served, block, key, raw)
    return answer(*told(served, outcome, len(observations)))


def idempotency_key() -> str | None:
    """The request's Idempotency-Key. Raises Invalid."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 1 <= len(key) <= 128:
        raise Invalid("Idempotency-Key: 1 to 128 characters", [("Idempotency-Key", "1 to 128 characters")])
    return key


def _prefix(raw: bytes) -> str:
    """Where the observations stand in the body."""
    return "/observations" if b'"observations"' in raw else ""


def told(served: Served, outcome: Outcome, rows: int) -> tuple[dict[str, Any], HTTPStatus]:
    """What a client is told of an outcome: 200 if it is applied, 202 if it will be."""
    result = outcome.result
    body = {
        "model": served.name,
        "step": result.position if result else served.replica.step,
        "position": outcome.position,
        "applied": len(outcome.rows) if outcome.applied else 0,
        "pending": 0 if outcome.applied else len(outcome.rows),
        "duplicates": len(outcome.duplicates),
        "rejected": 0,
        "loss": None,
    }
    if result is not None:
        finite = result.losses[~result.skipped]
        body["loss"] = float(finite.mean()) if len(finite) else None
        body["results"] = _results(served, outcome, rows)
    return body, HTTPStatus.OK if outcome.applied else HTTPStatus.ACCEPTED


def _results(served: Served, outcome: Outcome, rows: int) -> list[dict[str, Any]]:
    """For each row of the request: the prediction made before learning it, or that it is a duplicate."""
    result = outcome.result
    assert result is not None
    predictions = served.labels.decode(result.predictions)
    results: list[dict[str, Any]] = [
        {"duplicate": True, "position": outcome.duplicates.get(row, 0)} for row in range(rows)
    ]
    first = outcome.position - len(outcome.rows) + 1
    for index, row in enumerate(outcome.rows):
        skipped = bool(result.skipped[index])
        results[row] = {
            "position": first + index,
            "prediction": predictions[index],
            "loss": None if skipped else float(result.losses[index]),
        }
        if skipped:
            results[row]["skipped"] = True
    return results
