"""The commands against a server, with an API key, as scripts use them; help, completion and configuration."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from service.access import new_token
from service.cli import COMMANDS, cli
from service.settings import Settings, variable
from tests.harness import Server, clean_environment, running

FRESHET = str(Path(sys.executable).parent / "freshet")
SPEC = {"task": "binary", "features": [{"name": "a"}, {"name": "b"}]}
Freshet = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def token() -> str:
    return new_token()[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, token: str) -> Iterator[Server]:
    """A server that asks for an API key."""
    with running(tmp_path_factory.mktemp("commands"), web_workers=1, trainers=1, admin_key=token) as started:
        yield started


@pytest.fixture
def freshet(server: Server, token: str, tmp_path: Path) -> Freshet:
    """Runs a command in an empty folder with FRESHET_URL and FRESHET_KEY."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        given = {"FRESHET_URL": server.api.base, "FRESHET_KEY": token, **variables}
        return subprocess.run(
            [FRESHET, *arguments],
            cwd=tmp_path,
            env=clean_environment() | given,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_models_life_by_commands(freshet: Freshet, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    assert succeeded(freshet("models", "create", "m", "spec.json")) == "created m\n"
    assert succeeded(freshet("models", "create", "m", "spec.json")) == "m was created by this spec before\n"
    rows = "a,b,label\n" + "".join(f"{n % 7},{n % 5},{n % 2}\n" for n in range(200))
    (tmp_path / "rows.csv").write_text(rows)
    assert json.loads(succeeded(freshet("feed", "rows.csv", "--model", "m", "--json")))["applied"] == 200
    assert "m" in succeeded(freshet("models", "list")).split()
    assert "step 200" in succeeded(freshet("models", "show", "m"))
    assert json.loads(succeeded(freshet("models", "show", "m", "--json")))["step"] == 200

    predicted = succeeded(freshet("predict", "m", "rows.csv")).splitlines()
    assert len(predicted) == 200
    assert set(json.loads(predicted[0])["probabilities"]) == {"0", "1"}
    [one] = succeeded(freshet("predict", "m", stdin='{"b": 1, "a": 2}\n')).splitlines()
    assert "label" in json.loads(one)
    mistyped = freshet("predict", "m", stdin='{"b": 1, "aa": 2}\n')
    assert (mistyped.returncode, mistyped.stdout) == (1, "")
    assert "the model has no feature 'aa', and the input has no 'a'" in mistyped.stderr
    mistyped = freshet("predict", "m", stdin='{"b": 1, "a": 2}\n{"b": 1, "aa": 2}\n')
    assert mistyped.returncode == 1
    assert "row 2: the model has no feature 'aa'" in mistyped.stderr

    job = json.loads(succeeded(freshet("retrain", "m", "--epochs", "2", "--promote", "never", "--json")))
    assert job["state"] == "succeeded"
    assert "epoch 2" in succeeded(freshet("jobs", "show", job["job"]))
    assert job["job"] in succeeded(freshet("jobs", "list", "m"))
    [listed] = json.loads(succeeded(freshet("jobs", "list", "m", "--json")))["jobs"]
    assert (listed["job"], listed["state"]) == (job["job"], "succeeded")
    cancelled = freshet("jobs", "cancel", job["job"])
    assert (cancelled.returncode, cancelled.stdout) == (1, "")
    assert "the server answers 409" in cancelled.stderr

    succeeded(freshet("export", "m"))
    assert (tmp_path / "m.safetensors").stat().st_size > 100
    assert freshet("models", "delete", "m").returncode == 2  # no terminal to ask on
    succeeded(freshet("models", "delete", "m", "--yes"))
    gone = freshet("models", "show", "m")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "the server answers 404: there is no model 'm'" in gone.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "message"),
    [
        (("models", "list"), {"FRESHET_KEY": "wrong"}, 1, "the server answers 401"),
        (("models", "list"), {"FRESHET_URL": "http://127.0.0.1:1"}, 3, "cannot be reached"),
        (("models", "list"), {"FRESHET_URL": "ftp://x"}, 1, "is not the address of a server"),
        (("models", "create", "m", "-"), {}, 1, "is not JSON"),
        (("predict", "nobody", "/dev/null"), {}, 1, "there is no model 'nobody'"),
        (("jobs", "show", "nobody.1"), {}, 1, "the server answers 404"),
        (("modles",), {}, 2, "modles"),
    ],
    ids=str,
)
def test_exit_statuses_tell_a_refusal_from_a_server_that_is_away(
    arguments: tuple[str, ...], variables: dict[str, str], status: int, message: str, freshet: Freshet
) -> None:
    wait = () if arguments == ("modles",) else ("--wait", "0.2")
    done = freshet(*arguments, *wait, **variables)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_key_may_be_in_a_file(freshet: Freshet, token: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(token + "\n")
    done = freshet("models", "list", "--json", FRESHET_KEY="", FRESHET_KEY_FILE=str(tmp_path / "key"))
    assert "models" in json.loads(succeeded(done))


def commands(group: Any = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path."""
    names = COMMANDS if group is cli else group.commands
    for name in names:
        command = group.get_command(click.Context(group), name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_every_command_has_help_and_all_against_a_server_have_the_same_options() -> None:
    found = dict(commands())
    assert len(found) >= 18
    for path, command in found.items():
        assert command.help, path
        options = {option for parameter in command.params for option in parameter.opts}
        if path[0] in ("models", "predict", "feed", "retrain", "jobs", "export"):
            assert {"--url", "--key-file", "--wait"} <= options, path
    for path in ("feed", "retrain", "predict", "serve", "export", "completion"):
        assert "Examples:" in found[path,].help, path


def test_completion_scripts_name_the_command(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = succeeded(subprocess.run([FRESHET, "completion", shell], capture_output=True, text=True))
        assert "_FRESHET_COMPLETE" in script
    words = os.environ | {
        "_FRESHET_COMPLETE": "bash_complete",
        "COMP_WORDS": "freshet mod",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([FRESHET], env=words, capture_output=True, text=True)
    assert "models" in done.stdout


def test_config_prints_every_setting_with_its_value_and_source(freshet: Freshet) -> None:
    secret = "redis://:hunter2@host:6379/0"
    printed = succeeded(freshet("config", "--json", "--port", "9001", REDIS_URL=secret, FRESHET_TRAINERS="3"))
    found = json.loads(printed)
    assert list(found) == [variable(name) for name in Settings.model_fields]
    assert found["FRESHET_PORT"] == {"value": "9001", "source": "--port"}
    assert found["FRESHET_TRAINERS"] == {"value": "3", "source": "FRESHET_TRAINERS"}
    assert found["FRESHET_HOST"] == {"value": "127.0.0.1", "source": "default"}
    assert "hunter2" not in printed
