"""Large states and blobs in Redis: in pieces, replaced as a whole, and gone when nothing refers to them."""

import os
import threading
import time

import pytest

from service.errors import StoreUnavailable, TermLost, WrongGeneration
from service.store import keys, models
from service.store.checkpoints import Checkpoint
from service.store.connection import Link
from service.store.entries import LogId
from service.store.model_part import Fence
from service.store.model_store import ModelStore
from service.store.pieces import SIZE, Pieces
from service.store.snapshots import Keep
from tests.faults import Valkey
from tests.stored import Stored

LARGE = 5 * SIZE // 2  # bytes: three pieces
START = LogId(0, 0)


@pytest.fixture
def stored(link: Link) -> Stored:
    """A fresh model."""
    return Stored(link)


def led(stored: Stored) -> Fence:
    return stored.fence(stored.lead(), START)


def pieces(stored: Stored) -> int:
    return int(stored.link.call("HLEN", keys.pieces(stored.name)))


def checkpoint(stored: Stored, fence: Fence, name: str, state: bytes, most: int = 3) -> None:
    made = Checkpoint(name, str(START), 0, 0.0, "requested", "", len(state))
    stored.store.checkpoints.save(fence, made, state, most)


def test_a_large_state_comes_back_as_it_was(stored: Stored) -> None:
    fence, state = led(stored), os.urandom(LARGE)
    stored.snapshot(fence, state)
    assert stored.state() == state
    assert pieces(stored) == 3


@pytest.mark.parametrize("size", [0, 1, SIZE])
def test_a_small_state_is_stored_as_it_is(stored: Stored, size: int) -> None:
    fence, state = led(stored), os.urandom(size)
    stored.snapshot(fence, state)
    assert stored.state() == state
    assert pieces(stored) == 0


def test_a_snapshot_drops_the_pieces_of_the_one_before(stored: Stored) -> None:
    fence = led(stored)
    for _ in range(3):
        stored.snapshot(fence, os.urandom(LARGE))
    assert pieces(stored) == 3
    stored.snapshot(fence, b"small")
    assert pieces(stored) == 0


def test_no_command_writes_more_than_a_piece(stored: Stored, valkey: Valkey) -> None:
    fence = led(stored)
    before = int(stored.link.call("INFO", "stats").split(b"total_net_input_bytes:")[1].split()[0])
    stored.link.call(
        "CONFIG", "SET", "client-query-buffer-limit", 2 * SIZE
    )  # a longer command ends its connection
    stored.snapshot(fence, os.urandom(20 * SIZE))
    checkpoint(stored, fence, "1-0", os.urandom(20 * SIZE))
    stored.link.call("CONFIG", "SET", "client-query-buffer-limit", 1 << 30)
    after = int(stored.link.call("INFO", "stats").split(b"total_net_input_bytes:")[1].split()[0])
    assert after - before > 40 * SIZE


def test_a_learner_that_leads_no_longer_leaves_no_pieces(stored: Stored) -> None:
    fence = led(stored)
    state = os.urandom(LARGE)
    stored.snapshot(fence, state)
    stored.lead()
    with pytest.raises(TermLost):
        stored.snapshot(fence, os.urandom(LARGE))
    with pytest.raises(TermLost):
        checkpoint(stored, fence, "1-0", os.urandom(LARGE))
    assert stored.state() == state
    assert pieces(stored) == 3


def test_a_piece_that_redis_has_lost_leaves_the_older_snapshot(stored: Stored, link: Link) -> None:
    fence, state = led(stored), os.urandom(LARGE)
    stored.snapshot(fence, state)
    stop = threading.Event()

    def lose() -> None:
        other = Link(link_url, 5)
        while not stop.is_set():
            for field in other.call("HKEYS", keys.pieces(stored.name)):
                if field.endswith(b":1") and field not in kept:
                    other.call("HDEL", keys.pieces(stored.name), field)

    kept = set(link.call("HKEYS", keys.pieces(stored.name)))
    link_url = f"unix://{link.call('CONFIG', 'GET', 'unixsocket')[1].decode()}"
    thief = threading.Thread(target=lose)
    thief.start()
    try:
        with pytest.raises(StoreUnavailable, match="lost a part"):
            stored.snapshot(fence, os.urandom(30 * SIZE))
    finally:
        stop.set()
        thief.join()
    assert stored.state() == state


