"""Idempotency-Keys: what is kept with one, and how a repeated request is recognised."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Request:
    """What is appended for: its key, the token of the log's entry, and what is kept with the key.

    `record` is given how many rows are appended and how many are duplicates.
    """

    key: bytes
    token: bytes
    record: Callable[[int, int], bytes]
    known: Seen | None = None
    deadline: float = 0.0  # monotonic seconds at which Redis is given up
    meanwhile: Callable[[], object] | None = None  # called between sending an append and reading its answer
    named: bool = True  # whether anybody may come again with the key


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
    detail = f"Redis vanished in the middle; retry with the {NAME} in `token`"
    return OutcomeUnknown(detail, retry_after=1, token=token)


def another_body() -> Invalid:
    """The problem of a key that comes again with something else."""
    detail = "was used with another body"
    return Invalid(f"this {NAME} {detail}", [(NAME, detail)])
