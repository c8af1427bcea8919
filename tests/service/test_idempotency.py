"""Repeated requests: the same key gives the first outcome again, whatever was lost on the way."""

import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from service import embedded
from service.settings import Settings
from service.store.feedback_scripts import APPEND
from tests.harness import Answer, Api, Server, free_port, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}
STREAM = {"Content-Type": "application/x-ndjson"}
UNKNOWN = "urn:freshet:problem:outcome-unknown"
APPENDS = APPEND.sha.encode()
_numbers = itertools.count()


@pytest.fixture
def name(server: Server) -> str:
    """A fresh model with two number features."""
    name = f"again-{next(_numbers)}"
    assert server.api("PUT", f"/v1/models/{name}", SPEC).status == 201
    return name


@pytest.fixture
def api(server: Server) -> Api:
    return server.api


def feed(api: Api, name: str, body: object, key: str | None = None, **headers: str) -> Answer:
    if key is not None:
        headers["Idempotency-Key"] = key
    return api("POST", f"/v1/models/{name}/feedback", body, headers)


def observation(**fields: object) -> dict[str, object]:
    return {"features": [1.0, 2.0], "label": 1, **fields}


def lines(count: int, **fields: object) -> bytes:
    """A stream of observations, each another."""
    rows = [{"features": [place % 11, place], "label": place % 2, **fields} for place in range(count)]
    return "\n".join(json.dumps(row) for row in rows).encode()


def step(api: Api, name: str) -> int:
    return int(api("GET", f"/v1/models/{name}").body["step"])


def test_one_observation_is_answered_the_same_again(api: Api, name: str) -> None:
    first = feed(api, name, observation(), "k")
    feed(api, name, observation())
    again = feed(api, name, observation(), "k")
    assert again.status == first.status == 200
    assert again.body == first.body | {"repeated": True}
    assert step(api, name) == 2


def test_a_long_list_is_answered_the_same_again_but_for_its_single_results(api: Api, name: str) -> None:
    body = {"observations": [observation(id=str(place % 90)) for place in range(100)]}
    first = feed(api, name, body, "k").body
    again = feed(api, name, body, "k").body
    first.pop("results")
    assert again == first | {"repeated": True}
    assert (again["applied"], again["duplicates"]) == (90, 10)


def test_another_body_with_the_key_is_refused_and_changes_nothing(api: Api, name: str) -> None:
    feed(api, name, observation(), "k")
    feed(api, name, lines(10), "s", **STREAM)
    others: list[tuple[object, str, dict[str, str]]] = [
        (observation(label=0), "k", {}),
        ({"observations": [observation()]}, "k", {}),
        (lines(10), "k", STREAM),
        (observation(), "s", {}),
        (lines(11), "s", STREAM),
        (lines(9), "s", STREAM),
        (lines(1), "s", STREAM),
        (lines(10, weight=2), "s", STREAM),
    ]
    for body, key, headers in others:
        answer = feed(api, name, body, key, **headers)
        assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "Idempotency-Key"), body
    assert step(api, name) == 11


def test_a_key_is_known_although_nothing_but_duplicates_came_with_it(api: Api, name: str) -> None:
    body = {"observations": [observation(id="a"), observation(id="b"), observation(id="a")]}
    feed(api, name, body)
    wait_until(lambda: step(api, name) == 2, 10)
    duplicates = feed(api, name, body, "k")
    stream = b"\n".join(json.dumps(row).encode() for row in body["observations"])
    assert feed(api, name, stream, "s", **STREAM).body["duplicates"] == 3
    assert duplicates.body["duplicates"] == 3
    assert feed(api, name, body, "k").body == duplicates.body | {"repeated": True}
    assert feed(api, name, stream, "s", **STREAM).body["duplicates"] == 3
    for key in ("k", "s"):
        assert feed(api, name, observation(), key).status == 422
        assert feed(api, name, observation(id="a"), key).status == 422
        assert feed(api, name, lines(10), key, **STREAM).status == 422
    assert step(api, name) == 2


