"""What users see of a committee and of drift: scores by member, log lines, and a retraining that a drift starts."""

import json
import re
from typing import Any

import numpy as np
import pytest

from tests.harness import Server, running, wait_until

SPEC = {"task": "binary", "features": 4, "layers": [{"units": 8}]}
DRIFT_AT, ROWS = 2000, 2400


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("drift"), web_workers=1, trainers=1, log_format="json") as started:
        yield started


def teach(server: Server, name: str, rows: int, turned_from: int) -> None:
    """Labels by one line through the inputs, and by the opposite one from some row on."""
    X = np.random.default_rng(0).normal(size=(rows, 4))
    y = (X[:, 0] > 0) ^ (np.arange(rows) >= turned_from)
    body = {
        "observations": [{"features": x, "label": int(label)} for x, label in zip(X.tolist(), y, strict=True)]
    }
    assert server.api("POST", f"/v1/models/{name}/feedback", body).status in (200, 202)
    server.wait_step(name, rows, 60)


def rises(server: Server, name: str) -> list[dict[str, Any]]:
    """The drifts that the diagnostics tell of, as of the newest snapshot: of all rows."""

    def found() -> dict[str, Any]:
        return server.api("GET", f"/v1/models/{name}/diagnostics").body

    wait_until(lambda: found()["step"] == ROWS, 30)
    return [event for event in found()["diagnostics"]["drift"]["events"] if event["subject"] == "loss"]


def jobs_of(server: Server, name: str) -> list[dict[str, Any]]:
    return server.api("GET", f"/v1/models/{name}/jobs").body["jobs"]


def lines(server: Server, name: str, event: str) -> list[dict[str, Any]]:
    """The log's lines about a model's event."""
    found = (json.loads(line) for line in server.log().splitlines() if line.startswith("{"))
    return [line for line in found if line["event"] == event and line.get("model") == name]


def test_a_drift_starts_one_retraining_and_is_told_in_the_log(server):
    name = server.create({**SPEC, "drift": {"action": "retrain"}})
    teach(server, name, ROWS, DRIFT_AT)
    [event] = rises(server, name)
    assert DRIFT_AT < event["step"] <= ROWS
    assert event["done"] == "a retraining is due"
    wait_until(lambda: [job["state"] for job in jobs_of(server, name)] == ["succeeded"], 90, server.log)
    [job] = jobs_of(server, name)
    assert job["request"]["by"] == "drift"
    assert job["job"].endswith(f"drift-{event['step']}")
    [line] = lines(server, name, "drift")
    assert (line["step"], line["kind"], line["subject"]) == (event["step"], "abrupt", "loss")
    assert server.step(name) == ROWS


def test_a_learner_that_meets_the_drift_again_starts_no_second_retraining(server):
    name = server.create({**SPEC, "drift": {"action": "retrain"}})
    teach(server, name, ROWS, DRIFT_AT)
    wait_until(lambda: len(jobs_of(server, name)) == 1, 30, server.log)
    server.kill_part("learner")
    rows = [{"features": [0.5, 0, 0, 0], "label": 0}]
    wait_until(
        lambda: (
            server.api("POST", f"/v1/models/{name}/feedback", {"observations": rows}).body.get("applied") == 1
        ),
        60,
        server.log,
    )
    assert len(jobs_of(server, name)) == 1


def test_by_default_a_drift_starts_no_retraining(server):
    name = server.create(SPEC)
    teach(server, name, ROWS, DRIFT_AT)
    assert len(rises(server, name)) == 1
    assert jobs_of(server, name) == []


def test_metrics_show_each_members_weight_and_loss_and_which_one_leads(server):
    name = server.create(SPEC)
    teach(server, name, ROWS, DRIFT_AT)
    wait_until(lambda: server.api("GET", f"/v1/models/{name}/metrics").body["step"] == ROWS, 20)
    metrics = server.api("GET", f"/v1/models/{name}/metrics").body["metrics"]
    assert [member["member"] for member in metrics["members"]] == [1, 2, 3]
    assert sum(member["weight"] for member in metrics["members"]) == pytest.approx(1.0)
    assert all(0.0 < member["loss"] < 2.0 for member in metrics["members"])
    assert re.fullmatch(r"member \d, Adam 0\.\d+ .* leads since step [\d,]+", metrics["leader"])
    assert metrics["events"] >= 1
    text = server.api.raw("GET", "/metrics").data.decode()
    for member in metrics["members"]:
        [weight] = re.findall(
            rf'freshet_member_weight{{member="{member["member"]}",model="{name}"}} (\S+)', text
        )
        assert float(weight) == pytest.approx(member["weight"])
    assert re.search(rf'freshet_member_loss{{member="1",model="{name}"}}', text)
    assert re.search(rf'freshet_model_events_total{{model="{name}"}} {metrics["events"]}', text)


def test_a_single_network_has_no_members_to_show(server):
    name = server.create({**SPEC, "optimizer": {"name": "adam"}})
    metrics = server.api("GET", f"/v1/models/{name}/metrics").body["metrics"]
    assert (metrics["members"], metrics["leader"], metrics["events"]) == ([], None, 0)
    assert f'model="{name}"' not in "".join(
        line
        for line in server.api.raw("GET", "/metrics").data.decode().splitlines()
        if "freshet_member" in line
    )
