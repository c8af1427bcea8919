"""A learner without processes around it: rounds of `step()` on a real Redis."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from model import ModelSpec, OnlineModel
from service.learner import led_model
from service.learner.learner import Learner
from service.settings import Settings
from service.store import keys, models
from service.store.appending import Append, Limits
from service.store.blocks import Block
from service.store.connection import Link
from service.store.entries import LogId
from service.store.model_store import ModelStore
from tests.faults import Valkey

SMALL = ModelSpec.model_validate({"task": "regression", "features": 2, "layers": []})
SLOW = ModelSpec.model_validate(
    {"task": "regression", "features": 200, "layers": [{"units": 400}, {"units": 400}]}
)
LIMITS = Limits(dedup_window=10**6, max_lag=10**6, label_ttl_ms=1000)


@pytest.fixture
def learner(valkey: Valkey, link: Link) -> Iterator[Learner]:
    """A learner that leads nothing yet."""
    made = Learner(Settings(redis_url=valkey.url, snapshot_seconds=0.01, redis_timeout=5), valkey.url)
    yield made
    made.stop()
    made.run()


def create(link: Link, name: str, spec: ModelSpec) -> bytes:
    _, generation = models.create(link, name, spec.model_dump_json().encode())
    return generation


def teach(link: Link, name: str, spec: ModelSpec, rows: int = 1, seed: int = 0) -> int:
    """Append a block; returns the log's position."""
    found = models.describe(link, [name])[name]
    assert found is not None
    choice = np.random.default_rng(seed)
    block = Block(choice.normal(size=(rows, spec.width)), choice.normal(size=(rows, 1)))
    token = f"{name}-{found[0].head}".encode()
    return (
        ModelStore(link, name, found[0].generation).log.append(Append(token, block, token), LIMITS).position
    )


def lead(learner: Learner, *names: str) -> None:
    """Let it lead the models."""
    deadline = time.monotonic() + 30
    while not set(names) <= learner.led.keys():
        assert time.monotonic() < deadline
        learner.step()


def steps_until(learner: Learner, name: str, position: int, most: int = 10_000) -> int:
    """Rounds until a model has taken observations up to a position."""
    for rounds in range(most):
        if learner.led[name].log_id.position >= position:
            return rounds
        learner.step()
    raise AssertionError(f"not within {most} rounds")


def stored(link: Link, name: str, generation: bytes, log_id: LogId) -> OnlineModel:
    """The model as the snapshot at a log id has it, once that is written."""
    deadline = time.monotonic() + 20
    while (
        snapshot := ModelStore(link, name, generation).snapshots.load()
    ) is None or snapshot.log_id < log_id:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert snapshot.log_id == log_id
    return OnlineModel.from_bytes(snapshot.state)


def test_a_slow_model_does_not_hold_up_another(link: Link, learner: Learner) -> None:
    create(link, "slow", SLOW)
    create(link, "small", SMALL)
    lead(learner, "slow", "small")
    teach(link, "slow", SLOW, 64)
    steps_until(learner, "slow", 64)  # what a row costs is known from now on
    end = teach(link, "slow", SLOW, 4096)
    steps_until(learner, "small", teach(link, "small", SMALL), 3)
    slow = learner.led["slow"]
    assert slow.log_id.position < end
    assert steps_until(learner, "small", teach(link, "small", SMALL), 3) <= 3
    assert slow.log_id.position < end
    steps_until(learner, "slow", end)
    assert slow.model.step == end


def test_a_block_that_is_learned_in_parts_comes_to_the_same(link: Link, learner: Learner) -> None:
    generation = create(link, "slow", SLOW)
    lead(learner, "slow")
    learner.led["slow"].row_seconds.append(0.05)  # so it takes turns of a row
    end = teach(link, "slow", SLOW, 5)
    published = set()
    while learner.led["slow"].log_id.position < end:
        learner.step()
        learner.led["slow"].row_seconds.append(0.05)
        published.add(learner.led["slow"].published.position)
    assert published & {1, 2, 3, 4}  # also within the block
    whole = OnlineModel(SLOW)
    choice = np.random.default_rng(0)
    whole.learn(choice.normal(size=(5, SLOW.width)), choice.normal(size=(5, 1)))
    learner.step()
    assert stored(link, "slow", generation, LogId(5, 0)).to_bytes() == whole.to_bytes()


