"""Too much is refused before it fails: a learner that is behind, a Redis that is full or away, a full disk."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
import urllib3

from tests.harness import Answer, Api, Server, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": [], "keep": 1000}
WIDE = {"task": "binary", "features": 500, "layers": [], "keep": 100}
STREAM = {"Content-Type": "application/x-ndjson"}
MEMORY = 24 * 2**20


def feed(api: Api, body: object, **headers: str) -> Answer:
    return api("POST", "/v1/models/m/feedback", body, headers)


def observation(**fields: object) -> dict[str, object]:
    return {"features": [1.0, 2.0], "label": 1, **fields}


def is_refused_for_now(answer: Answer, status: int) -> bool:
    return answer.status == status and int(answer.headers["Retry-After"]) >= 1


def predicts(api: Api, width: int = 2) -> bool:
    """Whether the model predicts, and at once."""
    started = time.monotonic()
    answer = api("POST", "/v1/models/m/predict", {"instances": [[0.0] * width]})
    return answer.status == 200 and time.monotonic() - started < 0.5


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def redis_of(server: Server) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.data_dir / "redis.sock"))


# -- a learner that is behind ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lagging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets 50 observations be unapplied."""
    with running(tmp_path_factory.mktemp("lagging"), web_workers=2, max_lag=50) as server:
        yield server


@pytest.fixture
def behind(lagging: Server) -> Iterator[tuple[Server, int]]:
    """The server with a model whose learner stands still and is 50 behind, and the model's acknowledged rows."""
    api = lagging.api
    wait_until(lambda: api("DELETE", "/v1/models/m").status in (204, 404), 5)
    wait_until(lambda: api("PUT", "/v1/models/m", SPEC).status in (200, 201), 5)
    wait_until(lambda: feed(api, observation(id="first")).status == 200, 20)
    lagging.wait_step("m", 1)
    with stopped(lagging.pids("learner")[0]):
        taken = 1
        while (answer := feed(api, observation())).status in (200, 202):
            taken += 1
            assert taken < 200
        assert is_refused_for_now(answer, 429)
        assert 51 <= taken <= 60
        yield lagging, taken


def test_a_learner_that_is_behind_stops_feedback_but_no_prediction(behind: tuple[Server, int]) -> None:
    server, taken = behind
    assert is_refused_for_now(feed(server.api, {"observations": [observation()] * 10}), 429)
    assert predicts(server.api)
    os.kill(server.pids("learner")[0], signal.SIGCONT)
    server.wait_step("m", taken)
    wait_until(lambda: feed(server.api, observation(id="after")).status == 200, 10)
    assert server.step("m") == taken + 1


def test_a_duplicate_is_recognised_though_the_learner_is_behind(behind: tuple[Server, int]) -> None:
    server, _ = behind
    answer = feed(server.api, observation(id="first"))
    assert (answer.status, answer.body["duplicates"]) == (200, 1)


def test_a_stream_waits_for_a_learner_that_gets_on(behind: tuple[Server, int]) -> None:
    server, taken = behind
    body = "\n".join(json.dumps(observation()) for _ in range(5000)).encode()
    refused = feed(server.api, body, **STREAM)
    assert is_refused_for_now(refused, 429)
    os.kill(server.pids("learner")[0], signal.SIGCONT)
    server.wait_step("m", taken)
    answer = feed(server.api, body, **STREAM, **{"Idempotency-Key": refused.body["token"]})
    assert answer.status in (200, 202)
    server.wait_step("m", taken + 5000)
    assert server.step("m") == taken + 5000


# -- a Redis that is full ----------------------------------------------------------------------------------------


def fill(api: Api, rows: list[dict[str, object]]) -> tuple[int, Answer]:
    """Send rows until they are refused: how many blocks were taken, and the refusal."""
    for taken in range(1000):
        answer = feed(api, {"observations": rows})
        if answer.status not in (200, 202):
            return taken, answer
    raise AssertionError("never refused")


def test_a_full_redis_refuses_feedback_and_recovers_when_the_learner_trims_the_log(folder: Path) -> None:
    with running(folder, web_workers=2, maxmemory=MEMORY) as server:
        server.api("PUT", "/v1/models/m", WIDE)
        first = {"features": [0.0] * 500, "label": 0, "id": "first"}
        wait_until(lambda: feed(server.api, first).status == 200, 20)
        rows: list[dict[str, object]] = [{"features": [0.5] * 500, "label": 1}] * 50
        with stopped(server.pids("learner")[0]):
            blocks, refusal = fill(server.api, rows)
            assert is_refused_for_now(refusal, 503)
            assert "memory" in refusal.body["detail"]
            used = redis_of(server).info("memory")
            assert 0.85 * MEMORY < used["used_memory"] < 0.97 * MEMORY
            assert predicts(server.api, 500)
        server.wait_step("m", 1 + 50 * blocks)
        more = first | {"id": "more"}
        wait_until(lambda: feed(server.api, more).status == 200, 20, server.log)
        server.wait_step("m", 2 + 50 * blocks)
        assert server.step("m") == 2 + 50 * blocks
        assert server.api("GET", "/readyz").body["status"] == "ok"


