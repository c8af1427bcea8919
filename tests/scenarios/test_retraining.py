"""Retraining in the midst of live feedback, with trainers and learners that die at every stage."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import OnlineModel
from tests import forking
from tests.feeder import Feeder
from tests.harness import FRESHET, Server, command_line, descendants, parent, running, wait_until
from tests.jobs import SPEC, finished, promotions

JOB = {"epochs": 6, "learning_rate": 0.5, "promote": "always"}
STAGES = ("loading", "training", "judging", "saving", "promoting")
FAILPOINTS = [*(f"job-{stage}" for stage in STAGES), "before-promotion", "after-promotion"]


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a trainer, and with failpoints that have been passed: nothing dies at them."""
    points = ",".join(f"{point}:1" for point in FAILPOINTS)
    with running(tmp_path_factory.mktemp("deadly"), trainers=1, web_workers=1, failpoint=points) as server:
        disarm(server)
        yield server


@pytest.fixture
def trained(deadly: Server) -> Iterator[Server]:
    """The same server, which has no model "m"."""
    yield deadly
    disarm(deadly)
    assert deadly.api("DELETE", "/v1/models/m").status == 204


def marker(server: Server, point: str) -> Path:
    """The file that stands where a process has died at a failpoint; where it stands, no other dies."""
    return server.data_dir / f"failpoint-{point}"


def arm(server: Server, point: str) -> None:
    """Let the next process that comes to a failpoint die there."""
    marker(server, point).unlink()


def disarm(server: Server) -> None:
    """Let no process die at any failpoint."""
    for point in FAILPOINTS:
        marker(server, point).touch()


