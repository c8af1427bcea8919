"""What one web process promises its clients: each model's own results, and no step before one it has told."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import oracle
from tests.faults import Part, System, system
from tests.harness import Api, wait_until

WIDE = {"task": "regression", "features": 2, "layers": [{"units": 1000}], "optimizer": {"name": "adam"}}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Part]]:
    """A system of one learner and one web process; each test uses models of its own names."""
    with system(tmp_path_factory.mktemp("one")) as whole:
        whole.start("learner")
        yield whole, whole.start("web")


def test_one_key_sent_to_two_models_at_once_gets_each_models_own_answer(one: tuple[System, Part]) -> None:
    _, web = one
    names = [web.create({"task": "binary", "features": 1, "layers": []}) for _ in range(2)]
    apis = [Api(web.port), Api(web.port)]
    together = threading.Barrier(2)

    def feed(side: int, key: str) -> float:
        """Teach one model that all is 0, the other that all is 1: their predictions tell them apart."""
        together.wait(20)
        path = f"/v1/models/{names[side]}/feedback"
        answer = apis[side]("POST", path, {"features": [1], "label": side}, {"Idempotency-Key": key})
        assert answer.status == 200, answer
        assert answer.body["model"] == names[side]
        return float(answer.body["results"][0]["prediction"]["probabilities"]["1"])

    for side, name in enumerate(names):
        row = {"observations": [{"features": [1], "label": side}] * 100}
        wait_until(
            lambda name=name, row=row: web.api("POST", f"/v1/models/{name}/feedback", row).status == 200, 20
        )
    with ThreadPoolExecutor(2) as pool:
        for pair in range(300):
            first, second = pool.map(feed, (0, 1), (f"key-{pair}",) * 2)
            assert first < 0.4 < 0.6 < second, pair
    for api in apis:
        api.close()


def test_whoever_was_answered_finds_the_observation_in_what_is_told_next(one: tuple[System, Part]) -> None:
    whole, web = one
    name = web.create(WIDE)
    row = {"features": [1, 2], "label": 1.0}
    path = f"/v1/models/{name}"
    wait_until(lambda: web.api("POST", f"{path}/feedback", row).status == 200, 60, whole.log)
    told = 0
    for _ in range(100):
        answer = web.api("POST", f"{path}/feedback", row)
        assert answer.status == 200, answer
        assert answer.body["step"] >= answer.body["position"] > told
        told = answer.body["step"]
        for asked in (
            web.api("POST", f"{path}/predict", {"instances": [[1, 2]]}),
            web.api("GET", path),
            web.api("GET", f"{path}/metrics"),
        ):
            assert asked.body["step"] >= told
            told = asked.body["step"]


def test_steps_of_one_process_never_go_back_for_clients_side_by_side(one: tuple[System, Part]) -> None:
    whole, web = one
    name = web.create(WIDE)
    row = {"features": [1, 2], "label": 1.0}
    wait_until(lambda: web.api("POST", f"/v1/models/{name}/feedback", row).status == 200, 60, whole.log)
    told, lock = [0], threading.Lock()

    def ask(client: int) -> None:
        api = Api(web.port)
        for _ in range(40):
            with lock:
                before = told[0]
            call, body = [("feedback", row), ("predict", {"instances": [[1, 2]]})][client % 2]
            step = api("POST", f"/v1/models/{name}/{call}", body).body["step"]
            assert step >= before
            with lock:
                told[0] = max(told[0], step)
        api.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_a_model_that_cannot_be_built_stays_with_itself(one: tuple[System, Part]) -> None:
    whole, web = one
    name, bad = web.create(oracle.spec(10)), web.create(oracle.spec(10))
    oracle.teach(web, name, range(2))
    with whole.redis.link as link:
        spec = link.hget(f"freshet:{{{bad}}}:meta", "spec")
        link.hset(f"freshet:{{{bad}}}:meta", mapping={"spec": spec.replace(b'"sgd"', b'"none such"')})
        link.delete(f"freshet:{{{bad}}}:snapshot")
    other = whole.start("web")  # after a restart
    for process in (web, other):
        assert process.readiness() == 200
        assert process.api("POST", f"/v1/models/{name}/predict", {"instances": [[1]]}).status == 200
        assert process.api("GET", "/v1/models").status == 200
    wait_until(lambda: bad in other.troubles(), 20, other.log)
    refused = other.api("POST", f"/v1/models/{bad}/predict", {"instances": [[1]]})
    assert refused.status == 503, refused
    assert bad in refused.body["detail"]
    assert oracle.feed(other.api, name, 5).status == 200
    assert other.api("DELETE", f"/v1/models/{bad}").status == 204
    wait_until(lambda: not other.troubles(), 20, other.log)
