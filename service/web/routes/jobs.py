"""Retraining jobs: a model's jobs, how far one is, and cancelling it."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response

from service.errors import Conflict, NotFound
from service.jobs.retraining import NOT_BETTER
from service.store.jobs import Job, model_of, token_of
from service.store.model_store import ModelStore
from service.web.context import answer, web

routes = Blueprint("jobs", __name__)


@routes.get("/v1/jobs/<job_id>")
def describe(job_id: str) -> Response:
    """One job: its state, the losses of its epochs so far, the time left, its result."""
    store = ModelStore(web().link, model_of(job_id))
    job = store.jobs.load(job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}")
    return answer(to_response(job, _refusals(store).get(token_of(job.id))))


@routes.get("/v1/models/<name>/jobs")
def list_of_model(name: str) -> Response:
    """A model's newest jobs, newest first, without the losses of their epochs."""
    store = web().served(name).store
    refused = _refusals(store)
    found = [to_response(job, refused.get(token_of(job.id))) for job in store.jobs.history()]
    listed = [{key: value for key, value in job.items() if key != "losses"} for job in found]
    return answer({"model": name, "jobs": listed})


def _refusals(store: ModelStore) -> dict[str, str]:
    """Why the learner refused commands of a model, by their tokens."""
    return {refusal.token: refusal.detail for refusal in store.refusals.list_all()}


@routes.delete("/v1/jobs/<job_id>")
def cancel(job_id: str) -> Response:
    """Cancel a job: at once if it waits; its trainer ends one that runs. 409 if it has ended otherwise."""
    jobs = ModelStore(web().link, model_of(job_id)).jobs
    state = jobs.cancel(job_id)
    job = jobs.load(job_id)
    if state is None or job is None:
        raise NotFound(f"there is no job {job_id!r}")
    if state in ("succeeded", "failed"):
        raise Conflict(f"the job has {state} already")
    return answer(to_response(job), HTTPStatus.OK if state == "cancelled" else HTTPStatus.ACCEPTED)


def to_response(job: Job, refusal: str | None = None) -> dict[str, Any]:
    """A job in a response. `refusal` is why the learner refused its promotion, if it did."""
    progress, running = job.progress, job.state == "running"
    result = job.result and {**as_now(job.result), "log_id": job.log_id}
    if result and refusal:
        result |= {"promoted": False, "why": refusal}
    return {
        "job": job.id,
        "model": job.model,
        "state": job.state,
        "stage": job.stage if running else None,
        "attempt": job.attempt,
        "request": job.request,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "epoch": progress.get("epoch", 0),
        "epochs": progress.get("epochs", job.request["retrain"]["epochs"]),
        "losses": progress.get("losses", []),
        "seconds_left": progress.get("seconds_left") if running else None,
        "cancelling": job.cancelled and running,
        "result": result,
        "detail": job.detail or verdict_text(result) or None,
    }


def as_now(result: dict[str, Any]) -> dict[str, Any]:
    """A job's result; version 0.1 kept only the prequential losses, by other names. An undo has none."""
    if "validation_loss" not in result:
        return {"candidate": None, "live": None, **result}
    sides = {"candidate": result.get("validation_loss"), "live": result.get("live_loss")}
    losses = {side: {"validation_loss": None, "prequential_loss": loss} for side, loss in sides.items()}
    kept = {name: value for name, value in result.items() if name not in ("validation_loss", "live_loss")}
    return {"why": None, **kept, **losses}


def verdict_text(result: dict[str, Any] | None) -> str:
    """Why a candidate was not promoted, with the figures that decided; empty if it was."""
    if not result or result["promoted"]:
        return ""
    losses = [(result[side] or {}).get("prequential_loss") for side in ("candidate", "live")]
    if result["why"] != NOT_BETTER or None in losses:
        return f"not promoted: {result['why']}"
    return f"refused: {result['why']}: prequential loss {losses[0]:.4g}, live model {losses[1]:.4g}"
