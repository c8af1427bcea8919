"""Too much is refused before it fails: a learner that is behind, a Redis that is full or away, a full disk."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import urllib3

from tests.faults import small_disk, stopped
from tests.harness import Answer, Api, Server, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": [], "keep": 1000}
WIDE = {"task": "binary", "features": 500, "layers": [], "keep": 100}
STREAM = {"Content-Type": "application/x-ndjson"}
MEMORY = 16 * 2**20


def feed(api: Api, name: str, body: object, **headers: str) -> Answer:
    return api("POST", f"/v1/models/{name}/feedback", body, headers)


def observation(**fields: object) -> dict[str, object]:
    return {"features": [1.0, 2.0], "label": 1, **fields}


def is_refused_for_now(answer: Answer, status: int) -> bool:
    return answer.status == status and int(answer.headers["Retry-After"]) >= 1


def predicts(api: Api, name: str, width: int = 2) -> bool:
    """Whether the model predicts, and at once."""
    started = time.monotonic()
    answer = api("POST", f"/v1/models/{name}/predict", {"instances": [[0.0] * width]})
    return answer.status == 200 and time.monotonic() - started < 0.5


@pytest.fixture(scope="module")
def lagging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets 50 observations be unapplied."""
    with running(tmp_path_factory.mktemp("lagging"), web_workers=2, max_lag=50, apply_timeout=0.2) as server:
        yield server


@pytest.fixture
def taught(lagging: Server) -> tuple[Server, str]:
    """The server that may lag, and a fresh model that has taken the observation "first"."""
    name = lagging.create(SPEC)
    taught_one(lagging, name)
    return lagging, name


def taught_one(server: Server, name: str) -> None:
    """Teach a new model the observation "first"."""
    wait_until(lambda: feed(server.api, name, observation(id="first")).status == 200, 20)
    server.wait_step(name, 1)


# -- a learner that is behind ------------------------------------------------------------------------------------


@pytest.fixture
def behind(taught: tuple[Server, str]) -> Iterator[tuple[Server, str, int]]:
    """A server, a model whose learner stands still and is 50 behind, and the model's acknowledged rows."""
    server, name = taught
    with stopped(server.pids("learner")[0]):
        taken = 1
        while (answer := feed(server.api, name, observation())).status in (200, 202):
            taken += 1
            assert taken < 200
        assert is_refused_for_now(answer, 429)
        assert 51 <= taken <= 60
        yield server, name, taken


def test_a_learner_that_is_behind_stops_feedback_but_no_prediction(behind: tuple[Server, str, int]) -> None:
    server, name, taken = behind
    assert is_refused_for_now(feed(server.api, name, {"observations": [observation()] * 10}), 429)
    assert predicts(server.api, name)
    os.kill(server.pids("learner")[0], signal.SIGCONT)
    server.wait_step(name, taken)
    wait_until(lambda: feed(server.api, name, observation(id="after")).status == 200, 10)
    assert server.step(name) == taken + 1


def test_a_duplicate_is_recognised_though_the_learner_is_behind(behind: tuple[Server, str, int]) -> None:
    server, name, _ = behind
    answer = feed(server.api, name, observation(id="first"))
    assert (answer.status, answer.body["duplicates"]) == (200, 1)


def test_a_stream_waits_for_a_learner_that_gets_on(behind: tuple[Server, str, int]) -> None:
    server, name, taken = behind
    body = "\n".join(json.dumps(observation()) for _ in range(5000)).encode()
    refused = feed(server.api, name, body, **STREAM)
    assert is_refused_for_now(refused, 429)
    os.kill(server.pids("learner")[0], signal.SIGCONT)
    server.wait_step(name, taken)
    answer = feed(server.api, name, body, **STREAM, **{"Idempotency-Key": refused.body["token"]})
    assert answer.status in (200, 202)
    server.wait_step(name, taken + 5000)
    assert server.step(name) == taken + 5000


# -- a Redis that is full ----------------------------------------------------------------------------------------


def fill(api: Api, name: str, rows: list[dict[str, object]]) -> tuple[int, Answer]:
    """Send rows until they are refused: how many blocks were taken, and the refusal."""
    for taken in range(1000):
        answer = feed(api, name, {"observations": rows})
        if answer.status not in (200, 202):
            return taken, answer
    raise AssertionError("never refused")


