"""The rules of deploy/valkey/users.acl suffice for every process, and give it no more than it needs."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.faults import Part, Valkey
from tests.harness import FRESHET, clean_environment, wait_until
from tests.jobs import SPEC, finished, taught

RULES = Path(__file__).parents[2] / "deploy" / "valkey" / "users.acl"


class GuardedValkey(Valkey):
    """A Valkey with these rules, and a user `root` for the test."""

    @property
    def link(self) -> redis.Redis:
        return redis.Redis(port=self.port, username="root", password="root", socket_timeout=5)

    def url_of(self, user: str) -> str:
        """The address for a process of this user."""
        return f"redis://{user}:change-{user}@127.0.0.1:{self.port}/0"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedValkey]:
    folder = tmp_path_factory.mktemp("guarded")
    rules = folder / "users.acl"
    rules.write_text(RULES.read_text() + "user root on >root allkeys allchannels allcommands\n")
    server = GuardedValkey(folder / "redis", aclfile=str(rules))
    try:
        yield server.start()
    finally:
        server.kill()


def part(kind: str, folder: Path, valkey: GuardedValkey, **settings: object) -> Part:
    made = Part(kind, folder, valkey.port, **settings)
    made.environment["REDIS_URL"] = valkey.url_of(kind)
    return made.start()


def test_the_rules_suffice_for_every_process(folder: Path, valkey: GuardedValkey) -> None:
    parts = [part(kind, folder, valkey) for kind in ("learner", "trainer", "web")]
    web = parts[-1]

    def log() -> str:
        with valkey.link as link:
            return "\n".join([*(made.log() for made in parts), str(link.acl_log()), str(web.described("m"))])

    try:
        path = "/v1/models/m"
        assert web.api("PUT", path, SPEC).status == 201
        taught(web, "m", 500)
        predicted = {"instances": [[0, 0, 0, 0]], "ids": ["late"]}
        assert web.api("POST", f"{path}/predict", predicted).status == 200
        assert web.api("POST", f"{path}/feedback", {"id": "late", "label": 1}).status in (200, 202)
        assert web.api("PATCH", path, {"learning_rate": 0.1}).status in (200, 202)
        asked = {"epochs": 2, "promote": "always"}
        job = web.api("POST", f"{path}/retrain", asked).headers["Location"]
        assert finished(web.api, job, seconds=60)["state"] == "succeeded"
        wait_until(lambda: bool(web.api("GET", f"{path}/checkpoints").body["checkpoints"]), 60, log)
        [checkpoint] = web.api("GET", f"{path}/checkpoints").body["checkpoints"]
        assert web.api("POST", f"{path}/rollback", {"checkpoint": checkpoint["id"]}).status in (200, 202)
        command = [
            *FRESHET,
            "keys",
            "create",
            "k",
            "--scope",
            "predict",
            "--redis-url",
            valkey.url_of("keys"),
        ]
        subprocess.run(command, env=clean_environment(), check=True, capture_output=True)
        wait_until(lambda: web.api("GET", "/v1/models").status == 401, 10, web.log)
        revoke = [*FRESHET, "keys", "revoke", "k", "--redis-url", valkey.url_of("keys")]
        subprocess.run(revoke, env=clean_environment(), check=True, capture_output=True)
        wait_until(lambda: web.api("DELETE", path).status == 204, 10, web.log)
        with valkey.link as link:
            assert link.acl_log() == []
    finally:
        for running in parts:
            running.api.close()
            running.kill()


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("web", ["FLUSHALL"]),
        ("web", ["CONFIG", "GET", "*"]),
        ("web", ["KEYS", "*"]),
        ("web", ["SET", "other", "1"]),
        ("web", ["HSET", "freshet:api-keys", "a", "b"]),
        ("learner", ["HGETALL", "freshet:api-keys"]),
        ("trainer", ["HGETALL", "freshet:api-keys"]),
        ("trainer", ["EVAL", "return redis.call('GET', 'other')", "0"]),
        ("keys", ["GET", "freshet:{m}:log"]),
        ("learner", ["PUBLISH", "other", "x"]),
    ],
    ids=str,
)
def test_the_rules_give_no_more(user: str, command: list[str], valkey: GuardedValkey) -> None:
    with (
        redis.Redis.from_url(valkey.url_of(user)) as link,
        pytest.raises(redis.ResponseError, match=r"(?i)perm"),
    ):
        link.execute_command(*command)


def test_a_wrong_password_is_named_without_being_printed(folder: Path, valkey: GuardedValkey) -> None:
    url = f"redis://web:not-this@127.0.0.1:{valkey.port}/0"
    done = subprocess.run(
        [*FRESHET, "keys", "list", "--redis-url", url],
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "invalid username-password pair" in done.stderr
    assert "not-this" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
