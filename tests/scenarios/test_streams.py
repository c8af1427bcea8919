"""Real streams through HTTP come to what the same rows give a model in this process."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from river import datasets

from model import FeatureEncoder, LabelEncoder, ModelSpec, OnlineModel
from tests import forking
from tests.harness import Server, clean_environment

STREAMS = {"phishing": datasets.Phishing, "bananas": datasets.Bananas}


def write_csv(path: Path, stream: Any) -> list[tuple[dict[str, float], bool]]:
    """Write a stream as CSV with an id column; returns its rows."""
    rows = list(stream)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *rows[0][0], "label"])
        for number, (features, label) in enumerate(rows):
            writer.writerow([f"row-{number}", *features.values(), str(label).lower()])
    return rows


def feed(server: Server, path: Path, name: str) -> dict[str, Any]:
    """What `freshet feed --json` prints."""
    arguments = [str(path), "--model", name, "--url", server.api.base, "--label", "label", "--id", "id"]
    command = ["feed", *arguments, "--create", "binary", "--json"]
    done = forking.run(command, clean_environment(), timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_through_http_scores_as_in_process(server: Server, tmp_path: Path, stream: str) -> None:
    path = tmp_path / "stream.csv"
    rows = write_csv(path, STREAMS[stream]())
    report = feed(server, path, stream)
    assert (report["rows"], report["applied"], report["step"]) == (len(rows),) * 3

    spec = server.api("GET", f"/v1/models/{stream}").body["spec"]
    model = OnlineModel(ModelSpec.model_validate_json(json.dumps(spec)))
    features = FeatureEncoder(model.spec).encode([list(row.values()) for row, _ in rows])
    labels = LabelEncoder(model.spec).encode([label for _, label in rows])
    for start in range(0, len(rows), 97):
        model.learn(features[start : start + 97], labels[start : start + 97])
    for scores in ("total", "window"):
        expected = model.metrics()[scores]
        for score in ("log_loss", "accuracy", "roc_auc"):
            assert report["metrics"][scores][score] == pytest.approx(expected[score], abs=1e-6)
    assert expected["accuracy"] > expected["baselines"]["majority"]["accuracy"]

    again = feed(server, path, stream)
    assert (again["applied"], again["duplicates"], again["step"]) == (0, len(rows), len(rows))
