"""A command in the log that cannot be carried out is refused: it changes nothing, it is listed, and the log goes on."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.harness import Api, Server, running, wait_until

SPEC = {"task": "regression", "features": 2, "layers": [{"units": 4}]}
OTHER = {"task": "regression", "features": 2, "layers": [{"units": 7}]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("refused"), web_workers=1, trainers=1, apply_timeout=1.0) as server:
        yield server


def teach(api: Api, path: str, rows: int) -> int:
    observations = [{"features": [row % 7, row % 3], "label": row % 5} for row in range(rows)]
    answer = api("POST", f"{path}/feedback", {"observations": observations})
    assert answer.status in (200, 202), answer
    return int(answer.body["position"])


def test_weights_uploaded_behind_a_rebuild_are_refused_and_the_log_goes_on(trained: Server) -> None:
    api, name = trained.api, trained.create(SPEC)
    path = f"/v1/models/{name}"
    trained.wait_step(name, teach(api, path, 100))
    weights = api._pool.request("GET", f"{api.base}{path}/weights").data
    [learner] = trained.pids("learner")
    os.kill(learner, signal.SIGSTOP)
    try:
        job = api("PUT", f"{path}?rebuild=true", OTHER).headers["Location"]
        wait_until(lambda: api("GET", job).body.get("state") == "succeeded", 60, trained.log)
        headers = {"Content-Type": "application/octet-stream", "Idempotency-Key": "upload"}
        queued = api("PUT", f"{path}/weights", weights, headers)
        assert queued.status == 202, queued
        position = teach(api, path, 10)
    finally:
        os.kill(learner, signal.SIGCONT)
    trained.wait_step(name, position)
    described = trained.described(name)
    assert described["spec"]["layers"][0]["units"] == 7
    [refusal] = described["refusals"]
    assert refusal["log_id"] == queued.body["log_id"]
    assert refusal["command"] == "weights"
    assert not trained.troubles()


def test_a_refused_command_is_refused_in_every_replay(trained: Server) -> None:
    api, name = trained.api, trained.create(SPEC)
    path = f"/v1/models/{name}"
    trained.wait_step(name, teach(api, path, 50))
    made = api("POST", f"{path}/checkpoints", {}).body["checkpoint"]
    [learner] = trained.pids("learner")
    os.kill(learner, signal.SIGSTOP)
    try:
        rolled = api("POST", f"{path}/rollback", {"checkpoint": made}, {"Idempotency-Key": "back"})
        assert rolled.status == 202, rolled
        # The state that the command names is damaged.
        trained.link.hset(f"freshet:{{{name}}}:blobs", f"{rolled.body['log_id']}:50", b"damaged")
        position = teach(api, path, 10)
    finally:
        os.kill(learner, signal.SIGCONT)
    trained.wait_step(name, position)
    again = api("POST", f"{path}/rollback", {"checkpoint": made}, {"Idempotency-Key": "back"})
    assert again.status == 409, again
    assert "cannot be carried out" in again.body["detail"]
    trained.kill_part("learner")
    position = teach(api, path, 10)
    trained.wait_step(name, position)
    assert [refusal["command"] for refusal in trained.described(name)["refusals"]] == ["rollback"]
    assert api("DELETE", path).status == 204
    assert not trained.link.exists(f"freshet:{{{name}}}:refusals")


def test_hyperparameters_are_told_as_they_are_in_force(trained: Server) -> None:
    """A PATCH queued behind a rebuild: it changes the rebuilt model, not the one before it."""
    api, name = trained.api, trained.create(SPEC | {"optimizer": {"name": "sgd", "learning_rate": 0.25}})
    path = f"/v1/models/{name}"
    trained.wait_step(name, teach(api, path, 100))
    [learner] = trained.pids("learner")
    os.kill(learner, signal.SIGSTOP)
    try:
        rebuilt = OTHER | {"optimizer": {"name": "sgd", "learning_rate": 0.005}}
        job = api("PUT", f"{path}?rebuild=true", rebuilt).headers["Location"]
        wait_until(lambda: api("GET", job).body.get("state") == "succeeded", 60, trained.log)
        assert api("PATCH", path, {"learning_rate": 0.125}).status == 202
        assert trained.described(name)["hyperparameters"]["learning_rate"] == 0.25
        position = teach(api, path, 10)
    finally:
        os.kill(learner, signal.SIGCONT)
    trained.wait_step(name, position)
    assert trained.described(name)["hyperparameters"]["learning_rate"] == 0.125
