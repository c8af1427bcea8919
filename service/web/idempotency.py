"""Idempotency-Keys: what is kept with one, and how a repeated request is recognised."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.errors import Invalid, OutcomeUnknown, Problem, StoreUnavailable, Unavailable

NAME = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept with a key: the position of its newest append, a record of the request, perhaps its answer."""

    position: int
    record: bytes
    answer: bytes = b""

    @classmethod
    def parse(cls, value: bytes, answer: bytes = b"") -> "Seen":
        """From what Redis keeps: position, blank, record."""
        position, _, record = value.partition(b" ")
        return cls(int(position), record, answer)

    def to_bytes(self) -> bytes:
        """What Redis keeps."""
        return b"%d %b" % (self.position, self.record)


@dataclass(slots=True)
class Request:
    """What is appended for: its key, the token of the log's entry, and what is kept with the key.

    `record` is given how many rows are appended and how many are duplicates.
    """

    key: bytes
    token: bytes
    record: Callable[[int, int], bytes]
    known: Seen | None = None
    named: bool = True  # whether anybody may come again with the key
    is_unknown: bool = False  # a try was sent and not answered: it may be carried out yet

    def refusal(self, problem: Problem) -> Problem:
        """What a client is told of a problem: once a try's outcome is unknown, no refusal is final."""
        if not self.is_unknown or isinstance(problem, OutcomeUnknown):
            return problem
        return unknown_outcome(problem.detail, self.key.decode(), problem.extra)


def checked_key(key: str | None) -> str | None:
    """A client's key, if it gives one. Raises Invalid."""
    if key is not None and not 1 <= len(key) <= 128:
        raise Invalid.at(NAME, "1 to 128 characters")
    return key


def new_key() -> str:
    """What stands for an Idempotency-Key where none is given."""
    return secrets.token_urlsafe(12)


def body_digest(body: bytes) -> bytes:
    """By which the body of a repeated request is recognised."""
    return hashlib.blake2b(body, digest_size=8).hexdigest().encode()


def vanished(error: StoreUnavailable, nothing: str, token: str) -> Problem:
    """The problem when Redis vanishes: `nothing` was done, or it is not known and a retry with the token settles it."""
    if not error.sent:
        return Unavailable(f"{error}; {nothing}", retry_after=1)
    return unknown_outcome("Redis vanished in the middle", token)


def unknown_outcome(why: str, token: str, extra: dict[str, Any] | None = None) -> OutcomeUnknown:
    """The problem of a request that may be carried out yet: a retry with the token settles it."""
    detail = f"{why}; an earlier try may have been carried out: retry with the {NAME} in `token`"
    return OutcomeUnknown(detail, retry_after=1, **{**(extra or {}), "token": token})


def another_body() -> Invalid:
    """The problem of a key that comes again with something else."""
    detail = "was used with another body"
    return Invalid(f"this {NAME} {detail}", [(NAME, detail)])
