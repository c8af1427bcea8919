"""Rebuilds: a model of another network, trained from the log and swapped in."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Answer, Api, Server, running, wait_until
from tests.jobs import SPEC, accuracy, finished, long, teach

OTHER = SPEC | {"layers": [{"units": 3}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a trainer, in place of the one that all tests share."""
    with running(tmp_path_factory.mktemp("trained"), web_workers=2, trainers=1) as started:
        yield started


def test_a_rebuild_swaps_another_network_in(api: Api, name: str) -> None:
    teach(api, name, 1500)
    path = f"/v1/models/{name}"
    wanted = SPEC | {
        "layers": [{"units": 16}, {"units": 8}],
        "optimizer": {"name": "adam"},
        "scaling": "none",
    }
    assert api("PUT", path, wanted).status == 409
    answer = api("PUT", f"{path}?rebuild=true", wanted)
    assert answer.status == 202
    job = finished(api, answer.headers["Location"])
    assert (job["state"], job["result"]["promoted"]) == ("succeeded", True), job
    wait_until(lambda: len(api("GET", path).body["spec"]["layers"]) == 2, 5)
    wait_until(lambda: api("PUT", path, wanted).status == 200, 5)
    assert api("PUT", path, SPEC).status == 409
    wait_until(lambda: accuracy(api, name) > 0.9, 5)
    described = api("GET", path).body
    assert (described["step"], described["metrics"]["observations"]) == (1500, 1500)
    assert teach(api, name, 100, seed=5) == 1600
    [kept] = api("GET", f"{path}/checkpoints").body["checkpoints"]
    assert api("POST", f"{path}/rollback", {"checkpoint": kept["id"]}).status == 200
    wait_until(lambda: len(api("GET", path).body["spec"]["layers"]) == 1, 5)
    wait_until(lambda: api("PUT", path, SPEC).status == 200, 5)


def put(api: Api, name: str, spec: dict[str, Any]) -> Answer:
    return api("PUT", f"/v1/models/{name}?rebuild=true", spec)


def test_a_rebuild_makes_a_committee_of_one_network(api: Api, server: Server) -> None:
    spec = {"task": "binary", "features": 4, "layers": [{"units": 4}]}
    name = server.create(spec | {"optimizer": {}})
    position = teach(api, name, 1000)
    answer = api("PUT", f"/v1/models/{name}?rebuild=true", spec | {"optimizer": "auto"})
    assert answer.status == 202, answer
    assert finished(api, answer.headers["Location"])["state"] == "succeeded"
    wait_until(lambda: server.described(name)["spec"]["optimizer"] == "auto", 10)
    assert teach(api, name, 500, seed=1) == position + 500
    server.wait_step(name, position + 500)
    assert server.described(name)["refusals"] == []


def test_a_rebuild_sets_its_schedule_once_and_a_repetition_repeats_nothing(api: Api, name: str) -> None:
    teach(api, name, 100)
    wanted = OTHER | {"retrain": {"every": 5000, "job": {"epochs": 2}}}
    first = put(api, name, wanted)
    assert first.status == 202
    due = api("GET", f"/v1/models/{name}").body["retrain"]["next_due"]
    again = put(api, name, wanted)
    assert (again.status, again.headers.get("Location")) in [(202, first.headers["Location"]), (200, None)]
    assert finished(api, first.headers["Location"])["result"]["promoted"]
    wait_until(lambda: put(api, name, wanted).status == 200, 5)
    assert api("PUT", f"/v1/models/{name}", wanted).status == 200
    assert api("GET", f"/v1/models/{name}").body["retrain"]["next_due"] == due
    rarely = OTHER | {"retrain": {"every": 9000}}
    assert api("PUT", f"/v1/models/{name}", rarely).status == 409
    assert put(api, name, rarely).status in (200, 202), "202 until the new model's snapshot is stored"
    assert api("GET", f"/v1/models/{name}").body["retrain"]["every"] == 9000
    assert api("PUT", f"/v1/models/{name}", rarely).status == 200
    assert len(api("GET", f"/v1/models/{name}/jobs").body["jobs"]) == 1


