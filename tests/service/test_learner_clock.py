"""A learner by a clock of the test's own: when it takes a model over, publishes, snapshots and tries again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model import ModelSpec
from service.learner.leadership import BEAT, LONGEST_BENCH, STUCK, Bench, LeaderHeartbeat
from service.learner.learner import Learner
from service.settings import Settings
from service.store.connection import Link
from service.store.entries import LogId
from tests.faults import Valkey
from tests.stored import Stored

SPEC = (
    ModelSpec.model_validate({"task": "regression", "features": 1, "layers": []}).model_dump_json().encode()
)
LEASE = 2.0


class Clock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Rounds:
    """Learners that take rounds by the test's clock, and stop at its end."""

    def __init__(self, url: str, clock: Clock, folder: Path) -> None:
        self._url, self._clock, self._folder = url, clock, folder
        self._made: list[Learner] = []

    def learner(self, **settings: Any) -> Learner:
        """A learner that leads nothing yet."""
        values = {"redis_timeout": 5, "lease_seconds": LEASE, **settings}
        made = Learner(
            Settings(redis_url=self._url, data_dir=self._folder, **values),
            self._url,
            self._clock,
            sleep=lambda _: None,
            wait=0.001,
        )
        self._made.append(made)
        return made

    def pass_by(self, learner: Learner, seconds: float) -> None:
        """Let time pass in steps, a round after each."""
        end = self._clock.now + seconds
        while self._clock.now < end:
            self._clock.now = min(self._clock.now + BEAT, end)
            learner.step()

    def until(self, learner: Learner, stored: Stored, position: int) -> None:
        """Let it lead a model and learn up to a position, while no time passes but what a takeover needs."""
        while stored.name not in learner.led:
            self.pass_by(learner, BEAT)
        while learner.led[stored.name].log_id.position < position:
            learner.step()

    def stop(self) -> None:
        """End them all."""
        for learner in self._made:
            learner.stop()
            learner.run()


@pytest.fixture
def rounds(valkey: Valkey, clock: Clock, tmp_path: Path) -> Iterator[Rounds]:
    made = Rounds(valkey.url, clock, tmp_path)
    yield made
    made.stop()


def test_a_model_is_taken_over_once_its_leader_is_silent_for_the_lease(link: Link, rounds: Rounds) -> None:
    stored, learner = Stored(link, spec=SPEC), rounds.learner()
    stored.lead()
    learner.step()
    rounds.pass_by(learner, LEASE - BEAT)
    assert stored.name not in learner.led
    rounds.pass_by(learner, BEAT)
    assert learner.led[stored.name].term == 2


def test_a_leader_whose_heartbeat_moves_keeps_its_model(link: Link, rounds: Rounds) -> None:
    stored, learner = Stored(link, spec=SPEC), rounds.learner()
    term = stored.lead()
    for _ in range(10):
        rounds.pass_by(learner, LEASE / 2)
        stored.beat(term, LogId(0, 0))
    assert stored.name not in learner.led


def test_a_pause_of_the_candidate_gives_the_leader_its_lease_again(
    link: Link, clock: Clock, rounds: Rounds
) -> None:
    stored, learner = Stored(link, spec=SPEC), rounds.learner()
    stored.lead()
    learner.step()
    clock.now += 1000
    learner.step()
    assert stored.name not in learner.led
    rounds.pass_by(learner, LEASE)
    assert stored.name in learner.led


def test_a_model_that_cannot_be_loaded_is_tried_again_after_growing_pauses(
    link: Link, clock: Clock, rounds: Rounds
) -> None:
    stored, learner = Stored(link, spec=b'{"task": "none"}'), rounds.learner()
    learner.step()
    tries = []
    for pause in (0.5, 0.5, 1.5, 0.5, 3.5, 0.5):  # tried again after 1 s, 2 s and 4 s
        clock.now += pause
        learner.step()
        learner.step()
        tries.append(stored.described()[1].term)
    assert tries == [1, 2, 2, 3, 3, 4]
    assert "ValidationError" in stored.described()[1].failure


def test_a_pause_is_a_minute_at_most_and_is_forgotten_with_the_generation() -> None:
    bench, now = Bench(), 0.0
    for _ in range(20):
        bench.sit("m", b"one", now)
        now += LONGEST_BENCH
    assert bench.has("m", b"one", now - 0.001)
    assert not bench.has("m", b"one", now)
    assert not bench.has("m", b"two", now - 0.001)
    bench.sit("m", b"two", now)
    assert not bench.has("m", b"two", now + 1.0)


def test_weights_are_published_at_most_once_in_a_while(link: Link, clock: Clock, rounds: Rounds) -> None:
    stored, learner = Stored(link, spec=SPEC), rounds.learner(publish_seconds=60)
    rounds.until(learner, stored, stored.append())
    led = learner.led[stored.name]
    assert led.published == (1, 0)
    rounds.until(learner, stored, stored.append())
    clock.now += 59
    learner.step()
    assert led.published == (1, 0)
    clock.now += 1
    learner.step()
    assert led.published == (2, 0)


@pytest.mark.parametrize(("rows", "pause"), [(1, 1.0), (32, 1.0), (33, 5.0), (200, 5.0)])
def test_costly_weights_are_published_less_often_where_much_is_learned(
    link: Link, clock: Clock, rounds: Rounds, rows: int, pause: float
) -> None:
    stored, learner = Stored(link, spec=SPEC), rounds.learner()
    rounds.until(learner, stored, stored.append())
    led = learner.led[stored.name]
    for _ in range(2):
        led.publish_cost.note(1.0)
    position = stored.append(rows)
    rounds.until(learner, stored, position)
    rounds.pass_by(learner, pause - 0.01 - (clock.now - led.published_at))
    assert led.published == (1, 0)
    rounds.pass_by(learner, 0.01)
    assert led.published == (position, 0)


def test_a_snapshot_is_due_after_its_time_if_anything_is_new(
    link: Link, clock: Clock, rounds: Rounds
) -> None:
    stored, learner = Stored(link, spec=SPEC), rounds.learner(snapshot_seconds=60)
    rounds.until(learner, stored, stored.append())
    led = learner.led[stored.name]
    led.saver.wait(led.begin_snapshot())
    led.settle()
    rounds.until(learner, stored, stored.append())
    clock.now += 59
    assert not led.snapshot_due()
    assert led.saving is None
    clock.now += 1
    assert led.snapshot_due()


def test_the_heartbeat_stops_when_the_main_thread_makes_no_progress(
    link: Link, clock: Clock, rounds: Rounds
) -> None:
    learner = rounds.learner()
    heartbeat = LeaderHeartbeat(learner, link, clock)
    assert not heartbeat.is_stuck()
    clock.now += STUCK - 1
    assert not heartbeat.is_stuck()
    clock.now += 1
    assert heartbeat.is_stuck()
    learner.step()
    assert not heartbeat.is_stuck()
