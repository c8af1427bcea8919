"""What was acknowledged survives SIGKILL of any part; what was not is sent again and counts once."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import urllib3

from tests import forking, oracle
from tests.faults import Part, System, Valkey, preloaded, stopped
from tests.feeder import Feeder
from tests.harness import FRESHET, Api, Server, alive, clean_environment, running, wait_until

SPEC = {"task": "binary", "features": 3, "layers": [{"units": 8}]}
SLOW_SYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static void slow(void) { usleep(1500000); }
int fsync(int fd) { slow(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { slow(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""


@pytest.fixture(scope="module")
def restartable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose parts may be killed; each test uses models of its own names."""
    with running(tmp_path_factory.mktemp("mortal"), web_workers=2, apply_timeout=1) as started:
        yield started


@pytest.fixture
def mortal(restartable: Server) -> Server:
    """The same server, which runs whatever the last test has done to it."""
    assert restartable.process is not None
    if restartable.process.poll() is not None:
        restartable.start()
    return restartable


def feeder(server: Server, name: str, count: int) -> Feeder:
    """A client that sends so many observations one by one."""
    numbers = np.arange(count)
    X = np.stack([numbers % 7, numbers % 5, numbers % 3], axis=1)
    return Feeder(server.api, name, X, numbers % 2)


def restart(server: Server) -> None:
    """Kill all of it and start it again."""
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
def test_every_observation_counts_once_through(disaster: Callable[[Server], None], mortal: Server) -> None:
    name, count = mortal.create(SPEC), 900
    client = feeder(mortal, name, count)
    client.start()
    for part in (1, 2):
        wait_until(lambda part=part: client.acknowledged > part * count // 4, 60, mortal.log)
        disaster(mortal)
    client.join(90)
    assert not client.refused
    assert client.acknowledged == count, mortal.log()
    mortal.wait_step(name, count)
    time.sleep(0.3)
    described = mortal.described(name)
    assert (described["step"], described["metrics"]["observations"]) == (count, count)


def test_a_restart_goes_on_at_the_step_where_it_stopped(mortal: Server) -> None:
    name = mortal.create(SPEC)
    path = f"/v1/models/{name}"
    rows = [{"features": [i % 7, i % 5, 1], "label": i % 2} for i in range(500)]
    mortal.api("POST", f"{path}/feedback", {"observations": rows})
    mortal.wait_step(name, 500)
    before = mortal.api("POST", f"{path}/predict", {"instances": [[1, 2, 3]]}).body
    weights = weights_at(mortal, name, 500)
    assert mortal.stop() == 0
    mortal.start()
    after = mortal.api("POST", f"{path}/predict", {"instances": [[1, 2, 3]], "min_step": 500}).body
    assert_same(after, before)
    assert weights_at(mortal, name, 500) == weights


def test_predictions_wait_for_their_labels_through_a_restart(mortal: Server) -> None:
    path = f"/v1/models/{mortal.create(SPEC)}"
    assert mortal.api("POST", f"{path}/predict", {"instances": [[1, 2, 3]], "ids": ["a"]}).status == 200
    restart(mortal)
    assert mortal.api("POST", f"{path}/feedback", {"id": "a", "label": 1}).status in (200, 202)


def test_a_second_serve_on_the_same_data_folder_is_refused(mortal: Server) -> None:
    arguments = ["serve", "--port", "1", "--data-dir", str(mortal.data_dir)]
    second = forking.run(arguments, mortal.environment, timeout=30)
    assert second.returncode == 2
    assert f"another `freshet serve` uses the data folder {mortal.data_dir}" in second.stderr


def test_the_embedded_server_ends_with_serve_and_can_be_looked_into_before(mortal: Server) -> None:
    [pid] = mortal.pids("redis")
    with mortal.link as link:
        assert link.config_get("appendfsync") == {"appendfsync": "always"}
    mortal.kill()
    assert not alive(pid)


def test_the_step_does_not_go_back_when_the_web_process_is_restarted(folder: Path) -> None:
    with running(folder, web_workers=1, snapshot_seconds=600) as server:
        name = server.create(SPEC)
        client = feeder(server, name, 240)
        client.start()
        for least in (80, 160):
            wait_until(lambda least=least: client.acknowledged >= least, 60, server.log)
            seen = predicted(server, name)["step"]
            server.kill_part("web")
            wait_until(lambda: predicted(server, name)["step"] >= 0, 20, server.log)
            assert predicted(server, name)["step"] >= seen > 0
        client.join(60)
        server.wait_step(name, 240)
        before, weights = predicted(server, name), weights_at(server, name, 240)
        [learner] = server.pids("learner")
        with stopped(learner):
            server.kill_part("web")
            told: list[int] = []
            wait_until(lambda: told.extend(steps_told(server, name)) or len(told) > 10, 20, server.log)
            assert set(told) == {240}, "a model that has not caught up is not told of either"
            assert_same(predicted(server, name), before)
            assert weights_at(server, name, 240) == weights
        assert "this process replays the log" in server.log()


def weights_at(server: Server, name: str, step: int) -> bytes:
    """The weights at a step, bit for bit."""
    answer = server.api.raw("GET", f"/v1/models/{name}/weights?min_step={step}")
    assert (answer.status, answer.headers["Freshet-Step"]) == (200, str(step))
    return bytes(answer.data)


def steps_told(server: Server, name: str) -> Iterator[int]:
    """The model's step as each way to ask tells it; where that is an error, nothing."""
    for method, path, body in (
        ("PUT", f"/v1/models/{name}", SPEC),
        ("GET", "/v1/models", None),
        ("GET", f"/v1/models/{name}", None),
    ):
        with suppress(urllib3.exceptions.HTTPError):
            answer = server.api(method, path, body)
            if answer.status == 200:
                yield answer.body.get("models", [answer.body])[0]["step"]


def assert_same(answer: dict[str, Any], before: dict[str, Any]) -> None:
    """The same weights answered: until its compiled code is loaded, a process rounds the last digits otherwise."""
    assert {**answer, "predictions": None} == {**before, "predictions": None}
    for one, other in zip(answer["predictions"], before["predictions"], strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], rel=1e-5)


