"""The API's description (OpenAPI 3.1) at `/openapi.json`, made from the models that check requests, and `/docs`."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from flask import Blueprint, Flask, Response, current_app, request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from model import ModelSpec
from service.errors import Invalid, NotFound
from service.jobs.retraining import Retraining
from service.jobs.schedules import Schedule
from service.jobs.undo import Undo
from service.schemas import Observation, Observations, PredictRequest
from service.web import answers
from service.web.access import OPEN
from service.web.protocols.open_inference import InferenceRequest
from service.web.protocols.tensorflow_serving import PredictBody
from service.web.routes.checkpoints import CheckpointRequest, RollbackRequest
from service.web.routes.models import Patch

routes = Blueprint("openapi", __name__)
PAGE_FILES = {
    "swagger-ui.css": ("css", "text/css"),
    "swagger-ui-bundle.js": ("js", "text/javascript"),
}
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Freshet API</title><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="api"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body>
</html>
"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#api", validatorUrl: null});\n'
JSON, NDJSON, BYTES = "application/json", "application/x-ndjson", "application/octet-stream"
ARROW = "application/vnd.apache.arrow.stream"
SAFETENSORS, PROBLEM = "application/vnd.safetensors", "application/problem+json"
PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
READS = (401, 403, 404, 421, 422, 429, 503)
WRITES = (400, 401, 403, 404, 409, 413, 415, 421, 422, 429, 503)


class CreateRequest(ModelSpec):
    """A model's spec, and when it is retrained."""

    retrain: Schedule | None = None


@dataclass(frozen=True)
class Operation:
    """What one endpoint takes and answers."""

    tag: str
    answers: dict[int, type[BaseModel] | str | None]
    takes: dict[str, tuple[type[BaseModel], ...]] = field(default_factory=dict)
    query: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: tuple[int, ...] = READS
    example: Any = None
    optional: bool = False
    keyed: bool = False  # takes an Idempotency-Key
    foreign: bool = False  # tells errors in another protocol's form


ROWS = {"instances": [{"links": 7, "sender": "new"}, [0, "known"]]}
LESSON = {"features": {"links": 7, "sender": "new"}, "label": 1, "id": "mail-1"}
SPEC = {
    "task": "binary",
    "features": [{"name": "links"}, {"name": "sender", "kind": "category", "values": ["known", "new"]}],
}
V2 = {"inputs": [{"name": "features", "shape": [1, 2], "datatype": "FP64", "data": [1.5, 2.0]}]}
MIN_STEP = {
    "type": "integer",
    "minimum": 0,
    "maximum": 2**53,
    "description": "not from before this step",
}

TOP = {
    "type": "integer",
    "minimum": 1,
    "maximum": 10_000,
    "description": "classes of each prediction in the response",
}

