"""Kills at the moments that matter most: between what is written and what is told of it."""

import os
from pathlib import Path

import pytest

from service import failpoints
from service.errors import SettingsError
from service.settings import Settings
from tests import oracle
from tests.faults import system
from tests.harness import running, wait_until

KILLS = {"after-append": 40, "after-step": 60, "before-snapshot": 2, "after-snapshot": 3}


def test_a_kill_at_each_failpoint_loses_nothing_and_counts_nothing_twice(folder: Path) -> None:
    points = ",".join(f"{place}:{arrival}" for place, arrival in KILLS.items())
    markers = [folder / "data" / f"failpoint-{place}" for place in KILLS]
    with running(folder, web_workers=2, failpoint=points) as server:
        assert server.api("PUT", "/v1/models/m", oracle.spec()).status == 201
        ledger = oracle.Ledger(folder / "ledger")
        with oracle.Driver(server.port, "m", ledger, seed=4, pause=0.005) as driver:
            wait_until(lambda: all(marker.exists() for marker in markers), 60, server.log)
            hit_at = max(driver.applied_at.values())
            wait_until(lambda: driver.recovered_since(hit_at), 20, server.log)
            driver.stop()
        server.wait_step("m", max(position for _, position in ledger.spans))
        found = oracle.verdict(ledger, server.api, "m")
        print(found)
        assert found.clean, found
        # The learner's; a web process is replaced by gunicorn.
        assert sum(status == -9 for status in deaths(server.log())) == 3


def deaths(log: str) -> list[int]:
    """The statuses of the processes that `serve` saw die."""
    lines = [line for line in log.splitlines() if "a process died" in line]
    return [int(line.rpartition("status=")[2]) for line in lines]


def test_a_learner_paused_inside_its_snapshot_call_writes_nothing_when_it_goes_on(folder: Path) -> None:
    with system(folder) as running_system:
        first = running_system.start("learner", failpoint="before-snapshot:2:stop")
        web = running_system.start("web")
        assert web.api("PUT", "/v1/models/m", oracle.spec()).status == 201
        ledger = oracle.Ledger(folder / "ledger")
        with oracle.Driver(web.port, "m", ledger, seed=5, pause=0.01) as driver:
            wait_until((folder / "failpoint-before-snapshot").exists, 30, running_system.log)
            running_system.start("learner")
            wait_until(lambda: web.api("GET", "/v1/models/m").body["term"] == 2, 20, running_system.log)
            link = running_system.redis.link
            wait_until(lambda: link.hget("freshet:{m}:snapshot", "term") == b"2", 20, running_system.log)
            before = link.hgetall("freshet:{m}:snapshot")[b"log_id"]
            first.go_on()
            wait_until(lambda: "leads no longer" in first.log(), 20, running_system.log)
            kept = link.hgetall("freshet:{m}:snapshot")
            link.close()
            assert kept[b"term"] == b"2"
            assert int(kept[b"log_id"].split(b"-")[0]) >= int(before.split(b"-")[0])
            driver.stop()
        settle(web, ledger)


def test_a_learner_paused_past_its_lease_writes_nothing_when_it_goes_on(folder: Path) -> None:
    with system(folder) as running_system:
        first = running_system.start("learner")
        web = running_system.start("web")
        assert web.api("PUT", "/v1/models/m", oracle.spec()).status == 201
        ledger = oracle.Ledger(folder / "ledger")
        with oracle.Driver(web.port, "m", ledger, seed=6, pause=0.01) as driver:
            wait_until(lambda: driver.recovered_since(0.0), 30, running_system.log)
            second = running_system.start("learner")
            for term, paused, other in ((2, first, second), (3, second, first)):
                paused.pause()
                wait_until(
                    lambda term=term: web.api("GET", "/v1/models/m").body["term"] == term, 20, other.log
                )
                moment = max(driver.applied_at.values())
                paused.go_on()
                wait_until(lambda paused=paused: "leads no longer" in paused.log(), 20, paused.log)
                wait_until(lambda moment=moment: driver.recovered_since(moment), 20, running_system.log)
            driver.stop()
        settle(web, ledger)


def settle(web, ledger):  # type: ignore[no-untyped-def]
    """Wait until all that was acknowledged is applied, and judge."""
    last = max(position for _, position in ledger.spans)
    wait_until(lambda: web.api("GET", "/v1/models/m").body["step"] >= last, 20, web.log)
    found = oracle.verdict(ledger, web.api, "m")
    print(found)
    assert found.clean, found


def test_a_failpoint_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="after-append"):
        failpoints.configure(Settings(data_dir=folder, failpoint="nowhere:1"))
    failpoints.configure(Settings(data_dir=folder))
    failpoints.reach("after-append")
    assert os.getpid()