def test_a_stream_of_duplicates_is_gone_on_with_after_them(api: Api, name: str) -> None:
    known = [json.dumps(observation(id=str(place))).encode() for place in range(1500)]
    feed(api, name, b"\n".join(known), None, **STREAM)
    body = b"\n".join(known) + b"\n" + lines(1500)
    first = feed(api, name, body, "k", **STREAM)
    assert (first.body["duplicates"], first.body["applied"], first.body["loss"] is None) == (
        1500,
        1500,
        False,
    )
    assert feed(api, name, body, "k", **STREAM).body == first.body
    assert step(api, name) == 3000


def test_a_key_of_a_command_is_not_one_for_anything_else(api: Api, name: str) -> None:
    def patch(rate: float, key: str) -> Answer:
        return api("PATCH", f"/v1/models/{name}", {"learning_rate": rate}, {"Idempotency-Key": key})

    def note(text: str, key: str) -> Answer:
        headers = {"Idempotency-Key": key}
        return api("POST", f"/v1/models/{name}/checkpoints", {"note": text}, headers)

    assert feed(api, name, observation(), "f").status == 200
    assert (patch(0.5, "p").status, patch(0.5, "p").status) == (200, 200)
    first = note("one", "c")
    assert first.status == 201
    assert note("one", "c").body["checkpoint"] == first.body["checkpoint"]
    others = [
        *(patch(0.25, "p"), patch(0.5, "f"), note("two", "c"), note("one", "p")),
        *(feed(api, name, observation(), "p"), feed(api, name, lines(3), "p", **STREAM)),
    ]
    assert {(answer.status, answer.body["errors"][0]["pointer"]) for answer in others} == {
        (422, "Idempotency-Key")
    }
    model = api("GET", f"/v1/models/{name}").body
    assert (model["step"], model["hyperparameters"]["learning_rate"]) == (1, 0.5)


@pytest.mark.parametrize("key", ["", "x" * 129])
def test_a_key_of_a_wrong_length_is_refused(api: Api, name: str, key: str) -> None:
    assert feed(api, name, observation(), key).status == 422
    assert feed(api, name, lines(3), key, **STREAM).status == 422


def test_one_key_at_many_requests_at_once_is_one_entry(api: Api, name: str) -> None:
    body = {"observations": [observation(), observation(label=0)]}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: feed(api, name, body, "k"), range(40)))
    assert {answer.body["position"] for answer in answers} == {2}
    assert {answer.body["loss"] for answer in answers if answer.status == 200} == {answers[0].body["loss"]}
    assert step(api, name) == 2


def test_one_key_at_many_streams_at_once_appends_each_line_once(api: Api, name: str) -> None:
    body = lines(5000)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: feed(api, name, body, "k", **STREAM), range(6)))
    assert {answer.status for answer in answers} <= {200, 202, 409}
    final = feed(api, name, body, "k", **STREAM)
    assert (final.status, final.body["applied"], final.body["position"]) == (200, 5000, 5000)
    assert step(api, name) == 5000


def test_a_stream_is_answered_the_same_again(api: Api, name: str) -> None:
    body = lines(2500) + b"\n{\n" + lines(3) + b"\n\n"
    first = feed(api, name, body, "k", **STREAM)
    again = feed(api, name, body, "k", **STREAM)
    assert (first.status, first.body["applied"], first.body["rejected"]) == (200, 2503, 1)
    first.body.pop("errors")
    assert again.body == first.body
    assert step(api, name) == 2503


