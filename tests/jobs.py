"""What the tests of retraining share: a model on which it shows, and what became of a job."""

from typing import Any

from tests.harness import Api, wait_until

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