def test_a_full_redis_refuses_feedback_and_recovers_when_the_learner_trims_the_log(folder: Path) -> None:
    with running(folder, web_workers=1, maxmemory=MEMORY, apply_timeout=0.5) as server:
        api, name = server.api, server.create(WIDE)
        first = {"features": [0.0] * 500, "label": 0, "id": "first"}
        wait_until(lambda: feed(api, name, first).status == 200, 20)
        rows: list[dict[str, object]] = [{"features": [0.5] * 500, "label": 1}] * 50
        with stopped(server.pids("learner")[0]):
            blocks, refusal = fill(api, name, rows)
            assert is_refused_for_now(refusal, 503)
            assert "memory" in refusal.body["detail"]
            with server.link as link:
                used = link.info("memory")
            assert 0.85 * MEMORY < used["used_memory"] < 0.97 * MEMORY
            assert predicts(api, name, 500)
        server.wait_step(name, 1 + 50 * blocks)
        more = first | {"id": "more"}
        wait_until(lambda: feed(api, name, more).status == 200, 20, server.log)
        server.wait_step(name, 2 + 50 * blocks)
        assert server.step(name) == 2 + 50 * blocks
        assert api("GET", "/readyz").body["status"] == "ok"


@pytest.mark.slow
def test_predictions_that_expire_make_room_in_a_full_redis(folder: Path) -> None:
    with running(folder, web_workers=1, maxmemory=MEMORY, label_ttl=4) as server:
        api, name = server.api, server.create(WIDE)
        rows = [[0.5] * 500] * 100
        for block in range(100):
            ids = [f"{block}-{row}" for row in range(100)]
            answer = api("POST", f"/v1/models/{name}/predict", {"instances": rows, "ids": ids})
            if answer.status != 200:
                break
        assert is_refused_for_now(answer, 503)
        labelled = {"features": rows[0], "label": 1}
        assert is_refused_for_now(feed(api, name, labelled), 503)
        assert predicts(api, name, 500)
        wait_until(lambda: feed(api, name, labelled).status in (200, 202), 20)


def test_a_redis_out_of_memory_loses_nothing_and_a_new_learner_takes_over(taught: tuple[Server, str]) -> None:
    server, name = taught
    with server.link as link:
        # Out of memory at once: nobody could see it come.
        link.config_set("maxmemory", 2**20)
        for _ in range(3):
            assert is_refused_for_now(feed(server.api, name, observation(id="later")), 503)
        assert predicts(server.api, name)
        time.sleep(1.5)
        assert server.described(name)["has_learner"]
        term = server.described(name)["term"]
        server.kill_part("learner")
        wait_until(lambda: server.described(name)["term"] > term, 30, server.log)
        link.config_set("maxmemory", 0)
    wait_until(lambda: feed(server.api, name, observation(id="later")).status == 200, 20, server.log)
    server.wait_step(name, 2)
    assert server.step(name) == 2


# -- a disk that is full -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_a_full_disk_loses_nothing_and_everything_resumes(folder: Path, appendfsync: str) -> None:
    with (
        small_disk(folder / "data", 16),
        running(folder, web_workers=2, appendfsync=appendfsync) as server,
    ):
        api, name = server.api, server.create(SPEC)
        taught_one(server, name)
        filler = folder / "data" / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as opened:
            while True:
                opened.write(bytes(4096))
        taken, refused = 1, 0
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with suppress(urllib3.exceptions.HTTPError):
                answer = feed(api, name, observation(id=str(taken)))
                assert answer.status in (200, 202, 503), answer
                taken += answer.status != 503
                refused += answer.status == 503
            assert predicts(api, name)
        assert refused
        filler.unlink()
        freed = time.monotonic()
        last = observation(id=str(taken))
        wait_until(lambda: feed(api, name, last).status in (200, 202), 30, server.log)
        assert time.monotonic() - freed < 15
        server.wait_step(name, taken + 1)
        assert server.step(name) == taken + 1


# -- a Redis that is away ----------------------------------------------------------------------------------------


