"""Drift is found soon after it comes, told for what it is, and seldom where there is none."""

import numpy as np
import pytest

from model.online import OnlineModel
from model.program import SCHEDULED, UPDATES, WINDOW_COUNT

SOON = 400


def concept(X, turn):
    """Labels by a line through the first two inputs, at an angle of `turn`."""
    return (np.cos(turn) * X[:, 0] + np.sin(turn) * X[:, 1] > 0).astype(np.float64)


def events_of(model, *kinds):
    events = model.diagnostics()["drift"]["events"]
    return [event for event in reversed(events) if event["kind"] in kinds]


@pytest.fixture
def learned(spec_of):
    def learn(X, y, **fields):
        model = OnlineModel(
            spec_of(features=X.shape[1], **{"layers": [{"units": 8}], "optimizer": "auto", **fields})
        )
        model.learn(X, y)
        return model

    return learn


def test_an_abrupt_drift_is_found_soon_and_called_abrupt(learned):
    X = np.random.default_rng(0).normal(size=(4000, 4))
    y = np.where(np.arange(4000) < 2000, concept(X, 0.0), concept(X, 3.0))
    event, *others = events_of(learned(X, y), "abrupt", "gradual")
    assert 2000 < event["step"] <= 2000 + SOON
    assert event["kind"] == "abrupt"
    assert event["after"] > event["before"]
    assert (
        event["done"]
        == "the rehearsal window was emptied, schedules of learning rates and averages began again"
    )
    assert not others


def test_a_stationary_stream_raises_no_alarm(learned):
    X = np.random.default_rng(0).normal(size=(8000, 4))
    y = concept(X, 1.0)
    y[np.random.default_rng(1).random(8000) < 0.1] = 1.0
    assert not events_of(learned(X, y), "abrupt", "gradual", "inputs")


def test_a_drift_of_an_input_is_told_by_its_name(learned):
    X = np.random.default_rng(0).normal(size=(4000, 4))
    y = concept(X, 1.0)
    X[2000:, 3] += 2.0
    event = events_of(learned(X, y), "inputs")[0]
    assert event["subject"] == "x3"
    assert 2000 < event["step"] <= 2000 + SOON
    assert event["after"] > event["before"]


def test_detection_can_be_turned_off(learned):
    X = np.random.default_rng(0).normal(size=(3000, 4))
    y = np.where(np.arange(3000) < 1500, concept(X, 0.0), concept(X, 3.0))
    assert not events_of(learned(X, y, drift={"detect": False}), "abrupt", "gradual", "inputs")


@pytest.mark.parametrize("action", ["rehearsal", "reset", "none"])
def test_what_is_done_is_what_the_spec_says(action, learned):
    X = np.random.default_rng(0).normal(size=(2400, 4))
    y = np.where(np.arange(2400) < 2000, concept(X, 0.0), concept(X, 3.0))
    model = learned(X, y, drift={"action": action})
    (event,) = events_of(model, "abrupt", "gradual")
    counters, since = model._arrays["counters"][0], 2400 - event["step"]
    assert counters[WINDOW_COUNT] == (1000 if action == "none" else since)
    assert counters[SCHEDULED] == (2400 if action == "none" else since)
    assert (counters[UPDATES] == since) == (action == "reset")


def test_a_schedule_begins_again_after_its_warm_up(learned):
    X = np.random.default_rng(0).normal(size=(2400, 4))
    y = np.where(np.arange(2400) < 2000, concept(X, 0.0), concept(X, 3.0))
    schedule = {"name": "inverse_time", "decay": 0.001, "warm_up": 50}
    model = learned(X, y, optimizer={"name": "adam", "learning_rate": 0.01, "schedule": schedule})
    event = events_of(model, "abrupt", "gradual")[-1]
    assert model._arrays["counters"][0, SCHEDULED] == 50 + 2400 - event["step"]


def test_a_network_is_over_an_abrupt_drift_sooner_with_its_schedule_begun_again(learned):
    X = np.random.default_rng(0).normal(size=(8000, 4))
    y = np.where(np.arange(8000) < 4000, np.sin(3 * X[:, 0]) > X[:, 1], np.cos(3 * X[:, 1]) > X[:, 2])
    losses = []
    for action in ("rehearsal", "none"):
        model = learned(X[:4000], y[:4000], optimizer={}, drift={"action": action})
        losses.append(model.learn(X[4000:], y[4000:, None].astype(float)).losses.mean())
    assert losses[0] < 0.95 * losses[1]


def test_the_list_of_events_is_bounded(learned):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(40_000, 2))
    turns = np.arange(40_000) // 800 % 2
    y = np.where(turns == 0, concept(X, 0.0), concept(X, 3.0))
    drift = learned(X, y).diagnostics()["drift"]
    assert drift["count"] > 32
    assert len(drift["events"]) == 32
    assert drift["events"][0]["number"] == drift["count"]