def test_a_checkpoint_that_makes_room_takes_its_pieces_with_it(stored: Stored) -> None:
    fence = led(stored)
    for number in range(1, 8):
        checkpoint(stored, fence, f"{number}-0", os.urandom(LARGE), most=2)
    assert pieces(stored) == 6


def test_a_blob_that_no_replay_needs_takes_its_pieces_with_it(stored: Stored) -> None:
    fence = led(stored)
    for number in range(4):
        stored.store.log.append_command(b"%d" % number, {"do": "weights"}, b"", blob=os.urandom(LARGE))
    assert pieces(stored) == 12
    log_id = LogId(0, 4)
    stored.snapshot(stored.fence(fence.term, log_id), b"small", Keep(trim_below=0, keep_bytes=0, blobs=1))
    assert pieces(stored) == 3


def test_a_rollback_keeps_the_pieces_of_a_checkpoint_that_goes(stored: Stored) -> None:
    fence, state = led(stored), os.urandom(LARGE)
    checkpoint(stored, fence, "1-0", state)
    command = stored.store.log.append_command(b"key", {"do": "rollback"}, b"", checkpoint="1-0")
    assert command is not None
    checkpoint(stored, fence, "2-0", os.urandom(LARGE), most=1)
    assert stored.store.checkpoints.state("1-0") is None
    make_old(stored)
    stored.snapshot(fence, b"small")
    assert stored.store.checkpoints.blob(command) == state
    assert stored.store.checkpoints.state("2-0") is not None
    assert pieces(stored) == 6


def make_old(stored: Stored) -> None:
    """Rename the pieces to what they would be called if they were written a day ago, wherever they are referred to."""
    for key in (
        keys.pieces(stored.name),
        keys.blobs(stored.name),
        keys.checkpoint_states(stored.name),
        keys.snapshot(stored.name),
    ):
        found = stored.link.call("HGETALL", key)
        for field, value in zip(found[::2], found[1::2], strict=True):
            stored.link.call("HDEL", key, field)
            stored.link.call("HSET", key, aged(field), aged(value))


def aged(value: bytes) -> bytes:
    """A name of pieces, or a reference to them, that is a day old."""
    now = str(time.time_ns() // 10**14).encode()  # what all names of this day begin with
    day = str(time.time_ns() // 10**14 - 1).encode()
    head, mark, rest = value.partition(now)
    return head + day + rest if mark and len(value) < 100 and b"-" in rest else value


def test_pieces_of_a_write_that_was_given_up_go_later(stored: Stored) -> None:
    fence = led(stored)
    values = Pieces(stored.link, stored.name, stored.generation)
    with pytest.raises(StoreUnavailable), values.written(os.urandom(LARGE)):
        raise StoreUnavailable("no answer", sent=True)
    assert pieces(stored) == 3
    stored.snapshot(fence, b"small")
    assert pieces(stored) == 3, "they may still be referred to"
    make_old(stored)
    stored.snapshot(fence, b"small")
    assert pieces(stored) == 0


def test_a_command_that_is_repeated_leaves_the_pieces_of_the_first_alone(stored: Stored) -> None:
    blob = os.urandom(LARGE)
    wanted = {"command": {"do": "weights"}, "digest": b"digest", "blob": blob}
    first = stored.store.log.append_command(b"key", **wanted)
    assert stored.store.log.append_command(b"key", **wanted) == first
    assert first is not None
    assert stored.store.checkpoints.blob(first) == blob
    assert pieces(stored) == 3


def test_a_deleted_model_leaves_no_pieces_and_takes_no_more(stored: Stored) -> None:
    fence = led(stored)
    stored.snapshot(fence, os.urandom(LARGE))
    assert models.delete(stored.link, stored.name)
    with pytest.raises(WrongGeneration):
        stored.snapshot(fence, os.urandom(LARGE))
    assert pieces(stored) == 0


def test_whoever_reads_while_snapshots_are_replaced_gets_a_whole_one(stored: Stored) -> None:
    fence = led(stored)
    stored.snapshot(fence, bytes([0]) * LARGE)
    url = f"unix://{stored.link.call('CONFIG', 'GET', 'unixsocket')[1].decode()}"
    other = ModelStore(Link(url, 5), stored.name, stored.generation)
    stop = threading.Event()

    def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            stored.snapshot(fence, bytes([number % 256]) * LARGE)
            time.sleep(0.002)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(200):
            found = other.snapshots.load()
            assert found is not None
            assert found.state == found.state[:1] * LARGE
    finally:
        stop.set()
        writer.join()
