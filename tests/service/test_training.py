"""What a job does with what it was asked, run in this process beside a Redis without other processes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import ModelSpec, OnlineModel, OptimizerSpec
from service.jobs.retraining import Retraining
from service.settings import Settings
from service.store.blocks import Block
from service.store.connection import Link
from service.store.jobs import Job
from service.trainer.heartbeat import JobHeartbeat
from service.trainer.job import Run
from service.trainer.judging import validation_loss
from service.trainer.progress import Progress
from service.trainer.rows import Rows
from tests.stored import Stored

ROWS, TRAINING = 200, 160  # of which 40 are for validation
SPEC = ModelSpec.model_validate(
    {
        "task": "binary",
        "features": 3,
        "layers": [{"units": 4, "dropout": 0.2}],
        "optimizer": {
            "name": "adam",
            "learning_rate": 0.01,
            "schedule": {"name": "cosine", "steps": 150, "minimum": 0.1},
        },
    }
)
_random = np.random.default_rng(0)
X = _random.normal(size=(ROWS, 3))
y = (X[:, :1] - X[:, 1:2] + _random.normal(scale=0.5, size=(ROWS, 1)) > 0).astype(float)


@pytest.fixture
def retrained(link: Link, tmp_path: Path) -> Callable[..., Job]:
    """Retrains a fresh model that has been taught the rows; returns the job as it ended."""

    def run(**asked: Any) -> Job:
        model = Stored(link, spec=SPEC.model_dump_json().encode())
        model.teach(X, y)
        body = Retraining.model_validate_json(json.dumps(asked))
        job = model.job(retrain=body.model_dump(mode="json"))
        attempt = model.claimed(job)
        Run(Settings(data_dir=tmp_path), link, attempt, JobHeartbeat(attempt, link), job.request).go()
        return model.loaded(job.id)

    return run


def live() -> OnlineModel:
    """The live model as it is before the validation rows."""
    model = OnlineModel(SPEC)
    model.learn(X[:TRAINING], y[:TRAINING])
    return model


def expected(optimizer: dict[str, Any] | None = None, rate: float | None = None, **fit: Any) -> list[float]:
    """The training losses of each epoch, by the model package alone."""
    update = {} if optimizer is None else {"optimizer": OptimizerSpec.model_validate(optimizer)}
    model = OnlineModel(SPEC.model_copy(update=update))
    model.adopt(live())
    if rate is not None:
        model.set_learning_rate(rate)
    return model.fit(X[:TRAINING], y[:TRAINING], **{"epochs": 3, "batch_size": 32, **fit})


def losses(job: Job, name: str = "loss") -> list[float]:
    return [epoch[name] for epoch in job.progress["losses"]]


SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}
OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"epochs": 5}, {"epochs": 5}),
    ({"batch_size": 1}, {"batch_size": 1}),
    ({"batch_size": 7}, {"batch_size": 7}),
    ({"batch_size": None}, {"batch_size": None}),
    ({"seed": 7}, {"seed": 7}),
    ({"learning_rate": 0.3}, {"rate": 0.3}),
    ({"optimizer": "rmsprop"}, {"optimizer": {"name": "rmsprop"}}),
    ({"optimizer": SGD}, {"optimizer": SGD}),
    ({"optimizer": SGD, "learning_rate": 0.01}, {"optimizer": SGD, "rate": 0.01}),
]


@pytest.mark.parametrize(("asked", "given"), OPTIONS, ids=str)
def test_a_job_trains_exactly_as_it_was_asked_to(
    asked: dict[str, Any], given: dict[str, Any], retrained: Callable[..., Job]
) -> None:
    job = retrained(promote="never", **{"epochs": 3, **asked})
    assert losses(job) == expected(**given)


def test_no_two_options_come_to_the_same() -> None:
    outcomes = [tuple(expected(**given)) for _, given in OPTIONS]
    assert len(set(outcomes)) == len(OPTIONS)


def test_a_start_from_scratch_knows_nothing(retrained: Callable[..., Job]) -> None:
    fresh = OnlineModel(SPEC).fit(X[:TRAINING], y[:TRAINING], epochs=3)
    assert losses(retrained(promote="never", epochs=3, start="scratch")) == fresh


@pytest.mark.parametrize("window", [100, {"last": 100}])
def test_a_window_takes_the_newest_rows(window: object, retrained: Callable[..., Job]) -> None:
    job = retrained(promote="never", epochs=3, window=window)
    before, model = OnlineModel(SPEC), OnlineModel(SPEC)
    before.learn(X[:180], y[:180])  # the live model has learned what was before the window, too
    model.adopt(before)
    assert losses(job) == model.fit(X[100:180], y[100:180], epochs=3)
    assert job.result is not None
    assert job.result["rows"] == {"training": 80, "validation": 20}


def test_patience_stops_early_and_takes_the_best_epoch(retrained: Callable[..., Job]) -> None:
    asked = {"epochs": 200, "learning_rate": 1.0, "promote": "never"}
    job = retrained(**asked, patience=3)
    of_validation = losses(job, "validation_loss")
    assert len(of_validation) < 200
    assert of_validation.index(min(of_validation)) == len(of_validation) - 4
    assert job.result is not None
    assert job.result["candidate"]["validation_loss"] == pytest.approx(min(of_validation))


def test_both_sides_are_judged_by_both_measures(retrained: Callable[..., Job]) -> None:
    model, labels = live(), y[TRAINING:, 0]
    before = model.predict(X[TRAINING:])[:, 0]
    learned = model.learn(X[TRAINING:], y[TRAINING:])
    job = retrained(promote="never", epochs=1)
    assert job.result is not None
    assert job.result["live"] == {
        "validation_loss": pytest.approx(log_loss(before, labels)),
        "prequential_loss": pytest.approx(log_loss(learned.predictions[:, 0], labels)),
    }
    assert job.result["candidate"] != job.result["live"]


def test_a_candidate_is_judged_at_the_live_models_learning_rate(retrained: Callable[..., Job]) -> None:
    trained, candidate = OnlineModel(SPEC), OnlineModel(SPEC)
    trained.adopt(live())
    trained.fit(X[:TRAINING], y[:TRAINING], epochs=2)
    candidate.inherit(live())
    candidate.adopt(trained)
    candidate.continue_schedule(live())
    learned = candidate.learn(X[TRAINING:], y[TRAINING:])
    job = retrained(promote="never", epochs=2)
    assert job.result is not None
    loss = log_loss(learned.predictions[:, 0], y[TRAINING:, 0])
    assert job.result["candidate"]["prequential_loss"] == pytest.approx(loss)


def log_loss(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.mean(np.log(np.where(labels == 1, predictions, 1 - predictions))))


@pytest.mark.parametrize("promote", ["if_better", "always", "never"])
@pytest.mark.parametrize("better", [True, False])
def test_promote_says_what_becomes_of_a_candidate(
    promote: str, better: bool, retrained: Callable[..., Job]
) -> None:
    worse = {"start": "scratch", "learning_rate": 1e-9}
    job = retrained(promote=promote, epochs=10, **({} if better else worse))
    promoted = promote == "always" or (promote == "if_better" and better)
    assert job.result is not None
    assert job.result["promoted"] == promoted
    assert (job.log_id is not None) == promoted


# -- progress ------------------------------------------------------------------------------------------------


@dataclass
class Reported:
    """What was reported, and when by a clock that goes on by `pace` seconds an epoch."""

    pace: float
    now: float = 100.0
    noted: list[dict[str, Any]] = field(default_factory=list)
    told: list[float] = field(default_factory=list)

    def note(self, **progress: Any) -> None:
        self.noted.append(progress)

    def tell(self) -> None:
        self.told.append(self.now)

    def after(self, progress: Progress, epochs: int) -> None:
        """Let so many epochs pass."""
        for epoch in range(epochs):
            self.now += self.pace
            progress.on_epoch(epoch, 1.0 / (epoch + 1))


NO_VALIDATION = Rows(Block(X, y), Block(X[:0], y[:0]))


def progress(reported: Reported, **asked: Any) -> Progress:
    """The progress of a model that does not change."""
    body = Retraining.model_validate(asked)
    return Progress(body, reported, OnlineModel(SPEC), NO_VALIDATION, clock=lambda: reported.now)


def test_the_time_left_is_told_by_the_pace_so_far() -> None:
    reported = Reported(pace=2.0)
    reported.after(progress(reported, epochs=10), 4)
    assert [noted["seconds_left"] for noted in reported.noted] == [18.0, 16.0, 14.0, 12.0]
    assert [len(noted["losses"]) for noted in reported.noted] == [1, 2, 3, 4]
    assert reported.noted[-1]["epoch"] == 4


def test_fast_epochs_are_told_together() -> None:
    reported = Reported(pace=0.1)
    reported.after(progress(reported, epochs=10), 10)
    assert reported.told == pytest.approx([100.1, 100.4, 100.7, 101.0])


def test_a_loss_that_is_not_finite_is_told_as_none() -> None:
    reported = Reported(pace=1.0)
    progress(reported, epochs=2).on_epoch(0, float("nan"))
    assert reported.noted[0]["losses"] == [{"epoch": 1, "loss": None, "validation_loss": None}]


def test_without_validation_rows_there_is_no_validation_loss() -> None:
    assert validation_loss(OnlineModel(SPEC), NO_VALIDATION) is None
