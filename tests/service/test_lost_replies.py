"""Redis does what it was asked for, but its reply is lost: nothing is written twice, and the client gets to know."""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from service.store.scripts import APPEND, DELETE
from tests import oracle
from tests.faults import Proxy, Valkey, stopped
from tests.harness import Answer, Api, Server, wait_until

SPEC = oracle.spec()
STREAM = {"Content-Type": "application/x-ndjson"}
APPENDS = APPEND.sha.encode()  # what each request to append contains


class Proxied(NamedTuple):
    """A fresh model that has taken the observation "first" of place 0, on a server whose Redis is behind a proxy."""

    server: Server
    api: Api
    name: str
    proxy: Proxy
    redis: Valkey

    def feed(self, body: object, key: str | None = None, **headers: str) -> Answer:
        """Send feedback."""
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.api("POST", f"/v1/models/{self.name}/feedback", body, headers)

    def assert_counts_once(self, places: int) -> None:
        """Place 0 and what one more request brought, so many places in all, were appended and applied once."""
        with self.redis.link as link:
            assert link.xlen(f"freshet:{{{self.name}}}:log") == 2
        assert self.server.step(self.name) == places
        assert oracle.applications(self.api, self.name, places + 3) == [1] * places + [0] * 3


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Proxy, Valkey]]:
    """A server whose Redis is behind a proxy."""
    folder = tmp_path_factory.mktemp("proxied")
    redis = Valkey(folder / "redis").start()
    proxy = Proxy(redis.port)
    server = Server(folder, web_workers=1, max_lag=50, apply_timeout=2)
    server.environment["REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
    try:
        yield server.start(), proxy, redis
    finally:
        server.api.close()
        server.stop()
        proxy.close()
        redis.kill()


@pytest.fixture
def proxied(behind_proxy: tuple[Server, Proxy, Valkey]) -> Iterator[Proxied]:
    """The server behind the proxy, and a fresh model that has taken one observation."""
    server, proxy, redis = behind_proxy
    # What an earlier test has cut, the subscription too, is whole again once a result comes.
    path = f"/v1/models/{server.create(SPEC)}/feedback"
    wait_until(lambda: "results" in server.api("POST", path, oracle.observation(0)).body, 20, server.log)
    made = Proxied(server, server.api, server.create(SPEC), proxy, redis)
    made.feed(oracle.observation(0, id="first"))
    server.wait_step(made.name, 1)
    yield made
    proxy.swallow(b"", 0)


def lines(places: range) -> bytes:
    """A stream of observations."""
    return "\n".join(json.dumps(oracle.observation(place)) for place in places).encode()


def test_three_lost_replies_are_one_entry_and_the_answer_is_whole(proxied: Proxied) -> None:
    proxied.proxy.swallow(APPENDS, 3)
    answer = proxied.feed(oracle.observation(1))
    assert proxied.proxy.dropped == 3
    assert (answer.status, answer.body["position"], answer.body["results"][0]["position"]) == (200, 2, 2)
    proxied.assert_counts_once(2)


def test_a_lost_reply_about_a_list_with_duplicates_counts_them_right(proxied: Proxied) -> None:
    proxied.proxy.swallow(APPENDS, 1, after=1)  # the second, without the duplicate
    answer = proxied.feed({"observations": [oracle.observation(0, id="first"), oracle.observation(1)]})
    assert proxied.proxy.dropped == 1
    assert (answer.status, answer.body["applied"], answer.body["duplicates"]) == (200, 1, 1)
    proxied.assert_counts_once(2)


OBSERVATIONS: dict[str, Any] = {
    "one": oracle.observation(1),
    "list": {
        "observations": [oracle.observation(1), oracle.observation(0, id="first"), oracle.observation(2)]
    },
    "late": {"id": "late", "label": 1.0},
}


@pytest.mark.parametrize("body", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_an_unknown_outcome_is_settled_by_its_token(proxied: Proxied, body: Any) -> None:
    path = f"/v1/models/{proxied.name}/predict"
    assert proxied.api("POST", path, {"instances": [[1]], "ids": ["late"]}).status == 200
    proxied.proxy.swallow(APPENDS, 10_000, after=1 if "observations" in body else 0)
    started = time.monotonic()
    answer = proxied.feed(body)
    assert time.monotonic() - started < 2
    assert (answer.status, answer.body["type"]) == (503, oracle.OUTCOME_UNKNOWN)
    assert int(answer.headers["Retry-After"]) >= 1
    proxied.proxy.swallow(b"", 0)
    again = proxied.feed(body, answer.body["token"])
    rows = 2 if "observations" in body else 1
    assert (again.status, again.body["applied"], again.body["position"]) == (200, rows, 1 + rows)
    proxied.assert_counts_once(1 + rows)
    assert proxied.feed(oracle.observation(9), answer.body["token"]).status == 422


def test_a_stream_of_unknown_outcome_goes_on_with_its_token(proxied: Proxied) -> None:
    body = lines(range(1, 8001))
    proxied.proxy.swallow(APPENDS, 10_000, after=2)
    answer = proxied.feed(body, None, **STREAM)
    assert (answer.status, answer.body["type"]) == (503, oracle.OUTCOME_UNKNOWN)
    assert 0 < answer.body["appended"] < 8000
    proxied.proxy.swallow(b"", 0)
    again = proxied.feed(body, answer.body["token"], **STREAM)
    assert (again.status, again.body["applied"], again.body["position"]) == (200, 8000, 8001)
    assert proxied.server.step(proxied.name) == 8001
    assert oracle.applications(proxied.api, proxied.name, 8010) == [1] * 8001 + [0] * 9


@pytest.mark.parametrize("stream", [False, True], ids=["one", "stream"])
def test_no_refusal_after_a_lost_try_says_that_nothing_was_appended(proxied: Proxied, stream: bool) -> None:
    """The lost try may be on its way still, though the next one found the learner too far behind."""
    with stopped(proxied.server.pids("learner")[0]):
        proxied.feed({"observations": [oracle.observation(place) for place in range(1, 60)]})
        refused = proxied.feed(oracle.observation(60))
        assert refused.status == 429, refused
        proxied.proxy.lose(APPENDS, 1)
        body = lines(range(60, 62)) if stream else oracle.observation(60)
        answer = proxied.feed(body, None, **(STREAM if stream else {}))
    assert (answer.status, answer.body["type"]) == (503, oracle.OUTCOME_UNKNOWN), answer
    proxied.server.wait_step(proxied.name, 60)
    again = proxied.feed(body, answer.body["token"], **(STREAM if stream else {}))
    assert again.status in (200, 202)
    assert again.body["position"] == (62 if stream else 61)
    proxied.server.wait_step(proxied.name, again.body["position"])
    assert oracle.applications(proxied.api, proxied.name, 65)[60:] == [1, stream, 0, 0, 0]


def test_a_command_whose_end_is_not_known_is_settled_by_the_token_too(proxied: Proxied) -> None:
    """The reply that is lost is not that to the append, but to a look at what came of it."""
    path, body = f"/v1/models/{proxied.name}", {"learning_rate": 0.25}
    proxied.proxy.swallow(b":refusals", 10_000)
    answer = proxied.api("PATCH", path, body)
    proxied.proxy.swallow(b"", 0)
    assert (answer.status, answer.body["type"]) == (503, oracle.OUTCOME_UNKNOWN), answer
    key = {"Idempotency-Key": answer.body["token"]}
    wait_until(lambda: proxied.api("PATCH", path, body, key).status == 200, 20, proxied.server.log)
    with proxied.redis.link as link:
        assert link.xlen(f"freshet:{{{proxied.name}}}:log") == 2
    assert proxied.api("PATCH", path, {"learning_rate": 0.5}, key).status == 422


def test_a_deletion_whose_reply_is_lost_is_repeated_with_a_token_as_well(proxied: Proxied) -> None:
    path = f"/v1/models/{proxied.name}"
    proxied.proxy.swallow(DELETE.sha.encode(), 10_000)
    answer = proxied.api("DELETE", path)
    proxied.proxy.swallow(b"", 0)
    assert (answer.status, answer.body["type"]) == (503, oracle.OUTCOME_UNKNOWN), answer
    again = proxied.api("DELETE", path, None, {"Idempotency-Key": answer.body["token"]})
    assert again.status in (204, 404)
