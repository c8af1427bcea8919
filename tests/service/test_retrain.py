"""Retraining over HTTP: jobs, their progress and results, and what runs meanwhile."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.harness import Api, Server, running, wait_until
from tests.jobs import SPEC, accuracy, finished, long, promotions, retrain, run, scheduled, teach, training


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a trainer, in place of the one that all tests share."""
    with running(tmp_path_factory.mktemp("trained"), web_workers=2, trainers=1) as started:
        yield started


def test_a_retraining_reports_losses_per_epoch_and_is_promoted_when_better(api: Api, name: str) -> None:
    teach(api, name, 3000)
    assert accuracy(api, name) < 0.9
    job = run(api, name, epochs=8, learning_rate=0.5)
    assert job["state"] == "succeeded", job
    assert [losses["epoch"] for losses in job["losses"]] == list(range(1, 9))
    assert job["losses"][-1]["validation_loss"] < job["losses"][0]["validation_loss"]
    result = job["result"]
    assert result["rows"] == {"training": 2400, "validation": 600}
    assert result["promoted"]
    assert result["candidate"]["prequential_loss"] < result["live"]["prequential_loss"]
    assert result["candidate"]["validation_loss"] == pytest.approx(job["losses"][-1]["validation_loss"])
    assert result["candidate"]["validation_loss"] < result["live"]["validation_loss"]
    wait_until(lambda: accuracy(api, name) > 0.95, 5)
    described = api("GET", f"/v1/models/{name}").body
    assert (described["step"], described["metrics"]["observations"], described["job"]) == (3000, 3000, None)
    [kept] = api("GET", f"/v1/models/{name}/checkpoints").body["checkpoints"]
    assert kept["reason"] == "promotion"


def test_a_worse_candidate_is_not_promoted(api: Api, name: str) -> None:
    teach(api, name, 1000)
    run(api, name, epochs=10, learning_rate=0.5)
    teach(api, name, 500, seed=1)
    job = run(api, name, epochs=1, start="scratch", learning_rate=1e-6)
    assert (job["state"], job["result"]["promoted"]) == ("succeeded", False)
    result = job["result"]
    assert result["candidate"]["prequential_loss"] > result["live"]["prequential_loss"]
    assert result["why"] == "not better than the live model"
    assert accuracy(api, name) > 0.95


@pytest.mark.parametrize(
    "rate", [{"name": "cosine", "steps": 500, "minimum": 0.01}, {"name": "constant"}], ids=str
)
def test_a_candidate_that_is_the_live_model_is_judged_equal_to_it(
    rate: dict[str, Any], api: Api, server: Server
) -> None:
    """It goes on with the live model's place in the learning rate's schedule."""
    optimizer = {"name": "sgd", "learning_rate": 0.3, "schedule": rate}
    name = server.create(SPEC | {"optimizer": optimizer, "scaling": "none"})
    teach(api, name, 1000)
    result = run(api, name, epochs=1, learning_rate=1e-12, promote="always")["result"]
    assert result["candidate"] == {
        measure: pytest.approx(loss, rel=1e-5) for measure, loss in result["live"].items()
    }


def test_a_regression_can_be_retrained_without_validation(api: Api, server: Server) -> None:
    name = server.create(SPEC | {"task": "regression"})
    rows = np.random.default_rng(0).normal(size=(50, 4)).tolist()
    body = {"observations": [{"features": row, "label": sum(row)} for row in rows]}
    assert api("POST", f"/v1/models/{name}/feedback", body).status in (200, 202)
    job = run(api, name, epochs=1, validation=0.0, promote="always")
    assert job["result"]["promoted"], job
    assert job["result"]["candidate"] == {"validation_loss": None, "prequential_loss": None}