def predicted(server: Server, name: str) -> dict[str, Any]:
    """What is predicted for a row now; step -1 if nothing is."""
    with suppress(urllib3.exceptions.HTTPError):
        answer = server.api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2, 3]]})
        if answer.status == 200:
            return dict(answer.body)
    return {"step": -1}


@pytest.mark.slow
def test_what_was_acknowledged_is_on_disk_though_its_fsync_is_slow(folder: Path) -> None:
    server = Server(folder, redis_timeout=5, apply_timeout=5, web_workers=1)
    server.environment |= preloaded(folder, SLOW_SYNC)
    server.api = Api(server.port, timeout=60)  # every write waits for a sync, and for those before it
    try:
        server.start()
        name = server.create(SPEC)
        client = feeder(server, name, 3)
        started = time.monotonic()
        client.start()
        wait_until(lambda: client.acknowledged >= 2, 60, server.log)
        assert time.monotonic() - started > 2 * 1.5
        acknowledged = client.acknowledged
        server.kill()
        last = offline_redis(server).xinfo_stream(f"freshet:{{{name}}}:log")["last-generated-id"]
        assert int(last.partition(b"-")[0]) >= acknowledged
    finally:
        server.kill()
        stop_offline_redis(server)


def offline_redis(server: Server) -> redis.Redis:
    """The data folder's own server without Freshet around it."""
    code = (
        "from service import settings; from service.host import embedded; import os;"
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


def test_a_misspelt_setting_stops_the_start(folder: Path) -> None:
    environment = clean_environment() | {"FRESHET_WEB_WORKER": "2", "FRESHET_DATA_DIR": str(folder)}
    started = forking.run(["serve"], environment, timeout=30)
    assert started.returncode == 2
    assert "FRESHET_WEB_WORKER" in started.stderr


def test_a_redis_that_keeps_no_file_is_warned_of(folder: Path) -> None:
    forgetful = Valkey(folder / "redis", appendonly="no").start()
    learner = Part("learner", folder, forgetful.port).start()
    try:
        wait_until(lambda: "appendonly" in learner.log(), 30, learner.log)
    finally:
        learner.kill()
        forgetful.kill()


def test_a_redis_that_may_evict_is_refused(folder: Path) -> None:
    evicting = Valkey(folder / "redis").start()
    try:
        with evicting.link as link:
            link.config_set("maxmemory-policy", "allkeys-lru")
        started = forking.run(["learner"], clean_environment() | {"REDIS_URL": evicting.url})
    finally:
        evicting.kill()
    assert started.returncode == 2
    assert "noeviction" in started.stderr


@pytest.mark.slow
def test_one_id_sent_a_hundred_times_and_after_a_restart_is_one_entry(whole: System) -> None:
    whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())

    def send(_: int) -> int:
        body = oracle.observation(3, id="one")
        return int(web.api("POST", f"/v1/models/{name}/feedback", body).body["duplicates"])

    with ThreadPoolExecutor(25) as pool:
        assert sum(pool.map(send, range(100))) == 99
    whole.redis.kill()
    whole.redis.start()
    web.kill()
    web.start()
    wait_until(lambda: send(0) == 1, 20, whole.log)
    with whole.redis.link as link:
        assert link.xlen(f"freshet:{{{name}}}:log") == 1
    assert oracle.applications(web.api, name, 5) == [0, 0, 0, 1, 0]


def test_a_server_goes_on_when_nobody_reads_its_log_any_more(tmp_path: Path) -> None:
    server = Server(tmp_path, web_workers=1)
    (tmp_path / "serve.log").touch()
    reads, writes = os.pipe()
    arguments = ["serve", "--port", str(server.port), "--data-dir", str(server.data_dir)]
    server.process = subprocess.Popen([*FRESHET, *arguments], env=server.environment, stderr=writes)
    os.close(writes)
    server.wait_ready()
    os.close(reads)
    for part in ("learner", "web"):  # each is logged
        ended = server.pids(part)[0]
        server.kill_part(part)
        wait_until(lambda part=part, ended=ended: server.pids(part) not in ([], [ended]), 20)
    server.wait_ready()
    assert server.stop() == 0
