"""Waiting in a web process, without processes: results by generation and token, versions in order, a bound."""

import threading
import time

import numpy as np
import pytest

from model import ModelSpec, OnlineModel
from service.errors import Unavailable
from service.store.connection import Link
from service.store.entries import LogId
from service.store.messages import Result
from service.store.model_store import ModelStore
from service.store.models import Lead
from service.web.replicas.replica import Codec, ModelVersion, ServedModel
from service.web.waiting import Waiter, Waiting

SPEC = ModelSpec.model_validate({"task": "binary", "features": 1, "layers": []})
OTHER = ModelSpec.model_validate({"task": "binary", "features": 1, "layers": [], "loss": "hinge"})
CODEC = Codec.of(SPEC)
STATE = OnlineModel(SPEC).predictor_bytes()
ONE, TWO = b"1" * 16, b"2" * 16  # generations


def result(generation: bytes, token: bytes) -> Result:
    return Result(generation, token, 1, np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool))


def version(position: int, timeline: int = 1, term: int = 1, codec: Codec = CODEC) -> ModelVersion:
    return ModelVersion(timeline, term, LogId(position, 0), codec, b"{}", STATE)


@pytest.fixture
def served() -> ServedModel:
    return ServedModel(
        ModelStore(Link("unix:///nowhere", 1), "m", ONE), 0.0, CODEC, version(5), Lead(1, 1, LogId(5, 0))
    )


def test_a_result_goes_to_who_waits_for_this_token_of_this_generation() -> None:
    waiting = Waiting(10)
    first, second = Waiter(), Waiter()
    waiting.expect(ONE, b"key", first)
    waiting.expect(TWO, b"key", second)
    waiting.deliver(result(TWO, b"key"))
    assert first.wait(0) is None
    found = second.wait(0)
    assert found is not None
    assert found.generation == TWO


def test_a_result_that_is_expected_no_longer_is_dropped() -> None:
    waiting = Waiting(10)
    with waiting.waiter(ONE, b"key") as waiter:
        pass
    waiting.deliver(result(ONE, b"key"))
    assert waiter.result is None


def test_no_more_wait_than_may() -> None:
    waiting = Waiting(2)
    with waiting.turn(), waiting.turn(), pytest.raises(Unavailable), waiting.turn():
        pass
    with waiting.turn(), waiting.turn():
        pass


def test_a_version_replaces_an_older_one_only(served: ServedModel) -> None:
    for stale in (version(4), version(5), version(9, term=0)):
        served.swap(stale)
        assert served.version.step == 5
    served.swap(version(3, timeline=2, term=0))
    assert (served.version.timeline, served.version.step) == (2, 3)
    served.swap(version(9))
    assert served.version.step == 3


def test_whoever_waits_for_a_step_is_woken_by_the_version_that_has_it(served: ServedModel) -> None:
    reached: list[bool] = []
    waiters = [threading.Thread(target=lambda: reached.append(served.wait_for(7, 10))) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    served.swap(version(6))
    time.sleep(0.05)
    assert reached == []
    served.swap(version(8))
    for waiter in waiters:
        waiter.join(5)
    assert reached == [True] * 3
    assert not served.wait_for(9, 0.01)


def test_a_step_of_a_later_timeline_is_not_reached_by_an_earlier_one(served: ServedModel) -> None:
    assert served.wait_for(4, 0, timeline=1)
    assert not served.wait_for(4, 0.01, timeline=2)
    served.swap(version(4, timeline=2))
    assert served.wait_for(4, 0, timeline=2)


def test_predictor_and_decoder_change_together(served: ServedModel) -> None:
    before = served.version
    served.swap(version(6, codec=Codec.of(OTHER)))
    assert (before.spec, served.version.spec) == (SPEC, OTHER)
    assert before.labels.decode(np.array([[0.75]]))[0]["probabilities"]["1"] == 0.75
    assert "scores" in served.version.labels.decode(np.array([[0.75]]))[0]
    assert served.labels_at(6) is before.labels, "what was predicted before the change is told as it was made"
    assert served.labels_at(7) is served.version.labels
