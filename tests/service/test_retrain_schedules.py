"""Schedules of retraining over HTTP."""

from collections.abc import Iterator

import pytest

from tests.harness import Api, Server, running, wait_until
from tests.jobs import SPEC, promotions, scheduled, teach


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a trainer, in place of the one that all tests share."""
    with running(tmp_path_factory.mktemp("trained"), web_workers=2, trainers=1) as started:
        yield started


def test_a_schedule_fires_by_itself_until_it_is_removed(api: Api, name: str) -> None:
    teach(api, name, 50)
    first = scheduled(api, name, every=1).body["retrain"]["next_due"]
    wait_until(lambda: len(promotions(api, name)) >= 1, 15)
    assert api("GET", f"/v1/models/{name}").body["retrain"]["next_due"] > first
    assert api("PATCH", f"/v1/models/{name}", {"retrain": None}).body["retrain"] is None


def test_a_schedule_after_observations_fires_when_they_came(api: Api, name: str) -> None:
    teach(api, name, 50)
    answer = scheduled(api, name, after=100)
    assert answer.body["retrain"]["next_due_position"] == 150
    teach(api, name, 100, seed=1)
    wait_until(lambda: len(promotions(api, name)) == 1, 10)
    assert api("GET", f"/v1/models/{name}").body["retrain"]["next_due_position"] == 250


def test_a_schedule_when_worse_fires_after_the_world_changed(api: Api, name: str) -> None:
    api("PATCH", f"/v1/models/{name}", {"learning_rate": 0.1})
    scheduled(api, name, when_worse=1.5)
    teach(api, name, 3000)
    wait_until(lambda: api("GET", f"/v1/models/{name}").body["retrain"]["best_loss"] is not None, 10)
    assert not promotions(api, name)
    teach(api, name, 500, seed=1, sign=-1.0)
    wait_until(lambda: len(promotions(api, name)) == 1, 10)


def test_cron_says_when_it_is_due_next(api: Api, name: str) -> None:
    told = scheduled(api, name, cron="30 3 * * *").body["retrain"]
    assert told["next_due"].endswith("T03:30:00+00:00")


def test_a_schedule_in_the_spec_is_part_of_what_created_the_model(api: Api, name: str) -> None:
    path = f"/v1/models/{name}-scheduled"
    spec = SPEC | {"retrain": {"after": 1000, "job": {"epochs": 2}}}
    assert api("PUT", path, spec).body["retrain"]["next_due_position"] == 1000
    assert api("PUT", path, spec).status == 200
    assert api("PATCH", path, {"retrain": None}).body["retrain"] is None
    assert api("PUT", path, spec).status == 200
    assert api("PUT", path, SPEC).status == 409
    bad = api("PUT", f"{path}-bad", SPEC | {"retrain": {"after": 0}})
    assert (bad.status, bad.body["errors"][0]["pointer"]) == (422, "/retrain/after")
