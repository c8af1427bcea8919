"""The log in Redis: what an append refuses, what the trim leaves, and that who applies it notices a gap."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import ModelSpec
from service.errors import LogCrowded, LogGap, WrongGeneration
from service.learner.led_model import LedModel
from service.learner.saving import Saver
from service.settings import Settings
from service.store import keys, models
from service.store.appending import Append, Appended
from service.store.blocks import Block
from service.store.connection import Link
from service.store.entries import Entry, LogId
from service.store.kept import Kept
from service.store.snapshots import Keep
from tests.stored import LIMITS, Stored

SPEC = ModelSpec.model_validate({"task": "binary", "features": 1, "layers": [{"units": 1}]})
START = LogId(0, 0)


@pytest.fixture
def stored(link: Link) -> Stored:
    """A fresh model."""
    return Stored(link, spec=SPEC.model_dump_json().encode())


def block(rows: int = 1, ids: list[str | None] | None = None) -> Block:
    return Block(np.zeros((rows, 1)), np.zeros((rows, 1)), ids=ids)


def sent(stored: Stored, wanted: Append) -> Appended:
    return stored.store.log.append(wanted, LIMITS)


def positions(stored: Stored) -> list[int]:
    return [entry.log_id.position for entry in stored.store.log.read(START, 100)]


def test_a_key_appends_once(stored: Stored) -> None:
    wanted = Append(b"token", block(2), b"key", record=b"record")
    assert sent(stored, wanted).position == 2
    assert sent(stored, wanted).kept == Kept(2, b"record")
    assert sent(stored, replace(wanted, token=b"another")).kept == Kept(2, b"record")
    assert sent(stored, replace(wanted, key=b"another")).position == 4
    assert positions(stored) == [2, 4]


def test_nothing_is_appended_after_blocks_that_redis_has_lost(stored: Stored) -> None:
    assert sent(stored, Append(b"1", block(2), b"key", record=b"one")).position == 2
    lost = Kept(7, b"two")  # what the caller was told of a Redis that then came back older
    assert sent(stored, Append(b"3", block(2), b"another", record=b"three", known=lost)).lost
    assert sent(stored, Append(b"4", block(2), b"key", record=b"four", known=Kept(2, b"one"))).position == 4
    assert sent(stored, Append(b"5", block(8), b"other", record=b"five")).position == 12
    assert sent(stored, Append(b"6", block(2), b"another", record=b"six", known=lost)).lost, (
        "others have appended"
    )
    assert positions(stored) == [2, 4, 12]


def test_an_observation_id_is_appended_once(stored: Stored) -> None:
    assert sent(stored, Append(b"1", block(3, ["a", None, "b"]), b"1")).position == 3
    assert sent(stored, Append(b"2", block(2, ["c", "b"]), b"2")).duplicates == {1: 3}
    assert sent(stored, Append(b"3", block(2, ["a", "c"]), b"3")).duplicates == {0: 1}
    assert sent(stored, Append(b"4", block(1, ["c"]), b"4")).position == 4
    assert positions(stored) == [3, 4]


def test_nothing_is_appended_to_a_model_of_another_generation(stored: Stored) -> None:
    assert models.delete(stored.link, stored.name)
    again = Stored(stored.link, stored.name)
    with pytest.raises(WrongGeneration):
        sent(stored, Append(b"1", block(), b"1"))
    assert positions(again) == []


def test_nothing_is_appended_to_a_log_that_ends_before_what_was_seen(stored: Stored) -> None:
    stored.append(5)
    assert sent(stored, Append(b"1", block(), b"1", step=6, timeline=1)).older
    assert sent(stored, Append(b"1", block(), b"1", step=0, timeline=2)).older
    assert sent(stored, Append(b"1", block(), b"1", step=5, timeline=1)).position == 6


def test_nothing_is_appended_far_ahead_of_what_was_applied(stored: Stored) -> None:
    stored.append(5)
    limits = replace(LIMITS, max_lag=5)
    wanted = Append(b"1", block(), b"1")
    assert stored.store.log.append(wanted, limits).lag == 5
    term = stored.lead()
    stored.beat(term, LogId(1, 0))
    assert stored.store.log.append(wanted, limits).position == 6


def test_the_log_keeps_what_a_promotion_that_is_to_come_needs(stored: Stored) -> None:
    term = stored.lead()
    for _ in range(10):
        stored.append()
    assert stored.promote(stored.attempt(), LogId(5, 0)) == "appended"
    keep = Keep(trim_below=8, keep_bytes=1000, blobs=10)
    stored.snapshot(stored.fence(term, LogId(10, 0)), keep=keep)
    assert positions(stored)[0] == 5, "the learner has not met the command at 10-1 yet"
    stored.append()
    stored.snapshot(stored.fence(term, LogId(11, 0)), keep=keep)
    assert positions(stored)[0] == 8


def test_a_trim_that_takes_a_command_leaves_a_gap_that_a_reader_behind_it_notices(stored: Stored):
    term = stored.lead()
    stored.append()
    for rate in (0.1, 0.2):
        stored.command(do="set", learning_rate=rate)
    for _ in range(4):
        stored.append()
    for below in range(1, 6):
        stored.snapshot(stored.fence(term, LogId(5, 0)), keep=Keep(below, keep_bytes=10**6, blobs=10))
        assert positions(stored)[-1] == 5
        for behind in (LogId(1, 0), LogId(1, 1)):
            missed = below > 2 or (below == 2 and behind == LogId(1, 0))
            assert stored.store.log.goes_on_from(behind) == (not missed), (below, behind)


def apply(led: LedModel, entries: list[Entry]) -> None:
    """Let a learner's model apply entries as they are read."""
    led.read(entries, 0.0)
    while led.queue:
        led.take_turn(1.0)


