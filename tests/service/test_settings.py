"""Settings: from the environment, from files, under former names; what children get; how memory is shared."""

import os
from pathlib import Path

import pytest

from service import settings
from service.errors import SettingsError
from service.host.memory import available, limit
from service.settings import child_environment, in_force, load_settings


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings."""
    for key in list(os.environ):
        if key.startswith("FRESHET_") or key == "REDIS_URL":
            monkeypatch.delenv(key)
    return monkeypatch


def test_a_secret_is_read_from_a_file_and_stays_there(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("redis://:pass@host:6379/0\n")
    variables.setenv("REDIS_URL_FILE", str(secret))
    read = load_settings()
    assert read.redis_url == "redis://:pass@host:6379/0"
    environment = child_environment(read)
    assert environment["REDIS_URL_FILE"] == str(secret)
    assert "pass" not in str(environment.get("REDIS_URL"))
    rows = {name: (value, source) for name, value, source in in_force(read, {})}
    assert rows["REDIS_URL"] == ("redis://:***@host:6379/0", "REDIS_URL_FILE")


def test_an_option_wins_over_a_file_in_the_children_too(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "port").write_text("9000")
    variables.setenv("FRESHET_PORT_FILE", str(tmp_path / "port"))
    assert load_settings().port == 9000
    environment = child_environment(load_settings(port=9001))
    assert environment["FRESHET_PORT"] == "9001"
    assert "FRESHET_PORT_FILE" not in environment


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"FRESHET_PORT_FILE": "/nowhere"}, "FRESHET_PORT_FILE: cannot read /nowhere"),
        ({"FRESHET_PORT": "1", "FRESHET_PORT_FILE": "/dev/null"}, "give the same setting"),
        ({"FRESHET_PORT_FILES": "x"}, "unknown setting FRESHET_PORT_FILES"),
        ({"FRESHET_PORT": "x"}, "FRESHET_PORT: .*'x'"),
    ],
    ids=str,
)
def test_what_is_wrong_in_the_environment_is_named(
    given: dict[str, str], message: str, variables: pytest.MonkeyPatch
) -> None:
    for key, value in given.items():
        variables.setenv(key, value)
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_a_setting_under_its_former_name_works_with_a_warning(variables: pytest.MonkeyPatch) -> None:
    variables.setitem(settings.FORMER, "FRESHET_DOOR", "FRESHET_PORT")
    variables.setenv("FRESHET_DOOR", "9002")
    read = load_settings()
    assert read.port == 9002
    assert settings.former_names() == ["FRESHET_DOOR is now called FRESHET_PORT"]
    environment = child_environment(read)
    assert environment["FRESHET_PORT"] == "9002"
    assert "FRESHET_DOOR" not in environment


def test_variables_of_the_command_lines_clients_do_not_stop_a_server(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("FRESHET_URL", "http://elsewhere")
    variables.setenv("FRESHET_KEY", "k")
    assert load_settings().port == 8000


def test_the_defaults_of_children_are_those_of_the_parent(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("FRESHET_TRAINERS", "0")
    parent = load_settings(web_workers=3, data_dir=Path("/srv/x"))
    for key, value in child_environment(parent).items():
        variables.setenv(key, value)
    assert load_settings() == parent


def machine(folder: Path, cgroup: str, limits: dict[str, str]) -> int:
    """The memory available on a machine of 8 GiB with these control groups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    (folder / "proc" / "self" / "cgroup").write_text(cgroup)
    for path, text in limits.items():
        (folder / "cgroup" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / path).write_text(text)
    return available(folder / "proc", folder / "cgroup")


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/\n", {}, 8 << 30),
        ("0::/\n", {"memory.max": "max\n"}, 8 << 30),
        ("0::/\n", {"memory.max": "1073741824\n"}, 1 << 30),  # a container sees its own group as the root
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "2147483648\n"}, 2 << 30),
        ("4:memory:/docker/x\n0::/\n", {"memory/memory.limit_in_bytes": "1073741824\n"}, 1 << 30),
        ("4:cpu,memory:/x\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712\n"}, 8 << 30),
    ],
)
def test_the_memory_available_is_that_of_the_container(
    cgroup: str, limits: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert machine(tmp_path, cgroup, limits) == expected


def test_a_share_of_memory_becomes_bytes_and_a_size_stays() -> None:
    assert int(limit("50%")) == available() // 2
    assert limit("2gb") == "2gb"
    assert limit("0") == "0"
