"""What was acknowledged survives SIGKILL of any part; what was not is sent again and counts once."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import urllib3

from tests.harness import FRESHET, Api, Server, alive, running, wait_until

SPEC = {"task": "binary", "features": 3, "layers": [{"units": 8}]}
SLOW_SYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static void slow(void) { usleep(1500000); }
int fsync(int fd) { slow(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { slow(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""


class Feeder(threading.Thread):
    """Sends observations with ids in order, each until it is acknowledged."""

    def __init__(self, server: Server, name: str, count: int) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._path = f"/v1/models/{name}/feedback"
        self._count = count
        self.acknowledged = 0
        self.retries = 0
        self.refused: list[object] = []

    def run(self) -> None:
        for number in range(self._count):
            features = [number % 7, number % 5, number % 3]
            body = {"features": features, "label": number % 2, "id": str(number)}
            while not self._send(body):
                self.retries += 1
                time.sleep(0.05)
            self.acknowledged += 1

    def _send(self, body: object) -> bool:
        try:
            answer = self._server.api("POST", self._path, body)
        except urllib3.exceptions.HTTPError:
            return False
        if answer.status not in (200, 202, 503):
            self.refused.append(answer)
        return answer.status in (200, 202)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with running(folder, web_workers=2) as started:
        yield started


def restart(server: Server) -> None:
    server.kill()
    server.start()


DISASTERS: dict[str, Callable[[Server], None]] = {
    "learner": lambda server: server.kill_part("learner"),
    "web": lambda server: server.kill_part("web"),
    "gunicorn": lambda server: server.kill_part("gunicorn"),
    "redis": lambda server: server.kill_part("redis"),
    "everything": restart,
}


@pytest.mark.parametrize(
    "disaster",
    [
        pytest.param(disaster, id=part, marks=[pytest.mark.slow] if part in ("gunicorn", "redis") else [])
        for part, disaster in DISASTERS.items()
    ],
)
def test_every_observation_counts_once_through(disaster: Callable[[Server], None], server: Server) -> None:
    count = 1500
    server.api("PUT", "/v1/models/m", SPEC)
    feeder = Feeder(server, "m", count)
    feeder.start()
    for part in (1, 2):
        wait_until(lambda part=part: feeder.acknowledged > part * count // 4, 60, server.log)
        disaster(server)
    feeder.join(90)
    assert not feeder.refused
    assert feeder.acknowledged == count, server.log()
    server.wait_step("m", count)
    time.sleep(0.3)
    assert server.step("m") == count
    assert server.api("GET", "/v1/models/m").body["metrics"]["observations"] == count


def test_a_restart_goes_on_at_the_step_where_it_stopped(server: Server) -> None:
    server.api("PUT", "/v1/models/m", SPEC)
    rows = [{"features": [i % 7, i % 5, 1], "label": i % 2} for i in range(500)]
    server.api("POST", "/v1/models/m/feedback", {"observations": rows})
    server.wait_step("m", 500)
    before = server.api("POST", "/v1/models/m/predict", {"instances": [[1, 2, 3]]}).body
    assert server.stop() == 0
    server.start()
    after = server.api("POST", "/v1/models/m/predict", {"instances": [[1, 2, 3]], "min_step": 500}).body
    assert after == before


def test_the_step_does_not_go_back_when_the_web_process_is_restarted(folder: Path) -> None:
    with running(folder, web_workers=1, snapshot_seconds=600) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        feeder = Feeder(server, "m", 600)
        feeder.start()
        for least in (150, 300, 450):
            wait_until(lambda least=least: feeder.acknowledged >= least, 60, server.log)
            seen = predicted(server)["step"]
            server.kill_part("web")
            wait_until(lambda: predicted(server)["step"] >= 0, 20, server.log)
            assert predicted(server)["step"] >= seen > 0
        feeder.join(60)
        server.wait_step("m", 600)
        before = predicted(server)
        [learner] = server.pids("learner")
        os.kill(learner, signal.SIGSTOP)
        try:
            server.kill_part("web")
            wait_until(lambda: predicted(server)["step"] >= 0, 20, server.log)
            assert predicted(server) == before
        finally:
            os.kill(learner, signal.SIGCONT)
        assert "this process replays the log" in server.log()


def predicted(server: Server) -> dict[str, Any]:
    """What is predicted for a row now; step -1 if nothing is."""
    with suppress(urllib3.exceptions.HTTPError):
        answer = server.api("POST", "/v1/models/m/predict", {"instances": [[1, 2, 3]]})
        if answer.status == 200:
            return dict(answer.body)
    return {"step": -1}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the slow fsync is compiled with gcc")
def test_what_was_acknowledged_is_on_disk_though_its_fsync_is_slow(folder: Path) -> None:
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(SLOW_SYNC)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    server = Server(folder, redis_timeout=5, apply_timeout=5)
    server.environment["LD_PRELOAD"] = str(library)
    server.api = Api(server.port, timeout=60)  # every write waits for a sync, and for those before it
    try:
        server.start()
        server.api("PUT", "/v1/models/m", SPEC)
        feeder = Feeder(server, "m", 3)
        started = time.monotonic()
        feeder.start()
        wait_until(lambda: feeder.acknowledged >= 2, 60, server.log)
        assert time.monotonic() - started > 2 * 1.5
        acknowledged = feeder.acknowledged
        server.kill()
        link = offline_redis(server)
        assert link.xinfo_stream("freshet:{m}:log")["last-generated-id"] >= f"{acknowledged}-0".encode()
    finally:
        server.kill()
        stop_offline_redis(server)


def offline_redis(server: Server) -> redis.Redis:
    """The data folder's own server without Freshet around it."""
    code = (
        "from service import embedded, settings; import os;"
        f"s = settings.load_settings(data_dir=__import__('pathlib').Path({str(server.data_dir)!r}));"
        "c = embedded.command(s); os.execv(c[0], c)"
    )
    server.process = subprocess.Popen([sys.executable, "-c", code])
    link = redis.Redis(unix_socket_path=str(server.data_dir / "redis.sock"), decode_responses=False)

    def answers() -> bool:
        try:
            return bool(link.ping())
        except redis.RedisError:
            return False

    wait_until(answers, 20)
    return link


