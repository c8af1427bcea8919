"""What the routes of one web process share, and how answers are written."""

import secrets
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from flask import Response, current_app, request
from pydantic_core import to_json

from service.errors import Problem, Unavailable, WrongMediaType
from service.settings import Settings
from service.store.connection import SharedLink
from service.web.access import Access
from service.web.bodies import RequestBody
from service.web.bounds import check_containers
from service.web.feedback.submit import Feedback
from service.web.idempotency import NAME, checked_key
from service.web.replicas.replica import ServedModel
from service.web.replicas.replicas import Replicas
from service.web.waiting import Waiting


@dataclass(frozen=True)
class Web:
    """One web process."""

    settings: Settings
    link: SharedLink
    waiting: Waiting
    replicas: Replicas
    feedback: Feedback
    access: Access

    @classmethod
    def create(cls, settings: Settings, url: str) -> "Web":
        """A web process on the Redis at `url`; its replicas are not started."""
        name = secrets.token_hex(4)
        link = SharedLink(url, settings.redis_timeout)
        waiting = Waiting(settings.max_waiting)
        replicas = Replicas(link, name, waiting)
        feedback = Feedback(settings, link, name, waiting)
        return cls(settings, link, waiting, replicas, feedback, Access(settings, link))

    def served(self, name: str) -> ServedModel:
        """The model of this name.

        Raises NotFound; Unavailable if Redis would have to be asked and cannot be, or if other processes may have
        served the model later than this one can yet.
        """
        served = self.replicas.get(name)
        if served is None:
            self.check_ready()
            served = self.replicas.add(name)  # it may have been created just now
        return caught_up(served)

    def check_ready(self) -> None:
        """Raise Unavailable unless this process has read the models from Redis."""
        if not self.replicas.ready:
            raise Unavailable("this process has not read the models from Redis yet", retry_after=1)


def caught_up(served: ServedModel) -> ServedModel:
    """The model. Raises Unavailable if other processes may have served it later than this one can yet."""
    if served.floor is not None:
        raise Unavailable(f"this process has not caught up with model {served.name} yet", retry_after=1)
    return served


def web() -> Web:
    """The web process that answers the current request."""
    return cast(Web, current_app.extensions["freshet"])


def json_body() -> bytes:
    """The raw body of a request that must be JSON. Raises WrongMediaType."""
    if request.mimetype != "application/json":
        raise WrongMediaType(
            f"send application/json, not {request.mimetype or 'nothing'}; curl: -H 'Content-Type: application/json'"
        )
    raw = raw_body()
    check_containers(raw)
    return raw


def has_body() -> bool:
    """Whether the current request brings a body."""
    return bool(request.content_length or "Transfer-Encoding" in request.headers)


def raw_body(most: int | None = None, setting: str = "FRESHET_MAX_BODY_BYTES") -> bytes:
    """The body of the current request, at most so many bytes. Raises TooLarge, BadRequest."""
    body = request_body()
    try:
        return body.whole(web().settings.max_body_bytes if most is None else most, setting)
    except Problem:
        body.drain()
        raise


def request_body() -> RequestBody:
    """The body of the current request, not yet read. Raises WrongMediaType if it is compressed."""
    coding = request.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise WrongMediaType(f"send the body without Content-Encoding, not as {coding}")
    return RequestBody(request.environ)


def idempotency_key() -> str | None:
    """The key that the current request brings. Raises Invalid."""
    return checked_key(request.headers.get(NAME))


def answer(body: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return raw_answer(to_json(body) + b"\n", status, headers)


def raw_answer(
    body: bytes, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """An answer that is JSON already."""
    return Response(body, status, headers, mimetype="application/json")
