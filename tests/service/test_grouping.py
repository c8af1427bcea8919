"""Group commit: calls that fall due together are one pipeline, each with its own answer and error."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import StoreError, StoreUnavailable
from service.store.grouping import GroupedLink
from service.store.scripts import Script
from tests.faults import Proxy, Valkey, stopped

ADD = Script("redis.call('INCR', KEYS[1]) return {ARGV[1], redis.call('GET', KEYS[1])}")
FAIL = Script("return redis.error_reply('ERR no')")
CALLS = b"EVALSHA"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Redis of its own."""
    started = Valkey(tmp_path_factory.mktemp("grouping")).start()
    yield started
    started.kill()


def test_each_of_many_calls_at_once_gets_its_own_answer(redis: Valkey) -> None:
    link = GroupedLink(redis.url, 5.0)

    def call(number: int) -> object:
        if number % 7 == 0:
            try:
                link.run(FAIL, [], [])
            except StoreError as error:
                return type(error)
        return link.run(ADD, [b"many"], [number])[0]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(call, range(1000)))
    assert answers == [StoreError if number % 7 == 0 else str(number).encode() for number in range(1000)]
    link.close()


def test_what_comes_while_a_call_is_under_way_is_sent_together(redis: Valkey) -> None:
    link = GroupedLink(redis.url, 5.0)
    link.run(ADD, [b"together"], [0])
    assert redis.process is not None
    with ThreadPoolExecutor(20) as pool, redis.link as watcher:
        before = watcher.info("stats")["total_reads_processed"]
        with stopped(redis.process.pid):
            futures = [pool.submit(link.run, ADD, [b"together"], [number]) for number in range(20)]
            time.sleep(0.5)
        assert {future.result()[0] for future in futures} == {str(number).encode() for number in range(20)}
        reads = watcher.info("stats")["total_reads_processed"] - before
    assert reads < 6, "one for the first, one for all the others, and the watcher's"
    link.close()


def test_a_lost_connection_fails_each_call_that_was_sent_and_the_next_ones_go_on(redis: Valkey) -> None:
    proxy = Proxy(redis.port)
    link = GroupedLink(f"redis://127.0.0.1:{proxy.port}/0", 1.0)
    link.run(ADD, [b"lost"], [0])
    proxy.hold()
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(link.run, ADD, [b"lost"], [number]) for number in range(8)]
        time.sleep(0.2)
        proxy.cut()
        proxy.release()
        errors = [future.exception() for future in futures]
    lost = [error for error in errors if error is not None]
    assert lost
    assert all(isinstance(error, StoreUnavailable) and error.sent for error in lost), errors
    assert link.run(ADD, [b"lost"], ["after"])[0] == b"after"
    link.close()
    proxy.close()


def test_a_call_that_is_never_sent_says_so(redis: Valkey) -> None:
    link = GroupedLink(redis.url, 0.5)
    link.run(ADD, [b"never"], [0])
    assert redis.process is not None
    with stopped(redis.process.pid), ThreadPoolExecutor(3) as pool:
        first = pool.submit(link.run, ADD, [b"never"], [1])
        time.sleep(0.2)
        started = time.monotonic()
        later = [pool.submit(link.run, ADD, [b"never"], [number]) for number in (2, 3)]
        errors = [future.exception() for future in (first, *later)]
    assert time.monotonic() - started < 3
    assert all(isinstance(error, StoreUnavailable) for error in errors), errors
    assert errors[0].sent  # type: ignore[union-attr]
    wait = threading.Event()
    wait.wait(0.1)
    assert link.run(ADD, [b"never"], ["after"])[0] == b"after"
    link.close()


def test_a_script_that_redis_does_not_know_is_loaded_for_all(redis: Valkey) -> None:
    link = GroupedLink(redis.url, 5.0)
    script = Script("return ARGV[1] .. '!'")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: link.run(script, [], [number]), range(50)))
    assert answers == [f"{number}!".encode() for number in range(50)]
    link.close()
