"""The OWASP API Security Top 10 (2023): a test for each row that applies."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from tests import forking
from tests.harness import Answer, Server, clean_environment, running, wait_until

ROOT = Path(__file__).parents[2]
SPEC = {"task": "binary", "features": 2, "layers": []}
ROWS = {"instances": [[1, 2]]}


class Guarded:
    """A server with an administrator, a key for one model, and two models."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tokens = {
            "admin": self._create("admin", "--scope", "admin"),
            "one": self._create("one", "--scope", "predict", "--scope", "feedback", "--model", "mine"),
        }
        wait_until(lambda: self("nobody", "GET", "/v1/models").status == 401, 5)
        for name in ("mine", "theirs"):
            assert self("admin", "PUT", f"/v1/models/{name}", SPEC).status == 201

    def _create(self, name: str, *options: str) -> str:
        command = ["keys", "create", name, *options, "--data-dir", str(self.server.data_dir)]
        return forking.run(command, clean_environment()).stdout.strip()

    def __call__(self, key: str, method: str, path: str, body: object = None) -> Answer:
        return self.server.api(method, path, body, {"Authorization": f"Bearer {self.tokens.get(key, key)}"})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with running(tmp_path_factory.mktemp("owasp"), web_workers=1) as server:
        yield Guarded(server)


def test_api1_broken_object_level_authorization(guarded: Guarded) -> None:
    for method, path, body in [
        ("GET", "/v1/models/theirs", None),
        ("POST", "/v1/models/theirs/predict", ROWS),
        ("POST", "/v1/models/theirs/feedback", {"features": [1, 2], "label": 1}),
        ("POST", "/v1/models/theirs:predict", ROWS),
        ("GET", "/v1/jobs/theirs.0123456789abcdef", None),
        ("GET", "/v2/models/theirs", None),
    ]:
        assert guarded("one", method, path, body).status == 403, path


def test_api2_broken_authentication(guarded: Guarded) -> None:
    token = guarded.tokens["one"]
    for forged in (
        token[:-1],
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        token.upper(),
        "fk__",
        token + "=" * 9999,
    ):
        assert guarded(forged[:4000], "GET", "/v1/models").status == 401
    assert guarded.server.api("GET", f"/v1/models?key={token}").status == 401


def test_api3_broken_object_property_level_authorization(guarded: Guarded) -> None:
    for field in ("step", "generation", "term", "created", "seed"):
        assert guarded("admin", "PATCH", "/v1/models/mine", {field: 1}).status == 422
    told = json.dumps(guarded("admin", "GET", "/v1/models/mine").body)
    assert not any(secret in told for secret in ("digest", "fk_", "redis"))


def test_api4_unrestricted_resource_consumption(guarded: Guarded) -> None:
    rows = {"instances": [[1, 2]] * 5000}
    assert guarded("one", "POST", "/v1/models/mine/predict", rows).status == 422
    assert (
        guarded(
            "one", "POST", "/v1/models/mine/predict", b'{"instances": [[' + b" " * 2**24 + b"1, 2]]}"
        ).status
        == 413
    )
    deep = b"[" * 100_000 + b"]" * 100_000
    assert guarded("one", "POST", "/v1/models/mine/predict", b'{"instances": ' + deep + b"}").status in (
        400,
        422,
    )
    huge = {"task": "binary", "features": 100_000, "layers": [{"units": 100_000}]}
    assert guarded("admin", "PUT", "/v1/models/huge", huge).status == 422


def test_api5_broken_function_level_authorization(guarded: Guarded) -> None:
    for method, path in [
        ("PUT", "/v1/models/mine"),
        ("DELETE", "/v1/models/mine"),
        ("PATCH", "/v1/models/mine"),
        ("POST", "/v1/models/mine/retrain"),
        ("POST", "/v1/models/mine/undo"),
        ("POST", "/v1/models/mine/rollback"),
        ("PUT", "/v1/models/mine/weights"),
        ("GET", "/v1/models/mine/weights"),
    ]:
        assert guarded("one", method, path, {}).status == 403, (method, path)


def test_api6_unrestricted_access_to_sensitive_business_flows(guarded: Guarded) -> None:
    """Teaching is the sensitive flow: whose lesson it was stays in the log, so that it can be undone."""
    assert guarded("one", "POST", "/v1/models/mine/feedback", {"features": [1, 2], "label": 1}).status in (
        200,
        202,
    )
    entries = guarded.server.link.xrange("freshet:{mine}:log")
    assert {fields[b"k"] for _, fields in entries} == {b"one"}


def test_api8_security_misconfiguration(guarded: Guarded) -> None:
    response = urllib3.request(
        "POST",
        f"{guarded.server.api.base}/v1/models/mine/predict",
        headers={"Origin": "https://elsewhere.example"},
    )
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.status in (401, 403, 421)
    assert b"Traceback" not in response.data
    data = guarded.server.data_dir
    assert data.stat().st_mode & 0o077 == 0
    assert not any(path.stat().st_mode & 0o077 for path in data.rglob("*") if path.is_file())


def test_api9_improper_inventory_management(guarded: Guarded) -> None:
    paths = guarded("admin", "GET", "/openapi.json").body["paths"]
    assert all(
        path.startswith(("/v1", "/v2", "/livez", "/readyz", "/metrics", "/openapi", "/docs"))
        for path in paths
    )
    assert guarded("admin", "GET", "/v0/models").status == 404


def test_api10_unsafe_consumption_of_apis() -> None:
    """What comes from Redis is data, never code."""
    for path in [*(ROOT / "service").rglob("*.py"), *(ROOT / "model").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in getattr(node, "names", [])]
                if isinstance(node, ast.Import | ast.ImportFrom)
                else []
            )
            assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & set(names), path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
