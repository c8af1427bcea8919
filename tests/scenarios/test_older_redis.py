"""A Redis that comes back older, empty or cut off: nothing is built upon what is gone, and predictions go on."""

import time

import pytest

from tests import oracle
from tests.faults import Part, System
from tests.harness import wait_until


def teach_beyond_a_copy(whole: System, web: Part, name: str, kept: int, taught: int) -> None:
    """Teach the first places, copy the files of Redis, and teach more; the copy has `kept` of them."""
    oracle.teach(web, name, range(kept))
    whole.redis.copy(whole.folder / "copy")
    wait_until(lambda: oracle.feed(web.api, name, kept).status == 200, 20, whole.log)
    oracle.teach(web, name, range(kept + 1, taught))


def feed_beyond(whole: System, name: str) -> None:
    """Feed 50 observations through another web process, once it serves the model."""
    api, body = whole.start("web").api, {"observations": [oracle.observation(70)] * 50}
    path, key = f"/v1/models/{name}/feedback", {"Idempotency-Key": "beyond"}
    wait_until(lambda: api("POST", path, body, key).status == 202, 60, whole.log)


def test_a_redis_restored_from_an_older_copy_starts_a_new_timeline(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())
    teach_beyond_a_copy(whole, web, name, kept=50, taught=80)
    whole.redis.restore(whole.folder / "copy")
    wait_until(lambda: web.described(name)["timeline"] == 2, 20, whole.log)
    assert web.step(name) == 50
    assert "new timeline" in learner.log()
    oracle.teach(web, name, range(80, 100))
    web.wait_step(name, 70)
    # Gone with the files that were replaced; nothing else, and nothing twice.
    assert oracle.applications(web.api, name, 101) == [1] * 50 + [0] * 30 + [1] * 20 + [0]


def test_a_web_process_alone_notices_an_older_redis(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())
    teach_beyond_a_copy(whole, web, name, kept=30, taught=60)
    learner.kill()
    whole.redis.restore(whole.folder / "copy")
    wait_until(lambda: name in web.troubles(), 20, whole.log)
    assert "older" in web.troubles()[name]
    whole.start("learner")
    wait_until(lambda: web.described(name)["timeline"] == 2, 20, whole.log)
    assert web.step(name) == 30
    wait_until(lambda: not web.troubles(), 20, whole.log)
    oracle.teach(web, name, range(60, 70))
    web.wait_step(name, 40)
    assert oracle.applications(web.api, name, 71) == [1] * 30 + [0] * 30 + [1] * 10 + [0]


def test_an_older_redis_is_noticed_though_it_was_fed_beyond_what_was_seen(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())
    teach_beyond_a_copy(whole, web, name, kept=30, taught=60)
    learner.kill()
    web.pause()
    whole.redis.restore(whole.folder / "copy")
    feed_beyond(whole, name)
    web.go_on()
    wait_until(lambda: name in web.troubles(), 20, whole.log)
    assert "older" in web.troubles()[name]
    whole.start("learner")
    wait_until(lambda: web.described(name)["timeline"] == 2 and web.step(name) == 80, 20, whole.log)
    wait_until(lambda: not web.troubles(), 20, whole.log)


def test_a_web_process_that_only_predicts_notices_an_older_redis_that_was_fed_beyond_what_it_saw(
    whole: System,
) -> None:
    learner = whole.start("learner")
    web, reader = whole.start("web"), whole.start("web")
    name = web.create(oracle.spec())
    teach_beyond_a_copy(whole, web, name, kept=30, taught=60)
    reader.wait_step(name, 60)
    for part in (learner, web):
        part.kill()
    reader.pause()
    whole.redis.restore(whole.folder / "copy")
    feed_beyond(whole, name)
    reader.go_on()
    wait_until(lambda: name in reader.troubles(), 60, whole.log)
    assert "older" in reader.troubles()[name]
    whole.start("learner")
    wait_until(lambda: reader.described(name)["timeline"] == 2 and reader.step(name) == 80, 60, whole.log)
    wait_until(lambda: not reader.troubles(), 60, whole.log)


