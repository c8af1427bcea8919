"""What a retraining can be asked for, and what is refused."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Api, Server, running
from tests.jobs import SPEC as SPEC
from tests.jobs import finished, retrain, run, teach


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a trainer, in place of the one that all tests share."""
    with running(tmp_path_factory.mktemp("trained"), web_workers=2, trainers=1) as started:
        yield started


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