def stop_offline_redis(server: Server) -> None:
    if server.process is not None and server.process.poll() is None:
        server.process.kill()
        server.process.wait()


def test_a_second_serve_on_the_same_data_folder_is_refused(server: Server) -> None:
    second = subprocess.run(
        [*FRESHET, "serve", "--port", "1", "--data-dir", str(server.data_dir)],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 2
    assert f"another `freshet serve` uses the data folder {server.data_dir}" in second.stderr


def test_the_embedded_server_ends_with_serve_and_can_be_looked_into_before(server: Server) -> None:
    [pid] = server.pids("redis")
    link = redis.Redis(unix_socket_path=str(server.data_dir / "redis.sock"))
    assert link.config_get("appendfsync") == {"appendfsync": "always"}
    link.close()
    server.kill()
    assert not alive(pid)


def test_a_misspelt_setting_stops_the_start(server: Server) -> None:
    environment = server.environment | {"FRESHET_WEB_WORKER": "2"}
    started = subprocess.run(
        [*FRESHET, "serve"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert started.returncode == 2
    assert "FRESHET_WEB_WORKER" in started.stderr


def test_a_redis_that_may_evict_is_refused(server: Server) -> None:
    link = redis.Redis(unix_socket_path=str(server.data_dir / "redis.sock"))
    link.config_set("maxmemory-policy", "allkeys-lru")
    link.close()
    url = f"unix://{server.data_dir / 'redis.sock'}"
    started = subprocess.run(
        [*FRESHET, "learner"],
        env=server.environment | {"REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 2
    assert "noeviction" in started.stderr