@pytest.mark.slow
def test_predictions_that_expire_make_room_in_a_full_redis(folder: Path) -> None:
    with running(folder, web_workers=1, maxmemory=MEMORY, label_ttl=4) as server:
        server.api("PUT", "/v1/models/m", WIDE)
        rows = [[0.5] * 500] * 100
        for block in range(100):
            ids = [f"{block}-{row}" for row in range(100)]
            answer = server.api("POST", "/v1/models/m/predict", {"instances": rows, "ids": ids})
            if answer.status != 200:
                break
        assert is_refused_for_now(answer, 503)
        assert is_refused_for_now(feed(server.api, {"features": rows[0], "label": 1}), 503)
        assert predicts(server.api, 500)
        wait_until(lambda: feed(server.api, {"features": rows[0], "label": 1}).status in (200, 202), 20)


def test_a_redis_out_of_memory_loses_nothing_and_a_new_learner_takes_over(folder: Path) -> None:
    with running(folder, web_workers=2) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        wait_until(lambda: feed(server.api, observation(id="first")).status == 200, 20)
        link = redis_of(server)
        # Out of memory at once: nobody could see it come.
        link.config_set("maxmemory", 2**20)
        for _ in range(3):
            assert is_refused_for_now(feed(server.api, observation(id="later")), 503)
        assert predicts(server.api)
        time.sleep(1.5)
        assert server.api("GET", "/v1/models/m").body["has_learner"]
        term = server.api("GET", "/v1/models/m").body["term"]
        server.kill_part("learner")
        wait_until(lambda: server.api("GET", "/v1/models/m").body["term"] > term, 30, server.log)
        link.config_set("maxmemory", 0)
        link.close()
        wait_until(lambda: feed(server.api, observation(id="later")).status == 200, 20, server.log)
        assert server.step("m") == 2


# -- a disk that is full -----------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; the test is skipped where none may be mounted."""
    place = folder / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


@pytest.mark.slow
@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_a_full_disk_loses_nothing_and_everything_resumes(folder: Path, appendfsync: str) -> None:
    with small_disk(folder, 16) as disk:
        server = Server(folder, web_workers=2, appendfsync=appendfsync)
        server.data_dir = disk / "data"
        try:
            server.start()
            server.api("PUT", "/v1/models/m", SPEC)
            wait_until(lambda: feed(server.api, observation(id="first")).status == 200, 20)
            filler = disk / "filler"
            with suppress(OSError), filler.open("wb", buffering=0) as opened:
                while True:
                    opened.write(bytes(4096))
            taken, refused = 1, 0
            until = time.monotonic() + 5
            while time.monotonic() < until:
                with suppress(urllib3.exceptions.HTTPError):
                    answer = feed(server.api, observation(id=str(taken)))
                    assert answer.status in (200, 202, 503), answer
                    taken += answer.status != 503
                    refused += answer.status == 503
                assert predicts(server.api)
            assert refused
            filler.unlink()
            freed = time.monotonic()
            wait_until(
                lambda: feed(server.api, observation(id=str(taken))).status in (200, 202), 30, server.log
            )
            assert time.monotonic() - freed < 15
            server.wait_step("m", taken + 1)
            assert server.step("m") == taken + 1
        finally:
            server.api.close()
            server.stop()


# -- a Redis that is away ----------------------------------------------------------------------------------------


def test_while_redis_is_away_predictions_are_stale_and_feedback_is_refused_in_time(folder: Path) -> None:
    with running(folder, web_workers=2) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        wait_until(lambda: feed(server.api, observation(id="first")).status == 200, 20)
        with stopped(server.pids("redis")[0]):
            until, slowest = time.monotonic() + 5, 0.0
            while time.monotonic() < until:
                started = time.monotonic()
                answer = feed(server.api, observation(id="x"))
                slowest = max(slowest, time.monotonic() - started)
                assert is_refused_for_now(answer, 503)
                assert predicts(server.api)
            assert slowest < 1.5
            stale = server.api("POST", "/v1/models/m/predict", {"instances": [[1, 2]]}).body
            assert stale["stale"]
            assert stale["age"] > 2
            with_id = server.api("POST", "/v1/models/m/predict", {"instances": [[1, 2]], "ids": ["a"]})
            assert is_refused_for_now(with_id, 503)
            late = feed(server.api, {"id": "a", "label": 1})
            assert is_refused_for_now(late, 503)
        wait_until(lambda: feed(server.api, observation(id="x")).status == 200, 10, server.log)
        server.wait_step("m", 2)
        assert server.step("m") == 2
        wait_until(
            lambda: not server.api("POST", "/v1/models/m/predict", {"instances": [[1, 2]]}).body["stale"], 5
        )


@pytest.mark.slow
def test_a_killed_redis_comes_back_with_everything_and_all_resumes(folder: Path) -> None:
    with running(folder, web_workers=2) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        server.api("POST", "/v1/models/m/predict", {"instances": [[1, 2]], "ids": ["late"]})
        wait_until(
            lambda: feed(server.api, observation(id="x"), **{"Idempotency-Key": "k"}).status == 200, 20
        )
        server.kill_part("redis")
        assert predicts(server.api)
        wait_until(lambda: feed(server.api, {"id": "late", "label": 0}).status == 200, 20, server.log)
        assert feed(server.api, observation(id="x"), **{"Idempotency-Key": "k"}).body["position"] == 1
        assert server.step("m") == 2
