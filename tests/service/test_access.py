"""API keys: who may do what with which models, in force at once, and hidden from each other."""

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3
from flask import Flask

from service.web import access
from service.web.app import RESOURCES
from tests import forking
from tests.faults import stopped, system
from tests.harness import Answer, Api, Server, clean_environment, free_port, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}
ROWS = {"instances": [[1, 2]]}
LESSON = {"features": [1, 2], "label": 1}


def freshet(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the server's data folder."""
    return forking.run([*arguments, "--data-dir", str(server.data_dir)], clean_environment())


def new_key(server: Server, name: str, *options: str) -> str:
    """The token of a new key."""
    made = freshet(server, "keys", "create", name, *options)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def call(api: Api, token: str | None, method: str, path: str, body: object = None) -> Answer:
    return api(method, path, body, {} if token is None else {"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server with keys and two models, and its administrator's token."""
    with running(tmp_path_factory.mktemp("guarded"), web_workers=2) as server:
        admin = new_key(server, "admin", "--scope", "admin")
        for name in ("fraud-1", "clicks-1"):
            wait_until(lambda: call(server.api, None, "GET", "/v1/models").status == 401, 2)
            assert call(server.api, admin, "PUT", f"/v1/models/{name}", SPEC).status == 201
        yield server, admin


@pytest.fixture
def scorer(guarded: tuple[Server, str]) -> Iterator[str]:
    """A key that may predict with the models called fraud-…"""
    server, _ = guarded
    yield new_key(server, "scorer", "--scope", "predict", "--model", "fraud-*")
    assert freshet(server, "keys", "revoke", "scorer").returncode == 0


def test_without_a_key_a_request_is_401_but_for_health(guarded: tuple[Server, str]) -> None:
    api = guarded[0].api
    for token in (None, "x", "fk_000000000000_" + "a" * 43, "fk_" + "é" * 10):
        if token is None or token.isascii():
            answer = call(api, token, "POST", "/v1/models/fraud-1/predict", ROWS)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert call(api, None, "GET", "/livez").status == 200
    ready = call(api, None, "GET", "/readyz")
    assert (ready.status, ready.body["without_learner"], ready.body["troubles"]) == (200, [], {})


def test_a_scope_allows_what_it_names_and_no_more(guarded: tuple[Server, str], scorer: str) -> None:
    api = guarded[0].api
    assert call(api, scorer, "POST", "/v1/models/fraud-1/predict", ROWS).status == 200
    assert call(api, scorer, "POST", "/v1/models/fraud-1:predict", ROWS).status == 200
    for method, path, body in [
        ("POST", "/v1/models/fraud-1/feedback", LESSON),
        ("POST", "/v1/models/fraud-1/retrain", {}),
        ("PATCH", "/v1/models/fraud-1", {"learning_rate": 0.1}),
        ("POST", "/v1/models/fraud-1/rollback", {}),
        ("GET", "/v1/models/fraud-1/weights", None),
        ("DELETE", "/v1/models/fraud-1", None),
        ("PUT", "/v1/models/fraud-2", SPEC),
    ]:
        answer = call(api, scorer, method, path, body)
        assert (answer.status, "scope" in answer.body["detail"]) == (403, True), (method, path)


def test_a_key_of_one_model_sees_nothing_of_another(guarded: tuple[Server, str], scorer: str) -> None:
    api = guarded[0].api
    assert [model["model"] for model in call(api, scorer, "GET", "/v1/models").body["models"]] == ["fraud-1"]
    other, nobody = (call(api, scorer, "GET", f"/v1/models/{name}") for name in ("clicks-1", "never-made"))
    assert (other.status, nobody.status) == (403, 403)
    assert other.body["detail"].replace("clicks-1", "never-made") == nobody.body["detail"]
    for path in ("metrics", "diagnostics", "checkpoints", "jobs"):
        assert call(api, scorer, "GET", f"/v1/models/clicks-1/{path}").status in (403, 404)
    assert call(api, scorer, "GET", "/v1/jobs/clicks-1.abc").status == 403
    response = api._pool.request("GET", f"{api.base}/metrics", headers={"Authorization": f"Bearer {scorer}"})
    assert b"fraud-1" in response.data
    assert b"clicks-1" not in response.data


def test_a_revoked_key_is_refused_within_a_second_by_every_process(guarded: tuple[Server, str]) -> None:
    server, _ = guarded
    token = new_key(server, "brief", "--scope", "predict")
    assert call(server.api, token, "GET", "/v1/models").status == 200
    assert freshet(server, "keys", "revoke", "brief").returncode == 0

    def refused(_: int) -> bool:
        return call(Api(server.port), token, "GET", "/v1/models").status == 401

    def all_refuse() -> bool:
        with ThreadPoolExecutor(8) as pool:
            return all(pool.map(refused, range(16)))

    wait_until(all_refuse, 1.5)
    assert freshet(server, "keys", "revoke", "brief").returncode == 1


def test_a_rotated_key_works_on_for_its_grace(guarded: tuple[Server, str]) -> None:
    server, _ = guarded
    old = new_key(server, "turning", "--scope", "predict")
    new = freshet(server, "keys", "rotate", "turning", "--grace", "60").stdout.strip()
    wait_until(lambda: call(server.api, new, "GET", "/v1/models").status == 200, 2)
    assert call(server.api, old, "GET", "/v1/models").status == 200
    newest = freshet(server, "keys", "rotate", "turning").stdout.strip()
    wait_until(lambda: call(server.api, newest, "GET", "/v1/models").status == 200, 2)
    wait_until(lambda: call(server.api, new, "GET", "/v1/models").status == 401, 2)


def test_secrets_are_stored_hashed_and_listed_never(guarded: tuple[Server, str], scorer: str) -> None:
    server, admin = guarded
    stored = b"".join(server.link.hgetall("freshet:api-keys").values())
    listed = freshet(server, "keys", "list").stdout
    for token in (admin, scorer):
        secret = token.split("_", 2)[2]
        assert secret.encode() not in stored
        assert secret not in listed
        assert secret not in server.log()
    assert "scorer  predict  fraud-*" in listed


def test_a_name_is_taken_once_and_bad_options_are_one_line(guarded: tuple[Server, str], scorer: str) -> None:
    server, _ = guarded
    for options in (["scorer", "--scope", "admin"], ["b a d", "--scope", "admin"]):
        answer = freshet(server, "keys", "create", *options)
        assert (answer.returncode, answer.stderr.count("\n")) == (2, 1), answer.stderr


def test_every_process_knows_a_new_key_and_its_new_secret_at_once(guarded: tuple[Server, str]) -> None:
    server, _ = guarded
    with ThreadPoolExecutor(8) as pool:
        for make in (
            lambda: new_key(server, "fresh", "--scope", "predict"),
            lambda: freshet(server, "keys", "rotate", "fresh").stdout.strip(),
        ):
            token = make()
            answers = pool.map(lambda _, token=token: call(server.api, token, "GET", "/v1/models"), range(40))
            assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("feedback?results=each", b'{"features": [1, 2], "label": 1}\n'),
        ("feedback?results=blocks", b'{"features": [1, 2], "label": 1}\n'),
        ("predict", b"[1, 2]\n"),
    ],
)
def test_an_answer_that_is_streamed_goes_on_with_its_key(
    guarded: tuple[Server, str], call: str, line: bytes
) -> None:
    server, token = guarded

    def lines() -> Iterator[bytes]:
        for _ in range(4):
            yield line
            time.sleep(0.3)

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
    url = f"{server.api.base}/v1/models/fraud-1/{call}"
    answer = urllib3.request("POST", url, body=lines(), headers=headers, retries=False)
    told = [json.loads(record) for record in answer.data.splitlines()]
    assert answer.status == 200
    assert len(told) >= 4
    assert not [record for record in told if "detail" in record], told


def test_a_revoked_key_teaches_no_more_through_a_stream_that_is_open(guarded: tuple[Server, str]) -> None:
    server, _ = guarded
    token = new_key(server, "partner", "--scope", "feedback")
    line = b'{"features": [1, 2], "label": 1}\n'
    sent = []

    def lines() -> Iterator[bytes]:
        yield line
        freshet(server, "keys", "revoke", "partner")
        for number in range(40):
            time.sleep(0.2)
            sent.append(number)
            yield line

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
    answer = urllib3.request(
        "POST", f"{server.api.base}/v1/models/fraud-1/feedback", body=lines(), headers=headers, retries=False
    )
    assert (answer.status, 1 <= answer.json()["appended"] < len(sent)) == (401, True), answer.json()


def test_an_old_secret_ends_with_its_grace_though_redis_is_away(guarded: tuple[Server, str]) -> None:
    server, _ = guarded
    old = new_key(server, "graceful", "--scope", "predict")
    assert freshet(server, "keys", "rotate", "graceful", "--grace", "4").returncode == 0
    path = "/v1/models/fraud-1/predict"
    time.sleep(1)  # every process has read it
    assert call(server.api, old, "POST", path, ROWS).status == 200
    with stopped(server.pids("redis")[0]):
        wait_until(lambda: call(server.api, old, "POST", path, ROWS).status == 401, 20)


def test_a_key_with_a_rate_predicts_though_redis_stands_still(guarded: tuple[Server, str]) -> None:
    server, _ = guarded
    token = new_key(server, "rated", "--scope", "predict", "--requests-per-second", "1000")
    path = "/v1/models/fraud-1/predict"
    time.sleep(1)  # every process has read it
    with stopped(server.pids("redis")[0]), ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: call(server.api, token, "POST", path, ROWS).status, range(200))
        started = time.monotonic()
        assert set(answers) == {200}
        assert time.monotonic() - started < 20  # one by one with a wait for Redis they would take minutes
    time.sleep(access.AWAY)
    assert freshet(server, "keys", "revoke", "rated").returncode == 0
    wait_until(lambda: {call(server.api, token, "POST", path, ROWS).status for _ in range(8)} == {401}, 3)


