"""A Redis that is away, slow, half there, older or empty: predictions go on, nothing is built upon what is gone."""

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from urllib3.exceptions import HTTPError

from tests import oracle
from tests.faults import Part, System, Valkey, system
from tests.harness import FRESHET, Api, wait_until

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
  char text[32] = {0};
  int file = open(getenv("CLOCK_FILE"), O_RDONLY);
  if (file < 0) return 0;
  if (read(file, text, 31) < 0) text[0] = 0;
  close(file);
  return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *at) {
  int status = ((int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime"))(id, at);
  if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += jump();
  return status;
}
int gettimeofday(struct timeval *at, void *zone) {
  int status = ((int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday"))(at, zone);
  at->tv_sec += jump();
  return status;
}
time_t time(time_t *at) {
  time_t now = ((time_t (*)(time_t *))dlsym(RTLD_NEXT, "time"))(NULL) + jump();
  if (at) *at = now;
  return now;
}
"""


class Predictions(threading.Thread):
    """Asks for predictions all the time and notes how each went."""

    def __init__(self, web: Part, name: str = "m") -> None:
        super().__init__(daemon=True)
        self._api = Api(web.port, timeout=5)
        self._path = f"/v1/models/{name}/predict"
        self._stopping = threading.Event()
        self.seconds: list[float] = []
        self.statuses: set[int] = set()
        self.stale: list[float] = []  # ages of stale answers

    def run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            answer = self._api("POST", self._path, {"instances": [[0]]})
            self.seconds.append(time.monotonic() - started)
            self.statuses.add(answer.status)
            if answer.status == 200 and answer.body["stale"]:
                self.stale.append(answer.body["age"])
            time.sleep(0.01)
        self._api.close()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self.join()

    @property
    def p99(self) -> float:
        """The 99th of 100 durations, in seconds."""
        return statistics.quantiles(self.seconds, n=100)[98]


@contextmanager
def predicting(web: Part) -> Iterator[Predictions]:
    """Predictions that go on meanwhile."""
    predictions = Predictions(web)
    predictions.start()
    try:
        yield predictions
    finally:
        predictions.stop()


@pytest.fixture
def whole(folder: Path) -> Iterator[System]:
    with system(folder) as made:
        yield made


def create(web: Part) -> None:
    assert web.api("PUT", "/v1/models/m", oracle.spec()).status == 201


def feed(web: Part, place: int, **headers: str):  # type: ignore[no-untyped-def]
    return web.api("POST", "/v1/models/m/feedback", oracle.observation(place), headers)


def fed(web: Part, places: range) -> None:
    """Feed places and wait until they are applied."""
    for place in places:
        assert feed(web, place).status in (200, 202)
    wait_until(lambda: described(web)["step"] >= described(web)["step"] + described(web)["lag"], 20, web.log)


def described(web: Part) -> dict[str, object]:
    return web.api("GET", "/v1/models/m").body


def wait_step(web: Part, step: int) -> None:
    wait_until(lambda: described(web)["step"] >= step, 20, web.log)


def judge(web: Part, ledger: oracle.Ledger) -> None:
    """All that was acknowledged counts once."""
    wait_step(web, max(position for _, position in ledger.spans))
    found = oracle.verdict(ledger, web.api, "m")
    print(found)
    assert found.clean, found


def test_three_dropped_answers_make_one_entry(whole: System) -> None:
    proxy = whole.proxy()
    whole.start("learner")
    web = whole.start("web", proxy, redis_timeout=3)
    create(web)
    proxy.swallow = (b"freshet:{m}:log", 3)
    answer = feed(web, 0)
    assert answer.status in (200, 202), answer
    assert proxy.swallow[1] == 0
    wait_step(web, 1)
    with whole.redis.link as link:
        assert link.xlen("freshet:{m}:log") == 1
    assert oracle.applications(web.api, "m", 3) == [1, 0, 0]


def test_an_unknown_outcome_is_settled_by_its_token(whole: System) -> None:
    proxy = whole.proxy()
    whole.start("learner")
    web = whole.start("web", proxy)
    create(web)
    proxy.swallow = (b"freshet:{m}:log", 10_000)
    answer = feed(web, 0)
    assert (answer.status, answer.body["type"]) == (503, oracle.OUTCOME_UNKNOWN)
    proxy.swallow = (b"", 0)
    again = feed(web, 0, **{"Idempotency-Key": answer.body["token"]})
    assert again.status in (200, 202)
    wait_step(web, 1)
    assert oracle.applications(web.api, "m", 2) == [1, 0]


def test_a_half_open_connection_is_noticed_and_everything_resumes(whole: System) -> None:
    proxy = whole.proxy()
    whole.start("learner")
    web = whole.start("web", proxy)
    create(web)
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, "m", ledger, seed=7, pause=0.01) as driver, predicting(web) as predictions:
        wait_until(lambda: driver.recovered_since(0.0), 20, whole.log)
        proxy.hold()
        started = time.monotonic()
        refused = feed(web, oracle.PLACES - 1)
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
    judge(web, ledger)


def test_a_learner_that_is_cut_off_hands_over_and_writes_nothing_afterwards(whole: System) -> None:
    proxy = whole.proxy()
    first = whole.start("learner", proxy)
    web = whole.start("web")
    create(web)
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, "m", ledger, seed=8, pause=0.01) as driver:
        wait_until(lambda: driver.recovered_since(0.0), 20, whole.log)
        whole.start("learner")
        proxy.hold()
        wait_until(lambda: described(web)["term"] == 2, 20, whole.log)
        proxy.release()  # what the first learner had sent arrives now
        wait_until(lambda: "leads no longer" in first.log(), 20, whole.log)
        moment = time.monotonic()
        wait_until(lambda: driver.recovered_since(moment), 20, whole.log)
        driver.stop()
    assert described(web)["term"] == 2
    judge(web, ledger)


def test_a_lost_publication_is_made_up_for_within_a_second(whole: System) -> None:
    proxy = whole.proxy()
    whole.start("learner")
    web = whole.start("web", proxy)
    create(web)
    fed(web, range(3))
    waits = []
    for place in range(3, 8):
        proxy.mute = b"PSUBSCRIBE"
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(feed, web, place)
            with whole.redis.link as link:
                published = f"{place + 1}-0".encode()
                wait_until(lambda: link.hget("freshet:{m}:lease", "published") == published, 20, whole.log)  # noqa: B023
            proxy.mute = None
            lost_at = time.monotonic()
            wait_step(web, place + 1)
            waits.append(time.monotonic() - lost_at)
            assert sent.result().status in (200, 202)
    print("seconds behind after a lost publication:", ", ".join(f"{wait:.2f}" for wait in waits))
    assert statistics.median(waits) < 1.0


@pytest.mark.slow
def test_a_slow_network_delays_and_breaks_nothing(whole: System) -> None:
    proxy = whole.proxy()
    whole.start("learner", proxy)
    web = whole.start("web", proxy)
    create(web)
    proxy.delay = 0.05
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, "m", ledger, seed=9) as driver:
        wait_until(lambda: driver.recovered_since(time.monotonic() - 1), 20, whole.log)
        time.sleep(2)
        driver.stop()
    assert not ledger.errors
    judge(web, ledger)


def test_a_redis_that_stands_still_harms_no_prediction(whole: System) -> None:
    whole.start("learner")
    web = whole.start("web")
    create(web)
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, "m", ledger, seed=10, pause=0.01) as driver, predicting(web) as predictions:
        wait_until(lambda: driver.recovered_since(0.0), 20, whole.log)
        whole.redis.pause()
        time.sleep(4)
        moment = time.monotonic()
        whole.redis.go_on()
        wait_until(lambda: driver.recovered_since(moment), 20, whole.log)
        print(f"resumed after {time.monotonic() - moment:.2f} s; predictions p99 {predictions.p99:.3f} s")
        driver.stop()
    assert predictions.statuses == {200}
    assert predictions.stale
    judge(web, ledger)


def test_feedback_that_waits_without_a_learner_harms_no_prediction(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web", web_threads=8)
    create(web)
    fed(web, range(1))
    learner.kill()
    with predicting(web) as predictions, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda place: feed(web, place), range(1, 201)))
    assert {answer.status for answer in answers} <= {202}
    print(
        f"predictions beside 40 waiting clients: p99 {predictions.p99:.3f} s, of {len(predictions.seconds)}"
    )
    assert predictions.statuses == {200}
    assert predictions.p99 < 1.0
    whole.start("learner")
    wait_step(web, 201)
    assert oracle.applications(web.api, "m", 202) == [1] * 201 + [0]


def test_a_redis_restored_from_an_older_copy_starts_a_new_timeline(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    create(web)
    fed(web, range(50))
    whole.redis.copy(whole.folder / "copy")
    wait_until(lambda: feed(web, 50).status == 200, 20, whole.log)
    fed(web, range(51, 80))
    whole.redis.restore(whole.folder / "copy")
    wait_until(lambda: described(web)["timeline"] == 2, 20, whole.log)
    assert described(web)["step"] == 50
    assert "new timeline" in learner.log()
    fed(web, range(80, 100))
    wait_step(web, 70)
    # Gone with the files that were replaced; nothing else, and nothing twice.
    assert oracle.applications(web.api, "m", 101) == [1] * 50 + [0] * 30 + [1] * 20 + [0]


def test_a_web_process_alone_notices_an_older_redis(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    create(web)
    fed(web, range(30))
    whole.redis.copy(whole.folder / "copy")
    wait_until(lambda: feed(web, 30).status == 200, 20, whole.log)
    fed(web, range(31, 60))
    learner.kill()
    whole.redis.restore(whole.folder / "copy")
    wait_until(lambda: "m" in web.api("GET", "/readyz").body["troubles"], 20, whole.log)
    assert "older" in web.api("GET", "/readyz").body["troubles"]["m"]
    whole.start("learner")
    wait_until(lambda: described(web)["timeline"] == 2, 20, whole.log)
    assert described(web)["step"] == 30
    wait_until(lambda: not web.api("GET", "/readyz").body["troubles"], 20, whole.log)
    fed(web, range(60, 70))
    wait_step(web, 40)
    assert oracle.applications(web.api, "m", 71) == [1] * 30 + [0] * 30 + [1] * 10 + [0]


def test_an_empty_redis_is_told_of_and_predictions_go_on(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    create(web)
    fed(web, range(10))
    whole.redis.restore(None)
    wait_until(lambda: "m" in web.api("GET", "/readyz").body["troubles"], 20, whole.log)
    assert oracle.applications(web.api, "m", 11) == [1] * 10 + [0]
    assert feed(web, 10).status in (404, 503)
    wait_until(lambda: "Redis has lost the model" in learner.log(), 20, whole.log)
    assert web.api("DELETE", "/v1/models/m").status == 204
    assert not web.api("GET", "/readyz").body["troubles"]
    create(web)
    fed(web, range(5))
    wait_step(web, 5)
    assert oracle.applications(web.api, "m", 6) == [1] * 5 + [0]


def test_a_cut_off_append_only_file_is_taken_up_to_its_last_whole_command(whole: System) -> None:
    whole.start("learner")
    web = whole.start("web")
    create(web)
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, "m", ledger, seed=11, pause=0.01) as driver:
        wait_until(lambda: driver.recovered_since(0.0), 20, whole.log)
        whole.redis.kill()
        [log] = (whole.redis.folder / "appendonlydir").glob("*.incr.aof")
        with log.open("ab") as file:  # a command that was being written: nobody has its answer
            file.write(b"*3\r\n$3\r\nSET\r\n$5\r\nhal")
        moment = time.monotonic()
        whole.redis.start()
        wait_until(lambda: driver.recovered_since(moment), 20, whole.log)
        driver.stop()
    assert described(web)["timeline"] == 1
    judge(web, ledger)


def test_a_model_deleted_and_created_again_under_load_meets_nothing_of_its_predecessor(whole: System) -> None:
    whole.start("learner")
    web = whole.start("web", web_threads=16)
    create(web)
    stop = threading.Event()

    def load(client: int) -> None:
        api = Api(web.port)
        while not stop.is_set():
            body = oracle.observation(1000 + client, id=f"old-{client}")
            assert api("POST", "/v1/models/m/feedback", body).status in (200, 202, 404, 503)
        api.close()

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load, client) for client in range(4)]
        for _ in range(15):
            assert web.api("DELETE", "/v1/models/m").status in (204, 404)
            assert web.api("PUT", "/v1/models/m", oracle.spec()).status in (200, 201)
            time.sleep(0.1)
        stop.set()
        for client in clients:
            client.result()
    assert web.api("DELETE", "/v1/models/m").status == 204
    create(web)
    answer = feed(web, 7)
    assert (answer.status, answer.body["position"]) == (200, 1), whole.log()
    wait_step(web, 1)
    counts = oracle.applications(web.api, "m", 1010)
    assert [place for place, count in enumerate(counts) if count] == [7]


def test_a_learner_of_a_deleted_model_does_not_answer_for_its_successor(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web", apply_timeout=10)
    specs = [
        {"task": "regression", "features": 2, "layers": [], "scaling": "none", "seed": seed}
        for seed in (1, 2)
    ]
    assert web.api("PUT", "/v1/models/m", specs[0]).status == 201
    wait_until(lambda: "leads " in learner.log(), 20, whole.log)
    time.sleep(0.3)
    learner.pause()  # while it waits for the log of the first model
    assert web.api("DELETE", "/v1/models/m").status == 204
    assert web.api("PUT", "/v1/models/m", specs[1]).status == 201
    predicted = web.api("POST", "/v1/models/m/predict", {"instances": [[1, 2]]}).body["predictions"][0]
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(web.api, "POST", "/v1/models/m/feedback", {"features": [1, 2], "label": 1.0})
        with whole.redis.link as link:
            wait_until(lambda: link.exists("freshet:{m}:log") == 1, 10)
        learner.go_on()
        answer = sent.result()
    assert answer.status in (200, 202), answer
    if answer.body.get("results"):
        assert answer.body["results"][0]["prediction"] == pytest.approx(predicted, rel=1e-5)
    wait_step(web, 1)
    assert described(web)["metrics"]["observations"] == 1


@pytest.mark.slow
def test_one_id_sent_a_hundred_times_and_after_a_restart_is_one_entry(whole: System) -> None:
    whole.start("learner")
    web = whole.start("web")
    create(web)

    def send(_: int) -> int:
        body = oracle.observation(3, id="one")
        return int(web.api("POST", "/v1/models/m/feedback", body).body["duplicates"])

    with ThreadPoolExecutor(25) as pool:
        assert sum(pool.map(send, range(100))) == 99
    whole.redis.kill()
    whole.redis.start()
    web.kill()
    web.start()
    wait_until(lambda: send(0) == 1, 20, whole.log)
    with whole.redis.link as link:
        assert link.xlen("freshet:{m}:log") == 1
    assert oracle.applications(web.api, "m", 5) == [0, 0, 0, 1, 0]


def test_one_poisoned_model_leaves_the_others_alone(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    create(web)
    assert web.api("PUT", "/v1/models/bad", oracle.spec(10)).status == 201
    fed(web, range(3))
    with whole.redis.link as link:
        link.xadd("freshet:{bad}:log", {"t": "x", "w": "", "s": "0", "b": b"nonsense"}, id="1-0")
        link.hset("freshet:{bad}:meta", "position", 1)
    wait_until(lambda: "bad" in web.api("GET", "/readyz").body["troubles"], 20, whole.log)
    assert learner.process is not None
    assert learner.process.poll() is None
    started = time.monotonic()
    fed(web, range(3, 30))
    assert feed(web, 30).status == 200
    assert time.monotonic() - started < 10
    wait_step(web, 31)
    assert oracle.applications(web.api, "m", 31) == [1] * 31


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the clock is moved by a library compiled with gcc")
@pytest.mark.parametrize("seconds", [86_400, pytest.param(-86_400, marks=pytest.mark.slow)])
def test_jumps_of_the_clocks_of_redis_and_learner_change_nothing(folder: Path, seconds: int) -> None:
    source, library, clock = folder / "clock.c", folder / "clock.so", folder / "clock"
    source.write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    shim = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(clock)}
    with system(folder) as whole:
        whole.redis.kill()
        whole.redis.environment |= shim
        whole.redis.start()
        learner = Part("learner", folder, whole.redis.port)
        learner.environment |= shim
        whole.parts.append(learner)
        learner.start()
        web = whole.start("web")
        create(web)
        ledger = oracle.Ledger(folder / "ledger")
        with oracle.Driver(web.port, "m", ledger, seed=12, pause=0.01) as driver:
            wait_until(lambda: driver.recovered_since(0.0), 30, whole.log)
            clock.write_text(str(seconds))
            moment = time.monotonic()
            with whole.redis.link as link:
                wait_until(lambda: abs(link.time()[0] - time.time() - seconds) < 60, 5)
            wait_until(lambda: driver.recovered_since(moment + 1), 20, whole.log)
            driver.stop()
        assert described(web)["term"] == 1
        judge(web, ledger)


@pytest.mark.slow
def test_a_redis_that_is_away_at_the_start_is_waited_for(folder: Path) -> None:
    late = Valkey(folder / "late")
    learner = Part("learner", folder, late.port)
    web = Part("web", folder, late.port)
    try:
        learner.start()
        with (folder / "web.log").open("ab") as log:
            web.process = subprocess.Popen(
                [*FRESHET, "web"], env=web.environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: _status(web) == 503, 20)
        late.start()
        wait_until(lambda: _status(web) == 200, 20, web.log)
        create(web)
        wait_until(lambda: feed(web, 0).status == 200, 20, learner.log)
    finally:
        web.kill()
        learner.kill()
        late.kill()


def _status(web: Part) -> int:
    try:
        return web.api("GET", "/readyz").status
    except HTTPError:
        return 0
