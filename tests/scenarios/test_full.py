"""A full disk and a full memory: nothing acknowledged is lost, predictions go on, and it recovers by itself."""

import time
from pathlib import Path

import pytest

from tests import oracle
from tests.faults import small_disk
from tests.harness import running, wait_until


def test_a_full_disk_loses_nothing_and_is_recovered_from(folder: Path) -> None:
    with small_disk(folder / "data", 24), running(folder, web_workers=1, apply_timeout=2) as server:
        assert server.api("PUT", "/v1/models/m", oracle.spec(4000)).status == 201
        ledger = oracle.Ledger(folder / "ledger")
        with oracle.Driver(server.port, "m", ledger, seed=13, places=4000, pause=0.05) as driver:
            wait_until(lambda: driver.recovered_since(0.0), 30, server.log)
            fill(folder / "data" / "filler")
            wait_until(lambda: any(kind.startswith("503") for kind in ledger.errors), 30, server.log)
            time.sleep(2)
            answer = server.api("POST", "/v1/models/m/predict", {"instances": [[0]]})
            assert answer.status == 200
            (folder / "data" / "filler").unlink()
            moment = time.monotonic()
            wait_until(lambda: driver.recovered_since(moment), 30, server.log)
            print(f"recovered {time.monotonic() - moment:.2f} s after there was space again")
            driver.stop()
        oracle.judge(server, ledger, "m", 4000)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (2**16, 2**12):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


@pytest.mark.slow
def test_a_full_memory_keeps_the_lead_and_is_emptied_by_a_delete(folder: Path) -> None:
    with running(folder, web_workers=1, apply_timeout=2, maxmemory="16mb") as server:
        assert server.api("PUT", "/v1/models/m", oracle.spec(4000)).status == 201
        assert (
            server.api("PUT", "/v1/models/large", {"task": "binary", "features": 1000, "layers": []}).status
            == 201
        )
        ledger = oracle.Ledger(folder / "ledger")
        with oracle.Driver(server.port, "m", ledger, seed=14, places=4000, pause=0.05) as driver:
            wait_until(lambda: driver.recovered_since(0.0), 30, server.log)
            rows = {"observations": [{"features": [1.0] * 1000, "label": 1}] * 100}
            statuses = set()
            for _ in range(40):
                statuses.add(server.api("POST", "/v1/models/large/feedback", rows).status)
            assert statuses & {429, 503}, statuses
            with server.link as link:
                used = link.info("memory")
                link.config_set("maxmemory", int(used["used_memory"] * 0.95))  # now every write is refused
                time.sleep(4)
                assert server.api("POST", "/v1/models/m/predict", {"instances": [[0]]}).status == 200
                assert server.api("GET", "/v1/models/m").body["term"] == 1
                assert link.hget("freshet:{m}:lease", "term") == b"1"
                assert server.api("DELETE", "/v1/models/large").status == 204
            moment = time.monotonic()
            wait_until(lambda: driver.recovered_since(moment), 20, server.log)
            print(f"recovered {time.monotonic() - moment:.2f} s after the delete")
            driver.stop()
        assert server.api("GET", "/v1/models/m").body["term"] == 1
        oracle.judge(server, ledger, "m", 4000)