def test_a_snapshot_is_of_the_moment_at_which_it_was_captured(link: Link, learner: Learner) -> None:
    create(link, "small", SMALL)
    lead(learner, "small")
    steps_until(learner, "small", teach(link, "small", SMALL, 10))
    led = learner.led["small"]
    capture = led.model.capture()
    state = led.model.to_bytes()
    steps_until(learner, "small", teach(link, "small", SMALL, 10, seed=1))
    assert capture() == state
    assert led.model.to_bytes() != state


def test_a_stop_within_a_block_keeps_a_state_of_whole_entries(valkey: Valkey, link: Link) -> None:
    generation = create(link, "slow", SLOW)
    first = Learner(Settings(redis_url=valkey.url, redis_timeout=5), valkey.url)
    lead(first, "slow")
    first.led["slow"].row_seconds.append(0.05)
    teach(link, "slow", SLOW, 5)
    while not first.led["slow"].learned:
        first.step()
    first.stop()
    first.run()
    assert stored(link, "slow", generation, LogId(5, 0)).step == 5
    _, lead_after = models.describe(link, ["slow"])["slow"] or (None, None)
    assert lead_after is not None
    assert lead_after.counter == 0


def test_a_checkpoint_before_a_command_is_stored_before_the_snapshot_behind_it(
    link: Link, learner: Learner
) -> None:
    generation = create(link, "small", SMALL)
    lead(learner, "small")
    steps_until(learner, "small", teach(link, "small", SMALL, 10))
    weights = learner.led["small"].model.weights_to_bytes()
    command = {"do": "weights", "version": 2}
    log_id = ModelStore(link, "small", generation).log.append_command(b"key", command, b"", blob=weights)
    assert log_id == (10, 1)
    while learner.led["small"].log_id < log_id or learner.led["small"].snapshot_id < log_id:
        learner.step()
    assert stored(link, "small", generation, log_id).step == 10
    assert [made.id for made in ModelStore(link, "small").checkpoints.list_all()] == ["10-1"]


def test_a_gap_in_the_log_is_noticed_and_told(link: Link, learner: Learner) -> None:
    create(link, "gap", SMALL)
    create(link, "well", SMALL)
    for seed in range(3):
        teach(link, "gap", SMALL, 2, seed)
    link.call("XDEL", keys.log("gap"), "4-0")
    while "gap" not in learner.led:
        learner.step()
    while "gap" in learner.led and learner.led["gap"].timeline < 5:
        learner.step()
    assert "gap" not in learner.led
    found = models.describe(link, ["gap"])["gap"]
    assert found is not None
    assert "LogGap" in found[1].failure
    lead(learner, "well")
    steps_until(learner, "well", teach(link, "well", SMALL), 10)


def test_a_model_that_is_listed_wrongly_is_led_on_and_listed_again(link: Link, learner: Learner) -> None:
    generation = create(link, "small", SMALL)
    lead(learner, "small")
    led = learner.led["small"]
    link.call("HSET", keys.MODELS, "small", "0" * 16)
    deadline = time.monotonic() + 10
    while models.names(link)["small"] != generation:
        assert time.monotonic() < deadline
        learner.step()
    assert learner.led["small"] is led


def test_a_model_is_trained_on_its_own_rows_only(link: Link, learner: Learner) -> None:
    """Entries of a model that took the name are never learned by the one before."""
    create(link, "again", SMALL)
    lead(learner, "again")
    steps_until(learner, "again", teach(link, "again", SMALL, 5))
    before = learner.led["again"]
    models.delete(link, "again")
    create(link, "again", SMALL)
    teach(link, "again", SMALL, 7)
    while learner.led.get("again") in (None, before):
        learner.step()
    assert before.model.step == 5
    steps_until(learner, "again", 7)
    assert learner.led["again"].model.step == 7


def test_a_model_whose_state_is_copied_waits_and_the_others_learn(
    link: Link, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(link, "slow", SLOW)
    create(link, "small", SMALL)
    lead(learner, "slow", "small")
    slow = learner.led["slow"]
    monkeypatch.setattr(led_model, "LARGE", slow.model.nbytes)
    capture, copied = slow.model.capture, threading.Event()

    def capture_late() -> Callable[[], bytes]:
        assert copied.wait(30)
        return capture()

    monkeypatch.setattr(slow.model, "capture", capture_late)
    steps_until(learner, "slow", teach(link, "slow", SLOW))
    while not slow.is_copied:
        learner.step()
    end = teach(link, "slow", SLOW)
    steps_until(learner, "small", teach(link, "small", SMALL))
    assert slow.log_id.position == end - 1
    copied.set()
    steps_until(learner, "slow", end)
