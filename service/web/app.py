"""The Flask application of one web process."""

import gc

from flask import Flask
from werkzeug.routing import BaseConverter

from service import failpoints, logs
from service.errors import Invalid
from service.settings import Settings, load_settings, redis_url
from service.web import (
    access,
    direct,
    fast_predictions,
    loop,
    openapi,
    origins,
    problems,
    telemetry,
    tracing,
)
from service.web.context import Web
from service.web.protocols import open_inference, tensorflow_serving
from service.web.routes import checkpoints, feedback, health, jobs, models, predict, retrain, weights

RESOURCES = (
    *(predict, feedback, models, retrain, jobs, checkpoints, weights, health, telemetry, openapi),
    *(open_inference, tensorflow_serving),
)
GARBAGE = 20_000, 20, 50
"""Python's thresholds of garbage collection: a look through all that large requests hold takes milliseconds."""
READY_SECONDS = 3.0  # that a process waits for its models before it takes requests, should Redis be away


class PathPart(BaseConverter):
    """A part of a path, of which `:predict` is none."""

    regex = "[^/:]+"


def create_app(settings: Settings | None = None) -> Flask:
    """The application, with its replicas running. Call it in the process that serves, after the fork."""
    settings = settings or load_settings()
    logs.configure(settings, "web")
    failpoints.configure(settings)
    app = Flask(__name__, static_folder=None)
    web = Web.create(settings, redis_url(settings))
    app.extensions["freshet"] = web
    app.url_map.strict_slashes = False
    app.url_map.converters["default"] = PathPart
    app.url_value_preprocessor(_check_name)
    for resource in RESOURCES:
        app.register_blueprint(resource.routes)
    telemetry.install(app)
    tracing.install(app, settings)
    access.install(app, web.access)
    hosts = origins.Hosts(settings)
    origins.install(app, hosts)
    openapi.install(app)
    problems.register(app)
    if not settings.otel:  # traces are made by Flask's hooks
        app.wsgi_app = direct.Direct(app, web, web.access, hosts)  # type: ignore[method-assign]
    web.access.start()
    web.replicas.start()
    web.replicas.wait_ready(READY_SECONDS)
    gc.collect()
    loop.start()
    fast_predictions.start()
    gc.freeze()  # what is here now stays: looking through it again and again would only delay requests
    gc.set_threshold(*GARBAGE)
    return app


def _check_name(_endpoint: str | None, values: dict[str, str] | None) -> None:
    name = (values or {}).get("name")
    if name is not None and not models.is_name(name):
        detail = "a name is a letter or digit, then up to 63 letters, digits, dots, dashes and underscores"
        raise Invalid.at("name", detail)
