"""Labels that come long after the prediction: predict with ids, feedback by id alone."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import Api, Server, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}
STREAM = {"Content-Type": "application/x-ndjson"}


def predict(api: Api, name: str, ids: list[str], rows: list[object] | None = None):  # type: ignore[no-untyped-def]
    rows = rows or [[float(place), 1.0] for place in range(len(ids))]
    return api("POST", f"/v1/models/{name}/predict", {"instances": rows, "ids": ids})


def feed(api: Api, name: str, body: object, **headers: str):  # type: ignore[no-untyped-def]
    return api("POST", f"/v1/models/{name}/feedback", body, headers)


def late_labels(api: Api, name: str):  # type: ignore[no-untyped-def]
    return api("GET", f"/v1/models/{name}/metrics").body["late_labels"]


def test_a_label_by_id_alone_learns_the_features_as_predicted(api: Api, name: str) -> None:
    answer = predict(api, name, ["a"], [[1.0, None]])
    assert answer.body["predictions"][0]["id"] == "a"
    late = feed(api, name, {"id": "a", "label": 1})
    assert (late.status, late.body["applied"]) == (200, 1)
    assert_is_as_if_taught(api, name, [1.0, None])


def assert_is_as_if_taught(api: Api, name: str, features: list[float | None]) -> None:
    """A model predicts what a new one predicts that was sent these features with the label 1."""
    twin = f"{name}-twin"
    api("PUT", f"/v1/models/{twin}", SPEC)
    feed(api, twin, {"features": features, "label": 1})
    row = {"instances": [[1.0, 2.0]], "min_step": 1}
    one, other = (
        api("POST", f"/v1/models/{model}/predict", row).body["predictions"] for model in (name, twin)
    )
    assert one == other


def test_the_prediction_that_was_served_is_scored(api: Api, name: str) -> None:
    served = predict(api, name, ["a"]).body["predictions"][0]["probabilities"]["1"]
    position = teach(api, name)
    now = api("POST", f"/v1/models/{name}/predict", {"instances": [[0.0, 1.0]], "min_step": position}).body
    assert now["predictions"][0]["probabilities"]["1"] > served + 0.1
    before = total_loss(api, name, position)
    feed(api, name, {"id": "a", "label": 1})
    assert total_loss(api, name, position + 1) - before == pytest.approx(-math.log(served), rel=1e-4)


def teach(api: Api, name: str) -> int:
    """Teach the model that the row [0, 1] has the label 1; returns the position."""
    rows = [{"features": [0.0, 1.0], "label": 1}] * 300
    return int(feed(api, name, {"observations": rows}).body["position"])


def total_loss(api: Api, name: str, step: int) -> float:
    """The sum of the losses of all observations up to a step, as the metrics tell it."""
    api("POST", f"/v1/models/{name}/predict", {"instances": [[0.0, 1.0]], "min_step": step})
    wait_until(lambda: api("GET", f"/v1/models/{name}/metrics").body["metrics"]["observations"] >= step, 5)
    metrics = api("GET", f"/v1/models/{name}/metrics").body["metrics"]
    return float(metrics["total"]["log_loss"] * metrics["observations"])


def test_the_newest_prediction_with_an_id_counts(api: Api, name: str) -> None:
    predict(api, name, ["a"], [[9.0, 9.0]])
    predict(api, name, ["a"], [[1.0, 2.0]])
    assert late_labels(api, name)["awaiting"] == 1
    feed(api, name, {"id": "a", "label": 1})
    assert_is_as_if_taught(api, name, [1.0, 2.0])


def test_a_second_label_for_an_id_is_a_duplicate(server: Server, api: Api, name: str) -> None:
    predict(api, name, ["a"])
    first = feed(api, name, {"id": "a", "label": 1}).body
    server.wait_step(name, 1)
    again = feed(api, name, {"id": "a", "label": 1})
    assert (again.status, again.body["applied"], again.body["duplicates"]) == (200, 0, 1)
    assert again.body["position"] == first["position"]
    assert api("GET", f"/v1/models/{name}").body["step"] == 1


def test_many_labels_for_one_id_at_once_are_one_step(api: Api, name: str) -> None:
    predict(api, name, ["one"])
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: feed(api, name, {"id": "one", "label": 1}), range(60)))
    assert {answer.status for answer in answers} <= {200, 202}
    assert sum(answer.body["applied"] + answer.body["pending"] for answer in answers) == 1


def test_given_features_win_and_the_served_prediction_is_scored_and_consumed(api: Api, name: str) -> None:
    served = predict(api, name, ["a"], [[5.0, 5.0]]).body["predictions"][0]["probabilities"]["1"]
    before = total_loss(api, name, teach(api, name))
    position = feed(api, name, {"id": "a", "features": [0.0, 1.0], "label": 1}).body["position"]
    assert total_loss(api, name, position) - before == pytest.approx(-math.log(served), rel=1e-4)
    assert late_labels(api, name)["awaiting"] == 0


def test_a_list_mixes_rows_with_and_without_features_and_duplicates(api: Api, name: str) -> None:
    predict(api, name, ["a", "b", "c"])
    feed(api, name, {"id": "b", "label": 0})
    rows = [
        {"id": "a", "label": 1},
        {"features": [1, 2], "label": 0},
        {"id": "b", "label": 0},
        {"id": "c", "label": 1, "weight": 2.0},
        {"id": "c", "label": 1},
    ]
    body = feed(api, name, {"observations": rows}).body
    assert (body["applied"], body["duplicates"], body["step"]) == (3, 2, 4)
    assert [result["position"] for result in body["results"]] == [2, 3, 1, 4, 4]


def test_an_unknown_id_rejects_its_list_and_is_named(api: Api, name: str) -> None:
    predict(api, name, ["a"])
    answer = feed(api, name, {"observations": [{"id": "a", "label": 1}, {"id": "never", "label": 1}]})
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/observations/1/id")
    answer = feed(api, name, {"id": "never", "label": 1})
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/id")
    assert api("GET", f"/v1/models/{name}").body["step"] == 0
    assert feed(api, name, {"id": "a", "label": 1}).body["applied"] == 1


def test_an_unknown_id_rejects_its_line_of_a_stream(api: Api, name: str) -> None:
    predict(api, name, [str(place) for place in range(10)])
    lines = [json.dumps({"id": str(place), "label": 1}) for place in range(12)]
    answer = feed(api, name, "\n".join(lines).encode(), **STREAM)
    assert (answer.status, answer.body["applied"], answer.body["rejected"]) == (200, 10, 2)
    assert [error["line"] for error in answer.body["errors"]] == [11, 12]
    assert "/id" in answer.body["errors"][0]["detail"]


BAD_PREDICTS = {
    "too few ids": ({"instances": [[1, 2], [3, 4]], "ids": ["a"]}, "/ids"),
    "too many ids": ({"instances": [[1, 2]], "ids": ["a", "b"]}, "/ids"),
    "no ids": ({"instances": [[1, 2]], "ids": []}, "/ids"),
    "a repeated id": ({"instances": [[1, 2], [3, 4]], "ids": ["a", "a"]}, "/ids/1"),
    "an empty id": ({"instances": [[1, 2]], "ids": [""]}, "/ids/0"),
    "a long id": ({"instances": [[1, 2]], "ids": ["x" * 129]}, "/ids/0"),
    "a number as id": ({"instances": [[1, 2]], "ids": [1]}, "/ids/0"),
    "an unknown field": ({"instances": [[1, 2]], "id": ["a"]}, "/id"),
    "a bad row": ({"instances": [[1, "x"]], "ids": ["a"]}, "/instances/0/1"),
}


@pytest.mark.parametrize(("body", "pointer"), BAD_PREDICTS.values(), ids=BAD_PREDICTS)
def test_bad_ids_are_refused_by_name_and_nothing_is_remembered(
    api: Api, name: str, body: object, pointer: str
) -> None:
    answer = api("POST", f"/v1/models/{name}/predict", body)
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, pointer)
    assert late_labels(api, name) is None


BAD_LABELS = {
    "neither features nor id": ({"label": 1}, "/features"),
    "features of null": ({"id": "a", "label": 1, "features": None}, "/features"),
    "no label": ({"id": "a"}, "/label"),
    "an unknown class": ({"id": "a", "label": 7}, "/label"),
    "a long id": ({"id": "x" * 129, "label": 1}, "/id"),
    "an unknown field": ({"id": "a", "label": 1, "features_": 1}, "/features_"),
}


@pytest.mark.parametrize(("body", "pointer"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_a_bad_late_label_is_refused_and_its_prediction_still_waits(
    api: Api, name: str, body: object, pointer: str
) -> None:
    predict(api, name, ["a"])
    answer = feed(api, name, body)
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, pointer)
    assert late_labels(api, name)["awaiting"] == 1
    assert api("GET", f"/v1/models/{name}").body["step"] == 0


def test_metrics_tell_how_many_wait_and_how_late_labels_come(api: Api, name: str) -> None:
    assert late_labels(api, name) is None
    predict(api, name, [str(place) for place in range(10)])
    assert late_labels(api, name)["delay_seconds"]["p50"] is None
    time.sleep(0.3)
    feed(api, name, {"observations": [{"id": str(place), "label": 1} for place in range(4)]})
    told = late_labels(api, name)
    assert (told["awaiting"], told["remembered"], told["labelled"], told["expired_share"]) == (6, 10, 4, 0.0)
    assert told["delay_seconds"]["p50"] == told["delay_seconds"]["p99"] >= 0.3
    assert sum(count for _, count in told["delay_seconds"]["buckets"]) == 4


@pytest.mark.slow
def test_waiting_predictions_are_bounded_in_bytes_and_the_oldest_go(folder: Path) -> None:
    with running(folder, web_workers=1, label_bytes=2**16) as server:
        server.api("PUT", "/v1/models/m", SPEC)
        for block in range(10):
            assert predict(server.api, "m", [f"{block}-{place}" for place in range(100)]).status == 200
        told = late_labels(server.api, "m")
        assert 0 < told["awaiting"] < 400
        assert told["displaced"] == 1000 - told["awaiting"]
        keys = ("freshet:{m}:awaiting", "freshet:{m}:awaiting-times")
        with server.link as link:
            assert sum(link.memory_usage(key, samples=0) for key in keys) < 1.3 * 2**16
        assert feed(server.api, "m", {"id": "0-0", "label": 1}).status == 422
        assert feed(server.api, "m", {"id": "9-99", "label": 1}).status == 200


def test_delete_forgets_the_predictions_that_wait(api: Api, name: str) -> None:
    predict(api, name, ["a"])
    api("DELETE", f"/v1/models/{name}")
    wait_until(lambda: api("PUT", f"/v1/models/{name}", SPEC).status == 201, 5)
    assert feed(api, name, {"id": "a", "label": 1}).status == 422
