"""A trainer by a clock of the test's own: which jobs it takes up, and when it ends one."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import ModelSpec
from service.jobs.retraining import Retraining
from service.processes import identity
from service.settings import Settings
from service.store.connection import Link
from service.store.jobs import Job
from service.trainer.worker import LOOK, SILENCE, SilentJobs, Trainer
from tests.faults import Valkey
from tests.stored import Stored

SPEC = ModelSpec.model_validate({"task": "binary", "features": 2, "layers": [{"units": 2}]})
LONG = Retraining(epochs=10**9, batch_size=1, promote="always")
SHORT = Retraining(epochs=1, promote="always", validation=0.0)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    started = Valkey(tmp_path / "redis").start()
    yield started
    started.kill()


@pytest.fixture
def link(valkey: Valkey) -> Iterator[Link]:
    made = Link(valkey.url, 5)
    yield made
    made.close()


class Clock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trainer(valkey: Valkey, clock: Clock, tmp_path: Path) -> Iterator[Trainer]:
    settings = Settings(data_dir=tmp_path, redis_url=valkey.url, max_job_seconds=100)
    made = Trainer(settings, valkey.url, clock)
    made.step()  # which subscribes
    yield made
    made.stop()
    made.run()  # which ends a job that runs


def taught(link: Link) -> Stored:
    """A model with 40 observations."""
    model = Stored(link, spec=SPEC.model_dump_json().encode())
    X = np.random.default_rng(0).normal(size=(40, 2))
    model.teach(X, (X[:, :1] > 0).astype(float))
    return model


def asked(model: Stored, retraining: Retraining) -> Job:
    return model.job(retrain=retraining.model_dump(mode="json"), by="request")


def until(condition: Callable[[], bool], trainer: Trainer) -> None:
    """Let the trainer go on until a condition holds, without its clock."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        trainer.step()


def test_a_job_is_done_as_soon_as_it_is_told_of(trainer: Trainer, link: Link) -> None:
    model = taught(link)
    job = asked(model, SHORT)
    until(
        lambda: model.loaded(job.id).state == "succeeded", trainer
    )  # without another look: the clock stands still
    assert model.loaded(job.id).attempt == 1


def test_jobs_are_taken_up_in_the_order_in_which_they_were_started(trainer: Trainer, link: Link) -> None:
    models = [taught(link) for _ in range(3)]
    started = []
    for model in reversed(models):
        started.append((model, asked(model, SHORT)))
        time.sleep(0.002)
    until(lambda: all(model.loaded(job.id).state == "succeeded" for model, job in started), trainer)
    begun = [model.loaded(job.id).started or 0.0 for model, job in started]
    assert begun == sorted(begun)


def test_a_job_that_waited_long_has_lost_no_attempt(trainer: Trainer, link: Link, clock: Clock) -> None:
    model, other = taught(link), taught(link)
    first, second = asked(model, LONG), asked(other, SHORT)
    until(lambda: model.loaded(first.id).stage == "training", trainer)
    for _ in range(10):
        clock.now += 2 * LOOK
        trainer.step()
    assert (other.loaded(second.id).state, other.loaded(second.id).attempt) == ("queued", 1)
    model.store.jobs.cancel(first.id)
    until(lambda: other.loaded(second.id).state == "succeeded", trainer)
    assert other.loaded(second.id).attempt == 1
    assert model.loaded(first.id).state == "cancelled"


def test_a_job_that_takes_too_long_has_failed(trainer: Trainer, link: Link, clock: Clock) -> None:
    model = taught(link)
    job = asked(model, LONG)
    until(lambda: model.loaded(job.id).stage == "training", trainer)
    clock.now += 99
    trainer.step()
    assert model.loaded(job.id).state == "running"
    clock.now += 1
    trainer.step()
    ended = model.loaded(job.id)
    assert (ended.state, ended.detail) == ("failed", "it took more than 100 s")


def test_what_is_wrong_with_one_model_stays_with_it(trainer: Trainer, link: Link, clock: Clock) -> None:
    broken, model = taught(link), taught(link)
    link.call("HSET", f"freshet:{{{broken.name}}}:schedule", "schedule", "{", "number", 1, "from", 0)
    failing = broken.job(retrain={"epochs": "many"})
    job = asked(model, SHORT)
    until(lambda: model.loaded(job.id).state == "succeeded", trainer)
    until(lambda: broken.loaded(failing.id).state == "failed", trainer)
    assert broken.loaded(failing.id).detail == "internal error, see the trainer's log"
    clock.now += LOOK
    trainer.step()


# -- jobs without a trainer ----------------------------------------------------------------------------------

RUNNING = Job(
    model="m",
    id="m.1",
    state="running",
    request={},
    attempt=1,
    created=0.0,
    beat="1.000",
    started=0.0,
    ended=None,
    stage="training",
    progress={},
    result=None,
    detail="",
    cancelled=False,
    log_id=None,
    holder="",
)


def looks(silent: SilentJobs, job: Job, start: float, seconds: float, every: float = LOOK) -> bool:
    """Look every so often at a job that does not beat; whether it is silent at the end."""
    found: list[Job] = []
    for look in range(round(seconds / every) + 1):
        found = silent.among([job], start + look * every)
    return bool(found)


def test_a_job_is_silent_after_so_many_seconds_without_a_heartbeat() -> None:
    silent = SilentJobs()
    assert not looks(silent, RUNNING, 0.0, SILENCE - LOOK)
    assert silent.among([RUNNING], SILENCE) == [RUNNING]


def test_a_heartbeat_gives_a_job_its_whole_time_again() -> None:
    silent = SilentJobs()
    assert not looks(silent, RUNNING, 0.0, SILENCE - LOOK)
    assert not looks(silent, replace(RUNNING, beat="2.000"), SILENCE, SILENCE - LOOK)


def test_time_without_looks_does_not_count() -> None:
    silent = SilentJobs()
    assert not looks(silent, RUNNING, 0.0, SILENCE - 3 * LOOK)
    assert not silent.among([RUNNING], 1000.0), "Redis or this process stood still"
    assert silent.among([RUNNING], 1000.0 + LOOK) == [RUNNING]


def test_a_job_that_was_gone_meanwhile_is_not_silent() -> None:
    silent = SilentJobs()
    assert not looks(silent, RUNNING, 0.0, SILENCE - LOOK)
    assert not silent.among([], SILENCE)
    assert not silent.among([RUNNING], SILENCE + LOOK)


def test_a_trainer_that_has_died_on_this_machine_is_not_waited_for() -> None:
    mine = identity()
    died = " ".join([*mine.split(" ")[:3], "1"])  # as if another process had had this one's number
    assert SilentJobs().among([replace(RUNNING, holder=died)], 0.0)
    assert not SilentJobs().among([replace(RUNNING, holder=mine)], 0.0)
