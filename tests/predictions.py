"""Predictions that are asked for all the time while something happens to the system."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness import Api


class Predictions(threading.Thread):
    """Asks for predictions all the time and notes how each went."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(daemon=True)
        self._api = Api(port, timeout=5)
        self._path = f"/v1/models/{name}/predict"
        self._stopping = threading.Event()
        self.seconds: list[float] = []
        self.statuses: set[int] = set()
        self.stale: list[float] = []  # ages of stale answers

    def run(self) -> None:
        """Ask until it is stopped."""
        while not self._stopping.is_set():
            started = time.monotonic()
            answer = self._api("POST", self._path, {"instances": [[0]]})
            self.seconds.append(time.monotonic() - started)
            self.statuses.add(answer.status)
            if answer.status == 200 and answer.body["stale"]:
                self.stale.append(answer.body["age"])
            time.sleep(0.01)
        self._api.close()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self.join()

    @property
    def p99(self) -> float:
        """The 99th of 100 durations, in seconds."""
        return statistics.quantiles(self.seconds, n=100)[98]


@contextmanager
def predicting(port: int, name: str) -> Iterator[Predictions]:
    """Predictions that go on meanwhile."""
    predictions = Predictions(port, name)
    predictions.start()
    try:
        yield predictions
    finally:
        predictions.stop()
