"""Retraining: starting a job for a model."""

import hashlib
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, url_for

from service.errors import Conflict, Invalid, NotFound, StoreError
from service.jobs.retraining import Retraining, TooFewRows, start_of
from service.jobs.undo import Undo
from service.schemas import parse
from service.store.appending import NewSchedule
from service.store.jobs import Job, new_id
from service.web import problems
from service.web.context import Web, answer, idempotency_key, json_body, web
from service.web.idempotency import another_body, body_digest, key_of_request
from service.web.replicas.replica import ServedModel, missing
from service.web.routes.jobs import to_response

routes = Blueprint("retrain", __name__)


@routes.post("/v1/models/<name>/retrain")
def retrain(name: str) -> Response:
    """Retrain a model over its log: 202 with the job's address, 409 if one is under way."""
    context = web()
    served = context.served(name)
    raw = json_body()
    body = parse(Retraining, raw)
    check_limits(context, body)
    check_rows(served, body)
    request = {"retrain": body.model_dump(mode="json"), "by": "request"}
    return start(served, request, idempotency_key(), raw)


def check_limits(context: Web, body: Retraining, prefix: str = "") -> None:
    """Refuse more epochs than the setting allows. Raises Invalid."""
    limit = context.settings.max_epochs
    if body.epochs > limit:
        detail = f"{body.epochs} epochs; at most {limit} are allowed (FRESHET_MAX_EPOCHS)"
        raise Invalid.at(f"{prefix}/epochs", detail)


def check_rows(served: ServedModel, body: Retraining) -> None:
    """Refuse a window with too few rows. Raises Problem."""
    found = served.store.describe()
    if found is None:
        raise missing(served)
    head = found[0].head.position
    try:
        body.counts(head - start_of(body.window, served.store.log, head))
    except TooFewRows as error:
        raise Invalid.at("/window", str(error)) from None


def start(
    served: ServedModel,
    request: dict[str, Any],
    key: str | None,
    raw: bytes,
    schedule: NewSchedule | None = None,
    put: str | None = None,
) -> Response:
    """Start a job. `key` is the request's Idempotency-Key, `raw` its body; `schedule` and `put` are of a rebuild."""
    jobs, token = served.store.jobs, key_of_request(key)
    job_id = _id_of(served, token)
    digest = body_digest(raw).decode()
    try:
        started = jobs.start(job_id, request, digest, token, schedule=schedule, put=put)
    except StoreError as error:
        problems.refuse(error, served, "no job was started", token)
    if started.outcome == "different":
        raise another_body()
    if started.outcome == "busy":
        where = url_for("jobs.describe", job_id=started.id)
        raise Conflict(f"a job of this model is under way: {where}", job=where)
    job = jobs.load(job_id)
    if job is None:
        raise NotFound("the job of this Idempotency-Key has ended, and is not among the newest any more")
    return accepted(job)


def is_started(served: ServedModel, key: str) -> bool:
    """Whether a job of this Idempotency-Key is under way, or among the newest: `start` repeats its first outcome."""
    return served.store.jobs.load(_id_of(served, key)) is not None


def _id_of(served: ServedModel, key: str) -> str:
    return new_id(served.name, hashlib.sha256(served.generation + key.encode()).hexdigest()[:16])


def accepted(job: Job) -> Response:
    """The response to a request whose job will be done."""
    where = url_for("jobs.describe", job_id=job.id)
    return answer(to_response(job), HTTPStatus.ACCEPTED, {"Location": where})


@routes.post("/v1/models/<name>/undo")
def undo(name: str) -> Response:
    """Rebuild a model without what one API key has taught it: 202 with the job's address, 409 if one is under way."""
    context = web()
    served = context.served(name)
    raw = json_body()
    asked = parse(Undo, raw)
    retraining = Retraining(epochs=1, promote="always").model_dump(mode="json")
    request = {"retrain": retraining, "undo": asked.model_dump(mode="json"), "by": "undo"}
    return start(served, request, idempotency_key(), raw)
