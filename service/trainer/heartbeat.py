"""A running job's signs of life, sent by a thread of its own; and how the job learns that it is to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from service.errors import ServiceError, StoreUnavailable
from service.store.connection import Link
from service.store.jobs import SILENCE, Attempt

BEAT = 1.0  # seconds


class Cancelled(ServiceError):
    """Its user cancelled the job."""


class JobLost(ServiceError):
    """The job was given to another trainer, or its model is gone."""


class Pulse(threading.Thread):
    """Beats for one attempt at a job, and tells what the job set last: stage, progress, what it needs of the log."""

    def __init__(self, attempt: Attempt, link: Link) -> None:
        super().__init__(name="pulse", daemon=True)
        self._attempt = attempt
        self._link = link
        self._ended = threading.Event()
        self._answer = 1
        self._interruptible = False
        self._asking = False  # the main thread waits for Redis: an interruption would leave an answer unread
        self._telling = threading.Lock()
        self.pin: int | None = None
        self.stage = ""
        self.progress: dict[str, Any] = {}
        self._told: dict[str, Any] | None = None

    def run(self) -> None:
        """Beat until the job ends or is to stop."""
        silent = 0.0
        while not self._ended.wait(BEAT):
            try:
                self._beat()
                silent = 0.0
            except StoreUnavailable:
                silent += BEAT
                if silent > 2 * SILENCE:
                    self._answer = 0
            if self._answer != 1:
                self._interrupt()
                return

    def tell(self, stage: str | None = None, **progress: Any) -> None:
        """Beat now, with a new stage and new progress if given. Raises Cancelled and JobLost.

        If Redis is away the thread goes on trying, and decides when that has been too long.
        """
        self._asking = True
        try:
            self.stage = stage or self.stage
            self.progress = {**self.progress, **progress}
            with suppress(StoreUnavailable):
                self._beat()
        finally:
            self._asking = False
        self.check()

    def note(self, **progress: Any) -> None:
        """Progress that goes with the next beat."""
        self.progress = {**self.progress, **progress}

    def _beat(self) -> None:
        with self._telling:
            progress = self.progress
            if self._answer == 1:
                news = None if progress is self._told else progress
                self._answer = self._attempt.pulse(self._link, self.pin, self.stage, news)
                self._told = progress

    def check(self) -> None:
        """Raise Cancelled or JobLost if the job is to stop."""
        if self._answer == 2:
            raise Cancelled
        if self._answer == 0:
            raise JobLost

    def end(self) -> None:
        """Beat no more."""
        self._ended.set()
        self.join()

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise Cancelled or JobLost in the midst of what is done here, as soon as the job is to stop."""

        def raise_in_main_thread(*_: object) -> None:
            if self._interruptible and not self._asking:
                self.check()

        before = signal.signal(signal.SIGUSR1, raise_in_main_thread)
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False
            signal.signal(signal.SIGUSR1, before)

    def _interrupt(self) -> None:
        if self._interruptible:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGUSR1)
