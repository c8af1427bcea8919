"""Requests that wait: for the result of what they appended, or for a step. Predictions are never starved by them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.store.messages import Result


class Waiter:
    """One request's wait for the result of one append."""

    __slots__ = ("_arrived", "result")

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self.result: Result | None = None

    def deliver(self, result: Result) -> None:
        """Hand over the result and wake the request."""
        self.result = result
        self._arrived.set()

    def wait(self, timeout: float) -> Result | None:
        """The result; None if it has not come within `timeout` seconds."""
        self._arrived.wait(timeout)
        return self.result


class Waiting:
    """The requests of one web process that wait. At most `places` may."""

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._waiters: dict[bytes, Waiter] = {}

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
        waiter = self._waiters[token] = Waiter()
        try:
            yield waiter
        finally:
            self._waiters.pop(token, None)

    def deliver(self, result: Result) -> None:
        """Wake the request that waits for this result, if there is one."""
        waiter = self._waiters.get(result.token)
        if waiter is not None:
            waiter.deliver(result)
