"""Retraining over HTTP: jobs, their progress and results, what is refused, rebuilds and schedules."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.harness import Answer, Api, Server, running, wait_until
from tests.jobs import SPEC, finished, promotions


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a trainer, in place of the one that all tests share."""
    with running(tmp_path_factory.mktemp("trained"), web_workers=2, trainers=1) as started:
        yield started


def teach(api: Api, name: str, rows: int, seed: int = 0, sign: float = 1.0) -> int:
    """Teach so many observations; the position of the last."""
    X = np.random.default_rng(seed).normal(size=(rows, 4))
    observations = [{"features": x.tolist(), "label": int(sign * (x[0] - x[1]) > 0)} for x in X]
    position = 0
    for start in range(0, rows, 2000):
        body = {"observations": observations[start : start + 2000]}
        answer = api("POST", f"/v1/models/{name}/feedback", body)
        assert answer.status in (200, 202), answer
        position = answer.body["position"]
    return position


def retrain(api: Api, name: str, **body: Any) -> Answer:
    return api("POST", f"/v1/models/{name}/retrain", body)


def run(api: Api, name: str, **body: Any) -> dict[str, Any]:
    answer = retrain(api, name, **body)
    assert answer.status == 202, answer
    return finished(api, answer.headers["Location"])


def accuracy(api: Api, name: str, seed: int = 99) -> float:
    X = np.random.default_rng(seed).normal(size=(500, 4))
    answer = api("POST", f"/v1/models/{name}/predict", {"instances": X.tolist()})
    labels = [prediction["label"] for prediction in answer.body["predictions"]]
    return float(np.mean(np.array(labels) == (X[:, 0] > X[:, 1])))


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


@pytest.mark.parametrize(
    "body",
    [
        {"promote": "never"},
        {"promote": "always", "validation": 0.0},
        {"promote": "always", "start": "scratch", "learning_rate": 0.1},
        {"batch_size": None, "promote": "always"},
        {"optimizer": "adam", "promote": "always"},
        {"optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}, "promote": "always"},
        {"window": 100, "promote": "always"},
        {"window": {"last": 100}, "promote": "always"},
        {"window": {"since": "2020-01-01T00:00:00Z"}, "promote": "always"},
        {"window": {"since": 0}, "promote": "always"},
        {"epochs": 30, "patience": 2, "promote": "always", "learning_rate": 0.5},
        {"seed": 7, "promote": "always"},
    ],
    ids=str,
)
def test_every_option_is_accepted(body: dict[str, Any], api: Api, name: str) -> None:
    teach(api, name, 300)
    job = run(api, name, **body)
    assert job["state"] == "succeeded", job
    assert job["result"]["promoted"] == (body["promote"] != "never")
    rows = 100 if "window" in body and "since" not in str(body["window"]) else 300
    assert sum(job["result"]["rows"].values()) == rows
    assert api("GET", f"/v1/models/{name}").body["step"] == 300


def test_a_window_since_a_time_leaves_out_what_was_before(api: Api, name: str) -> None:
    teach(api, name, 200)
    time.sleep(1.1)
    moment = time.time()
    time.sleep(1.1)
    teach(api, name, 60, seed=1)
    job = run(api, name, window={"since": moment}, promote="never")
    assert sum(job["result"]["rows"].values()) == 60
    answer = retrain(api, name, window={"since": time.time() + 100})
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/window")


BAD = [
    ({"optimizer": "sdg"}, "/optimizer/name"),
    ({"optimizer": {"name": "sgd", "betas": [0.9, 0.9]}}, "/optimizer/betas"),
    ({"epochs": 0}, "/epochs"),
    ({"epochs": -3}, "/epochs"),
    ({"epochs": 1.5}, "/epochs"),
    ({"epochs": 1001}, "/epochs"),
    ({"epochs": True}, "/epochs"),
    ({"batch_size": 0}, "/batch_size"),
    ({"learning_rate": 0}, "/learning_rate"),
    ({"learning_rate": -0.1}, "/learning_rate"),
    ({"start": "yesterday"}, "/start"),
    ({"validation": 1}, "/validation"),
    ({"validation": 1.0}, "/validation"),
    ({"validation": -0.1}, "/validation"),
    ({"validation": 0}, "/promote"),
    ({"validation": 0, "promote": "always", "patience": 1}, "/patience"),
    ({"validation": 0.9}, "/window"),
    ({"window": 5}, "/window"),
    ({"window": {"last": 0}}, "/window/last"),
    ({"window": {}}, "/window"),
    ({"window": {"last": 50, "since": 0}}, "/window"),
    ({"window": {"since": "soon"}}, "/window/since"),
    ({"patience": 0}, "/patience"),
    ({"promote": "perhaps"}, "/promote"),
    ({"epoch": 3}, "/epoch"),
]


@pytest.mark.parametrize(("body", "pointer"), BAD, ids=str)
def test_a_bad_request_names_the_field_and_starts_nothing(
    body: dict[str, Any], pointer: str, api: Api, name: str
) -> None:
    teach(api, name, 50)
    answer = retrain(api, name, **body)
    assert answer.status == 422, answer
    assert answer.body["errors"][0]["pointer"] == pointer
    assert api("GET", f"/v1/models/{name}").body["job"] is None


def test_a_model_without_observations_cannot_be_retrained(api: Api, name: str) -> None:
    answer = retrain(api, name)
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/window")


def test_unknown_models_and_jobs_are_404(api: Api, name: str) -> None:
    assert retrain(api, "nobody").status == 404
    for job in ("nobody.1", f"{name}.1", "x", "{}.y"):
        assert api("GET", f"/v1/jobs/{job}").status == 404
        assert api("DELETE", f"/v1/jobs/{job}").status == 404


def long(api: Api, name: str) -> str:
    """The address of a job that takes long."""
    teach(api, name, 4000)
    answer = retrain(api, name, epochs=1000, batch_size=1, promote="always")
    assert answer.status == 202
    return str(answer.headers["Location"])


def training(api: Api, where: str) -> Callable[[], bool]:
    return lambda: api("GET", where).body["stage"] == "training"


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


def test_an_idempotency_key_starts_one_job(api: Api, name: str) -> None:
    teach(api, name, 100)
    path, key = f"/v1/models/{name}/retrain", {"Idempotency-Key": "nightly"}
    first = api("POST", path, {"epochs": 2}, key)
    again = api("POST", path, {"epochs": 2}, key)
    assert (first.status, again.status) == (202, 202)
    assert first.headers["Location"] == again.headers["Location"]
    assert api("POST", path, {"epochs": 3}, key).status == 422
    finished(api, first.headers["Location"])
    assert api("POST", path, {"epochs": 2}, key).body["state"] == "succeeded"


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


OTHER = SPEC | {"layers": [{"units": 3}]}


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
    assert put(api, name, rarely).status == 200
    assert api("GET", f"/v1/models/{name}").body["retrain"]["every"] == 9000
    assert api("PUT", f"/v1/models/{name}", rarely).status == 200
    assert len(api("GET", f"/v1/models/{name}/jobs").body["jobs"]) == 1


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


def scheduled(api: Api, name: str, **schedule: Any) -> Answer:
    job = {"epochs": 1, "promote": "always"}
    answer = api("PATCH", f"/v1/models/{name}", {"retrain": {**schedule, "job": job}})
    assert answer.status == 200, answer
    return answer


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
