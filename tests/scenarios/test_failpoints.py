"""Kills at the moments that matter most: between what is written and what is told of it."""

import os
from pathlib import Path

import pytest

from service import failpoints
from service.errors import SettingsError
from service.settings import Settings
from tests import oracle
from tests.faults import System
from tests.harness import running, wait_until

KILLS = {"after-append": 40, "after-step": 60, "before-snapshot": 2, "after-snapshot": 3}


def test_a_kill_at_each_failpoint_loses_nothing_and_counts_nothing_twice(folder: Path) -> None:
    points = ",".join(f"{place}:{arrival}" for place, arrival in KILLS.items())
    markers = [folder / "data" / f"failpoint-{place}" for place in KILLS]
    with running(folder, web_workers=2, failpoint=points) as server:
        assert server.api("PUT", "/v1/models/m", oracle.spec()).status == 201
        ledger = oracle.Ledger(folder / "ledger")
        with oracle.Driver(server.port, "m", ledger, seed=4, pause=0.02) as driver:
            wait_until(lambda: all(marker.exists() for marker in markers), 60, server.log)
            hit_at = max(driver.applied_at.values())
            wait_until(lambda: driver.recovered_since(hit_at), 20, server.log)
            driver.stop()
        oracle.judge(server, ledger, "m")
        # The learner's; a web process is replaced by gunicorn.
        deaths = [line for line in server.log().splitlines() if "a process died" in line]
        assert sum("killed by SIGKILL" in line for line in deaths) == 3


@pytest.mark.slow
def test_a_learner_paused_inside_its_snapshot_call_writes_nothing_when_it_goes_on(whole: System) -> None:
    first = whole.start("learner", failpoint="before-snapshot:2:stop")
    web = whole.start("web")
    name = web.create(oracle.spec())
    ledger = oracle.Ledger(whole.folder / "ledger")
    snapshot = f"freshet:{{{name}}}:snapshot"
    with oracle.Driver(web.port, name, ledger, seed=5, pause=0.02) as driver, whole.redis.link as link:
        wait_until((whole.folder / "failpoint-before-snapshot").exists, 30, whole.log)
        whole.start("learner")
        wait_until(lambda: web.described(name)["term"] == 2, 20, whole.log)
        wait_until(lambda: link.hget(snapshot, "term") == b"2", 20, whole.log)
        before = link.hgetall(snapshot)[b"log_id"]
        first.go_on()
        wait_until(lambda: "leads no longer" in first.log(), 20, whole.log)
        kept = link.hgetall(snapshot)
        assert kept[b"term"] == b"2"
        assert int(kept[b"log_id"].split(b"-")[0]) >= int(before.split(b"-")[0])
        driver.stop()
    oracle.judge(web, ledger, name)


def test_a_learner_paused_past_its_lease_writes_nothing_when_it_goes_on(whole: System) -> None:
    first = whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, name, ledger, seed=6, pause=0.02) as driver:
        wait_until(lambda: driver.recovered_since(0.0), 30, whole.log)
        second = whole.start("learner")
        for term, paused, other in ((2, first, second), (3, second, first)):
            paused.pause()
            wait_until(lambda term=term: web.described(name)["term"] == term, 20, other.log)
            moment = max(driver.applied_at.values())
            paused.go_on()
            wait_until(lambda paused=paused: "leads no longer" in paused.log(), 20, paused.log)
            wait_until(lambda moment=moment: driver.recovered_since(moment), 20, whole.log)
        driver.stop()
    oracle.judge(web, ledger, name)


def test_a_failpoint_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="after-append"):
        failpoints.configure(Settings(data_dir=folder, failpoint="nowhere:1"))
    failpoints.configure(Settings(data_dir=folder))
    failpoints.reach("after-append")
    assert os.getpid()