def test_another_schedule_is_set_while_the_rebuild_is_under_way_and_a_repetition_leaves_it(
    api: Api, name: str
) -> None:
    teach(api, name, 1000)
    slow = OTHER | {"layers": [{"units": 200}]}
    first = put(api, name, slow | {"retrain": {"every": 5000, "job": {"epochs": 50}}})
    for every in (6000, 7000):
        again = put(api, name, slow | {"retrain": {"every": every}})
        assert again.status in (200, 202), again
        assert again.headers.get("Location") in (None, first.headers["Location"])
        assert api("GET", f"/v1/models/{name}").body["retrain"]["every"] == every
    assert api("PATCH", f"/v1/models/{name}", {"retrain": {"every": 8000}}).status == 200
    assert put(api, name, slow | {"retrain": {"every": 7000}}).status in (200, 202)
    assert api("GET", f"/v1/models/{name}").body["retrain"]["every"] == 8000
    assert finished(api, first.headers["Location"])["state"] == "succeeded"
    assert api("GET", f"/v1/models/{name}").body["retrain"]["every"] == 8000


def test_the_key_of_a_rebuild_repeats_it_after_another_schedule_was_set(api: Api, name: str) -> None:
    teach(api, name, 1000)
    slow = OTHER | {"layers": [{"units": 200}]}
    path, key = f"/v1/models/{name}?rebuild=true", {"Idempotency-Key": "the-rebuild"}
    body = slow | {"retrain": {"every": 5000, "job": {"epochs": 50}}}
    first = api("PUT", path, body, key)
    assert first.status == 202
    assert put(api, name, slow | {"retrain": {"every": 6000}}).status in (200, 202)
    again = api("PUT", path, body, key)
    assert (again.status, again.headers["Location"]) == (202, first.headers["Location"])
    assert api("GET", f"/v1/models/{name}").body["retrain"]["every"] == 6000
    other = api("PUT", path, slow | {"retrain": {"every": 7000}}, key)
    assert other.status == 422, other
    assert finished(api, first.headers["Location"])["state"] == "succeeded"
    wait_until(lambda: put(api, name, slow | {"retrain": {"every": 6000}}).status == 200, 5)
    again = api("PUT", path, body, key)
    assert (again.status, again.headers["Location"]) == (202, first.headers["Location"])
    assert api("GET", f"/v1/models/{name}").body["retrain"]["every"] == 6000


def test_a_rebuild_without_a_schedule_leaves_the_one_in_force(api: Api, server: Server) -> None:
    name = server.create(SPEC | {"retrain": {"every": 5000}})
    teach(api, name, 100)
    due = api("GET", f"/v1/models/{name}").body["retrain"]["next_due"]
    assert finished(api, put(api, name, OTHER).headers["Location"])["result"]["promoted"]
    wait_until(lambda: api("PUT", f"/v1/models/{name}", OTHER).status == 200, 5)
    assert api("GET", f"/v1/models/{name}").body["retrain"]["next_due"] == due
    api("DELETE", f"/v1/models/{name}")


def test_a_rebuild_of_a_busy_model_changes_no_schedule(api: Api, name: str) -> None:
    where = long(api, name)
    assert put(api, name, OTHER | {"retrain": {"every": 5000}}).status == 409
    assert api("GET", f"/v1/models/{name}").body["retrain"] is None
    api("DELETE", where)


@pytest.mark.parametrize("change", [{"features": 5}, {"task": "regression"}, {"classes": [False, True]}])
def test_a_rebuild_keeps_features_and_task(change: dict[str, Any], api: Api, name: str) -> None:
    teach(api, name, 50)
    answer = api("PUT", f"/v1/models/{name}?rebuild=true", SPEC | change)
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, f"/{next(iter(change))}")