OPERATIONS: dict[str, Operation] = {
    "models.list_models": Operation("models", {200: answers.ModelList}),
    "models.describe": Operation("models", {200: answers.ModelAnswer}),
    "models.create": Operation(
        "models",
        {200: answers.ModelAnswer, 201: answers.ModelAnswer, 202: answers.JobAnswer},
        {JSON: (CreateRequest,)},
        {
            "rebuild": {
                "type": "string",
                "enum": ["true", "false"],
                "description": "train another spec from the log",
            }
        },
        WRITES,
        SPEC,
        keyed=True,
    ),
    "models.patch": Operation(
        "models",
        {200: answers.ModelAnswer, 202: answers.ModelAnswer},
        {JSON: (Patch,)},
        problems=WRITES,
        example={"learning_rate": 0.002},
        keyed=True,
    ),
    "models.delete": Operation("models", {204: None}, problems=READS),
    "models.metrics": Operation("models", {200: answers.MetricsAnswer}),
    "models.diagnostics": Operation("models", {200: answers.DiagnosticsAnswer}),
    "predict.predict": Operation(
        "predictions",
        {200: answers.PredictAnswer},
        {JSON: (PredictRequest,), NDJSON: (), ARROW: ()},
        {
            "ids": {
                "type": "string",
                "enum": ["true", "false"],
                "description": "each line of a stream has an id",
            },
            "top": TOP,
            "on_error": {
                "type": "string",
                "enum": ["skip", "stop"],
                "description": "at a bad line of a stream",
            },
        },
        WRITES,
        ROWS,
    ),
    "feedback.feedback": Operation(
        "feedback",
        {200: answers.FeedbackAnswer, 202: answers.FeedbackAnswer},
        {JSON: (Observation, Observations), NDJSON: (Observation,), ARROW: ()},
        {
            "on_error": {
                "type": "string",
                "enum": ["skip", "stop"],
                "description": "at a bad line of a stream",
            },
            "top": TOP,
            "results": {"type": "string", "enum": ["none", "blocks", "each"], "description": "of a stream"},
        },
        WRITES,
        LESSON,
        keyed=True,
    ),
    "retrain.retrain": Operation(
        "retraining",
        {202: answers.JobAnswer},
        {JSON: (Retraining,)},
        problems=WRITES,
        example={"epochs": 20, "window": {"last": 10_000}},
        keyed=True,
    ),
    "retrain.undo": Operation(
        "retraining",
        {202: answers.JobAnswer},
        {JSON: (Undo,)},
        problems=WRITES,
        example={"key": "labels", "since": "2026-01-31T12:00:00Z"},
        keyed=True,
    ),
    "jobs.describe": Operation("retraining", {200: answers.JobAnswer}),
    "jobs.list_of_model": Operation("retraining", {200: answers.JobList}),
    "jobs.cancel": Operation(
        "retraining", {200: answers.JobAnswer, 202: answers.JobAnswer}, problems=(*READS, 409)
    ),
    "checkpoints.list_checkpoints": Operation("checkpoints", {200: answers.CheckpointList}),
    "checkpoints.make_checkpoint": Operation(
        "checkpoints",
        {201: answers.CommandAnswer, 202: answers.CommandAnswer},
        {JSON: (CheckpointRequest,)},
        problems=WRITES,
        example={"note": "before the sale"},
        optional=True,
        keyed=True,
    ),
    "checkpoints.roll_back": Operation(
        "checkpoints",
        {200: answers.CommandAnswer, 202: answers.CommandAnswer},
        {JSON: (RollbackRequest,)},
        problems=WRITES,
        example={"checkpoint": "10000-0"},
        keyed=True,
    ),
    "weights.get_weights": Operation("checkpoints", {200: SAFETENSORS}, query={"min_step": MIN_STEP}),
    "weights.put_weights": Operation(
        "checkpoints",
        {200: answers.CommandAnswer, 202: answers.CommandAnswer},
        {SAFETENSORS: (), BYTES: ()},
        problems=WRITES,
        keyed=True,
    ),
    "health.livez": Operation("health", {200: answers.Health}, problems=()),
    "health.readyz": Operation("health", {200: answers.Health, 503: answers.Health}, problems=()),
    "metrics.metrics": Operation("health", {200: "text/plain"}, problems=(401, 403, 421, 429)),
    "openapi.describe": Operation("health", {200: answers.OpenObject}, problems=()),
    "openapi.page": Operation("health", {200: "text/html"}, problems=()),
    "openapi.page_file": Operation("health", {200: "text/javascript"}, problems=(404,)),
    "tensorflow_serving.predict": Operation(
        "other protocols",
        {200: answers.ServingAnswer},
        {JSON: (PredictBody,)},
        problems=WRITES,
        example={"instances": [[1.5, 2.0]]},
        foreign=True,
    ),
    "tensorflow_serving.status": Operation("other protocols", {200: answers.VersionStatus}, foreign=True),
    "open_inference.server_metadata": Operation("other protocols", {200: answers.OpenObject}, problems=()),
    "open_inference.live": Operation("other protocols", {200: answers.OpenObject}, problems=()),
    "open_inference.ready": Operation(
        "other protocols", {200: answers.OpenObject, 503: answers.OpenObject}, problems=()
    ),
    "open_inference.model_metadata": Operation("other protocols", {200: answers.OpenObject}, foreign=True),
    "open_inference.model_ready": Operation("other protocols", {200: answers.OpenObject}, foreign=True),
    "open_inference.infer": Operation(
        "other protocols",
        {200: answers.InferenceAnswer},
        {JSON: (InferenceRequest,), BYTES: ()},
        problems=WRITES,
        example=V2,
        foreign=True,
    ),
}
"""Every endpoint; `tests/service/test_openapi.py` refuses one that is not here."""


@routes.get("/openapi.json")
def describe() -> Response:
    """The API's description."""
    return Response(_document(current_app._get_current_object()), mimetype=JSON)  # type: ignore[attr-defined]


@routes.get("/docs")
def page() -> Response:
    """The API's description as a page; it needs nothing from elsewhere."""
    return Response(PAGE, mimetype="text/html")


@routes.get("/docs/<file>")
def page_file(file: str) -> Response:
    """A script or a style sheet of the page."""
    if file == "start.js":
        return Response(START, mimetype="text/javascript")
    if file not in PAGE_FILES:
        raise NotFound(f"there is no page file {file!r}")
    folder, mimetype = PAGE_FILES[file]
    path = files("flask_openapi3_swagger") / "templates" / "swagger" / folder / file
    return Response(path.read_bytes(), mimetype=mimetype, headers={"Cache-Control": "max-age=86400"})


def install(app: Flask) -> None:
    """Refuse what the description does not know in the query of a request."""
    app.before_request(_check_query)


