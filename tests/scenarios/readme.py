"""The README's examples and settings, and a command that writes real answers into it: `make readme`."""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import river
import urllib3

from service.settings import PREFIX, Settings
from tests.harness import running

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
URL = "http://127.0.0.1:8000"
WIDTH = 116
FORM = "Content-Type: application/x-www-form-urlencoded"  # what curl says of a body where it is told nothing

EXAMPLE = re.compile(r"^```console\n\$ ((?:.*\\\n)*.*\n)((?:(?!```).*\n)*)```", re.MULTILINE)
SHELL = re.compile(r"^```sh\n((?:(?!```).*\n)*)```", re.MULTILINE)
CURL = re.compile(r"^curl (?:[^'\n#\\]|'[^']*'|\\\n)*", re.MULTILINE)
TABLE = re.compile(r"^\| variable \| default \| meaning \|\n(?:\|.*\n)*", re.MULTILINE)


def examples(text: str) -> Iterator[tuple[str, str]]:
    """The console examples: each command, and the answer that is printed below it."""
    yield from EXAMPLE.findall(text)


def unprinted(text: str) -> Iterator[str]:
    """The curl commands without an answer below them that send JSON to the server of the examples."""
    for block in SHELL.findall(text):
        yield from (command for command in CURL.findall(block) if URL in command and " -d '" in command)


def run(command: str, url: str) -> str:
    """What a command of the README prints with its server at `url`."""
    words = command.replace("\\\n", " ").strip()
    return curl(words, url) if words.startswith("curl ") else freshet(words, url)


def curl(command: str, url: str) -> str:
    """What `curl URL [-X METHOD] [-H HEADER] [-d BODY] [-w FORMAT]` prints; curl itself may not be installed."""
    options: dict[str, str] = {}
    words = iter(shlex.split(command)[1:])
    for word in words:
        option = word if word in ("-X", "-H", "-d", "-o", "-w") else "url"
        options[option] = word if option == "url" else next(words)
    assert options["url"].startswith(URL), f"what is {options['url']}?"
    response = urllib3.request(
        options.get("-X", "POST" if "-d" in options else "GET"),
        options["url"].replace(URL, url),
        body=options.get("-d"),
        headers=dict([options.get("-H", FORM if "-d" in options else "Accept: */*").split(": ")]),
    )
    if "-w" in options:
        assert (options["-w"], options["-o"]) == (r"%{http_code}\n", "/dev/null")
        return f"{response.status}\n"
    return response.data.decode()


def freshet(command: str, url: str) -> str:
    """What a `freshet` command prints on standard output."""
    binary, packages = Path(sys.executable).parent / "freshet", Path(river.__file__).parents[1]
    command = command.replace(".venv/bin/freshet", shlex.quote(str(binary)))
    command = command.replace(".venv/lib/python3*/site-packages", shlex.quote(str(packages)))
    result = subprocess.run(
        f"{command} --url {url}", shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def settings_table() -> str:
    """The table of all settings: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or PREFIX + name.upper()
        fixed = field.default_factory is None and field.default is not None
        default = f"`{_written(field.default)}`" if fixed else ""
        rows.append(f"| `{variable}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _written(value: object) -> str:
    """A default as it is written in the environment."""
    return f"{value:_}" if type(value) is int and value > 99_999 else str(value)


def wrapped(answer: str) -> str:
    """A JSON answer in lines that fit, members that do not fit one to a line; other text as it is."""
    try:
        return "\n".join(_lines(json.loads(answer), ""))
    except ValueError:
        return answer.strip()


def _lines(value: object, indent: str) -> list[str]:
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent + flat) <= WIDTH or not isinstance(value, dict | list):
        return [flat]
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    members = value.items() if isinstance(value, dict) else [(None, member) for member in value]
    lines = [opening]
    for name, member in members:
        first, *rest = _lines(member, indent + "  ")
        label = "" if name is None else f"{json.dumps(name)}: "
        lines += [f"  {label}{first}", *(f"  {line}" for line in rest)]
        lines[-1] += ","
    lines[-1] = lines[-1][:-1]
    return [*lines, closing]


def filled(text: str, answer: Callable[[str], str]) -> str:
    """The README with the answers and the settings as they are."""
    text = EXAMPLE.sub(lambda match: f"```console\n$ {match[1]}{wrapped(answer(match[1]))}\n```", text)
    return TABLE.sub(lambda _: settings_table(), text)


def main() -> None:
    """Ask a new server every example and write what it answers into the README."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as server:
        README.write_text(filled(README.read_text(), lambda command: run(command, server.api.base)))


if __name__ == "__main__":
    main()
