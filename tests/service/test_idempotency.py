"""Repeated requests: the same key gives the first outcome again, whatever was lost on the way."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import Answer, Api, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}
STREAM = {"Content-Type": "application/x-ndjson"}


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


@pytest.mark.parametrize("length", [0, 129])
def test_a_key_of_another_length_is_refused_also_where_none_is_needed(
    api: Api, name: str, length: int
) -> None:
    spec = {"task": "binary", "features": 1}
    for method, path, body in (
        ("PUT", f"/v1/models/{name}-new", spec),
        ("POST", f"/v1/models/{name}/checkpoints", {}),
    ):
        answer = api(method, path, body, {"Idempotency-Key": "k" * length})
        assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "Idempotency-Key")
    assert api("GET", f"/v1/models/{name}-new").status == 404


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
        head = f"POST /v1/models/{name}/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        head += f"Idempotency-Key: k\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:cut])
        wait_until(lambda: step(api, name) > 500, 10)
    taken = step(api, name)
    final = feed(api, name, body, "k", **STREAM)
    assert (final.status, final.body["applied"]) == (200, 3000)
    assert taken < 3000 == step(api, name)


@pytest.mark.slow
def test_a_key_is_known_through_a_restart_and_forgotten_after_many_observations(folder: Path) -> None:
    with running(folder, web_workers=1, dedup_window=100) as server:
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
