"""Predictions and feedback in JSON, answered without Flask's routing and request objects: they are most of the work.

The checks and the handlers are those of the routes. A request that is in any way unusual goes to Flask, and so does
whatever goes wrong: an error is answered as everywhere.
"""

import re
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from flask import Flask

from service.errors import Problem
from service.web import current, telemetry
from service.web.access import Access
from service.web.bodies import RequestBody
from service.web.bounds import check_containers
from service.web.context import Web
from service.web.current import Current
from service.web.idempotency import checked_key
from service.web.names import REQUEST_ID
from service.web.origins import Hosts
from service.web.routes.feedback import feedback_json
from service.web.routes.predict import predict_json

PATH = re.compile(r"/v1/models/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/(predict|feedback)")
JSON = {"application/json", "application/json; charset=utf-8"}
HOOKS = {"access.check", "openapi._check_query", "origins.check", "telemetry._begin"}
"""What Flask does before each request, all of which is done here too; a query goes to Flask."""

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Direct:
    """The WSGI application: Flask's, with a short way for the usual calls."""

    def __init__(self, app: Flask, context: Web, access: Access, hosts: Hosts) -> None:
        hooks = {
            f"{hook.__module__.rpartition('.')[2]}.{hook.__name__}"
            for hook in app.before_request_funcs.get(None, [])
        }
        if hooks != HOOKS:
            raise RuntimeError(f"a check before each request is not made here: {sorted(hooks ^ HOOKS)}")
        self._app = app
        self._flask = app.wsgi_app
        self._context = context
        self._access = access
        self._hosts = hosts

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path = PATH.fullmatch(environ["PATH_INFO"])
        if (
            path is None
            or environ["REQUEST_METHOD"] != "POST"
            or environ.get("CONTENT_TYPE") not in JSON
            or environ["QUERY_STRING"]
            or "HTTP_CONTENT_ENCODING" in environ
        ):
            return self._flask(environ, start_response)
        began = time.perf_counter()
        name, call = path.groups()
        handled = current.begin(environ, name, began)
        try:
            body, status = self._answer(handled, name, call)
        except Exception as error:  # noqa: BLE001 - Flask's handlers know what to do with it
            return self._failed(environ, start_response, error)
        request_id = telemetry.request_id(handled)
        telemetry.note_log_fields(self._context, handled)
        telemetry.count(f"/v1/models/<name>/{call}", status, time.perf_counter() - began)
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            (REQUEST_ID, request_id),
        ]
        start_response("200 OK" if status == HTTPStatus.OK else f"{status.value} {status.phrase}", headers)
        return [body]

    def _answer(self, handled: Current, name: str, call: str) -> tuple[bytes, HTTPStatus]:
        environ = handled.environ
        handled.api_key = key = self._access.admit(
            environ.get("HTTP_AUTHORIZATION", ""), environ.get("REMOTE_ADDR", ""), f"{call}.{call}", name
        )
        if key is None:
            self._hosts.check(environ.get("HTTP_HOST"), environ.get("HTTP_ORIGIN"))
        body = RequestBody(environ)
        try:
            raw = body.whole(self._context.settings.max_body_bytes)
        except Problem:
            body.drain()
            raise
        check_containers(raw)
        if call == "predict":
            return predict_json(self._context, name, raw), HTTPStatus.OK
        return feedback_json(self._context, name, raw, checked_key(environ.get("HTTP_IDEMPOTENCY_KEY")))

    def _failed(self, environ: Environ, start_response: StartResponse, error: Exception) -> Iterable[bytes]:
        """Answer with an error, through the application's own handlers."""
        with self._app.request_context(environ):
            response = self._app.make_response(self._app.handle_user_exception(error))
            return self._app.process_response(response)(environ, start_response)
