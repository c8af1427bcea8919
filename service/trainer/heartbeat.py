"""A running job's heartbeat, sent by a thread of its own with the job's stage and progress."""

import threading
from contextlib import suppress
from typing import Any

from service.errors import ServiceError, StoreUnavailable
from service.store.connection import Link
from service.store.jobs import Attempt

BEAT = 1.0  # seconds


class JobLost(ServiceError):
    """The job was given to another trainer, or its model is gone."""


class JobHeartbeat(threading.Thread):
    """Beats for one attempt at a job, with what the job set last: stage, progress, what it needs of the log."""

    def __init__(self, attempt: Attempt, link: Link) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._attempt = attempt
        self._link = link
        self._ended = threading.Event()
        self._beating = threading.Lock()
        self._sent: dict[str, Any] | None = None
        self.lost = False  # the job is not this attempt's any more
        self.pin: int | None = None
        self.stage = ""
        self.progress: dict[str, Any] = {}

    def run(self) -> None:
        """Beat until the job ends. A Redis that is away is waited for."""
        while not self.lost and not self._ended.wait(BEAT):
            with suppress(StoreUnavailable):
                self._beat()

    def tell(self, stage: str | None = None, **progress: Any) -> None:
        """Beat now, with a new stage and new progress if given. Raises JobLost."""
        self.stage = stage or self.stage
        self.note(**progress)
        with suppress(StoreUnavailable):
            self._beat()
        if self.lost:
            raise JobLost

    def note(self, **progress: Any) -> None:
        """Progress that goes with the next beat."""
        self.progress = {**self.progress, **progress}

    def end(self) -> None:
        """Beat no more."""
        self._ended.set()
        self.join()

    def _beat(self) -> None:
        with self._beating:
            progress = self.progress
            news = None if progress is self._sent else progress
            self.lost = not self._attempt.beat(self._link, self.pin, self.stage, news)
            self._sent = progress
