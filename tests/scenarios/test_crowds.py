"""However many clients wait for Redis, they hold up no prediction."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import Api, Server, running, wait_until
from tests.predictions import predicting

SPEC = {"task": "binary", "features": 1, "layers": []}


@contextmanager
def crowd(server: Server, clients: int, requests: list[tuple[str, object]]) -> Iterator[Counter[int]]:
    """Clients that send requests in turn, all the time; how often each status was answered."""
    stopping = threading.Event()
    statuses: Counter[int] = Counter()

    def send(client: int) -> None:
        api = Api(server.port, timeout=30)
        while not stopping.is_set():
            call, body = requests[client % len(requests)]
            statuses[api("POST", f"/v1/models/m/{call}", body).status] += 1
            time.sleep(0.05)
        api.close()

    threads = [threading.Thread(target=send, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_a_crowd_at_a_redis_that_stands_still_holds_up_no_prediction(folder: Path) -> None:
    requests: list[tuple[str, object]] = [
        ("feedback", {"features": [1], "label": 1}),
        ("feedback", {"features": [1], "label": 0, "id": "known"}),
        ("feedback", {"id": "late", "label": 0}),
        ("predict", {"instances": [[1]], "ids": ["late"]}),
    ]
    with running(folder, web_workers=1, apply_timeout=2) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        wait_until(lambda: server.api("POST", "/v1/models/m/feedback", requests[1][1]).status == 200, 20)
        [redis] = server.pids("redis")
        with crowd(server, 60, requests) as statuses, predicting(server.port, "m") as predictions:
            wait_until(lambda: statuses[200] > 60, 20, server.log)
            os.kill(redis, signal.SIGSTOP)
            try:
                before = len(predictions.seconds)
                time.sleep(3)
                during = len(predictions.seconds) - before
                refused = statuses[503]
            finally:
                os.kill(redis, signal.SIGCONT)
            learned = statuses[200]
            wait_until(lambda: statuses[200] > learned + 60, 20, server.log)
        # Requests at Redis give up after a second: behind them there would be three predictions.
        assert during > 20, f"{during} predictions in 3 s; their p99 {predictions.p99:.3f} s"
        assert refused > 0
        assert predictions.statuses == {200}
        assert not set(statuses) - {200, 202, 422, 503}, statuses
