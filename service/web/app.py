"""The Flask application of one web process."""

import gc
import math
from http import HTTPStatus

from flask import Flask, Response, request
from pydantic_core import to_json
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from service import failpoints, logs
from service.errors import (
    Invalid,
    LogCrowded,
    NotFound,
    Problem,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TooLarge,
    Unavailable,
)
from service.settings import Settings, load_settings, redis_url
from service.web import access, loop, telemetry
from service.web.context import Web
from service.web.protocols import open_inference, tensorflow_serving
from service.web.routes import checkpoints, feedback, health, jobs, models, predict, retrain, weights

RESOURCES = (
    *(predict, feedback, models, retrain, jobs, checkpoints, weights, health, telemetry),
    *(open_inference, tensorflow_serving),
)
READY_SECONDS = 3.0  # that a process waits for its models before it takes requests, should Redis be away


def create_app(settings: Settings | None = None) -> Flask:
    """The application, with its replicas running. Call it in the process that serves, after the fork."""
    settings = settings or load_settings()
    logs.configure(settings, "web")
    failpoints.configure(settings)
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    web = Web.create(settings, redis_url(settings))
    app.extensions["freshet"] = web
    app.url_map.strict_slashes = False
    app.url_value_preprocessor(_check_name)
    for resource in RESOURCES:
        app.register_blueprint(resource.routes)
    telemetry.install(app)
    access.install(app, web.access)
    app.register_error_handler(Problem, _tell)
    app.register_error_handler(StoreError, _tell_of_store)
    app.register_error_handler(HTTPException, _tell_of_http)
    app.register_error_handler(Exception, _tell_of_bug)
    web.access.start()
    web.replicas.start()
    web.replicas.wait_ready(READY_SECONDS)
    gc.collect()
    loop.start()
    gc.freeze()  # what is here now stays: looking through it again and again would only delay requests
    return app


def _check_name(_endpoint: str | None, values: dict[str, str] | None) -> None:
    name = (values or {}).get("name")
    if name is not None and not models.is_name(name):
        detail = "a name is a letter or digit, then up to 63 letters, digits, dots, dashes and underscores"
        raise Invalid(detail, [("name", detail)])


def _tell(problem: Problem) -> Response:
    body = {
        "type": problem.type,
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
        "instance": request.path,
        **problem.extra,
    }
    if problem.errors:
        body["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in problem.errors]
    response = Response(to_json(body) + b"\n", problem.status.value, mimetype="application/problem+json")
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(problem.retry_after))
    return response


def _tell_of_store(error: StoreError) -> Response:
    if isinstance(error, StoreUnavailable | StoreFull | LogCrowded):
        return _tell(Unavailable(str(error), retry_after=1))
    return _tell_of_bug(error)


def _tell_of_http(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        limit = request.max_content_length
        return _tell(TooLarge(f"the body is over {limit} bytes (FRESHET_MAX_BODY_BYTES)"))
    problem = (
        NotFound(error.description or "")
        if error.code == HTTPStatus.NOT_FOUND
        else Problem(error.description or "")
    )
    problem.status = HTTPStatus(error.code or 500)
    response = _tell(problem)
    if getattr(error, "valid_methods", None):
        response.headers["Allow"] = ", ".join(error.valid_methods)  # type: ignore[attr-defined]
    return response


def _tell_of_bug(error: Exception) -> Response:
    logs.log.exception("an error that nobody expected", path=request.path, exc_info=error)
    return _tell(Problem("an error on the server; its log says more"))