def test_without_a_learner_nothing_is_applied_to_an_older_redis(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())
    teach_beyond_a_copy(whole, web, name, kept=30, taught=60)
    learner.kill()
    whole.redis.restore(whole.folder / "copy")
    for _ in range(5):
        answer = oracle.feed(web.api, name, 61)
        assert answer.status == 503, answer
    whole.start("learner")
    wait_until(lambda: oracle.feed(web.api, name, 61).status == 200, 20, whole.log)
    assert web.step(name) == 31


def test_an_older_term_is_an_older_redis(whole: System) -> None:
    first = whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())
    oracle.teach(web, name, range(10))
    whole.redis.copy(whole.folder / "copy")
    wait_until(lambda: oracle.feed(web.api, name, 10).status == 200, 20, whole.log)
    for _ in range(2):  # terms that the copy does not know
        first.kill()
        first = whole.start("learner")
        place = web.step(name)
        wait_until(lambda place=place: oracle.feed(web.api, name, place).status == 200, 20, whole.log)
    first.kill()
    web.pause()
    whole.redis.restore(whole.folder / "copy")
    whole.start("web").api(
        "POST", f"/v1/models/{name}/feedback", {"observations": [oracle.observation(70)] * 50}
    )
    whole.start("learner")
    web.go_on()
    wait_until(lambda: web.described(name)["timeline"] == 2 and web.step(name) == 60, 20, whole.log)
    assert oracle.feed(web.api, name, 71).status == 200


def test_an_empty_redis_is_told_of_and_predictions_go_on(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web")
    path = "/v1/models/m"
    assert web.api("PUT", path, oracle.spec()).status == 201
    oracle.teach(web, "m", range(10))
    whole.redis.restore(None)
    wait_until(lambda: "m" in web.troubles(), 20, whole.log)
    assert oracle.applications(web.api, "m", 11) == [1] * 10 + [0]
    assert oracle.feed(web.api, "m", 10).status == 503
    wait_until(lambda: "Redis has lost the model" in learner.log(), 20, whole.log)
    assert web.api("DELETE", path).status == 204
    assert not web.troubles()
    assert web.api("PUT", path, oracle.spec()).status == 201
    oracle.teach(web, "m", range(5))
    assert oracle.applications(web.api, "m", 6) == [1] * 5 + [0]


def test_a_cut_off_append_only_file_is_taken_up_to_its_last_whole_command(whole: System) -> None:
    whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())
    ledger = oracle.Ledger(whole.folder / "ledger")
    with oracle.Driver(web.port, name, ledger, seed=11, pause=0.02) as driver:
        wait_until(lambda: driver.recovered_since(0.0), 20, whole.log)
        whole.redis.kill()
        [log] = (whole.redis.folder / "appendonlydir").glob("*.incr.aof")
        with log.open("ab") as file:  # a command that was being written: nobody has its answer
            file.write(b"*3\r\n$3\r\nSET\r\n$5\r\nhal")
        moment = time.monotonic()
        whole.redis.start()
        wait_until(lambda: driver.recovered_since(moment), 20, whole.log)
        driver.stop()
    assert web.described(name)["timeline"] == 1
    oracle.judge(web, ledger, name)


@pytest.mark.slow
def test_a_learner_notices_an_older_redis_by_its_lower_term(whole: System) -> None:
    """Redis is set back to before the learner led; web processes that could notice have ended."""
    first = whole.start("learner")
    web = whole.start("web")
    name = web.create(oracle.spec())
    oracle.teach(web, name, range(20))
    first.kill()
    whole.redis.copy(whole.folder / "copy")
    second = whole.start("learner")
    wait_until(lambda: "leads" in second.log(), 60, whole.log)
    oracle.teach(web, name, range(20, 50))
    web.kill()
    whole.redis.restore(whole.folder / "copy")
    web = whole.start("web")
    wait_until(lambda: web.described(name)["timeline"] == 2, 20, whole.log)
    oracle.teach(web, name, range(50, 60))
    assert oracle.applications(web.api, name, 61) == [1] * 20 + [0] * 30 + [1] * 10 + [0]
