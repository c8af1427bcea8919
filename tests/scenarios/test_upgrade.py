"""What version 0.1 wrote is read: a data folder of it is served, goes on learning, and is verified."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forking
from tests.harness import Server, clean_environment, running

FOLDER = Path(__file__).parent / "data_0_1"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
PATH = "/v1/models/old"


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a copy of the folder: two models, one with 15 observations and a PATCH behind its snapshot."""
    folder = tmp_path_factory.mktemp("upgrade")
    shutil.copytree(FOLDER / "appendonlydir", folder / "data" / "appendonlydir")
    with running(folder, web_workers=1, trainers=1, checkpoints=3) as server:
        server.wait_step("old", EXPECTED["described"]["step"], 60)
        yield server


def test_models_of_version_0_1_predict_as_they_did(upgraded: Server) -> None:
    for path, rows, told in (
        (PATH, EXPECTED["probe"], EXPECTED["predicted"]),
        ("/v1/models/line", EXPECTED["line_rows"], EXPECTED["line"]),
    ):
        found = upgraded.api("POST", f"{path}/predict", {"instances": rows}).body
        assert found["step"] == told["step"]
        for one, other in zip(found["predictions"], told["predictions"], strict=True):
            if "value" in one:
                assert one["value"] == pytest.approx(other["value"], rel=1e-4)
            else:
                assert one["probabilities"] == pytest.approx(other["probabilities"], rel=1e-4)


def test_what_was_changed_in_version_0_1_is_in_force(upgraded: Server) -> None:
    described, then = upgraded.described("old"), EXPECTED["described"]
    assert described["hyperparameters"]["learning_rate"] == then["hyperparameters"]["learning_rate"] == 0.03
    assert described["generation"] == then["generation"]
    assert described["retrain"]["every"] == then["retrain"]["every"]
    assert described["metrics"]["observations"] == then["metrics"]["observations"]
    told = upgraded.api("GET", f"{PATH}/checkpoints").body["checkpoints"]
    assert [made["id"] for made in told] == [made["id"] for made in EXPECTED["checkpoints"]["checkpoints"]]


def test_the_same_spec_is_no_conflict_though_fields_came_later(upgraded: Server) -> None:
    assert upgraded.api("PUT", PATH, EXPECTED["spec"]).status == 200


def test_what_version_0_1_has_seen_is_not_learned_again(upgraded: Server) -> None:
    row = EXPECTED["probe"][0]
    again = upgraded.api("POST", f"{PATH}/feedback", {"features": row, "label": "a", "id": "tail-3"})
    assert again.status == 200
    assert again.body["duplicates"] == 1
    body = {"observations": [{"features": row, "label": "a"}]}
    used = upgraded.api("POST", f"{PATH}/feedback", body, {"Idempotency-Key": "first"})
    assert used.status == 422, used


def test_a_prediction_of_version_0_1_takes_its_late_label_and_the_model_goes_on(upgraded: Server) -> None:
    api, step = upgraded.api, upgraded.step("old")
    late = api("POST", f"{PATH}/feedback", {"id": "late", "label": "b"})
    assert late.status in (200, 202), late
    rows = [{"features": row, "label": "c"} for row in EXPECTED["probe"]]
    assert api("POST", f"{PATH}/feedback", {"observations": rows}).status in (200, 202)
    upgraded.wait_step("old", step + 6)
    [first, *_] = EXPECTED["checkpoints"]["checkpoints"]
    assert api("POST", f"{PATH}/rollback", {"checkpoint": first["id"]}).status in (200, 202)
    assert api("POST", f"{PATH}/feedback", {"observations": rows}).status in (200, 202)
    upgraded.wait_step("old", step + 11)
    assert upgraded.described("old")["refusals"] == []
    assert not upgraded.troubles()
    assert "Traceback" not in upgraded.log()


def test_its_log_is_verified(upgraded: Server) -> None:
    """Another processor computed it: equal, or not comparable, but nothing that cannot be read and no corruption."""
    for name in ("old", "line"):
        command = ["verify", name, "--data-dir", str(upgraded.data_dir)]
        found = forking.run(command, clean_environment(), timeout=100)
        assert found.returncode in (0, 3), found.stdout + found.stderr
        assert "cannot be" not in found.stdout
