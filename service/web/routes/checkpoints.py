"""Checkpoints of a model, and going back to one."""

from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated

from flask import Blueprint, Response
from pydantic import Field

from service.schemas import Strict, parse
from service.web.commands import order
from service.web.context import answer, has_body, idempotency_key, json_body, web

routes = Blueprint("checkpoints", __name__)


class CheckpointRequest(Strict):
    """Body of `POST /v1/models/{name}/checkpoints`."""

    note: Annotated[str, Field(max_length=500)] = ""


class RollbackRequest(Strict):
    """Body of `POST /v1/models/{name}/rollback`."""

    checkpoint: Annotated[str, Field(min_length=1, max_length=64)]


@routes.get("/v1/models/<name>/checkpoints")
def list_checkpoints(name: str) -> Response:
    """The model's checkpoints, oldest first, and what they take."""
    context = web()
    found = context.served(name).store.checkpoints.list_all()
    return answer(
        {
            "model": name,
            "checkpoints": [asdict(made) for made in found],
            "bytes": sum(made.bytes for made in found),
            "most": context.settings.checkpoints,
        }
    )


@routes.post("/v1/models/<name>/checkpoints")
def make_checkpoint(name: str) -> Response:
    """Keep the state after what is in the log so far: 201, or 202 if the learner has not got there yet."""
    context = web()
    served = context.served(name)
    body = parse(CheckpointRequest, json_body() if has_body() else b"{}")
    ordered = order(context, served, {"do": "checkpoint", "note": body.note}, idempotency_key())
    response = {**ordered.to_response(served), "checkpoint": str(ordered.log_id)}
    return answer(response, HTTPStatus.CREATED if ordered.done else HTTPStatus.ACCEPTED)


@routes.post("/v1/models/<name>/rollback")
def roll_back(name: str) -> Response:
    """Go back to a checkpoint's weights. The state before it is a checkpoint too: `undo` names it."""
    context = web()
    served = context.served(name)
    body = parse(RollbackRequest, json_body())
    command = {"do": "rollback", "checkpoint": body.checkpoint}
    ordered = order(context, served, command, idempotency_key(), checkpoint=body.checkpoint)
    response = {**ordered.to_response(served), "undo": str(ordered.log_id)}
    return answer(response, HTTPStatus.OK if ordered.done else HTTPStatus.ACCEPTED)
