"""Models: create, list, describe, delete; their prequential metrics and diagnostics."""

import re
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response
from pydantic import ValidationError

from model import ModelSpec, OnlineModel
from service.errors import Conflict, Invalid, NotFound
from service.replica import Served
from service.routes.predict import position
from service.schemas import problem
from service.store import models, snapshots
from service.web import Web, answer, json_body, web

routes = Blueprint("models", __name__)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(name: str) -> bool:
    """Whether a model may have this name."""
    return NAME.fullmatch(name) is not None


@routes.put("/v1/models/<name>")
def create(name: str) -> Response:
    """Create a model: 201; 200 if it was created by the same spec, 409 if by another."""
    here = web()
    spec = _spec(json_body(), here)
    link = here.links.mine()
    outcome, _ = models.create(link, name, spec.model_dump_json().encode())
    if outcome == "different":
        raise Conflict(f"there is a model {name!r}, created by another spec; DELETE it first")
    served = here.replicas.add(name, link)
    return answer(_described(here, served), HTTPStatus.CREATED if outcome == "created" else HTTPStatus.OK)


@routes.get("/v1/models")
def list_models() -> Response:
    """All models."""
    here = web()
    return answer({"models": [_summary(here, served) for served in here.replicas.all()]})


@routes.get("/v1/models/<name>")
def describe(name: str) -> Response:
    """One model's spec, step, metrics and lag."""
    here = web()
    return answer(_described(here, here.served(name)))


@routes.delete("/v1/models/<name>")
def delete(name: str) -> Response:
    """Delete a model with everything that belongs to it."""
    here = web()
    deleted = models.delete(here.links.mine(), name)
    here.replicas.forget(name)
    if not deleted:
        raise NotFound(f"there is no model {name!r}")
    return Response(status=HTTPStatus.NO_CONTENT)


@routes.get("/v1/models/<name>/metrics")
def metrics(name: str) -> Response:
    """Prequential scores: each observation was predicted before it was learned."""
    here = web()
    replica = here.served(name).replica
    return answer({"model": name, **position(here, replica), "metrics": replica.metrics})


@routes.get("/v1/models/<name>/diagnostics")
def diagnostics(name: str) -> Response:
    """How the network is doing inside, with advice; as of the newest snapshot."""
    here = web()
    served = here.served(name)
    snapshot = snapshots.load(here.links.mine(), name, served.generation)
    model = OnlineModel(served.spec) if snapshot is None else OnlineModel.from_bytes(snapshot.state)
    return answer({"model": name, "step": model.step, "diagnostics": model.diagnostics()})


def _spec(raw: bytes, here: Web) -> ModelSpec:
    try:
        spec = ModelSpec.model_validate_json(raw)
    except ValidationError as error:
        raise problem(error) from None
    limit = here.settings.max_parameters
    if spec.parameter_count > limit:
        detail = f"{spec.parameter_count} parameters; at most {limit} are allowed (FRESHET_MAX_PARAMETERS)"
        raise Invalid(f"/layers: {detail}", [("/layers", detail)])
    return spec


def _summary(here: Web, served: Served) -> dict[str, Any]:
    replica = served.replica
    return {
        "model": served.name,
        "task": served.spec.task,
        **position(here, replica),
        "lag": max(0, served.head.position - replica.step),
        "created": served.created,
    }


def _described(here: Web, served: Served) -> dict[str, Any]:
    replica = served.replica
    return {
        **_summary(here, served),
        "generation": served.generation.decode(),
        "timeline": replica.timeline,
        "term": served.lead.term,
        "has_learner": served.has_learner,
        "parameters": served.spec.parameter_count,
        "spec": served.spec.model_dump(mode="json"),
        "metrics": replica.metrics,
    }