@pytest.fixture
def led(stored: Stored, tmp_path: Path) -> LedModel:
    """A learner's view of a model with three observations, two of them applied."""
    for _ in range(3):
        stored.append()
    meta, _ = stored.described()
    made = LedModel.load(Settings(data_dir=tmp_path), stored.store, Saver(stored.link), meta, stored.lead())
    apply(made, [stored.entry(LogId(1, 0)), stored.entry(LogId(2, 0))])
    return made


def test_a_learner_notices_that_an_observation_is_missing(stored: Stored, led: LedModel) -> None:
    stored.append()
    with pytest.raises(LogGap):
        apply(led, [stored.entry(LogId(4, 0))])
    assert led.log_id == (2, 0)
    assert led.model.step == 2


def test_a_learner_notices_that_a_command_is_missing(stored: Stored, led: LedModel) -> None:
    for _ in range(2):
        stored.command(do="set", learning_rate=0.5)
    apply(led, [stored.entry(LogId(3, 0))])
    before = led.model.learning_rate
    with pytest.raises(LogGap):
        apply(led, [stored.entry(LogId(3, 2))])
    assert led.model.learning_rate == before


def test_a_learner_takes_no_entry_of_another_generation(stored: Stored, led: LedModel) -> None:
    foreign = replace(stored.entry(LogId(3, 0)), generation=b"another")
    with pytest.raises(WrongGeneration):
        apply(led, [foreign])
    assert led.model.step == 2


def test_nothing_is_appended_where_too_many_bytes_are_not_applied(stored: Stored) -> None:
    term = stored.lead()
    stored.append(5)
    stored.beat(term, LogId(5, 0), size=0)
    limits = replace(LIMITS, max_lag_bytes=100)
    wanted = Append(b"1", block(), b"1")
    assert stored.store.log.append(wanted, limits).position == 6, "none wait"
    found = stored.store.log.append(Append(b"2", block(), b"2"), limits)
    assert found.lag == 1
    assert found.lag_bytes > 100
    stored.beat(term, LogId(6, 0), size=found.lag_bytes)
    assert stored.store.log.append(Append(b"2", block(), b"2"), limits).position


def test_thousands_of_commands_fit_between_two_observations(stored: Stored) -> None:
    stored.append()
    for _ in range(1500):
        stored.command(do="set", learning_rate=0.5)
    stored.append()
    ids = [entry.log_id for entry in stored.store.log.read(LogId(1, 1023), 1000)]
    assert ids[0] == (1, 1024)
    assert ids[-2:] == [(1, 1500), (2, 0)]


def test_commands_that_no_learner_takes_are_bounded(stored: Stored) -> None:
    term = stored.lead()
    stored.beat(term, LogId(0, 0), size=0)
    for _ in range(20):  # of 35 bytes
        stored.command(700, do="set", learning_rate=0.5)
    with pytest.raises(LogCrowded):
        stored.command(700, do="set", learning_rate=0.5)


def test_reading_on_notices_what_is_missing(stored: Stored) -> None:
    for _ in range(3):
        stored.append(2)
    log = stored.store.log
    assert [entry.log_id.position for entry in log.follow(LogId(2, 0))] == [4, 6]
    assert [entry.log_id.position for entry in log.follow(START, LogId(4, 0))] == [2, 4]
    assert list(log.follow(LogId(6, 0))) == []
    with pytest.raises(LogGap):
        list(log.follow(START, LogId(8, 0)))
    stored.link.call("XDEL", keys.log(stored.name), "4-0")
    with pytest.raises(LogGap):
        list(log.follow(START))
