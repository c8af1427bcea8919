"""Requests that wait: for Redis, for the result of what they appended, for a step. Predictions are never starved."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from service.errors import Unavailable
from service.store.messages import Result

PATIENCE = 0.25  # seconds that a request waits for a brief place


class Receiver(Protocol):
    """Who is told of a result."""

    def deliver(self, result: Result) -> None:
        """Take the result. Called in the listener's thread: must not wait."""


class Waiter:
    """One request's wait for the result of one append."""

    __slots__ = ("_nothing_yet", "result")

    def __init__(self) -> None:
        self._nothing_yet = threading.Lock()  # cheaper than an Event; released once, by `deliver`
        self._nothing_yet.acquire()
        self.result: Result | None = None

    def deliver(self, result: Result) -> None:
        """Hand over the result and wake the request."""
        self.result = result
        self._nothing_yet.release()

    def wait(self, timeout: float) -> Result | None:
        """The result; None if it has not come within `timeout` seconds."""
        if self.result is None:
            self._nothing_yet.acquire(timeout=timeout)
        return self.result


class Waiting:
    """The requests of one web process that wait: at most half of its threads may wait for results, steps and streams.

    A quarter more may ask Redis for something and go. Where Redis keeps all of these waiting, what else needs it is
    refused: the last quarter is for predictions.
    """

    def __init__(self, threads: int) -> None:
        self._places = threading.BoundedSemaphore(threads // 2)
        self._brief = threading.BoundedSemaphore(max(1, threads // 4))
        self._stuck = False  # all brief places were taken for long, and Redis has answered to none since
        self._receivers: dict[bytes, list[Receiver]] = {}
        self._changing = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[bool]:
        """A place to wait in, if one is free: whether it is."""
        taken = self._places.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._places.release()

    @contextmanager
    def at_redis(self) -> Iterator[bool]:
        """A place to ask Redis from, and whether it is one to wait in. Raises Unavailable if there is none."""
        with self.place() as may_wait:
            if may_wait:
                yield True
            else:
                with self._brief_place():
                    yield False

    @contextmanager
    def _brief_place(self) -> Iterator[None]:
        if not self._brief.acquire(timeout=0 if self._stuck else PATIENCE):
            self._stuck = True
            raise Unavailable("Redis keeps too many requests waiting; nothing was written", retry_after=1)
        try:
            yield
            self._stuck = False  # Redis has answered
        finally:
            self._brief.release()

    @contextmanager
    def waiter(self, token: bytes) -> Iterator[Waiter]:
        """A waiter for the result of the append with this token: made before the append, so none is missed."""
        waiter = Waiter()
        self.expect(token, waiter)
        try:
            yield waiter
        finally:
            self.forget(token, waiter)

    def expect(self, token: bytes, receiver: Receiver) -> None:
        """Deliver the result of the append with this token to a receiver, once, unless it is forgotten before."""
        with self._changing:
            self._receivers.setdefault(token, []).append(receiver)

    def forget(self, token: bytes, receiver: Receiver) -> None:
        """Expect the result no longer."""
        with self._changing:
            receivers = self._receivers.get(token, [])
            if receiver in receivers:
                receivers.remove(receiver)
            if not receivers:
                self._receivers.pop(token, None)

    def deliver(self, result: Result) -> None:
        """Hand a result to all who expect it."""
        with self._changing:
            receivers = self._receivers.pop(result.token, [])
        for receiver in receivers:
            receiver.deliver(result)
