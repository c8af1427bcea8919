"""The HTTP contract, over real HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness import Api, Server

SPEC = {"task": "binary", "features": 2, "layers": []}


def feed(api: Api, name: str, body: object, **headers: str):  # type: ignore[no-untyped-def]
    return api("POST", f"/v1/models/{name}/feedback", body, headers)


def observation(**fields: object) -> dict[str, object]:
    return {"features": [1.0, 2.0], "label": 1, **fields}


def test_create_is_idempotent_by_the_same_spec_and_refused_by_another(api: Api, name: str) -> None:
    assert api("PUT", f"/v1/models/{name}", SPEC).status == 200
    assert api("PUT", f"/v1/models/{name}", SPEC | {"seed": 1}).status == 409
    assert name in [model["model"] for model in api("GET", "/v1/models").body["models"]]


def test_a_spec_without_an_optimizer_is_no_conflict_with_a_model_of_the_former_default(
    server: Server, api: Api
) -> None:
    name = server.create(SPEC | {"optimizer": {}})  # one network, as version 0.1 made it by default
    before = server.described(name)["spec"]
    assert api("PUT", f"/v1/models/{name}", SPEC).status == 200
    assert server.described(name)["spec"] == before
    assert before["optimizer"]["name"] == "adam"
    assert api("PUT", f"/v1/models/{name}", SPEC | {"optimizer": "auto"}).status == 409


def test_delete_removes_the_model_and_its_name_is_free_again(api: Api, name: str) -> None:
    feed(api, name, observation(id="a"))
    assert api("DELETE", f"/v1/models/{name}").status == 204
    assert api("DELETE", f"/v1/models/{name}").status == 404
    assert api("GET", f"/v1/models/{name}").status == 404
    assert api("PUT", f"/v1/models/{name}", SPEC).status == 201
    answer = feed(api, name, observation(id="a"))
    assert (answer.status, answer.body["step"], answer.body["duplicates"]) == (200, 1, 0)


def test_one_observation_answers_with_the_prediction_made_before_learning(api: Api, name: str) -> None:
    before = api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2]]}).body["predictions"][0]
    answer = feed(api, name, observation())
    assert answer.status == 200
    assert answer.body["step"] == answer.body["position"] == answer.body["applied"] == 1
    prediction = answer.body["results"][0]["prediction"]
    assert prediction["probabilities"]["1"] == pytest.approx(before["probabilities"]["1"], rel=1e-5)
    assert answer.body["loss"] > 0


def test_min_step_reads_the_clients_own_write_from_every_process(api: Api, name: str) -> None:
    for step in range(1, 30):
        position = feed(api, name, observation()).body["position"]
        answer = api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2]], "min_step": position})
        assert (answer.status, answer.body["step"] >= step) == (200, True)


def test_min_step_that_is_not_reached_is_503_with_retry_after(api: Api, name: str) -> None:
    answer = api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2]], "min_step": 1})
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1


def test_rows_may_be_objects_and_lack_values(api: Api, name: str) -> None:
    rows = [[1, 2], {"x0": 1, "x1": 2}, [1, None], {"x0": 1}]
    predictions = api("POST", f"/v1/models/{name}/predict", {"instances": rows}).body["predictions"]
    assert predictions[0] == predictions[1]
    assert predictions[2] == predictions[3]


def test_a_list_is_applied_in_order_and_repeats_are_dropped(api: Api, name: str) -> None:
    body = {"observations": [observation(id="a"), observation(id="b"), observation(id="a")]}
    first = feed(api, name, body)
    assert (first.status, first.body["applied"], first.body["duplicates"]) == (200, 2, 1)
    assert [result["position"] for result in first.body["results"]] == [1, 2, 1]
    again = feed(api, name, {"observations": [observation(id="b"), observation(id="c")]})
    assert (again.body["applied"], again.body["duplicates"], again.body["step"]) == (1, 1, 3)
    same = feed(api, name, body)
    assert (same.status, same.body["applied"], same.body["duplicates"], same.body["position"]) == (
        200,
        0,
        3,
        2,
    )


def test_the_same_id_sent_by_many_at_once_is_one_step(server: Server, api: Api, name: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: feed(api, name, observation(id="one")), range(60)))
    assert sum(answer.body["applied"] + answer.body["pending"] for answer in answers) == 1
    server.wait_step(name, 1)
    assert server.step(name) == 1


def test_an_idempotency_key_gives_the_first_outcome_again(api: Api, name: str) -> None:
    first = feed(api, name, observation(), **{"Idempotency-Key": "k"})
    again = feed(api, name, observation(), **{"Idempotency-Key": "k"})
    assert [(a.status, a.body["position"], a.body["applied"]) for a in (first, again)] == [(200, 1, 1)] * 2
    assert feed(api, name, observation(label=0), **{"Idempotency-Key": "k"}).status == 422
    assert api("GET", f"/v1/models/{name}").body["step"] == 1


def test_a_stream_learns_its_good_lines_and_names_the_bad(api: Api, name: str) -> None:
    lines = [json.dumps(observation(id=str(i))) for i in range(2500)]
    lines[7] = '{"features": [1], "label": 1}'
    lines[2000] = "{"
    answer = feed(api, name, "\n".join(lines).encode(), **{"Content-Type": "application/x-ndjson"})
    assert answer.status == 200
    assert (answer.body["applied"], answer.body["rejected"], answer.body["step"]) == (2498, 2, 2498)
    assert [error["line"] for error in answer.body["errors"]] == [8, 2001]


def test_metrics_count_each_observation_once(api: Api, name: str) -> None:
    rows = [observation(label=i % 2, features=[i % 2, 1.0]) for i in range(200)]
    position = feed(api, name, {"observations": rows}).body["position"]
    api("POST", f"/v1/models/{name}/predict", {"instances": [[1, 2]], "min_step": position})
    metrics = api("GET", f"/v1/models/{name}/metrics").body["metrics"]
    assert metrics["observations"] == 200
    assert metrics["total"]["accuracy"] > metrics["total"]["baselines"]["majority"]["accuracy"]


BAD_OBSERVATIONS = {
    "too few features": (b'{"features": [1], "label": 1}', "/features"),
    "NaN": (b'{"features": [1, NaN], "label": 1}', "/features/1"),
    "infinity": (b'{"features": [1, Infinity], "label": 1}', "/features/1"),
    "1e999": (b'{"features": [1, 1e999], "label": 1}', "/features/1"),
    "text": (b'{"features": [1, "1"], "label": 1}', "/features/1"),
    "true": (b'{"features": [1, true], "label": 1}', "/features/1"),
    "a label of null": (b'{"features": [1, 2], "label": null}', "/label"),
    "a label of text": (b'{"features": [1, 2], "label": "1"}', "/label"),
    "a label of true": (b'{"features": [1, 2], "label": true}', "/label"),
    "a label of 1e999": (b'{"features": [1, 2], "label": 1e999}', "/label"),
    "an unknown class": (b'{"features": [1, 2], "label": 2}', "/label"),
    "no label": (b'{"features": [1, 2]}', "/label"),
    "an unknown field": (b'{"features": [1, 2], "label": 1, "extra": 0}', "/extra"),
    "an unknown feature": (b'{"features": {"y": 1}, "label": 1}', "/features/y"),
    "a weight that ruins": (b'{"features": [1, 2], "label": 1, "weight": 1000001}', "/weight"),
    "a weight below zero": (b'{"features": [1, 2], "label": 1, "weight": -1}', "/weight"),
    "an empty id": (b'{"features": [1, 2], "label": 1, "id": ""}', "/id"),
    "an empty list": (b'{"observations": []}', "/observations"),
    "no row": (b'{"features": 7, "label": 1}', "/features"),
    "the second row of a list": (
        b'{"observations": [{"features": [1, 2], "label": 1}, {"features": [1, "x"], "label": 1}]}',
        "/observations/1/features/1",
    ),
}


@pytest.mark.parametrize(("body", "pointer"), BAD_OBSERVATIONS.values(), ids=BAD_OBSERVATIONS)
def test_bad_feedback_is_refused_by_name_and_changes_nothing(
    api: Api, name: str, body: bytes, pointer: str
) -> None:
    answer = feed(api, name, body)
    assert answer.status == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["errors"][0]["pointer"] == pointer
    assert api("GET", f"/v1/models/{name}").body["step"] == 0


UNREADABLE = {
    "cut off": b'{"features": [1, 2], "lab',
    "deep": b"[" * 100_000,
    "no text": b"\xff\xfe",
    "nothing": b"",
    "a huge number": b'{"features": [1, ' + b"9" * 10_000 + b'], "label": 1}',
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_json_is_a_bad_request(api: Api, name: str, body: bytes) -> None:
    for path in (f"/v1/models/{name}/feedback", f"/v1/models/{name}/predict", "/v1/models/new"):
        assert api("PUT" if path.endswith("new") else "POST", path, body).status in (400, 422)
    assert api("GET", f"/v1/models/{name}").body["step"] == 0


def test_a_wrong_content_type_is_415(api: Api, name: str) -> None:
    assert feed(api, name, b"{}", **{"Content-Type": "text/plain"}).status == 415


def test_a_body_over_the_limit_is_413(api: Api, name: str) -> None:
    answer = feed(api, name, b" " * (17 * 2**20))
    assert answer.status == 413
    assert "FRESHET_MAX_BODY_BYTES" in answer.body["detail"]


def test_an_unknown_model_is_404(api: Api) -> None:
    for path in ("predict", "feedback"):
        assert api("POST", f"/v1/models/none/{path}", {}).status == 404


BAD_SPECS = {
    "negative units": ({"layers": [{"units": -1}]}, "/layers/0/units"),
    "unknown activation": ({"layers": [{"units": 1, "activation": "wave"}]}, "/layers/0/activation"),
    "unknown field": ({"layer": []}, "/layer"),
    "too large": ({"layers": [{"units": 900_000}, {"units": 10}]}, "/layers"),
    "no features": ({"features": 0}, "/features"),
}


@pytest.mark.parametrize(("change", "pointer"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_bad_spec_is_refused_by_name(api: Api, change: dict[str, object], pointer: str) -> None:
    answer = api("PUT", "/v1/models/bad", SPEC | change)
    assert answer.status == 422
    assert answer.body["errors"][0]["pointer"].startswith(pointer)
    assert api("GET", "/v1/models/bad").status == 404


def test_too_many_parameters_are_refused_with_the_settings_name(api: Api) -> None:
    answer = api("PUT", "/v1/models/bad", SPEC | {"layers": [{"units": 900_000}, {"units": 10}]})
    assert "FRESHET_MAX_PARAMETERS" in answer.body["detail"]


@pytest.mark.parametrize("name", ["-a", "a b", "a" * 65, "ä", "_a"])
def test_a_bad_name_is_refused(api: Api, name: str) -> None:
    assert api("PUT", f"/v1/models/{name}", SPEC).status in (404, 422)


def test_an_unknown_path_and_a_wrong_method_are_problem_documents(api: Api) -> None:
    assert api("GET", "/nothing").headers["Content-Type"] == "application/problem+json"
    assert api("PATCH", "/v1/models").status == 405
