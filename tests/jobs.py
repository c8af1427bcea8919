"""What the tests of retraining share: a model on which it shows, and what became of a job."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.harness import Answer, Api, Served, wait_until

# A learning rate at which the online steps get nowhere: what a retraining learns is plain to see.
SPEC = {
    "task": "binary",
    "features": 4,
    "layers": [{"units": 8}],
    "optimizer": {"name": "sgd", "learning_rate": 1e-4},
}
ENDED = ("succeeded", "failed", "cancelled")


def finished(api: Api, where: str, seconds: float = 30) -> dict[str, Any]:
    """The job as it ended."""
    jobs: list[dict[str, Any]] = []

    def ended() -> bool:
        jobs.append(api("GET", where).body)
        return jobs[-1].get("state") in ENDED

    wait_until(ended, seconds, lambda: str(jobs[-1]))
    return jobs[-1]


def promotions(api: Api, name: str) -> list[dict[str, Any]]:
    """The checkpoints that were kept before a promotion."""
    found = api("GET", f"/v1/models/{name}/checkpoints").body["checkpoints"]
    return [made for made in found if made["reason"] == "promotion"]


def teach(api: Api, name: str, rows: int, seed: int = 0, sign: float = 1.0) -> int:
    """Teach so many observations; the position of the last."""
    X = np.random.default_rng(seed).normal(size=(rows, 4))
    observations = [{"features": x.tolist(), "label": int(sign * (x[0] - x[1]) > 0)} for x in X]
    position = 0
    for start in range(0, rows, 2000):
        body = {"observations": observations[start : start + 2000]}
        answer = api("POST", f"/v1/models/{name}/feedback", body)
        assert answer.status in (200, 202), answer
        position = answer.body["position"]
    return position


def retrain(api: Api, name: str, **body: Any) -> Answer:
    return api("POST", f"/v1/models/{name}/retrain", body)


def run(api: Api, name: str, **body: Any) -> dict[str, Any]:
    answer = retrain(api, name, **body)
    assert answer.status == 202, answer
    return finished(api, answer.headers["Location"])


def long(api: Api, name: str) -> str:
    """The address of a job that takes long."""
    teach(api, name, 4000)
    answer = retrain(api, name, epochs=1000, batch_size=1, promote="always")
    assert answer.status == 202
    return str(answer.headers["Location"])


def training(api: Api, where: str) -> Callable[[], bool]:
    return lambda: api("GET", where).body["stage"] == "training"


def scheduled(api: Api, name: str, **schedule: Any) -> Answer:
    job = {"epochs": 1, "promote": "always"}
    answer = api("PATCH", f"/v1/models/{name}", {"retrain": {**schedule, "job": job}})
    assert answer.status == 200, answer
    return answer


def taught(served: Served, name: str, rows: int, seed: int = 0) -> None:
    """Teach a model of SPEC's features so many observations, and wait until it has learned them."""
    served.wait_step(name, teach(served.api, name, rows, seed))


def accuracy(api: Api, name: str, seed: int = 99) -> float:
    X = np.random.default_rng(seed).normal(size=(500, 4))
    answer = api("POST", f"/v1/models/{name}/predict", {"instances": X.tolist()})
    labels = [prediction["label"] for prediction in answer.body["predictions"]]
    return float(np.mean(np.array(labels) == (X[:, 0] > X[:, 1])))
