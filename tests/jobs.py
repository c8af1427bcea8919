"""What the tests of retraining share: a model on which it shows, and what became of a job."""

from typing import Any

import numpy as np

from tests.harness import Api, Served, wait_until

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


def taught(served: Served, name: str, rows: int, seed: int = 0) -> None:
    """Teach a model of SPEC's features so many observations, and wait until it has learned them."""
    X = np.random.default_rng(seed).normal(size=(rows, 4))
    observations = [{"features": x.tolist(), "label": int(x[0] > x[1])} for x in X]
    for start in range(0, rows, 2000):
        body = {"observations": observations[start : start + 2000]}
        answer = served.api("POST", f"/v1/models/{name}/feedback", body)
        assert answer.status in (200, 202), answer
    served.wait_step(name, rows)
