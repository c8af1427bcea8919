"""What may be created, changed and called from where: all of a request or nothing of it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from tests.harness import Answer, Api, Server, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for three models of 100 parameters together, and small bodies."""
    limits = {"max_models": 3, "max_total_parameters": 100, "max_body_bytes": 2**20, "web_workers": 2}
    with running(tmp_path_factory.mktemp("bounded"), **limits) as started:
        yield started


def put(api: Api, name: str, **changes: object) -> Answer:
    return api("PUT", f"/v1/models/{name}", SPEC | changes)


def patch(api: Api, name: str, key: str = "", **changes: object) -> Answer:
    return api("PATCH", f"/v1/models/{name}", changes, {"Idempotency-Key": key} if key else {})


def delete_all(api: Api) -> None:
    for model in api("GET", "/v1/models").body["models"]:
        assert api("DELETE", f"/v1/models/{model['model']}").status == 204


def test_no_more_models_than_allowed_however_many_ask_at_once(bounded: Server) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda number: put(bounded.api, f"m{number}"), range(12)))
    made = [number for number, answer in enumerate(answers) if answer.status == 201]
    assert (len(made), {answer.status for answer in answers}) == (3, {201, 409})
    assert "FRESHET_MAX_MODELS" in next(a for a in answers if a.status == 409).body["detail"]
    assert put(bounded.api, f"m{made[0]}").status == 200
    assert bounded.api("DELETE", f"/v1/models/m{made[0]}").status == 204
    assert put(bounded.api, "another").status == 201
    delete_all(bounded.api)


def test_the_sum_of_all_models_parameters_is_bounded_rebuilds_too(bounded: Server) -> None:
    api = bounded.api
    assert put(api, "a", features=60).status == 201
    refused = put(api, "b", features=60)
    assert (refused.status, "FRESHET_MAX_TOTAL_PARAMETERS" in refused.body["detail"]) == (409, True)
    assert api("GET", "/v1/models/b").status == 404
    assert put(api, "c", features=30).status == 201
    rebuilt = api("PUT", "/v1/models/c?rebuild=true", SPEC | {"features": 30, "layers": [{"units": 4}]})
    assert (rebuilt.status, "FRESHET_MAX_TOTAL_PARAMETERS" in rebuilt.body["detail"]) == (409, True)
    delete_all(api)
    assert put(api, "b", features=60).status == 201
    delete_all(api)


UNBUILDABLE = {
    "a schedule of 10^309 steps": {"optimizer": {"schedule": {"name": "cosine", "steps": 10**309}}},
    "a warm-up of 10^309 steps": {"optimizer": {"schedule": {"name": "constant", "warm_up": 10**309}}},
    "a log of 10^400 rows": {"keep": 10**400},
    "a log of 10^400 bytes": {"keep_bytes": 10**400},
}


@pytest.mark.parametrize("change", UNBUILDABLE.values(), ids=UNBUILDABLE)
def test_a_spec_that_cannot_be_built_is_refused_and_harms_no_other_model(
    server: Server, api: Api, name: str, change: dict[str, object]
) -> None:
    answer = put(api, "unbuildable", **change)
    assert answer.status in (201, 422), answer
    if answer.status == 201:
        server.wait_step("unbuildable", 0)
        assert api("DELETE", "/v1/models/unbuildable").status == 204
    else:
        assert api("GET", "/v1/models/unbuildable").status == 404
    assert api("POST", f"/v1/models/{name}/feedback", {"features": [1, 2], "label": 1}).status == 200


def test_a_patch_is_done_whole_or_not_at_all(api: Api, name: str) -> None:
    before = api("GET", f"/v1/models/{name}").body
    for cron in ("0 0 30 2 *", "R R * * *", "H 3 * * *", "0 3 * * 1 *", "99 * * * *", "@daily"):
        answer = patch(api, name, learning_rate=0.5, retrain={"cron": cron})
        assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/retrain/cron"), cron
        assert api("PUT", "/v1/models/never", SPEC | {"retrain": {"cron": cron}}).status == 422
    after = api("GET", f"/v1/models/{name}").body
    assert (after["hyperparameters"], after["retrain"]) == (before["hyperparameters"], None)
    both = patch(api, name, learning_rate=0.5, retrain={"cron": "0 3 * JAN-MAR,L MON"})
    assert both.status == 422
    both = patch(api, name, learning_rate=0.5, retrain={"cron": "0 3 * JAN-MAR MON"})
    assert (both.status, both.body["hyperparameters"]["learning_rate"]) == (200, 0.5)
    assert both.body["retrain"]["cron"] == "0 3 * JAN-MAR MON"


