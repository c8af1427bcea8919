"""Checkpoints, rollback, weights in and out, live hyperparameters: all are commands in the log."""

import json

import numpy as np
import pytest
import urllib3
from safetensors.numpy import load, save

from tests.harness import Api, Server, wait_until

SPEC = {
    "task": "binary",
    "features": 3,
    "layers": [{"units": 4}],
    "optimizer": {"name": "adam", "learning_rate": 0.01},
}


def teach(api: Api, name: str, rows: int, seed: int = 0) -> None:
    X = np.random.default_rng(seed).normal(size=(rows, 3))
    observations = [{"features": x.tolist(), "label": int(x.sum() > 0)} for x in X]
    answer = api("POST", f"/v1/models/{name}/feedback", {"observations": observations})
    assert answer.status == 200, answer


def weights(api: Api, name: str, min_step: int = 0) -> bytes:
    """The weights as one of the web processes has them."""
    url = f"{api.base}/v1/models/{name}/weights?min_step={min_step}"
    answer = urllib3.request("GET", url, retries=False)
    assert answer.status == 200
    return answer.data


def settles_at(api: Api, name: str, wanted: bytes) -> None:
    """Wait until every web process has these weights: a command is done in one of them first."""
    seen: list[bool] = []

    def settled() -> bool:
        seen.append(weights(api, name) == wanted)
        return seen[-10:] == [True] * 10

    wait_until(settled, 10)


def put_weights(api: Api, name: str, raw: bytes):  # type: ignore[no-untyped-def]
    return api("PUT", f"/v1/models/{name}/weights", raw, {"Content-Type": "application/octet-stream"})


def checkpoint(api: Api, name: str, note: str = "") -> str:
    answer = api("POST", f"/v1/models/{name}/checkpoints", {"note": note})
    assert answer.status == 201, answer
    return str(answer.body["checkpoint"])


def rollback(api: Api, name: str, to: str):  # type: ignore[no-untyped-def]
    return api("POST", f"/v1/models/{name}/rollback", {"checkpoint": to})


def test_a_checkpoint_is_made_on_request_with_its_note_and_its_bytes(api: Api, name: str) -> None:
    teach(api, name, 10)
    made = checkpoint(api, name, "before the sale")
    listed = api("GET", f"/v1/models/{name}/checkpoints").body
    [found] = listed["checkpoints"]
    assert (found["id"], found["note"], found["reason"], found["step"]) == (
        made,
        "before the sale",
        "requested",
        10,
    )
    assert listed["bytes"] == found["bytes"] > 0


def test_rollback_restores_weights_bit_for_bit_and_step_and_metrics_stay(api: Api, name: str) -> None:
    teach(api, name, 50)
    made, before = checkpoint(api, name), weights(api, name, 50)
    teach(api, name, 50, seed=1)
    assert weights(api, name, 100) != before
    answer = rollback(api, name, made)
    assert (answer.status, answer.body["step"]) == (200, 100)
    settles_at(api, name, before)
    described = api("GET", f"/v1/models/{name}").body
    assert (described["step"], described["metrics"]["observations"]) == (100, 100)


def test_a_rollback_can_be_undone(api: Api, name: str) -> None:
    teach(api, name, 20)
    made = checkpoint(api, name)
    early = weights(api, name, 20)
    teach(api, name, 20, seed=1)
    before = weights(api, name, 40)
    assert before != early
    undo = rollback(api, name, made).body["undo"]
    settles_at(api, name, early)
    assert rollback(api, name, undo).status == 200
    settles_at(api, name, before)


def test_what_is_learned_after_a_rollback_goes_on_from_the_checkpoint(api: Api, name: str) -> None:
    teach(api, name, 20)
    made = checkpoint(api, name)
    teach(api, name, 20, seed=1)
    after = weights(api, name, 40)
    rollback(api, name, made)
    teach(api, name, 20, seed=1)
    assert weights(api, name, 60) == after


def test_a_committee_rehearses_nothing_after_a_rollback_that_it_learned_since(
    api: Api, server: Server
) -> None:
    found = []
    for taken_back in (1, 2):
        name = server.create({"task": "binary", "features": 3, "layers": [{"units": 4}]})
        teach(api, name, 60)
        made, before = checkpoint(api, name), weights(api, name, 60)
        teach(api, name, 60, seed=taken_back)
        assert weights(api, name, 120) != before
        rollback(api, name, made)
        teach(api, name, 60, seed=3)
        found.append(weights(api, name, 180))
        api("DELETE", f"/v1/models/{name}")
    assert found[0] == found[1]


def test_an_unknown_checkpoint_is_named_and_changes_nothing(api: Api, name: str) -> None:
    teach(api, name, 5)
    before = weights(api, name, 5)
    answer = rollback(api, name, "99-1")
    assert (answer.status, answer.body["errors"][0]["pointer"]) == (422, "/checkpoint")
    assert weights(api, name) == before
    assert api("GET", f"/v1/models/{name}/checkpoints").body["checkpoints"] == []


def test_the_number_of_checkpoints_is_bounded_and_the_oldest_goes(api: Api, name: str) -> None:
    made = [checkpoint(api, name, str(number)) for number in range(13)]
    listed = api("GET", f"/v1/models/{name}/checkpoints").body
    assert listed["most"] == 10
    assert [found["id"] for found in listed["checkpoints"]] == made[-10:]


