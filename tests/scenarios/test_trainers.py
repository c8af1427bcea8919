"""Trainers apart: started, stopped and killed beside a Redis that comes and goes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults import Part, System
from tests.harness import FRESHET, Served, descendants, wait_until
from tests.jobs import SPEC, finished, taught

LONG = {"epochs": 1000, "batch_size": 1, "promote": "always", "learning_rate": 0.01}


@contextmanager
def under_way(whole: System, rows: int = 2000) -> Iterator[tuple[Served, Part, str]]:
    """Web, learner, a trainer, and the address of a job that trains and takes long."""
    whole.start("learner")
    web = whole.start("web")
    trainer = whole.start("trainer")
    name = web.create(SPEC)
    taught(web, name, rows)
    where = str(web.api("POST", f"/v1/models/{name}/retrain", LONG).headers["Location"])
    wait_until(lambda: web.api("GET", where).body["stage"] == "training", 60, whole.log)
    yield web, trainer, where
    web.api("DELETE", where)


def test_a_stopped_trainer_gives_its_job_back_and_ends_with_status_0(whole: System) -> None:
    with under_way(whole) as (web, trainer, where):
        assert trainer.process is not None
        family = descendants(trainer.process.pid)
        assert len(family) == 2
        assert trainer.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in family)
        job = web.api("GET", where).body
        assert (job["state"], job["attempt"]) == ("queued", 2), job
        whole.start("trainer")
        wait_until(lambda: web.api("GET", where).body.get("state") == "running", 20, whole.log)


@pytest.mark.slow
def test_stopping_trainers_is_not_counted_against_a_job(whole: System) -> None:
    with under_way(whole) as (web, trainer, where):
        for attempt in range(2, 6):
            assert trainer.stop() == 0
            trainer = whole.start("trainer")
            wait_until(
                lambda attempt=attempt: web.api("GET", where).body["attempt"] == attempt, 20, whole.log
            )
            wait_until(lambda: web.api("GET", where).body.get("state") == "running", 20, whole.log)


def test_a_cancelled_job_ends_within_a_second_or_so(whole: System) -> None:
    with under_way(whole) as (web, trainer, where):
        assert web.api("DELETE", where).status == 202
        assert finished(web.api, where, 3)["state"] == "cancelled"
        assert trainer.process is not None
        wait_until(lambda: len(descendants(trainer.process.pid)) == 1, 3, whole.log)


def test_a_script_that_runs_learner_and_trainer_survives_a_trainer_told_to_stop(whole: System) -> None:
    learner, trainer = " ".join([*FRESHET, "learner"]), " ".join([*FRESHET, "trainer"])
    script = f"""
{learner} & learner=$!
{trainer} & trainer=$!
echo "trainer $trainer"
wait $trainer
echo "status $?"
kill -0 $learner && echo "the learner runs"
kill $learner
wait $learner
echo "status $?"
"""
    environment = os.environ | {"REDIS_URL": whole.redis.url, "FRESHET_DATA_DIR": str(whole.folder)}
    shell = subprocess.Popen(
        ["/bin/sh", "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        start_new_session=True,  # what kills its process group, kills the shell
    )
    assert shell.stdout is not None
    pid = int(shell.stdout.readline().split()[1])
    with whole.redis.link as link:
        wait_until(lambda: link.pubsub_numsub("freshet:jobs")[0][1] > 0, 30)
    os.kill(pid, signal.SIGTERM)
    output, _ = shell.communicate(timeout=60)
    assert output.splitlines() == ["status 0", "the learner runs", "status 0"]
    assert shell.returncode == 0


@pytest.mark.slow
def test_an_idle_trainer_waits_for_a_redis_that_is_away(whole: System) -> None:
    whole.start("learner")
    web = whole.start("web")
    whole.redis.kill()
    trainer = whole.start("trainer")
    wait_until(lambda: "lost Redis;" in trainer.log(), 20, trainer.log)
    whole.redis.start()
    wait_until(lambda: "Redis is back" in trainer.log(), 20, trainer.log)
    whole.redis.kill()
    wait_until(lambda: trainer.log().count("lost Redis;") == 2, 20, trainer.log)
    whole.redis.start()
    wait_until(lambda: web.readiness() == 200, 20, whole.log)
    name = web.create(SPEC)
    taught(web, name, 100)
    answer = web.api("POST", f"/v1/models/{name}/retrain", {"epochs": 1})
    assert finished(web.api, answer.headers["Location"])["state"] == "succeeded"
    assert trainer.process is not None
    assert trainer.process.poll() is None
    assert "Traceback" not in trainer.log()
