"""Idempotency-Keys: how a repeated request is recognised."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.errors import Invalid, OutcomeUnknown, Problem
from service.store.kept import Kept
from service.web import current

NAME = "Idempotency-Key"


@dataclass(slots=True)
class Request:
    """The request that an append is for: its key, the token of the log's entry, and what is kept with the key.

    `record` is given how many rows are appended and how many are duplicates.
    """

    key: bytes
    token: bytes
    record: Callable[[int, int], bytes]
    known: Kept | None = None
    named: bool = True  # whether the client gave the key, and may come again with it
    is_unknown: bool = False  # a try was sent and not answered: it may be carried out yet

    def refusal(self, problem: Problem) -> Problem:
        """The problem in the response: once a try's outcome is unknown, no refusal is final."""
        if not self.is_unknown or isinstance(problem, OutcomeUnknown):
            return problem
        return unknown_outcome(problem.detail, self.key.decode(), problem.extra)


def checked_key(key: str | None) -> str | None:
    """A client's key, if it gives one. Raises Invalid."""
    if key is not None and not 1 <= len(key) <= 128:
        raise Invalid.at(NAME, "1 to 128 characters")
    return key


def new_key() -> str:
    """A key for a request without an Idempotency-Key."""
    return secrets.token_urlsafe(12)


def key_of_request(key: str | None) -> str:
    """The current request's key; if the client gave none, one that is made for it, the same at each call."""
    request = current.of_flask()
    request.key = key or request.key or new_key()
    return request.key


def body_digest(body: bytes) -> bytes:
    """The digest by which the body of a repeated request is recognised."""
    return hashlib.blake2b(body, digest_size=8).hexdigest().encode()


def unknown_outcome(why: str, token: str, extra: dict[str, Any] | None = None) -> OutcomeUnknown:
    """The problem of a request that may be carried out yet: a retry with the token settles it."""
    detail = f"{why}; an earlier try may have been carried out: retry with the {NAME} in `token`"
    return OutcomeUnknown(detail, retry_after=1, **{**(extra or {}), "token": token})


def another_body() -> Invalid:
    """The problem of a key that comes again with something else."""
    detail = "was used with another body"
    return Invalid(f"this {NAME} {detail}", [(NAME, detail)])
