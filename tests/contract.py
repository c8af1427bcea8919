"""Holds answers against the API's description: what the server says must be what `/openapi.json` promises."""

from functools import cache
from typing import Any

import jsonschema_rs
from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, RequestRedirect

from service.web.app import RESOURCES, PathPart
from service.web.openapi import PARAMETER, description


@cache
def application() -> Flask:
    """The routes, without anything behind them."""
    app = Flask("routes", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.converters["default"] = PathPart
    for resource in RESOURCES:
        app.register_blueprint(resource.routes)
    return app


@cache
def _described() -> tuple[dict[str, Any], MapAdapter]:
    app = application()
    return description(app), app.url_map.bind("localhost")


@cache
def _validator(path: str, method: str, status: int) -> Any:
    """Checks an answer's body; None if it has none, or none that is JSON."""
    document, _ = _described()
    responses = document["paths"][path][method]["responses"]
    assert str(status) in responses, f"{method} {path} does not promise {status}: {sorted(responses)}"
    for media_type, content in responses[str(status)].get("content", {}).items():
        if media_type.endswith("json"):
            schema = {**content["schema"], "components": document["components"]}
            return jsonschema_rs.Draft202012Validator(schema)
    return None


def check(method: str, target: str, status: int, body: Any) -> None:
    """Raise AssertionError if an answer is not as described. What no route takes is not looked at."""
    try:
        rule, _ = _described()[1].match(target.partition("?")[0], method, return_rule=True)
    except (HTTPException, RequestRedirect):
        return
    path = PARAMETER.sub(r"{\1}", rule.rule)
    validator = _validator(path, method.lower(), status)
    if validator is not None:
        problem = next(validator.iter_errors(body), None)
        assert problem is None, f"{method} {target} {status}: {problem}"
