"""A client that teaches a model in order, whatever happens to the server meanwhile."""

import threading

import numpy as np
import urllib3

from tests.harness import Api


class Feeder(threading.Thread):
    """Sends rows X with labels y and ids in order, `at_once` in a request, each until it is acknowledged.

    Ids are counted from `start`. It waits `pause` seconds after each request.
    """

    def __init__(
        self,
        api: Api,
        name: str,
        X: np.ndarray,
        y: np.ndarray,
        start: int = 0,
        at_once: int = 1,
        pause: float = 0.0,
    ) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._path = f"/v1/models/{name}/feedback"
        self._rows = [
            {"features": row, "label": label, "id": str(start + place)}
            for place, (row, label) in enumerate(zip(X.tolist(), y.tolist(), strict=True))
        ]
        self._at_once = at_once
        self._pause = pause
        self._ending = threading.Event()
        self.acknowledged = 0
        self.refused: list[object] = []  # answers that are neither an acknowledgement nor "not now"

    def run(self) -> None:
        """Send all rows, or those until `end`."""
        for first in range(0, len(self._rows), self._at_once):
            part = self._rows[first : first + self._at_once]
            if self._ending.is_set():
                break
            while not self._sent({"observations": part} if self._at_once > 1 else part[0]):
                self._ending.wait(0.05)
            self.acknowledged += len(part)
            self._ending.wait(self._pause)

    def end(self) -> int:
        """Stop after the request that is under way; how many rows were acknowledged."""
        self._ending.set()
        self.join(60)
        return self.acknowledged

    def _sent(self, body: object) -> bool:
        try:
            answer = self._api("POST", self._path, body)
        except urllib3.exceptions.HTTPError:
            return False
        if answer.status not in (200, 202, 503):
            self.refused.append(answer)
        return answer.status in (200, 202)
