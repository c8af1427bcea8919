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
import redis

from model import OnlineModel
from tests.harness import FRESHET, Api, Server, command_line, descendants, parent, running, wait_until

# Online steps of this size get nowhere: what a retraining learns is plain to see.
SPEC = {
    "task": "binary",
    "features": 4,
    "layers": [{"units": 8}],
    "optimizer": {"name": "sgd", "learning_rate": 1e-4},
}
ENDED = ("succeeded", "failed", "cancelled")
JOB = {"epochs": 6, "learning_rate": 0.5, "promote": "always"}


def rows(count: int, seed: int, turned: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows (count, 4) and their labels; `turned`: after the drift."""
    X = np.random.default_rng(seed).normal(size=(count, 4))
    return X, ((X[:, 2] - X[:, 3] if turned else X[:, 0] + X[:, 1]) > 0).astype(int)


class Feeder(threading.Thread):
    """Sends observations with ids, a few at a time, each until it is acknowledged."""

    def __init__(self, api: Api, X: np.ndarray, y: np.ndarray, start: int = 0) -> None:
        super().__init__(daemon=True)
        self._api = Api(int(api.base.rsplit(":", 1)[1]))
        self._X, self._y, self._start = X, y, start
        self._ending = threading.Event()
        self.acknowledged = 0

    def run(self) -> None:
        for first in range(0, len(self._X), 5):
            if self._ending.is_set():
                break
            part = range(first, min(first + 5, len(self._X)))
            body = {
                "observations": [
                    {
                        "features": self._X[place].tolist(),
                        "label": int(self._y[place]),
                        "id": str(self._start + place),
                    }
                    for place in part
                ]
            }
            while not self._sent(body):
                pass
            self.acknowledged += len(part)
        self._api.close()

    def end(self) -> int:
        """Stop after the request that is under way; how many were acknowledged."""
        self._ending.set()
        self.join(60)
        return self.acknowledged

    def _sent(self, body: Any) -> bool:
        try:
            return self._api("POST", "/v1/models/m/feedback", body).status in (200, 202)
        except Exception:  # noqa: BLE001 - whatever went wrong, it is sent again
            return self._ending.wait(0.05)


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


def finished(server: Server, where: str, seconds: float = 60) -> dict[str, Any]:
    wait_until(lambda: server.api("GET", where).body.get("state") in ENDED, seconds, server.log)
    found: dict[str, Any] = server.api("GET", where).body
    return found


def accuracy(server: Server, turned: bool = False) -> float:
    X, y = rows(1000, seed=99, turned=turned)
    predictions = server.api("POST", "/v1/models/m/predict", {"instances": X.tolist()}).body["predictions"]
    return float(np.mean([prediction["label"] for prediction in predictions] == y))


def trainers(server: Server) -> list[int]:
    """The processes of `freshet trainer`, without those that run a job."""
    assert server.process is not None
    found = [pid for pid in descendants(server.process.pid) if "service.cli trainer" in command_line(pid)]
    return [pid for pid in found if parent(pid) not in found]


def checkpoints(server: Server, reason: str) -> list[dict[str, Any]]:
    found = server.api("GET", "/v1/models/m/checkpoints").body["checkpoints"]
    return [made for made in found if made["reason"] == reason]


@contextmanager
def fed(server: Server, count: int = 3000) -> Iterator[Feeder]:
    """A model that has learned `count` observations, and goes on learning; in the end nothing is lost or twice."""
    assert server.api("PUT", "/v1/models/m", SPEC).status == 201
    teach(server, *rows(count, seed=0))
    feeder = Feeder(server.api, *rows(200_000, seed=1), start=count)
    feeder.start()
    yield feeder
    total = count + feeder.end()
    server.wait_step("m", total)
    described = server.api("GET", "/v1/models/m").body
    assert (described["step"], described["metrics"]["observations"]) == (total, total)


def test_retraining_in_a_drifting_stream_loses_nothing_and_promotes_the_better_model(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=2) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        teach(server, *rows(3000, seed=0))
        X, y = rows(200_000, seed=1, turned=True)
        feeder = Feeder(server.api, X, y, start=3000)
        feeder.start()
        wait_until(lambda: feeder.acknowledged >= 1500, 60, server.log)
        job = finished(server, started(server, promote="if_better", window=1200, validation=0.3, epochs=20))
        assert job["state"] == "succeeded", job
        assert job["result"]["promoted"], job["result"]
        assert [losses["epoch"] for losses in job["losses"]] == list(range(1, 21))
        assert all(losses["validation_loss"] is not None for losses in job["losses"])
        wait_until(lambda: bool(checkpoints(server, "promotion")), 10, server.log)

        link = redis.Redis(unix_socket_path=str(server.data_dir / "redis.sock"))
        [made] = checkpoints(server, "promotion")
        replaced = OnlineModel.from_bytes(link.hget("freshet:{m}:checkpoint-states", made["id"]))
        link.close()
        wait_until(lambda: accuracy(server, turned=True) > 0.9, 10, server.log)
        unseen, labels = rows(1000, seed=99, turned=True)
        old = float(np.mean((replaced.predict(unseen)[:, 0] > 0.5) == labels))
        assert accuracy(server, turned=True) > old + 0.1

        before = made["step"]
        refused = finished(
            server, started(server, promote="if_better", start="scratch", epochs=1, learning_rate=1e-6)
        )
        assert (refused["state"], refused["result"]["promoted"]) == ("succeeded", False)
        assert refused["result"]["validation_loss"] > refused["result"]["live_loss"]

        total = 3000 + feeder.end()
        server.wait_step("m", total)
        described = server.api("GET", "/v1/models/m").body
        assert (described["step"], described["metrics"]["observations"]) == (total, total)
        assert described["step"] > before


@pytest.mark.parametrize(
    "stage",
    [
        *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("loading", "judging", "saving")),
        *("training", "promoting"),
    ],
)
def test_a_trainer_that_dies_while(stage: str, folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1, failpoint=f"job-{stage}:1") as server, fed(server):
        job = finished(server, started(server))
        assert (server.data_dir / f"failpoint-job-{stage}").exists(), server.log()
        assert (job["state"], job["attempt"]) == ("succeeded", 2), job
        wait_until(lambda: accuracy(server) > 0.9, 10, server.log)
        assert len(checkpoints(server, "promotion")) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_learner_that_dies_at_a_promotion(moment: str, folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1, failpoint=f"{moment}-promotion:1") as server, fed(server):
        job = finished(server, started(server))
        assert job["result"]["promoted"], job
        wait_until(lambda: (server.data_dir / f"failpoint-{moment}-promotion").exists(), 20, server.log)
        wait_until(lambda: accuracy(server) > 0.9, 20, server.log)
        [made] = checkpoints(server, "promotion")
        assert server.api("POST", "/v1/models/m/rollback", {"checkpoint": made["id"]}).status in (200, 202)
        wait_until(lambda: accuracy(server) < 0.9, 10, server.log)


@pytest.mark.slow
def test_a_killed_trainer_leaves_its_job_to_the_next_within_two_minutes(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server, fed(server):
        where = started(server, epochs=1000)
        wait_until(lambda: server.api("GET", where).body["stage"] == "training", 30, server.log)
        os.kill(trainers(server)[0], signal.SIGKILL)
        wait_until(lambda: server.api("GET", where).body["attempt"] == 2, 60, server.log)
        wait_until(lambda: server.api("GET", where).body["stage"] == "training", 60, server.log)
        assert server.api("DELETE", where).status == 202
        assert finished(server, where)["state"] == "cancelled"
        assert not checkpoints(server, "promotion")  # one is kept before each promotion


@pytest.mark.slow
def test_a_paused_trainer_comes_back_too_late_to_promote(folder: Path) -> None:
    with running(folder, web_workers=1, trainers=2, failpoint="job-promoting:1:stop") as server, fed(server):
        where = started(server)
        job = finished(server, where, 90)
        assert (job["state"], job["attempt"]) == ("succeeded", 2), job
        for pid in (pid for main in trainers(server) for pid in descendants(main)):
            os.kill(pid, signal.SIGCONT)
        again = finished(server, started(server, epochs=1, promote="never"))
        assert again["state"] == "succeeded"
        assert len(checkpoints(server, "promotion")) == 1
        assert server.api("GET", where).body == job


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
        wait_until(lambda: len(checkpoints(server, "promotion")) == 1, 20, server.log)
        assert server.api("GET", "/v1/models/m").body["retrain"]["next_due"] > due
        threading.Event().wait(1.5)
        assert len(checkpoints(server, "promotion")) == 1


@pytest.mark.slow
def test_a_running_job_keeps_the_log_that_it_needs_within_bounds(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server:
        small = SPEC | {"keep": 400}
        assert server.api("PUT", "/v1/models/m", small).status == 201
        teach(server, *rows(400, seed=0))
        where = started(server, epochs=150, batch_size=1, learning_rate=0.01)
        wait_until(lambda: server.api("GET", where).body["stage"] == "training", 30, server.log)
        feeder = Feeder(server.api, *rows(4000, seed=1), start=400)
        feeder.start()
        job = finished(server, where, 90)
        assert job["state"] == "succeeded", job
        assert server.api("GET", "/v1/models/m").body["step"] >= 800, "the log has moved on meanwhile"
        total = 400 + feeder.end()
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
        job = finished(server, where, 90)
        assert job["state"] == "failed", job
        assert "more observations came" in job["detail"]
        assert not checkpoints(server, "promotion")


@pytest.mark.slow
def test_a_job_that_takes_too_long_is_given_up(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1, max_job_seconds=2) as server, fed(server):
        job = finished(server, started(server, epochs=1000, batch_size=1))
        assert (job["state"], job["detail"]) == ("failed", "it took more than 2 s")
        assert not checkpoints(server, "promotion")


@pytest.mark.slow
def test_a_job_goes_on_through_a_restart_of_redis(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server, fed(server):
        where = started(server, epochs=60, learning_rate=0.05)
        wait_until(lambda: server.api("GET", where).body["epoch"] >= 1, 30, server.log)
        server.kill_part("redis")
        job = finished(server, where, 90)
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
        assert done.stdout.startswith("promoted; loss on the validation rows: candidate")
        as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(as_json.stdout)["result"]["promoted"]
        bad = subprocess.run([*command, "--validation", "1"], capture_output=True, text=True, check=False)
        assert (bad.returncode, "/validation" in bad.stderr) == (1, True)
        gone = [*FRESHET, "retrain", "nobody", "--url", server.api.base]
        assert "there is no model" in subprocess.run(gone, capture_output=True, text=True, check=False).stderr


def test_a_log_with_promotions_a_rebuild_and_a_patch_replays_bit_for_bit(folder: Path) -> None:
    with running(folder, trainers=1, web_workers=1) as server:
        with fed(server):
            assert finished(server, started(server))["result"]["promoted"]
            other = SPEC | {"layers": [{"units": 16, "dropout": 0.2}], "optimizer": {"name": "adam"}}
            rebuild = server.api("PUT", "/v1/models/m?rebuild=true", other)
            assert finished(server, rebuild.headers["Location"])["result"]["promoted"]
            assert server.api("PATCH", "/v1/models/m", {"learning_rate": 0.002}).status in (200, 202)
        environment = server.environment | {"FRESHET_DATA_DIR": str(server.data_dir)}
        verify = subprocess.run(
            [*FRESHET, "verify", "m"], env=environment, capture_output=True, text=True, check=False
        )
        assert verify.returncode == 0, verify
        assert verify.stdout.count("equal") == len(checkpoints(server, "promotion")) + 1, verify
