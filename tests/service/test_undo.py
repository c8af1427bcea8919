"""One source that poisons a model is found by its loss, bounded by its rate, and undone bit for bit."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from model import ModelSpec, OnlineModel
from tests import forking
from tests.harness import Answer, Api, Server, clean_environment, running, wait_until

SPEC = {"task": "binary", "features": 3, "layers": [{"units": 8}]}
ROWS = 600


class Keyed:
    """A server with the keys of an administrator and of two who teach."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.api = Api(server.port, timeout=60)
        self.keys = {
            name: self._create(name, *options)
            for name, options in {
                "admin": ["--scope", "admin"],
                "honest": ["--scope", "feedback"],
                "poisoner": ["--scope", "feedback"],
                "limited": ["--scope", "feedback", "--observations-per-second", "50"],
            }.items()
        }
        wait_until(lambda: self("nobody", "GET", "/v1/models").status == 401, 5)

    def _create(self, name: str, *options: str) -> str:
        arguments = ["keys", "create", name, *options, "--data-dir", str(self.server.data_dir)]
        return self.run(*arguments).stdout.strip()

    def run(self, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of freshet."""
        environment = clean_environment() | ({"FRESHET_KEY": key} if key else {})
        done = forking.run(arguments, environment, timeout=90)
        done.check_returncode()
        return done

    def __call__(self, key: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return self.server.api(
            method, path, body, {"Authorization": f"Bearer {self.keys.get(key, key)}", **headers}
        )

    def weights(self, name: str) -> bytes:
        """The model's weights."""
        url = f"{self.server.api.base}/v1/models/{name}/weights"
        return urllib3.request("GET", url, headers={"Authorization": f"Bearer {self.keys['admin']}"}).data

    def losses(self) -> dict[str, float]:
        """The mean loss of each key's observations."""
        url = f"{self.server.api.base}/metrics"
        text = urllib3.request(
            "GET", url, headers={"Authorization": f"Bearer {self.keys['admin']}"}
        ).data.decode()
        values = {
            (sample.name, sample.labels["key"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "key" in sample.labels
        }
        names = {key for _, key in values}
        return {
            key: values["freshet_key_loss_total", key] / values["freshet_key_observations_total", key]
            for key in names
        }


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with running(tmp_path_factory.mktemp("undo"), web_workers=1, trainers=1, apply_timeout=20) as server:
        yield Keyed(server)


def drawn(share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, their true labels, and which of them the poisoner sends, flipped."""
    generator = np.random.default_rng(7)
    rows = generator.normal(size=(ROWS, 3)).round(3)
    labels = (rows @ np.array([1.0, -2.0, 0.5]) > 0).astype(int)
    return rows, labels, generator.random(ROWS) < share


def teach(keyed: Keyed, name: str, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Teach in turns, the poisoner the opposite of what is true. Returns what the honest one has sent."""
    rows, labels, poisoned = drawn(share)
    start = 0
    while start < ROWS:
        end = start + 1
        while end < ROWS and poisoned[end] == poisoned[start]:
            end += 1
        flip = int(poisoned[start])
        observations = [
            {"features": row, "label": int(label) ^ flip}
            for row, label in zip(rows[start:end].tolist(), labels[start:end], strict=True)
        ]
        answer = keyed(
            "poisoner" if flip else "honest",
            "POST",
            f"/v1/models/{name}/feedback",
            {"observations": observations},
        )
        assert answer.status == 200, answer
        start = end
    return rows[~poisoned], labels[~poisoned]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_undo_leaves_the_model_that_the_others_alone_have_taught(keyed: Keyed, share: float) -> None:
    name = f"poisoned-{round(share * 100)}"
    assert keyed("admin", "PUT", f"/v1/models/{name}", SPEC).status == 201
    rows, labels = teach(keyed, name, share)
    assert keyed.losses()["poisoner"] > 2 * keyed.losses()["honest"]
    expected = OnlineModel(ModelSpec.model_validate(SPEC))
    expected.learn(rows, labels)
    assert keyed.weights(name) != expected.weights_to_bytes()
    done = keyed.run(
        *("undo", name, "--key", "poisoner", "--url", keyed.server.api.base, "--json"),
        key=keyed.keys["admin"],
    )
    counted = json.loads(done.stdout)["result"]["rows"]
    assert counted["undone"] == ROWS - len(rows)
    assert counted["learned"] <= len(
        rows
    )  # what a saved state before the first undone row knows already is not replayed
    wait_until(lambda: keyed.weights(name) == expected.weights_to_bytes(), 10)
    assert keyed("admin", "GET", f"/v1/models/{name}").body["step"] == ROWS


def test_undo_of_a_key_that_taught_nothing_fails_and_says_so(keyed: Keyed) -> None:
    assert keyed("admin", "PUT", "/v1/models/clean", SPEC).status == 201
    assert (
        keyed("honest", "POST", "/v1/models/clean/feedback", {"features": [1, 2, 3], "label": 1}).status
        == 200
    )
    job = keyed("admin", "POST", "/v1/models/clean/undo", {"key": "poisoner"}).body["job"]
    wait_until(lambda: keyed("admin", "GET", f"/v1/jobs/{job}").body.get("state") == "failed", 20)
    assert "no observation of the key" in keyed("admin", "GET", f"/v1/jobs/{job}").body["detail"]
    assert keyed("admin", "POST", "/v1/models/clean/undo", {"key": "a b"}).status == 422
    assert keyed("honest", "POST", "/v1/models/clean/undo", {"key": "poisoner"}).status == 403


def test_a_stream_carries_its_key_into_the_log(keyed: Keyed) -> None:
    assert keyed("admin", "PUT", "/v1/models/streamed", SPEC).status == 201
    lines = b"".join(json.dumps({"features": [i, 1, 2], "label": i % 2}).encode() + b"\n" for i in range(30))
    sent = {"Content-Type": "application/x-ndjson"}
    assert keyed("poisoner", "POST", "/v1/models/streamed/feedback", lines, **sent).status == 200
    entries = keyed.server.link.xrange("freshet:{streamed}:log")
    assert {fields[b"k"] for _, fields in entries} == {b"poisoner"}


def test_a_keys_rate_of_observations_bounds_what_it_teaches(keyed: Keyed) -> None:
    assert keyed("admin", "PUT", "/v1/models/bounded", SPEC).status == 201
    lesson = {"observations": [{"features": [1, 2, 3], "label": 1}] * 20}
    statuses = [keyed("limited", "POST", "/v1/models/bounded/feedback", lesson).status for _ in range(12)]
    assert 429 in statuses
    assert statuses.count(200) <= 8
