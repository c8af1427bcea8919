"""What happens to one model touches no other: not its neighbours, and not its successor of the same name."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import oracle
from tests.faults import Part, System, system
from tests.harness import Api, wait_until


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Part, Part]]:
    """A system of one learner and one web process; each test uses models of its own names."""
    with system(tmp_path_factory.mktemp("apart")) as whole:
        learner = whole.start("learner")
        yield whole, learner, whole.start("web")


def test_a_model_deleted_and_created_again_under_load_meets_nothing_of_its_predecessor(
    apart: tuple[System, Part, Part],
) -> None:
    whole, _, web = apart
    name = web.create(oracle.spec())
    path = f"/v1/models/{name}"
    stop = threading.Event()

    def load(client: int) -> None:
        api = Api(web.port)
        while not stop.is_set():
            body = oracle.observation(1000 + client, id=f"old-{client}")
            assert api("POST", f"{path}/feedback", body).status in (200, 202, 404, 503)
        api.close()

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load, client) for client in range(4)]
        for _ in range(15):
            assert web.api("DELETE", path).status in (204, 404)
            assert web.api("PUT", path, oracle.spec()).status in (200, 201)
            time.sleep(0.1)
        stop.set()
        for client in clients:
            client.result()
    assert web.api("DELETE", path).status == 204
    assert web.api("PUT", path, oracle.spec()).status == 201
    answer = oracle.feed(web.api, name, 7)
    assert (answer.status, answer.body["position"]) == (200, 1), whole.log()
    web.wait_step(name, 1)
    counts = oracle.applications(web.api, name, 1010)
    assert [place for place, count in enumerate(counts) if count] == [7]


def test_a_learner_of_a_deleted_model_does_not_answer_for_its_successor(
    apart: tuple[System, Part, Part],
) -> None:
    whole, learner, _ = apart
    web = whole.start("web", apply_timeout=10)
    first, second = (
        {"task": "regression", "features": 2, "layers": [], "scaling": "none", "seed": seed}
        for seed in (1, 2)
    )
    name = web.create(first)
    path = f"/v1/models/{name}"
    wait_until(lambda: web.described(name)["has_learner"], 20, whole.log)
    time.sleep(0.3)
    learner.pause()  # while it waits for the log of the first model
    assert web.api("DELETE", path).status == 204
    assert web.api("PUT", path, second).status == 201
    predicted = web.api("POST", f"{path}/predict", {"instances": [[1, 2]]}).body["predictions"][0]
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(web.api, "POST", f"{path}/feedback", {"features": [1, 2], "label": 1.0})
        with whole.redis.link as link:
            wait_until(lambda: link.exists(f"freshet:{{{name}}}:log") == 1, 10)
        learner.go_on()
        answer = sent.result()
    assert answer.status in (200, 202), answer
    if answer.body.get("results"):
        assert answer.body["results"][0]["prediction"] == pytest.approx(predicted, rel=1e-5)
    web.wait_step(name, 1)
    assert web.described(name)["metrics"]["observations"] == 1


def test_one_poisoned_model_leaves_the_others_alone(apart: tuple[System, Part, Part]) -> None:
    whole, learner, web = apart
    name, bad = web.create(oracle.spec()), web.create(oracle.spec(10))
    oracle.teach(web, name, range(3))
    with whole.redis.link as link:
        link.xadd(f"freshet:{{{bad}}}:log", {"t": "x", "w": "", "s": "0", "b": b"nonsense"}, id="1-0")
        link.hset(f"freshet:{{{bad}}}:meta", "position", 1)
    wait_until(lambda: bad in web.troubles(), 20, whole.log)
    assert learner.process is not None
    assert learner.process.poll() is None
    started = time.monotonic()
    oracle.teach(web, name, range(3, 30))
    assert oracle.feed(web.api, name, 30).status == 200
    assert time.monotonic() - started < 10
    web.wait_step(name, 31)
    assert oracle.applications(web.api, name, 31) == [1] * 31
    assert web.api("DELETE", f"/v1/models/{bad}").status == 204
