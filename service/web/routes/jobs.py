"""Retraining jobs: how far one is, and cancelling it."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response

from service.errors import Conflict, NotFound
from service.store import jobs
from service.store.jobs import Job
from service.web.context import answer, web

routes = Blueprint("jobs", __name__)


@routes.get("/v1/jobs/<job_id>")
def describe(job_id: str) -> Response:
    """One job: its state, the losses of its epochs so far, the time left, its result."""
    job = jobs.load(web().links.mine(), jobs.model_of(job_id), job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}")
    return answer(told(job))


@routes.delete("/v1/jobs/<job_id>")
def cancel(job_id: str) -> Response:
    """Cancel a job: at once if it waits; its trainer ends one that runs. 409 if it has ended otherwise."""
    here = web()
    name = jobs.model_of(job_id)
    state = jobs.cancel(here.links.mine(), name, job_id)
    job = jobs.load(here.links.mine(), name, job_id)
    if state is None or job is None:
        raise NotFound(f"there is no job {job_id!r}")
    if state in ("succeeded", "failed"):
        raise Conflict(f"the job has {state} already")
    return answer(told(job), HTTPStatus.OK if state == "cancelled" else HTTPStatus.ACCEPTED)


def told(job: Job) -> dict[str, Any]:
    """What a client is told of a job."""
    progress = job.progress
    return {
        "job": job.id,
        "model": job.model,
        "state": job.state,
        "stage": job.stage if job.state == "running" else None,
        "attempt": job.attempt,
        "request": job.request,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "epoch": progress.get("epoch", 0),
        "epochs": progress.get("epochs", job.request["retrain"]["epochs"]),
        "losses": progress.get("losses", []),
        "seconds_left": progress.get("seconds_left") if job.state == "running" else None,
        "cancelling": job.cancelled and job.state == "running",
        "result": job.result and {**job.result, "log_id": job.log_id},
        "detail": job.detail or None,
    }