def test_a_stream_that_was_cut_goes_on_after_its_last_appended_line(api: Api, name: str) -> None:
    body = lines(3000)
    cut = body.index(b"\n", 2 * len(body) // 3) - 5  # in the middle of a line
    with socket.create_connection(("127.0.0.1", int(api.base.rpartition(":")[2]))) as connection:
        head = (
            f"POST /v1/models/{name}/feedback HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
        )
        head += f"Idempotency-Key: k\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:cut])
        wait_until(lambda: step(api, name) > 500, 10)
    taken = step(api, name)
    final = feed(api, name, body, "k", **STREAM)
    assert (final.status, final.body["applied"]) == (200, 3000)
    assert taken < 3000 == step(api, name)


@pytest.mark.slow
def test_a_key_is_known_through_a_restart_and_forgotten_after_many_observations(folder: Path) -> None:
    with running(folder, web_workers=1, remembered=100) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        first = feed(server.api, "m", observation(), "k")
        assert first.status == 200
        feed(server.api, "m", {"observations": [observation()] * 49})
        server.kill()
        server.start()
        feed(server.api, "m", {"observations": [observation()] * 49})
        server.wait_step("m", 99)
        assert feed(server.api, "m", observation(), "k").body == first.body | {"repeated": True}
        for _ in range(4):
            feed(server.api, "m", {"observations": [observation()] * 40})
        assert feed(server.api, "m", observation(), "k").body["position"] == 260


def test_a_stream_takes_one_place_to_wait_and_reports_its_loss(folder: Path) -> None:
    with running(folder, web_workers=1, web_threads=2) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        answer = feed(server.api, "m", lines(10_000), None, **STREAM)
        assert (answer.status, answer.body["applied"]) == (200, 10_000)
        assert 0 < answer.body["loss"] < 10


class Proxy:
    """Stands between Freshet and a Redis of its own; can lose replies."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(data_dir=folder / "redis", redis_timeout=1.0)
        settings.data_dir.mkdir()
        self._target = str(embedded.socket_path(settings))
        self._redis = subprocess.Popen(embedded.command(settings), stderr=subprocess.DEVNULL)
        embedded.wait_until_ready(settings, 20)
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._needle = b""
        self._passed = self._lost = 0
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, needle: bytes, replies: int = 1, after: int = 0) -> None:
        """Lose the next replies to commands that contain some bytes, after this many that pass."""
        self._needle, self._passed, self._lost, self.dropped = needle, after, replies, 0

    def close(self) -> None:
        self._listener.close()
        self._redis.kill()
        self._redis.wait()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                loses = threading.Event()
                threading.Thread(target=self._requests, args=(client, server, loses), daemon=True).start()
                threading.Thread(target=self._replies, args=(client, server, loses), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, loses: threading.Event) -> None:
        with suppress(OSError):
            while received := client.recv(2**16):
                if self._needle and self._needle in received:
                    if self._passed:
                        self._passed -= 1
                    elif self._lost:
                        self._lost -= 1
                        loses.set()
                server.sendall(received)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _replies(self, client: socket.socket, server: socket.socket, loses: threading.Event) -> None:
        with suppress(OSError):
            while received := server.recv(2**16):
                if loses.is_set():
                    self.dropped += 1
                    break
                client.sendall(received)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Proxy]]:
    """A server whose Redis is behind a proxy."""
    folder = tmp_path_factory.mktemp("proxied")
    proxy = Proxy(folder)
    server = Server(folder, web_workers=1)
    server.environment["REDIS_URL"] = proxy.url
    try:
        yield server.start(), proxy
    finally:
        server.api.close()
        server.stop()
        proxy.close()


@pytest.fixture
def proxied(behind_proxy: tuple[Server, Proxy]) -> Iterator[tuple[Api, str, Proxy]]:
    """The server behind the proxy, and a fresh model that has taken one observation."""
    server, proxy = behind_proxy
    name = f"lost-{next(_numbers)}"
    assert server.api("PUT", f"/v1/models/{name}", SPEC).status == 201
    feed(server.api, name, observation(id="first"))
    server.wait_step(name, 1)
    yield server.api, name, proxy
    proxy.lose(b"", 0)


def test_three_lost_replies_are_one_entry_and_the_answer_is_whole(proxied: tuple[Api, str, Proxy]) -> None:
    api, name, proxy = proxied
    proxy.lose(APPENDS, 3)
    answer = feed(api, name, observation())
    assert proxy.dropped == 3
    assert (answer.status, answer.body["position"], answer.body["results"][0]["position"]) == (200, 2, 2)
    assert step(api, name) == 2


def test_a_lost_reply_about_a_list_with_duplicates_counts_them_right(proxied: tuple[Api, str, Proxy]) -> None:
    api, name, proxy = proxied
    proxy.lose(APPENDS, 1, after=1)  # the second, without the duplicate
    answer = feed(api, name, {"observations": [observation(id="first"), observation()]})
    assert proxy.dropped == 1
    assert (answer.status, answer.body["applied"], answer.body["duplicates"]) == (200, 1, 1)
    assert step(api, name) == 2


OBSERVATIONS: dict[str, Any] = {
    "one": observation(),
    "list": {"observations": [observation(), observation(id="first"), observation(label=0)]},
    "late": {"id": "late", "label": 1},
}


@pytest.mark.parametrize("body", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_an_unknown_outcome_is_settled_by_its_token(proxied: tuple[Api, str, Proxy], body: Any) -> None:
    api, name, proxy = proxied
    api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2]], "ids": ["late"]})
    proxy.lose(APPENDS, 1000, after=1 if "observations" in body else 0)
    started = time.monotonic()
    answer = feed(api, name, body)
    assert time.monotonic() - started < 2
    assert (answer.status, answer.body["type"]) == (503, UNKNOWN)
    assert int(answer.headers["Retry-After"]) >= 1
    proxy.lose(b"", 0)
    again = feed(api, name, body, answer.body["token"])
    rows = 2 if "observations" in body else 1
    assert (again.status, again.body["applied"], again.body["position"]) == (200, rows, 1 + rows)
    assert step(api, name) == 1 + rows
    assert feed(api, name, observation(label=0), answer.body["token"]).status == 422


def test_a_stream_of_unknown_outcome_goes_on_with_its_token(proxied: tuple[Api, str, Proxy]) -> None:
    api, name, proxy = proxied
    body = lines(8000)
    proxy.lose(APPENDS, 1000, after=2)
    answer = feed(api, name, body, None, **STREAM)
    assert (answer.status, answer.body["type"]) == (503, UNKNOWN)
    assert 0 < answer.body["appended"] < 8000
    proxy.lose(b"", 0)
    again = feed(api, name, body, answer.body["token"], **STREAM)
    assert (again.status, again.body["applied"], again.body["position"]) == (200, 8000, 8001)
    assert step(api, name) == 8001


def test_a_stream_survives_lost_replies_and_short_stalls_of_redis(folder: Path) -> None:
    with running(folder, web_workers=1) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        wait_until(lambda: feed(server.api, "m", observation(id="first")).status == 200, 10)
        [redis] = server.pids("redis")
        done = threading.Event()

        def stall() -> None:
            while not done.wait(0.05):
                os.kill(redis, signal.SIGSTOP)
                time.sleep(0.2)
                os.kill(redis, signal.SIGCONT)

        staller = threading.Thread(target=stall)
        staller.start()
        try:
            answer = feed(server.api, "m", lines(20_000), None, **STREAM)
        finally:
            done.set()
            staller.join()
        assert (answer.status, answer.body["applied"] + answer.body["pending"]) in (
            (200, 20_000),
            (202, 20_000),
        )
        server.wait_step("m", 20_001)
        assert step(server.api, "m") == 20_001


def test_kept_answers_are_bounded_in_bytes_and_old_keys_still_make_no_second_step(folder: Path) -> None:
    with running(folder, web_workers=1, answer_bytes=2**12) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        wait_until(lambda: feed(server.api, "m", observation(), "0").status == 200, 10)
        for number in range(1, 60):
            feed(server.api, "m", observation(), str(number))
        newest, oldest = (
            feed(server.api, "m", observation(), "59").body,
            feed(server.api, "m", observation(), "0").body,
        )
        assert newest["results"]
        assert (oldest["position"], oldest["applied"], oldest["repeated"]) == (1, 1, True)
        assert "results" not in oldest
        link = redis.Redis(unix_socket_path=str(server.data_dir / "redis.sock"))
        taken = sum(link.memory_usage(f"freshet:{{m}}:answers:{slot}", samples=0) or 0 for slot in range(2))
        link.close()
        assert taken < 2 * 2**12
        assert step(server.api, "m") == 60