def test_weights_come_back_as_they_were_sent(api: Api, name: str) -> None:
    teach(api, name, 5)
    sent = {part: np.full_like(values, 0.5) for part, values in load(weights(api, name)).items()}
    answer = put_weights(api, name, save(sent))
    assert (answer.status, answer.body["step"]) == (200, 5)
    settles_at(api, name, save(sent))
    found = load(weights(api, name))
    assert sent.keys() == found.keys()
    assert all((found[part] == sent[part]).all() for part in sent)
    [kept] = api("GET", f"/v1/models/{name}/checkpoints").body["checkpoints"]
    assert (kept["reason"], kept["id"]) == ("weights", answer.body["undo"])


def _without(tensors: dict[str, np.ndarray]) -> bytes:
    return save({part: values for part, values in tensors.items() if part != "layers.0.bias"})


def _header(raw: bytes, **changes: object) -> bytes:
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["layers.0.bias"].update(changes)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


BAD_WEIGHTS = {
    "a tensor is missing": (_without, 422, "layers.0.bias"),
    "an unknown tensor": (lambda t: save({**t, "extra": np.ones(1, np.float32)}), 422, "extra"),
    "another shape": (lambda t: save({**t, "layers.0.bias": np.ones(5, np.float32)}), 422, "layers.0.bias"),
    "another type": (lambda t: save({**t, "layers.0.bias": np.ones(4)}), 422, "layers.0.bias"),
    "not a number": (
        lambda t: save({**t, "layers.0.bias": np.full(4, np.nan, np.float32)}),
        422,
        "layers.0.bias",
    ),
    "infinite": (
        lambda t: save({**t, "layers.0.bias": np.full(4, np.inf, np.float32)}),
        422,
        "layers.0.bias",
    ),
    "a shape that the file does not hold": (
        lambda t: _header(save(t), shape=[10**12], data_offsets=[0, 4 * 10**12]),
        422,
        "layers.0.bias",
    ),
    "offsets outside of the file": (lambda t: _header(save(t), data_offsets=[0, 10**9]), 400, ""),
    "no safetensors": (lambda _: b"not at all", 400, ""),
    "an empty body": (lambda _: b"", 400, ""),
    "a header without end": (lambda _: (2**63).to_bytes(8, "little") + b"{}", 400, ""),
    "a header that is a list": (lambda _: (2).to_bytes(8, "little") + b"[]", 400, ""),
}


@pytest.mark.parametrize(("made", "status", "tensor"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_refused_by_name_and_change_nothing(made, status, tensor, api, name) -> None:  # type: ignore[no-untyped-def]
    before = weights(api, name)
    answer = put_weights(api, name, made(load(before)))
    assert answer.status == status, answer
    if tensor:
        assert answer.body["errors"][0]["pointer"] == f"/{tensor}"
    assert weights(api, name) == before


def test_weights_of_another_media_type_are_refused(api: Api, name: str) -> None:
    assert api("PUT", f"/v1/models/{name}/weights", {"layers.0.bias": [1]}).status == 415


def test_hyperparameters_change_live_and_survive_the_same_put(api: Api, name: str) -> None:
    answer = api("PATCH", f"/v1/models/{name}", {"learning_rate": 0.0, "clip_norm": 2.5})
    assert answer.status == 200
    assert answer.body["hyperparameters"] == {"learning_rate": 0.0, "clip_norm": 2.5}
    before = weights(api, name)
    teach(api, name, 10)
    assert weights(api, name, 10) == before, "with a learning rate of 0 nothing moves"
    assert api("PUT", f"/v1/models/{name}", SPEC).status == 200
    answer = api("PATCH", f"/v1/models/{name}", {"learning_rate": 0.1, "clip_norm": None})
    assert answer.body["hyperparameters"] == {"learning_rate": 0.1, "clip_norm": None}
    teach(api, name, 10)
    assert weights(api, name, 20) != before


def test_a_rollback_keeps_the_live_hyperparameters(api: Api, name: str) -> None:
    made = checkpoint(api, name)
    api("PATCH", f"/v1/models/{name}", {"learning_rate": 0.0})
    rollback(api, name, made)
    before = weights(api, name)
    teach(api, name, 5)
    assert weights(api, name, 5) == before


BAD_PATCHES = [
    ({}, ""),
    ({"learning_rate": -1.0}, "/learning_rate"),
    ({"learning_rate": None}, "/learning_rate"),
    ({"learning_rate": "1"}, "/learning_rate"),
    ({"clip_norm": 0}, "/clip_norm"),
    ({"momentum": 0.5}, "/momentum"),
    ({"retrain": {}}, "/retrain"),
    ({"retrain": {"every": 0}}, "/retrain/every"),
    ({"retrain": {"cron": "every day"}}, "/retrain/cron"),
    ({"retrain": {"cron": "* * * * * *"}}, "/retrain/cron"),
    ({"retrain": {"when_worse": 1.0}}, "/retrain/when_worse"),
    ({"retrain": {"after": 10, "job": {"epochs": 0}}}, "/retrain/job/epochs"),
    ({"retrain": {"after": 10, "job": {"epochs": 10**6}}}, "/retrain/job/epochs"),
]


@pytest.mark.parametrize(("body", "pointer"), BAD_PATCHES)
def test_a_bad_patch_names_the_field(body: object, pointer: str, api: Api, name: str) -> None:
    answer = api("PATCH", f"/v1/models/{name}", body)
    assert answer.status == 422
    assert answer.body["errors"][0]["pointer"] == pointer


def test_a_command_that_is_sent_again_under_its_key_is_done_once(api: Api, name: str) -> None:
    key = {"Idempotency-Key": "once"}
    first = api("POST", f"/v1/models/{name}/checkpoints", {}, key)
    again = api("POST", f"/v1/models/{name}/checkpoints", {}, key)
    assert first.body["checkpoint"] == again.body["checkpoint"]
    assert len(api("GET", f"/v1/models/{name}/checkpoints").body["checkpoints"]) == 1