def test_while_redis_is_away_predictions_are_stale_and_feedback_is_refused_in_time(
    taught: tuple[Server, str],
) -> None:
    server, name = taught
    api, path = server.api, f"/v1/models/{name}/predict"
    with stopped(server.pids("redis")[0]):
        until, slowest = time.monotonic() + 5, 0.0
        while time.monotonic() < until:
            started = time.monotonic()
            answer = feed(api, name, observation(id="x"))
            slowest = max(slowest, time.monotonic() - started)
            assert is_refused_for_now(answer, 503)
            assert predicts(api, name)
        assert slowest < 1.5
        stale = api("POST", path, {"instances": [[1, 2]]}).body
        assert stale["stale"]
        assert stale["age"] > 2
        assert is_refused_for_now(api("POST", path, {"instances": [[1, 2]], "ids": ["a"]}), 503)
        assert is_refused_for_now(feed(api, name, {"id": "a", "label": 1}), 503)
    wait_until(lambda: feed(api, name, observation(id="x")).status == 200, 10, server.log)
    server.wait_step(name, 2)
    assert server.step(name) == 2
    wait_until(lambda: not api("POST", path, {"instances": [[1, 2]]}).body["stale"], 5)


LINES = 9000


def streamed(server: Server, name: str, trouble: Callable[[], None]) -> Answer:
    """The answer to a stream of LINES lines, in the middle of which something happens to Redis."""
    line = json.dumps(observation()).encode() + b"\n"

    def body() -> Iterator[bytes]:
        for number in range(LINES // 300):
            if number == LINES // 600:
                trouble()
            yield 300 * line

    headers = STREAM | {"Idempotency-Key": "stream"}
    return Answer(server.api.raw("POST", f"/v1/models/{name}/feedback", body(), headers))


def test_a_stream_waits_for_a_redis_that_stands_still(folder: Path) -> None:
    with running(folder, web_workers=1) as server:
        name = server.create(SPEC)
        pid = server.pids("redis")[0]

        def stand_still() -> None:
            server.wait_step(name, 1)
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(3, os.kill, (pid, signal.SIGCONT)).start()

        answer = streamed(server, name, stand_still)
        assert answer.status in (200, 202), answer
        assert answer.body["applied"] + answer.body["pending"] == LINES
        server.wait_step(name, LINES)
        assert streamed(server, name, lambda: None).body["position"] == LINES  # all is kept with its key
        assert server.step(name) == LINES


def test_a_stream_that_begins_while_redis_stands_still_waits_too(folder: Path) -> None:
    with running(folder, web_workers=1, redis_timeout=1) as server:
        name = server.create(SPEC)
        server.api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2]], "ids": ["late"]})
        path = f"/v1/models/{name}/feedback"
        for position, (line, key) in enumerate(
            [
                (observation(), {}),
                (observation(), {"Idempotency-Key": "k"}),
                ({"id": "late", "label": 1}, {}),
            ],
            1,
        ):
            pid = server.pids("redis")[0]
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(2.5, os.kill, (pid, signal.SIGCONT)).start()
            answer = server.api("POST", path, json.dumps(line).encode() + b"\n", STREAM | key)
            assert answer.status in (200, 202), answer
            assert answer.body["position"] == position


def test_a_stream_beside_a_killed_redis_is_learned_once(folder: Path) -> None:
    """It goes on with a Redis that is back at once, or ends, and is sent again with its token."""
    with running(folder, web_workers=1) as server:
        name = server.create(SPEC)

        def die() -> None:
            server.wait_step(name, 1)
            server.kill_part("redis")

        assert streamed(server, name, die).status in (200, 202, 503)
        wait_until(lambda: streamed(server, name, lambda: None).status == 200, 30, server.log)
        assert server.step(name) == LINES


@pytest.mark.slow
def test_a_killed_redis_comes_back_with_everything_and_all_resumes(folder: Path) -> None:
    with running(folder, web_workers=2) as server:
        api, name = server.api, server.create(SPEC)
        api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2]], "ids": ["late"]})
        key = {"Idempotency-Key": "k"}
        wait_until(lambda: feed(api, name, observation(id="x"), **key).status == 200, 20)
        server.kill_part("redis")
        assert predicts(api, name)
        wait_until(lambda: feed(api, name, {"id": "late", "label": 0}).status == 200, 20, server.log)
        assert feed(api, name, observation(id="x"), **key).body["position"] == 1
        assert server.step(name) == 2
