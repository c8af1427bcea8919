"""A model that takes the place of another: it goes on as the other would have."""

import numpy as np
import pytest

from model import ModelSpec, OnlineModel

SCHEDULES = [
    {"name": "constant", "warm_up": 300},
    {"name": "inverse_time", "decay": 0.1},
    {"name": "exponential", "gamma": 0.99},
    {"name": "cosine", "steps": 300, "minimum": 0.1},
]
X = np.random.default_rng(0).normal(size=(400, 3))
y = (X[:, 0] > X[:, 1]).astype(float)


def spec(schedule: dict[str, object]) -> ModelSpec:
    return spec_by({"name": "adam", "learning_rate": 0.05, "schedule": schedule})


def spec_by(optimizer: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {"task": "binary", "features": 3, "layers": [{"units": 4}], "optimizer": optimizer}
    )


@pytest.mark.parametrize(
    "chosen", [*map(spec, SCHEDULES), spec_by("auto")], ids=[*map(str, SCHEDULES), "auto"]
)
def test_a_successor_with_the_same_weights_learns_as_its_predecessor(chosen: ModelSpec) -> None:
    live = OnlineModel(chosen)
    live.learn(X[:200], y[:200])
    successor = OnlineModel(live.spec)
    successor.inherit(live)
    successor.adopt(live)
    successor.continue_schedule(live)
    expected, learned = live.learn(X[200:], y[200:]), successor.learn(X[200:], y[200:])
    assert np.array_equal(expected.losses, learned.losses)
    assert successor.step == live.step == 400


def test_a_successor_with_another_schedule_begins_it() -> None:
    live = OnlineModel(spec({"name": "inverse_time", "decay": 10.0}))
    live.learn(X[:200], y[:200])
    fresh, successor = OnlineModel(spec({"name": "constant"})), OnlineModel(spec({"name": "constant"}))
    successor.continue_schedule(live)
    assert np.array_equal(fresh.learn(X, y).losses, successor.learn(X, y).losses)


def test_a_model_that_goes_back_rehearses_nothing_that_came_later() -> None:
    """What misled it must be gone for good: nothing of those rows may be learned again."""
    live, other = OnlineModel(spec_by("auto")), OnlineModel(spec_by("auto"))
    live.learn(X[:200], y[:200])
    before = OnlineModel.from_bytes(live.to_bytes())
    live.learn(X[200:], y[200:])
    other.learn(X[:200], y[:200])
    other.learn(X[200:][::-1], 1 - y[200:][::-1])
    live.adopt(before)
    other.adopt(before)
    expected, learned = live.learn(X, y), other.learn(X, y)
    assert np.array_equal(expected.losses, learned.losses)
