"""A server that keeps little and waits little: what expires, what is forgotten, and what is done all the same."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from tests import oracle
from tests.harness import Answer, Api, Server, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}
STREAM = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps little and waits with one thread; each test uses models of its own names."""
    little = {
        "web_workers": 1,
        "answer_bytes": 2**12,
        "label_ttl": 1,
        "label_bytes": 2**16,
        "snapshot_seconds": 60,
    }
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


def test_a_stream_of_duplicates_goes_on_though_kept_answers_make_room_meanwhile(cramped: Server) -> None:
    api, name = cramped.api, cramped.create(SPEC)
    rows = [{"features": [1.0, 2.0], "label": 1, "id": str(place)} for place in range(5)]
    assert feed(api, name, lines(rows), **STREAM).status in (200, 202)

    def is_kept(link: redis.Redis, place: int) -> bool:
        """Whether the stream has come so far."""
        slots = [f"freshet:{{{name}}}:answers:{slot}" for slot in range(2)]
        return any(b" s%d " % place in (link.hget(slot, "again") or b"") for slot in slots)

    def fill(link: redis.Redis) -> None:
        """Repeat an observation under one key after the other, until what is kept goes to the other hash."""
        for number in range(100):
            feed(api, name, rows[0], **{"Idempotency-Key": f"{number}-".ljust(128, "x")})
            if link.hget(f"freshet:{{{name}}}:meta", "answers") == b"1":
                return
        raise AssertionError("the hash of answers is never full")

    def line_by_line() -> Iterator[bytes]:
        with cramped.link as link:
            for place, row in enumerate(rows, 1):
                yield json.dumps(row).encode() + b"\n"
                wait_until(lambda place=place: is_kept(link, place), 60, cramped.log)
                if place == 1:
                    fill(link)

    answer = feed(api, name, line_by_line(), **STREAM, **{"Idempotency-Key": "again"})
    assert (answer.status, answer.body["duplicates"]) == (200, len(rows)), answer


def test_diagnostics_tell_no_earlier_step_than_predictions_did(cramped: Server) -> None:
    api, name = cramped.api, cramped.create(SPEC)
    wait_until(lambda: feed(api, name, {"features": [1.0, 2.0], "label": 1}).status == 200, 10)
    seen = api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2]]}).body["step"]
    told = api("GET", f"/v1/models/{name}/diagnostics").body
    assert told["step"] >= seen >= told["snapshot_step"]
