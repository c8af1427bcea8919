"""Connections to Redis that are cut, half open, slow or mute, and a Redis that stands still: everything resumes."""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import oracle
from tests.faults import Part, Proxy, System, system
from tests.harness import crowd, wait_until
from tests.predictions import Predictions, predicting


class Proxied(NamedTuple):
    """A system with one web process behind a proxy, and a fresh model."""

    whole: System
    proxy: Proxy
    web: Part
    name: str


@pytest.fixture(scope="module")
def web_behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Proxy, Part]]:
    """A learner, and a web process that reaches Redis through a proxy."""
    with system(tmp_path_factory.mktemp("connections")) as whole:
        whole.start("learner")
        proxy = whole.proxy()
        yield whole, proxy, whole.start("web", proxy)


@pytest.fixture
def proxied(web_behind_proxy: tuple[System, Proxy, Part]) -> Proxied:
    """The shared system, and a fresh model on it."""
    whole, proxy, web = web_behind_proxy
    return Proxied(whole, proxy, web, web.create(oracle.spec()))


@contextmanager
def in_use(proxied: Proxied, ledger: oracle.Ledger, seed: int) -> Iterator[tuple[oracle.Driver, Predictions]]:
    """Feedback and predictions that go on meanwhile, once the first feedback is acknowledged."""
    whole, _, web, name = proxied
    with (
        oracle.Driver(web.port, name, ledger, seed=seed, pause=0.02) as driver,
        predicting(web.port, name) as predictions,
    ):
        wait_until(lambda: driver.recovered_since(0.0), 20, whole.log)
        yield driver, predictions


def test_a_half_open_connection_is_noticed_and_everything_resumes(proxied: Proxied, folder: Path) -> None:
    whole, proxy, web, name = proxied
    ledger = oracle.Ledger(folder / "ledger")
    with in_use(proxied, ledger, seed=7) as (driver, predictions):
        proxy.hold()
        started = time.monotonic()
        refused = oracle.feed(web.api, name, oracle.PLACES - 1)
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert time.monotonic() - started < 4.0
        wait_until(lambda: bool(predictions.stale), 20, whole.log)
        moment = time.monotonic()
        proxy.release()
        wait_until(lambda: driver.recovered_since(moment), 20, whole.log)
        print(f"resumed after {time.monotonic() - moment:.2f} s")
        driver.stop()
        ledger.sent.add(oracle.PLACES - 1)  # its outcome is unknown
    assert predictions.statuses == {200}
    assert max(predictions.stale) > 2
    oracle.judge(web, ledger, name)


def test_a_redis_that_stands_still_harms_no_prediction(proxied: Proxied, folder: Path) -> None:
    whole, _, web, name = proxied
    ledger = oracle.Ledger(folder / "ledger")
    with in_use(proxied, ledger, seed=10) as (driver, predictions):
        whole.redis.pause()
        time.sleep(4)
        moment = time.monotonic()
        whole.redis.go_on()
        wait_until(lambda: driver.recovered_since(moment), 20, whole.log)
        print(f"resumed after {time.monotonic() - moment:.2f} s; predictions p99 {predictions.p99:.3f} s")
        driver.stop()
    assert predictions.statuses == {200}
    assert predictions.stale
    oracle.judge(web, ledger, name)


def test_a_lost_publication_is_made_up_for_within_a_second(proxied: Proxied) -> None:
    whole, proxy, web, name = proxied
    oracle.teach(web, name, range(3))
    waits = []
    for place in range(3, 8):
        proxy.mute = b"PSUBSCRIBE"
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(oracle.feed, web.api, name, place)
            with whole.redis.link as link:
                lease, published = f"freshet:{{{name}}}:lease", f"{place + 1}-0".encode()
                wait_until(lambda: link.hget(lease, "published") == published, 20, whole.log)  # noqa: B023
            proxy.mute = None
            lost_at = time.monotonic()
            web.wait_step(name, place + 1)
            waits.append(time.monotonic() - lost_at)
            assert sent.result().status in (200, 202)
    print("seconds behind after a lost publication:", ", ".join(f"{wait:.2f}" for wait in waits))
    assert statistics.median(waits) < 1.0
    assert max(waits) < crowd(), waits


def test_a_learner_that_is_cut_off_hands_over_and_writes_nothing_afterwards(whole: System) -> None:
    proxy = whole.proxy()
    first = whole.start("learner", proxy)
    web = whole.start("web")
    name = web.create(oracle.spec())
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, name, ledger, seed=8, pause=0.02) as driver:
        wait_until(lambda: driver.recovered_since(0.0), 20, whole.log)
        whole.start("learner")
        proxy.hold()
        wait_until(lambda: web.described(name)["term"] == 2, 20, whole.log)
        proxy.release()  # what the first learner had sent arrives now
        wait_until(lambda: "leads no longer" in first.log(), 20, whole.log)
        moment = time.monotonic()
        wait_until(lambda: driver.recovered_since(moment), 20, whole.log)
        driver.stop()
    assert web.described(name)["term"] == 2
    oracle.judge(web, ledger, name)


@pytest.mark.slow
def test_a_slow_network_delays_and_breaks_nothing(whole: System) -> None:
    proxy = whole.proxy()
    whole.start("learner", proxy)
    web = whole.start("web", proxy)
    name = web.create(oracle.spec())
    proxy.delay = 0.05
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, name, ledger, seed=9) as driver:
        wait_until(lambda: driver.recovered_since(time.monotonic() - 1), 20, whole.log)
        time.sleep(2)
        driver.stop()
    assert not ledger.errors
    oracle.judge(web, ledger, name)