def test_a_models_jobs_are_listed_newest_first_with_the_refused_and_the_scheduled(
    api: Api, name: str, server: Server
) -> None:
    path = f"/v1/models/{name}/jobs"
    assert api("GET", path).body == {"model": name, "jobs": []}
    teach(api, name, 200)
    promoted = run(api, name, epochs=3, promote="always")
    refused = run(api, name, epochs=1, start="scratch", learning_rate=1e-9)
    scheduled(api, name, after=10)
    teach(api, name, 10, seed=1)
    wait_until(lambda: len(promotions(api, name)) == 2, 20)
    api("PATCH", f"/v1/models/{name}", {"retrain": None})
    by_schedule, *asked_for = api("GET", path).body["jobs"]
    assert asked_for == [without_losses(refused), without_losses(promoted)]
    assert (by_schedule["request"]["by"], by_schedule["state"]) == ("schedule", "succeeded")
    assert promoted["detail"] is None
    assert refused["detail"].startswith("refused: not better than the live model: prequential loss 0.")
    assert api("GET", "/v1/models/nobody/jobs").status == 404
    lines = [line for line in server.log().splitlines() if refused["job"] in line]
    assert [event in line for event, line in zip(EVENTS, lines, strict=True)] == [True] * 3, lines


EVENTS = ("a job starts", "judged a candidate", "a job ended")


def without_losses(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if key != "losses"}


def test_a_promotion_can_be_rolled_back(api: Api, name: str) -> None:
    teach(api, name, 500)
    before = accuracy(api, name)
    run(api, name, epochs=10, learning_rate=0.5)
    wait_until(lambda: accuracy(api, name) > 0.95, 5)
    [kept] = api("GET", f"/v1/models/{name}/checkpoints").body["checkpoints"]
    assert api("POST", f"/v1/models/{name}/rollback", {"checkpoint": kept["id"]}).status == 200
    wait_until(lambda: accuracy(api, name) == before, 5)


def test_a_job_runs_alone_and_is_cancelled_in_the_midst_of_an_epoch(api: Api, name: str) -> None:
    where = long(api, name)
    busy = retrain(api, name)
    assert (busy.status, busy.body["job"]) == (409, where)
    wait_until(training(api, where), 20)
    assert api("GET", f"/v1/models/{name}").body["job"] == where
    assert api("DELETE", where).status == 202
    assert finished(api, where, 5)["state"] == "cancelled"
    assert api("DELETE", where).status == 200
    assert run(api, name, epochs=1)["state"] == "succeeded"


def test_a_finished_job_cannot_be_cancelled(api: Api, name: str) -> None:
    teach(api, name, 100)
    job = run(api, name, epochs=1)
    assert api("DELETE", f"/v1/jobs/{job['job']}").status == 409


def test_a_job_of_a_deleted_model_ends_and_leaves_nothing(api: Api, name: str) -> None:
    where = long(api, name)
    wait_until(training(api, where), 20)
    assert api("DELETE", f"/v1/models/{name}").status == 204
    assert api("GET", where).status == 404
    assert api("PUT", f"/v1/models/{name}", SPEC).status == 201
    teach(api, name, 50)
    assert run(api, name, epochs=1)["state"] == "succeeded"


def test_a_rollback_meanwhile_wins_over_the_job(api: Api, name: str) -> None:
    teach(api, name, 500)
    made = api("POST", f"/v1/models/{name}/checkpoints", {}).body["checkpoint"]
    answer = retrain(api, name, epochs=40, batch_size=1, promote="always", learning_rate=0.1)
    wait_until(training(api, answer.headers["Location"]), 20)
    assert api("POST", f"/v1/models/{name}/rollback", {"checkpoint": made}).status in (200, 202)
    job = finished(api, answer.headers["Location"])
    assert (job["state"], "replaced meanwhile" in job["detail"]) == ("failed", True)
    assert not promotions(api, name)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adagrad", "adamw"])
def test_a_training_that_diverges_leaves_a_model_that_answers(optimizer: str, api: Api, name: str) -> None:
    teach(api, name, 200)
    job = run(api, name, learning_rate=1e6, epochs=20, promote="always", batch_size=1, optimizer=optimizer)
    assert job["state"] in ("succeeded", "failed"), job
    assert job["detail"] is None or "diverged" in job["detail"]
    assert teach(api, name, 50, seed=1) == 250
    wait_until(lambda: api("GET", f"/v1/models/{name}").body["step"] == 250, 10)
    accuracy(api, name)


def test_two_retrainings_with_the_same_seed_give_the_same_losses(api: Api, name: str) -> None:
    teach(api, name, 200)
    first, second = (run(api, name, seed=3, promote="never")["losses"] for _ in range(2))
    assert first == second
