"""A server that keeps little and waits little: what expires, what is forgotten, and what is done all the same."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests import oracle
from tests.harness import Answer, Api, Server, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}
STREAM = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps little and waits with one thread; each test uses models of its own names."""
    little = {"web_workers": 1, "answer_bytes": 2**12, "label_ttl": 1, "label_bytes": 2**16}
    with running(tmp_path_factory.mktemp("cramped"), **little) as started:
        yield started


def feed(api: Api, name: str, body: object, **headers: str) -> Answer:
    return api("POST", f"/v1/models/{name}/feedback", body, headers)


def lines(rows: list[dict[str, object]]) -> bytes:
    """A stream of observations."""
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_a_prediction_expires(cramped: Server) -> None:
    api, name = cramped.api, cramped.create(SPEC)

    def predict(*ids: str) -> None:
        body = {"instances": [[1.0, 1.0]] * len(ids), "ids": list(ids)}
        assert api("POST", f"/v1/models/{name}/predict", body).status == 200

    def told() -> dict[str, float]:
        return dict(api("GET", f"/v1/models/{name}/metrics").body["late_labels"])

    predict("a", "b")
    feed(api, name, {"id": "b", "label": 1})
    time.sleep(1.1)
    answer = feed(api, name, {"id": "a", "label": 1})
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/id")
    assert (told()["awaiting"], told()["expired"], told()["expired_share"]) == (0, 1, 0.5)
    predict("c")
    assert told()["expired"] == 1
    assert feed(api, name, {"id": "a", "features": [1, 2], "label": 1}).body["applied"] == 1


def test_a_stream_takes_one_place_to_wait_and_reports_its_loss(cramped: Server) -> None:
    rows = [{"features": [place % 11, place], "label": place % 2} for place in range(10_000)]
    answer = feed(cramped.api, cramped.create(SPEC), lines(rows), **STREAM)
    assert (answer.status, answer.body["applied"]) == (200, 10_000)
    assert 0 < answer.body["loss"] < 10


def test_kept_answers_are_bounded_in_bytes_and_old_keys_still_make_no_second_step(cramped: Server) -> None:
    api, name = cramped.api, cramped.create(SPEC)

    def feed_under(key: int) -> Answer:
        return feed(api, name, {"features": [1.0, 2.0], "label": 1}, **{"Idempotency-Key": str(key)})

    wait_until(lambda: feed_under(0).status == 200, 10)
    for key in range(1, 60):
        feed_under(key)
    newest, oldest = feed_under(59).body, feed_under(0).body
    assert newest["results"]
    assert (oldest["position"], oldest["applied"], oldest["repeated"]) == (1, 1, True)
    assert "results" not in oldest
    slots = [f"freshet:{{{name}}}:answers:{slot}" for slot in range(2)]
    with cramped.link as link:
        assert any(link.exists(slot) for slot in slots)
        assert sum(link.memory_usage(slot, samples=0) or 0 for slot in slots) < 2 * 2**12
    assert cramped.step(name) == 60


def test_a_stream_survives_lost_replies_and_short_stalls_of_redis(cramped: Server) -> None:
    api, name = cramped.api, cramped.create(oracle.spec())
    wait_until(lambda: feed(api, name, oracle.observation(0, id="first")).status == 200, 10)
    [redis] = cramped.pids("redis")
    done = threading.Event()

    def stall() -> None:
        while not done.wait(0.05):
            os.kill(redis, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(redis, signal.SIGCONT)

    staller = threading.Thread(target=stall)
    staller.start()
    try:
        body = lines([oracle.observation(place) for place in range(1, oracle.PLACES)])
        answer = feed(api, name, body, **STREAM)
    finally:
        done.set()
        staller.join()
    assert answer.status in (200, 202)
    assert answer.body["applied"] + answer.body["pending"] == oracle.PLACES - 1
    cramped.wait_step(name, oracle.PLACES)
    assert cramped.step(name) == oracle.PLACES
    assert oracle.applications(api, name, oracle.PLACES) == [1] * oracle.PLACES