def _check_query() -> None:
    operation = OPERATIONS.get(request.endpoint or "")
    if not request.query_string or operation is None or operation.foreign:
        return
    for name, values in request.args.lists():
        schema = operation.query.get(name)
        if schema is None:
            known = ", ".join(operation.query) or "none"
            raise Invalid.at(name[:128], f"unknown parameter of the query; known: {known}")
        if len(values) > 1:
            raise Invalid.at(name, "given more than once")
        _check_parameter(name, values[0], schema)


def _check_parameter(name: str, value: str, schema: dict[str, Any]) -> None:
    if "enum" in schema and value not in schema["enum"]:
        raise Invalid.at(name, f"one of {', '.join(schema['enum'])}")
    if schema["type"] == "integer":
        least, most = schema["minimum"], schema["maximum"]
        digits = value.isascii() and value.isdigit() and len(value) <= len(str(most))
        if not (digits and least <= int(value) <= most):
            raise Invalid.at(name, f"an integer from {least} to {most}")


@cache
def _document(app: Flask) -> bytes:
    return to_json(description(app))


def description(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of an application's routes."""
    schemas, definitions = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for rule in app.url_map.iter_rules():
        operation = OPERATIONS[rule.endpoint]
        path = PARAMETER.sub(r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            described = _described(app.view_functions[rule.endpoint], rule, method, operation, schemas)
            paths.setdefault(path, {})[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Freshet",
            "version": version("freshet"),
            "description": "A neural network that learns from every labelled observation, exactly once.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": definitions,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


REQUIRED = {"CreateRequest": ["task", "features"], "ModelSpec": ["task", "features"], "OptimizerSpec": []}
"""What a client must give, where a model fills in defaults that follow from other fields."""


def _schemas() -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """The schema of each model, by model and mode, and what they refer to."""
    wanted: list[tuple[Any, Any]] = [
        (model, "serialization") for model in (answers.Problem, answers.ProtocolError)
    ]
    for operation in OPERATIONS.values():
        wanted += [(model, "validation") for models in operation.takes.values() for model in models]
        wanted += [
            (model, "serialization") for model in operation.answers.values() if isinstance(model, type)
        ]
    wanted = list(dict.fromkeys(wanted))
    found, definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    schemas: dict[str, Any] = definitions.get("$defs", {})
    for name, schema in schemas.items():
        if name.partition("-")[0] in REQUIRED and "required" in schema:
            schema["required"] = REQUIRED[name.partition("-")[0]]
    return dict(found.items()), schemas


def _described(
    view: Callable[..., Any], rule: Any, method: str, operation: Operation, schemas: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    summary, _, more = inspect.getdoc(view).partition("\n")  # type: ignore[union-attr]
    described: dict[str, Any] = {
        "operationId": f"{rule.endpoint}.{method.lower()}.{len(PARAMETER.findall(rule.rule))}",
        "tags": [operation.tag],
        "summary": summary,
        **({"description": more.strip()} if more.strip() else {}),
        "parameters": _parameters(rule.rule, operation),
        "responses": _responses(operation, schemas),
    }
    if rule.endpoint in OPEN:
        described["security"] = []
    if operation.takes:
        described["requestBody"] = _body(operation, schemas)
    return described


def _parameters(rule: str, operation: Operation) -> list[dict[str, Any]]:
    name = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
    part = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}
    found = [
        {
            "name": parameter,
            "in": "path",
            "required": True,
            "schema": name if parameter == "name" else part,
        }
        for parameter in PARAMETER.findall(rule)
    ]
    found += [{"name": key, "in": "query", "schema": schema} for key, schema in operation.query.items()]
    if operation.keyed:
        key = {"type": "string", "minLength": 1, "maxLength": 128}
        found.append({"name": "Idempotency-Key", "in": "header", "schema": key})
    return found


def _body(operation: Operation, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for media_type, models in operation.takes.items():
        found = [schemas[model, "validation"] for model in models]
        schema: dict[str, Any] = found[0] if len(found) == 1 else {"oneOf": found}
        content[media_type] = (
            {"schema": schema} if found else {"schema": {"type": "string", "format": "binary"}}
        )
        if media_type == JSON and operation.example is not None:
            content[media_type]["example"] = operation.example
    return {"required": not operation.optional, "content": content}


def _responses(operation: Operation, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, model in sorted(operation.answers.items()):
        content: dict[str, Any] = {}
        if isinstance(model, str):
            content[model] = {"schema": {"type": "string"}}
        elif model is not None:
            content[JSON] = {"schema": schemas[model, "serialization"]}
        found[str(status)] = {
            "description": HTTPStatus(status).phrase,
            **({"content": content} if content else {}),
        }
    media_type, problem = (JSON, answers.ProtocolError) if operation.foreign else (PROBLEM, answers.Problem)
    for status in sorted(set(operation.problems) - operation.answers.keys()):
        content = {media_type: {"schema": schemas[problem, "serialization"]}}
        found[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    return found
