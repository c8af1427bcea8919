"""Errors as HTTP answers: problem documents (RFC 9457). The only table of which error has which status."""

import math
import re
from http import HTTPStatus
from typing import Any, NoReturn

from flask import Flask, Response, request
from pydantic_core import to_json
from werkzeug.exceptions import HTTPException

from service import logs
from service.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    KeyUsed,
    LogCrowded,
    Misdirected,
    NoRoom,
    NotFound,
    OutcomeUnknown,
    Problem,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    WrongGeneration,
    WrongMediaType,
)
from service.web.idempotency import NAME, another_body, key_of_request, unknown_outcome
from service.web.replicas.replica import ServedModel, missing

MEDIA_TYPE = "application/problem+json"
STATUS: dict[type[Problem], HTTPStatus] = {
    BadRequest: HTTPStatus.BAD_REQUEST,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    WrongMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Misdirected: HTTPStatus.MISDIRECTED_REQUEST,
    TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    OutcomeUnknown: HTTPStatus.SERVICE_UNAVAILABLE,
}
TYPES: dict[type[Problem], str] = {OutcomeUnknown: "urn:freshet:problem:outcome-unknown"}
"""Types of problems that a client must tell from others of the same status."""
OTHER_PROTOCOLS = re.compile(r"/v2(/|$)|/v1/models/[^/]*(/versions/|:predict$)")
"""Paths of other servers' protocols, whose errors are `{"error": …}`."""
_NOT_NOW = (StoreUnavailable, StoreFull, LogCrowded)


def register(app: Flask) -> None:
    """Answer every error of the application with a problem document."""
    app.register_error_handler(Problem, answer)
    app.register_error_handler(StoreError, _answer_store)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_bug)


def refuse(error: StoreError, served: ServedModel, nothing: str, token: str = "") -> NoReturn:
    """Raise the problem of an error of Redis in a request for a model; an unexpected error as it is.

    `nothing` says that nothing was done. Where that is not known, the client finds out by a retry with the token.
    """
    if isinstance(error, WrongGeneration):
        raise missing(served) from error
    if isinstance(error, StoreUnavailable) and error.sent and token:
        raise unknown_outcome("Redis vanished in the middle", token) from error
    if isinstance(error, _NOT_NOW):
        raise Unavailable(f"{error}; {nothing}", retry_after=1) from error
    raise error


def of(error: Exception) -> Problem:
    """The problem of an error. An unexpected one is logged here, with its traceback."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StoreUnavailable) and error.sent and request.method not in ("GET", "HEAD"):
        return unknown_outcome(str(error), key_of_request(request.headers.get(NAME)))
    if isinstance(error, KeyUsed):
        return another_body()
    if isinstance(error, NoRoom):
        return Conflict(str(error))
    if isinstance(error, _NOT_NOW):
        return Unavailable(str(error), retry_after=1)
    logs.log.exception("unhandled exception", path=request.path, exc_info=error)
    return Problem("internal error, see the server log")


def status_of(problem: Problem) -> HTTPStatus:
    """The HTTP status of a problem."""
    return STATUS.get(type(problem), HTTPStatus.INTERNAL_SERVER_ERROR)


def document(problem: Problem, status: HTTPStatus | None = None) -> dict[str, Any]:
    """The members of the problem document."""
    status = status or status_of(problem)
    body = {
        "type": TYPES.get(type(problem), "about:blank"),
        "title": status.phrase,
        "status": status.value,
        "detail": problem.detail,
        "instance": request.path,
        **problem.extra,
    }
    if problem.errors:
        body["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in problem.errors]
    return body


def answer(problem: Problem, status: HTTPStatus | None = None) -> Response:
    """The answer to a request that met a problem."""
    status = status or status_of(problem)
    raw = to_json(document(problem, status)) + b"\n"
    return Response(raw, status, headers_of(problem), mimetype=MEDIA_TYPE)


def headers_of(problem: Problem) -> dict[str, str]:
    """The headers that belong to a problem."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(problem.retry_after))
    if isinstance(problem, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _answer_store(error: StoreError) -> Response:
    return answer(of(error))


def _answer_http(error: HTTPException) -> Response:
    """Flask's own errors: no such path, a method that is not allowed."""
    status, detail = HTTPStatus(error.code or 500), error.description or ""
    if OTHER_PROTOCOLS.match(request.path):
        response = Response(to_json({"error": detail}) + b"\n", status, mimetype="application/json")
    else:
        response = answer(Problem(detail), status)
    methods = getattr(error, "valid_methods", None)
    if methods:
        response.headers["Allow"] = ", ".join(methods)
    return response


def _answer_bug(error: Exception) -> Response:
    return answer(of(error))
