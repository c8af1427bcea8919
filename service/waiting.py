"""Requests that wait: for the result of what they appended, or for a step. Predictions are never starved by them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from service.store.messages import Result


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
    """The requests of one web process that wait. At most `places` may."""

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)
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
