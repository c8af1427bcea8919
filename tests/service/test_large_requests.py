"""Small requests that would take very much: refused with what to do, or worked off in little memory."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Answer, Api, Server, running

MEBIBYTE = 2**20
GROWTH = 400  # mebibytes that any process may grow by, at its peak, with the model itself


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, whose processes' memory is looked at."""
    with running(tmp_path_factory.mktemp("large"), web_workers=1, apply_timeout=10) as started:
        started.api = Api(started.port, timeout=60)
        yield started


def peaks(server: Server) -> dict[int, int]:
    """The most memory that each web process and learner has had, in mebibytes."""
    pids = server.pids("web") + server.pids("learner")
    found = {pid: re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in pids}
    return {pid: int(peak[1]) // 1024 for pid, peak in found.items() if peak}


@pytest.fixture
def bounded(large: Server) -> Iterator[Server]:
    """The server, of which no process may have grown by much, died, or logged a traceback at the end."""
    before = peaks(large)
    yield large
    after = peaks(large)
    assert after.keys() == before.keys()
    grown = {pid: after[pid] - before[pid] for pid in before}
    print("grown by MiB:", grown)
    assert max(grown.values()) < GROWTH
    assert "Traceback" not in large.log()
    for model in large.api("GET", "/v1/models").body["models"]:
        large.api("DELETE", f"/v1/models/{model['model']}")


def predict(api: Api, name: str, rows: list[Any], **fields: object) -> Answer:
    return api("POST", f"/v1/models/{name}/predict", {"instances": rows, **fields})


def feed(api: Api, name: str, rows: list[dict[str, object]], query: str = "") -> Answer:
    return api("POST", f"/v1/models/{name}/feedback{query}", {"observations": rows})


def classes(count: int, length: int = 0, **fields: object) -> dict[str, object]:
    """A spec of many classes."""
    names = [str(place).rjust(length, "c") for place in range(count)]
    return {"task": "multiclass", "features": 2, "layers": [], "classes": names, **fields}


def test_rows_of_very_many_buckets(bounded: Server) -> None:
    features = [{"name": f"f{place}", "kind": "hash", "buckets": 980_000} for place in range(5)]
    name = bounded.create(
        {"task": "binary", "features": features, "layers": [], "optimizer": {"name": "adam"}}
    )
    rows = [[f"a{place}", "b", "c", "d", "e"] for place in range(200)]
    refused = predict(bounded.api, name, rows)
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/instances")
    assert "FRESHET_MAX_CELLS" in refused.body["detail"]
    most = int(re.search(r"at most (\d+)", refused.body["detail"])[1])  # type: ignore[index]
    assert predict(bounded.api, name, rows[:most]).status == 200
    observations: list[dict[str, object]] = [{"features": row, "label": 1} for row in rows]
    refused = feed(bounded.api, name, observations)
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/observations")
    assert feed(bounded.api, name, observations[:most]).status in (200, 202)


@pytest.mark.slow
def test_empty_rows_of_very_many_features(bounded: Server) -> None:
    spec = {"task": "binary", "features": 100_000, "layers": [], "optimizer": {"name": "adam"}}
    name = bounded.create(spec)
    refused = predict(bounded.api, name, [{}] * 600)
    assert (refused.status, "FRESHET_MAX_CELLS" in refused.body["detail"]) == (422, True)
    started = time.monotonic()
    assert predict(bounded.api, name, [{}] * 10).status == 200
    assert time.monotonic() - started < 5
    body = b'{"instances": [' + b"{}," * 5_000_000 + b"{}]}"
    assert bounded.api("POST", f"/v1/models/{name}/predict", body).status in (413, 422)
    lines = b"{}\n" * 600
    made = bounded.api.raw(
        "POST", f"/v1/models/{name}/predict", lines, {"Content-Type": "application/x-ndjson"}
    )
    assert made.data.count(b"\n") == 600


def test_very_many_rows_of_nothing(bounded: Server) -> None:
    name = bounded.create({"task": "binary", "features": 2, "layers": []})
    for element in (b"[]", b"{}", b"0", b'""', b"[[]]", b'{"label":0}'):
        for key in (b"instances", b"observations"):
            body = (
                b'{"%b": [' % key + (element + b",") * (15 * MEBIBYTE // (len(element) + 1)) + element + b"]}"
            )
            call = "predict" if key == b"instances" else "feedback"
            assert bounded.api("POST", f"/v1/models/{name}/{call}", body).status in (400, 413, 422)


def test_predictions_of_very_many_classes_tell_of_the_most_likely(bounded: Server) -> None:
    name = bounded.create(classes(10_000))
    one = predict(bounded.api, name, [[1, 2]]).body["predictions"][0]
    assert len(one["probabilities"]) == 10_000
    answer = predict(bounded.api, name, [[1, 2]] * 300)
    assert answer.status == 200
    made = answer.body["predictions"]
    assert {len(prediction["probabilities"]) for prediction in made} == {100}
    ranked = sorted(one["probabilities"].values(), reverse=True)
    assert list(made[0]["probabilities"].values()) == pytest.approx(ranked[:100])
    assert made[0]["label"] == next(iter(made[0]["probabilities"])) == one["label"]
    assert len(predict(bounded.api, name, [[1, 2]], top=3).body["predictions"][0]["probabilities"]) == 3
    more = predict(bounded.api, name, [[1, 2]] * 20, top=2000).body["predictions"]
    assert {len(prediction["probabilities"]) for prediction in more} == {2000}
    refused = predict(bounded.api, name, [[1, 2]] * 300, top=10_000)
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/top")
    assert predict(bounded.api, name, [[1, 2]], top=0).status == 422


def test_feedback_of_very_many_classes_tells_of_the_most_likely(bounded: Server) -> None:
    name = bounded.create(classes(10_000))
    rows = [{"features": [1, place], "label": str(place)} for place in range(300)]
    answer = feed(bounded.api, name, rows)
    assert answer.status == 200, answer
    assert {len(result["prediction"]["probabilities"]) for result in answer.body["results"]} == {100}
    asked = feed(bounded.api, name, rows[:2], "?top=10000")
    assert {len(result["prediction"]["probabilities"]) for result in asked.body["results"]} == {10_000}
    for query in ("?top=0", "?top=x", "?top=10001", "?top=%C2%B2"):
        assert feed(bounded.api, name, rows[:2], query).status == 422
    stream = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    kind = {"Content-Type": "application/x-ndjson"}
    told = bounded.api("POST", f"/v1/models/{name}/feedback", stream, kind)
    assert (told.status, told.body["applied"]) == (200, 300)
    assert "lost the subscription" not in bounded.log()


def test_long_names_of_classes_are_refused(bounded: Server) -> None:
    assert bounded.api("PUT", "/v1/models/long", classes(10_000, 1000)).status == 422
    name = bounded.create(classes(5000, 200))
    answer = predict(bounded.api, name, [[1, 2]] * 1900)
    assert answer.status == 200
    assert {len(prediction["probabilities"]) for prediction in answer.body["predictions"]} == {100}


def test_very_many_targets_are_told_in_small_answers(bounded: Server) -> None:
    name = bounded.create({"task": "regression", "features": 2, "layers": [], "targets": 5000})
    assert len(predict(bounded.api, name, [[1, 2]]).body["predictions"][0]["value"]) == 5000
    assert predict(bounded.api, name, [[1, 2]] * 1000).status == 422
    rows = [{"features": [1, 2], "label": [1.0] * 5000}] * 50
    assert feed(bounded.api, name, rows).status in (200, 202)