def test_a_keys_rate_of_requests_holds_across_processes(guarded: tuple[Server, str]) -> None:
    server, _ = guarded
    token = new_key(server, "slow", "--scope", "predict", "--requests-per-second", "5")
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: call(server.api, token, "POST", "/v1/models/fraud-1/predict", ROWS), range(60))
        )
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) <= 25
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status == 429)


def test_a_large_request_is_paid_for_before_the_next_whatever_comes_between(
    guarded: tuple[Server, str],
) -> None:
    server, _ = guarded
    token = new_key(server, "flood", "--scope", "feedback", "--observations-per-second", "1")
    statuses = []
    for rows in (1000, 1, 1000):
        body = {"observations": [LESSON] * rows}
        statuses.append(call(server.api, token, "POST", "/v1/models/fraud-1/feedback", body).status)
        time.sleep(2.5)  # many times what a single row waits for
    assert statuses[0] in (200, 202)
    assert statuses[1:] == [429, 429]


def test_every_endpoint_is_in_one_table_or_for_administrators() -> None:
    app = Flask("routes")
    for resource in RESOURCES:
        app.register_blueprint(resource.routes)
    endpoints = set(app.view_functions) - {"static"}
    known = [*access.OPEN, *access.NEEDED, *access.READABLE]
    assert len(known) == len(set(known))
    assert endpoints - set(known) == {"models.create", "models.delete", "weights.put_weights"}
    assert set(known) - endpoints <= {"jobs.list_of_model"}


def started(folder: Path, part: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """`freshet serve` or a part of it, which is expected to end by itself, beside a Redis."""
    with system(folder) as whole:
        settings = {"DATA_DIR": str(folder), "PORT": str(free_port()), **variables}
        environment = clean_environment() | {f"FRESHET_{name}": value for name, value in settings.items()}
        return forking.run([part], environment | {"REDIS_URL": whole.redis.url})


@pytest.mark.parametrize("part", ["serve", "web"])
def test_an_administrators_key_that_is_no_token_does_not_start(folder: Path, part: str) -> None:
    result = started(folder, part, ADMIN_KEY="a secret of mine")
    assert (result.returncode, "is no token" in result.stderr) == (2, True), result.stderr
    assert "a secret of mine" not in result.stderr


@pytest.mark.parametrize("part", ["serve", "web"])
def test_an_open_address_without_a_key_does_not_start(folder: Path, part: str) -> None:
    result = started(folder, part, HOST="0.0.0.0")
    assert (result.returncode, "no API key" in result.stderr) == (2, True), result.stderr
