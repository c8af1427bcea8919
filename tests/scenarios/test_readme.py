"""The README holds: its commands run against a real server and get the answers that it prints."""

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from service.settings import PREFIX, Settings
from tests.harness import running

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
URL = "http://127.0.0.1:8000"

# Different at each creation or each run, or with the processor's speed.
VOLATILE = {"created", "generation", "term", "timeline"}
RATE = re.compile(r"[\d,]+ rows/s")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def examples():
    """The console examples: (command, the answer printed below it)."""
    for block in re.findall(r"^```console\n\$ (.*?)^```", README, re.MULTILINE | re.DOTALL):
        command, answer = re.fullmatch(r"((?:.*\\\n)*.*\n)(.*)", block, re.DOTALL).groups()
        yield command.replace("\\\n", " ").strip(), answer.strip()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a server without models."""
    with running(tmp_path_factory.mktemp("readme")) as server:
        yield server.api.base


def curl(command, url):
    """What `curl URL [-X METHOD] [-H HEADER] [-d BODY]` prints; curl itself may not be installed."""
    method, body, headers, address = None, None, {}, None
    words = iter(shlex.split(command)[1:])
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-d":
            body = next(words)
        elif word == "-H":
            name, value = next(words).split(": ")
            headers[name] = value
        else:
            assert word.startswith(URL), f"the README uses an option that this test does not know: {word}"
            address = word.replace(URL, url)
    method = method or ("GET" if body is None else "POST")
    return urllib3.request(method, address, body=body, headers=headers).data.decode()


def freshet(command, url):
    """What a `freshet` command prints on standard output."""
    binary = Path(sys.executable).parent / "freshet"
    command = command.replace(".venv/bin/freshet", shlex.quote(str(binary)))
    command = command.replace(".venv/lib/python3*/site-packages", shlex.quote(str(packages())))
    result = subprocess.run(
        f"{command} --url {url}", shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def packages():
    """The folder of the installed packages."""
    import river

    return Path(river.__file__).parents[1]


def assert_like(answer, printed, path=""):
    """Equal, but for what differs from run to run and for the last digits of real numbers."""
    if isinstance(printed, dict):
        assert list(answer) == list(printed), path
        for key in printed:
            if key not in VOLATILE:
                assert_like(answer[key], printed[key], f"{path}/{key}")
    elif isinstance(printed, list):
        assert len(answer) == len(printed), path
        for place, (one, other) in enumerate(zip(answer, printed, strict=True)):
            assert_like(one, other, f"{path}/{place}")
    elif isinstance(printed, float) and isinstance(answer, float):
        assert math.isclose(answer, printed, rel_tol=5e-3, abs_tol=5e-3), f"{path}: {answer}, not {printed}"
    else:
        assert answer == printed, path


def assert_like_text(text, printed):
    """Equal text, in which numbers may differ in their last digits and the rate in all."""
    text, printed = RATE.sub("", text.strip()), RATE.sub("", printed.strip())
    assert NUMBER.sub("#", text) == NUMBER.sub("#", printed)
    for one, other in zip(NUMBER.findall(text), NUMBER.findall(printed), strict=True):
        assert math.isclose(number(one), number(other), rel_tol=5e-3, abs_tol=5e-3), (
            f"{text!r}, not {printed!r}"
        )


def number(text):
    """A printed number, with commas between its thousands."""
    return float(text.replace(",", ""))


def test_every_command_gets_the_answer_that_is_printed(url):
    commands = 0
    for command, printed in examples():
        if command.startswith("curl"):
            assert_like(json.loads(curl(command, url)), json.loads(printed), command)
        else:
            assert_like_text(freshet(command, url), printed)
        commands += 1
    assert commands >= 8


def settings_rows():
    """The rows of the settings table as they must be."""
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or PREFIX + name.upper()
        default = "" if field.default_factory or field.default is None else f"`{shown(field.default)}`"
        yield f"| `{variable}` | {default} | {field.description} |"


def shown(value):
    """A default as it is written in the environment."""
    return f"{value:_}" if type(value) is int and value > 99_999 else str(value)


def test_the_settings_table_lists_every_setting_with_its_default_and_meaning():
    start = README.index("| variable | default | meaning |")
    table = README[start : README.index("\n\n", start)].splitlines()[2:]
    assert table == list(settings_rows())