def test_a_key_of_a_patch_of_the_schedule_is_honoured(api: Api, name: str) -> None:
    assert patch(api, name, "a", retrain={"after": 1000}).status == 200
    other = patch(api, name, "a", retrain={"after": 2000})
    assert (other.status, other.body["errors"][0]["pointer"]) == (422, "Idempotency-Key")
    assert patch(api, name, "a", learning_rate=0.5, retrain={"after": 1000}).status == 422
    assert patch(api, name, "b", retrain={"after": 2000}).status == 200
    late = patch(api, name, "a", retrain={"after": 1000})
    assert (late.status, late.body["retrain"]["after"]) == (200, 2000)
    assert patch(api, name, "c", retrain=None).body["retrain"] is None
    assert patch(api, name, "b", retrain={"after": 2000}).body["retrain"] is None
    body = {"features": [1, 2], "label": 1}
    feedback = api("POST", f"/v1/models/{name}/feedback", body, {"Idempotency-Key": "b"})
    assert (feedback.status, feedback.body["errors"][0]["pointer"]) == (422, "Idempotency-Key")


def test_a_key_of_a_retraining_is_known_when_its_job_is_forgotten(
    server: Server, api: Api, name: str
) -> None:
    rows = [{"features": [place % 5, 1], "label": place % 2} for place in range(60)]
    api("POST", f"/v1/models/{name}/feedback", {"observations": rows})

    def retrain(key: str, epochs: int = 1) -> Answer:
        return api("POST", f"/v1/models/{name}/retrain", {"epochs": epochs}, {"Idempotency-Key": key})

    first = retrain("k")
    assert first.status == 202
    for number in range(60):
        assert api("DELETE", api("GET", f"/v1/models/{name}").body["job"]).status == 200
        assert retrain(f"other-{number}").status == 202
    assert retrain("k").status == 404
    assert retrain("k", 2).status == 422
    assert patch(api, name, "k", learning_rate=0.5).status == 422
    listed = api("GET", f"/v1/models/{name}/jobs").body["jobs"]
    assert [job["state"] for job in listed[:2]] == ["queued", "cancelled"]
    assert listed[0]["job"].startswith(name + ".")


def test_a_checkpoint_needs_no_body(api: Api, name: str) -> None:
    bare = urllib3.request("POST", f"{api.base}/v1/models/{name}/checkpoints", retries=False)
    assert bare.status in (201, 202), bare.data
    assert api("POST", f"/v1/models/{name}/checkpoints").status in (201, 202)
    wait_until(lambda: len(api("GET", f"/v1/models/{name}/checkpoints").body["checkpoints"]) >= 2, 10)
    assert api("POST", f"/v1/models/{name}/checkpoints", {"not": 1}).status == 422
    assert api("POST", f"/v1/models/{name}/checkpoints", b"{").status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "["}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost"}, 200),
        ({"Host": "app.localhost:3000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 200),
        ({"Origin": "http://localhost:8000"}, 200),
    ],
    ids=str,
)
def test_a_page_of_another_site_neither_teaches_nor_reads(
    api: Api, name: str, headers: dict[str, str], status: int
) -> None:
    body = {"features": [1, 2], "label": 1}
    assert api("POST", f"/v1/models/{name}/feedback", body, headers).status == status
    assert api("GET", f"/v1/models/{name}", None, headers).status == status
    assert api("GET", "/livez", None, headers).status == 200


def test_weights_as_large_as_they_are_given_are_taken_back(server: Server, folder: object) -> None:
    name = server.create({"task": "binary", "features": 4300, "layers": [{"units": 1000}]})
    raw = server.api.raw("GET", f"/v1/models/{name}/weights").data
    assert len(raw) > 17_000_000
    media = {"Content-Type": "application/octet-stream"}
    assert server.api("PUT", f"/v1/models/{name}/weights", raw, media).status in (200, 202)
    over = server.api("PUT", f"/v1/models/{name}/weights", raw + b" " * 2**20, media)
    assert (over.status, json.dumps(over.body)[:1]) == (413, "{")
    server.api("DELETE", f"/v1/models/{name}")