def rows(count: int, seed: int, turned: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows (count, 4) and their labels; `turned`: after the drift."""
    X = np.random.default_rng(seed).normal(size=(count, 4))
    return X, ((X[:, 2] - X[:, 3] if turned else X[:, 0] + X[:, 1]) > 0).astype(int)


def feeder(server: Server, X: np.ndarray, y: np.ndarray, start: int) -> Feeder:
    """A client that goes on teaching."""
    return Feeder(server.api, "m", X, y, start, at_once=5, pause=0.005)


def teach(server: Server, X: np.ndarray, y: np.ndarray) -> None:
    for start in range(0, len(X), 2000):
        part = slice(start, start + 2000)
        body = {
            "observations": [
                {"features": x.tolist(), "label": int(label)}
                for x, label in zip(X[part], y[part], strict=True)
            ]
        }
        assert server.api("POST", "/v1/models/m/feedback", body).status in (200, 202)
    server.wait_step("m", len(X))


def started(server: Server, **body: Any) -> str:
    answer = server.api("POST", "/v1/models/m/retrain", {**JOB, **body})
    assert answer.status == 202, answer
    return str(answer.headers["Location"])


def ended(server: Server, where: str, seconds: float = 60) -> dict[str, Any]:
    """The job as it ended."""
    return finished(server.api, where, seconds)


def accuracy(server: Server, turned: bool = False) -> float:
    X, y = rows(1000, seed=99, turned=turned)
    predictions = server.api("POST", "/v1/models/m/predict", {"instances": X.tolist()}).body["predictions"]
    return float(np.mean([prediction["label"] for prediction in predictions] == y))


def trainers(server: Server) -> list[int]:
    """The processes of `freshet trainer`, without those that run a job."""
    assert server.process is not None
    found = [pid for pid in descendants(server.process.pid) if "freshet trainer" in command_line(pid)]
    return [pid for pid in found if parent(pid) not in found]


@contextmanager
def fed(server: Server, count: int = 3000) -> Iterator[None]:
    """A model that has learned `count` observations, and goes on learning; in the end nothing is lost or twice."""
    assert server.api("PUT", "/v1/models/m", SPEC).status == 201
    teach(server, *rows(count, seed=0))
    client = feeder(server, *rows(60_000, seed=1), start=count)
    client.start()
    yield
    assert_all_counted_once(server, count + client.end())


def assert_all_counted_once(server: Server, total: int) -> None:
    """The model has taken all observations, none twice."""
    server.wait_step("m", total)
    described = server.described("m")
    assert (described["step"], described["metrics"]["observations"]) == (total, total)


@pytest.mark.slow
def test_retraining_in_a_drifting_stream_loses_nothing_and_promotes_the_better_model(trained: Server) -> None:
    server = trained
    server.api("PUT", "/v1/models/m", SPEC)
    teach(server, *rows(3000, seed=0))
    client = feeder(server, *rows(60_000, seed=1, turned=True), start=3000)
    client.start()
    wait_until(lambda: client.acknowledged >= 1500, 60, server.log)
    job = ended(server, started(server, promote="if_better", window=1200, validation=0.3, epochs=20))
    assert job["state"] == "succeeded", job
    assert job["result"]["promoted"], job["result"]
    assert [losses["epoch"] for losses in job["losses"]] == list(range(1, 21))
    assert all(losses["validation_loss"] is not None for losses in job["losses"])
    wait_until(lambda: bool(promotions(server.api, "m")), 10, server.log)

    [made] = promotions(server.api, "m")
    with server.link as link:
        replaced = OnlineModel.from_bytes(link.hget("freshet:{m}:checkpoint-states", made["id"]))
    wait_until(lambda: accuracy(server, turned=True) > 0.9, 10, server.log)
    unseen, labels = rows(1000, seed=99, turned=True)
    old = float(np.mean((replaced.predict(unseen)[:, 0] > 0.5) == labels))
    assert accuracy(server, turned=True) > old + 0.1

    before = made["step"]
    refused = ended(
        server, started(server, promote="if_better", start="scratch", epochs=1, learning_rate=1e-6)
    )
    assert (refused["state"], refused["result"]["promoted"]) == ("succeeded", False)
    sides = refused["result"]["candidate"], refused["result"]["live"]
    assert sides[0]["prequential_loss"] > sides[1]["prequential_loss"]

    total = 3000 + client.end()
    assert_all_counted_once(server, total)
    assert total > before


@pytest.mark.parametrize(
    "stage",
    [
        *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("loading", "judging", "saving")),
        *("training", "promoting"),
    ],
)
def test_a_trainer_that_dies_while(stage: str, trained: Server) -> None:
    arm(trained, f"job-{stage}")
    with fed(trained):
        job = ended(trained, started(trained))
        assert marker(trained, f"job-{stage}").exists(), trained.log()
        assert (job["state"], job["attempt"]) == ("succeeded", 2), job
        wait_until(lambda: accuracy(trained) > 0.9, 10, trained.log)
        assert len(promotions(trained.api, "m")) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_learner_that_dies_at_a_promotion(moment: str, trained: Server) -> None:
    arm(trained, f"{moment}-promotion")
    with fed(trained):
        job = ended(trained, started(trained))
        assert job["result"]["promoted"], job
        wait_until(marker(trained, f"{moment}-promotion").exists, 20, trained.log)
        wait_until(lambda: accuracy(trained) > 0.9, 20, trained.log)
        [made] = promotions(trained.api, "m")
        assert trained.api("POST", "/v1/models/m/rollback", {"checkpoint": made["id"]}).status in (200, 202)
        wait_until(lambda: accuracy(trained) < 0.9, 10, trained.log)


@pytest.mark.slow
def test_a_killed_trainer_leaves_its_job_to_the_next_within_two_minutes(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server, fed(server):
        where = started(server, epochs=1000)
        wait_until(lambda: server.api("GET", where).body["stage"] == "training", 30, server.log)
        os.kill(trainers(server)[0], signal.SIGKILL)
        wait_until(lambda: server.api("GET", where).body["attempt"] == 2, 60, server.log)
        wait_until(lambda: server.api("GET", where).body["stage"] == "training", 60, server.log)
        assert server.api("DELETE", where).status == 202
        assert ended(server, where)["state"] == "cancelled"
        assert accuracy(server) < 0.9
        assert not promotions(server.api, "m")  # one is kept before each promotion


@pytest.mark.slow
def test_a_paused_trainer_comes_back_too_late_to_promote(folder: Path) -> None:
    with running(folder, web_workers=1, trainers=2, failpoint="job-promoting:1:stop") as server, fed(server):
        where = started(server)
        wait_until(marker(server, "job-promoting").exists, 30, server.log)
        [paused] = [main for main in trainers(server) if len(descendants(main)) > 1]
        os.kill(paused, signal.SIGSTOP)  # with its child, which stands still at the failpoint
        job = ended(server, where, 90)
        assert (job["state"], job["attempt"]) == ("succeeded", 2), job
        for pid in descendants(paused):
            os.kill(pid, signal.SIGCONT)
        again = ended(server, started(server, epochs=1, promote="never"))
        assert again["state"] == "succeeded"
        assert len(promotions(server.api, "m")) == 1
        assert server.api("GET", where).body == job


@pytest.mark.slow
def test_a_job_whose_process_hangs_is_done_again(folder: Path) -> None:
    with running(folder, web_workers=1, trainers=1, failpoint="job-judging:1:stop") as server, fed(server):
        job = ended(server, started(server), 90)
        assert (job["state"], job["attempt"]) == ("succeeded", 2), job


@pytest.mark.slow
def test_two_trainers_on_one_redis_share_the_jobs_and_a_missed_schedule_fires_once(folder: Path) -> None:
    with running(folder, web_workers=1, trainers=2) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        teach(server, *rows(500, seed=0))
        schedule = {"every": 5, "job": {"epochs": 1, "promote": "always"}}
        assert server.api("PATCH", "/v1/models/m", {"retrain": schedule}).status == 200
        due = server.api("GET", "/v1/models/m").body["retrain"]["next_due"]
        assert server.stop() == 0
        threading.Event().wait(11)  # two due times pass
        server.start()
        wait_until(lambda: len(promotions(server.api, "m")) == 1, 20, server.log)
        assert server.api("GET", "/v1/models/m").body["retrain"]["next_due"] > due
        threading.Event().wait(1.5)
        assert len(promotions(server.api, "m")) == 1


@pytest.mark.slow
def test_a_running_job_keeps_the_log_that_it_needs_within_bounds(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server:
        small = SPEC | {"keep": 400}
        assert server.api("PUT", "/v1/models/m", small).status == 201
        teach(server, *rows(400, seed=0))
        where = started(server, epochs=150, batch_size=1, learning_rate=0.01)
        wait_until(lambda: server.api("GET", where).body["stage"] == "training", 30, server.log)
        client = feeder(server, *rows(4000, seed=1), start=400)
        client.start()
        job = ended(server, where, 90)
        assert job["state"] == "succeeded", job
        assert server.api("GET", "/v1/models/m").body["step"] >= 800, "the log has moved on meanwhile"
        total = 400 + client.end()
        server.wait_step("m", total)
        wait_until(lambda: accuracy(server) > 0.9, 10, server.log)


@pytest.mark.slow
def test_a_job_that_would_hold_too_many_bytes_fails_and_the_log_does_not(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server:
        small = SPEC | {"keep": 400, "keep_bytes": 20_000}
        assert server.api("PUT", "/v1/models/m", small).status == 201
        teach(server, *rows(400, seed=0))
        where = started(server, epochs=200, batch_size=1, learning_rate=0.01)
        wait_until(lambda: server.api("GET", where).body["stage"] == "training", 30, server.log)
        for seed in range(1, 4):
            X, y = rows(1000, seed)
            body = [{"features": x.tolist(), "label": int(label)} for x, label in zip(X, y, strict=True)]
            server.api("POST", "/v1/models/m/feedback", {"observations": body})
            threading.Event().wait(1.5)
        job = ended(server, where, 90)
        assert job["state"] == "failed", job
        assert "more observations came" in job["detail"]
        assert not promotions(server.api, "m")


@pytest.mark.slow
def test_a_job_that_takes_too_long_is_given_up(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1, max_job_seconds=2) as server, fed(server):
        job = ended(server, started(server, epochs=1000, batch_size=1))
        assert (job["state"], job["detail"]) == ("failed", "it took more than 2 s")
        assert not promotions(server.api, "m")


@pytest.mark.slow
def test_a_job_goes_on_through_a_restart_of_redis(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server, fed(server):
        where = started(server, epochs=60, learning_rate=0.05)
        wait_until(lambda: server.api("GET", where).body["epoch"] >= 1, 30, server.log)
        server.kill_part("redis")
        job = ended(server, where, 90)
        assert job["state"] == "succeeded", job
        wait_until(lambda: accuracy(server) > 0.9, 20, server.log)


@pytest.mark.slow
def test_the_command_line_follows_a_job(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        teach(server, *rows(500, seed=0))
        command = [*FRESHET, "retrain", "m", "--url", server.api.base, "--epochs", "3", "--promote", "always"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "epoch 3: loss" in done.stderr
        promoted, while_learning, before = done.stdout.splitlines()
        assert promoted == "promoted"
        assert while_learning.startswith("loss on the validation rows, while learning: candidate 0.")
        assert before.startswith("loss on the validation rows, before: candidate 0.")
        worse = [*command, "--promote", "if_better", "--start", "scratch", "--learning-rate", "1e-9"]
        refused = subprocess.run(worse, capture_output=True, text=True, timeout=60, check=True)
        assert refused.stdout.startswith("refused: not better than the live model: prequential loss 0.")
        as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(as_json.stdout)["result"]["promoted"]
        bad = subprocess.run([*command, "--validation", "1"], capture_output=True, text=True, check=False)
        assert (bad.returncode, "/validation" in bad.stderr) == (1, True)
        gone = [*FRESHET, "retrain", "nobody", "--url", server.api.base]
        assert "there is no model" in subprocess.run(gone, capture_output=True, text=True, check=False).stderr


def test_a_log_with_promotions_a_rebuild_and_a_patch_replays_bit_for_bit(trained: Server) -> None:
    api = trained.api
    with fed(trained):
        assert ended(trained, started(trained))["result"]["promoted"]
        other = SPEC | {"layers": [{"units": 16, "dropout": 0.2}], "optimizer": {"name": "adam"}}
        rebuild = api("PUT", "/v1/models/m?rebuild=true", other)
        assert ended(trained, rebuild.headers["Location"])["result"]["promoted"]
        assert api("PATCH", "/v1/models/m", {"learning_rate": 0.002}).status in (200, 202)
    environment = trained.environment | {"FRESHET_DATA_DIR": str(trained.data_dir)}
    verify = forking.run(["verify", "m"], environment)
    assert verify.returncode == 0, verify
    assert verify.stdout.count("equal") == len(promotions(api, "m")) + 1, verify
