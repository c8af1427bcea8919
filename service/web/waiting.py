"""Requests that wait, for Redis, a result or a step: how many may, and which result is whose."""

import threading
from typing import Protocol

from service.errors import Unavailable
from service.store.messages import Result


class Receiver(Protocol):
    """Who gets a result."""

    def deliver(self, result: Result) -> None:
        """Take the result. Called by the listener: must not wait."""


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
            self._nothing_yet.acquire(timeout=max(timeout, 0.0))
        return self.result


class Waiting:
    """The requests of one web process that wait: at most `most` at once. Results are known by generation and token."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._receivers: dict[tuple[bytes, bytes], list[Receiver]] = {}
        self._changing = threading.Lock()

    def turn(self) -> "Waiting":
        """Wait inside. Raises Unavailable if too many wait already."""
        return self

    def __enter__(self) -> None:
        with self._changing:
            if self._count >= self._most:
                raise Unavailable(
                    f"{self._most} requests wait in this process already (FRESHET_MAX_WAITING); "
                    "nothing was written",
                    retry_after=1,
                )
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changing:
            self._count -= 1

    def waiter(self, generation: bytes, token: bytes) -> "_Expected":
        """A waiter for the result of the append with this token: made before the append, so none is missed."""
        return _Expected(self, generation, token)

    def expect(self, generation: bytes, token: bytes, receiver: Receiver) -> None:
        """Deliver the result of an append to a receiver, once, unless it is forgotten before."""
        with self._changing:
            self._receivers.setdefault((generation, token), []).append(receiver)

    def forget(self, generation: bytes, token: bytes, receiver: Receiver) -> None:
        """Expect the result no longer."""
        with self._changing:
            receivers = self._receivers.get((generation, token))
            if receivers is None:
                return  # its result was delivered
            if receiver in receivers:
                receivers.remove(receiver)
            if not receivers:
                self._receivers.pop((generation, token), None)

    def deliver(self, result: Result) -> None:
        """Hand a result to all who expect it."""
        with self._changing:
            receivers = self._receivers.pop((result.generation, result.token), [])
        for receiver in receivers:
            receiver.deliver(result)


class _Expected:
    """A waiter, whose result is expected inside. No generator: this is on the way of each observation."""

    __slots__ = ("_of", "_waiter", "_waiting")

    def __init__(self, waiting: Waiting, generation: bytes, token: bytes) -> None:
        self._waiting, self._of, self._waiter = waiting, (generation, token), Waiter()

    def __enter__(self) -> Waiter:
        self._waiting.expect(*self._of, self._waiter)
        return self._waiter

    def __exit__(self, *_: object) -> None:
        self._waiting.forget(*self._of, self._waiter)
