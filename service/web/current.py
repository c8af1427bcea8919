"""What is known of the request that a greenlet answers: for its log lines, limits and errors.

Flask's own contexts would cost a prediction more than its network does.
"""

import time
from contextvars import ContextVar
from typing import Any

from flask import request

from service.access import ApiKey


class Current:
    """One request: its WSGI environment, and what is found out about it on its way."""

    __slots__ = ("api_key", "began", "environ", "id", "key", "model")

    def __init__(self, environ: dict[str, Any], model: str, began: float) -> None:
        self.environ = environ
        self.model = model  # empty: none
        self.began = began  # by time.perf_counter
        self.api_key: ApiKey | None = None
        self.id = ""  # X-Request-Id, once somebody asks for it
        self.key = ""  # Idempotency-Key: the client's, or one that was made up


_current: ContextVar[Current | None] = ContextVar("current", default=None)
get = _current.get


def begin(environ: dict[str, Any], model: str, began: float) -> Current:
    """Note which request is current."""
    found = Current(environ, model, began)
    _current.set(found)
    return found


def of_flask() -> Current:
    """The request that Flask handles."""
    found = get()
    if found is None or found.environ is not request.environ:
        found = begin(request.environ, (request.view_args or {}).get("name", ""), time.perf_counter())
    return found


def end() -> None:
    """No request is current any more: its answer is out, streams and all."""
    _current.set(None)


def api_key() -> ApiKey | None:
    """The API key of the current request."""
    found = get()
    return None if found is None else found.api_key


def key_name() -> str:
    """The name of the current request's API key, or empty."""
    key = api_key()
    return "" if key is None else key.name


def may_see(model: str) -> bool:
    """Whether the current request may see a model."""
    key = api_key()
    return key is None or key.covers(model)
