"""Commands of Freshet that start at once: forked from a process that has loaded their code.

A start costs two seconds of a processor else, and the tests make hundreds. What is forked is what `freshet serve` forks
for its own processes.
"""

import atexit
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from service import cli
from service.host.forked import Forked, RunCommand, ended_at_once
from service.host.preloading import preload
from service.telemetry import FOLDER

LONGEST = 2**20  # bytes of a message


class Nursery:
    """The loaded process, asked by one message at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = threading.Lock()
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def ask(self, message: dict[str, Any], files: Sequence[int] = ()) -> Any:
        """Send a message, with open files, and return the answer."""
        with self._turn:
            socket.send_fds(self._socket, [json.dumps(message).encode()], list(files))
            return json.loads(self._socket.recv(LONGEST))


@cache
def nursery() -> Nursery:
    """The one of this process."""
    return Nursery()


class Started(Forked):
    """A command that was started, with the methods of `subprocess.Popen` that tests need."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: IO[bytes], errors: IO[bytes]
    ) -> None:
        message = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
        self.pid = nursery().ask(message, [output.fileno(), errors.fileno()])
        self.returncode = None

    def poll(self) -> int | None:
        """The exit status, or the negative number of the signal that ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = nursery().ask({"poll": self.pid})
        return self.returncode

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)


Process = Started | subprocess.Popen[bytes]


def start(
    arguments: Sequence[str], environment: Mapping[str, str], output: IO[bytes], errors: IO[bytes]
) -> Process:
    """Start `freshet` with these arguments; by itself where a variable takes effect before any code of its own."""
    if _is_plain(environment):
        return Started(arguments, environment, output, errors)
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.Popen(command, env=environment, stdout=output, stderr=errors, start_new_session=True)


def run(
    arguments: Sequence[str], environment: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `freshet` to its end, with nothing to read. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        status = start(arguments, environment, output, errors).wait(timeout)
        for file in (output, errors):
            file.seek(0)
        texts = output.read().decode(), errors.read().decode()
    return subprocess.CompletedProcess(["freshet", *arguments], status, *texts)


def _is_plain(environment: Mapping[str, str]) -> bool:
    def others(variables: Mapping[str, str]) -> set[tuple[str, str]]:
        return {
            (name, value)
            for name, value in variables.items()
            if name != "REDIS_URL" and not name.startswith(("FRESHET_", "PYTEST_"))
        }

    return others(environment) == others(os.environ) and "FRESHET_METRICS_PORT" not in environment


def main() -> None:
    """Load the code, then start what is asked for."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    counters = tempfile.mkdtemp()
    os.environ[FOLDER] = counters
    importlib.import_module("service.host.commands")
    preload()
    asked: dict[str, Any] = {}
    try:
        _answer(socket.socket(fileno=int(sys.argv[1])), asked)
    except RunCommand:
        os.chdir(asked["folder"])
        if asked["arguments"][0] in ("learner", "trainer"):  # `serve` and `web` choose a folder of their own
            os.environ[FOLDER] = counters
        sys.argv = ["freshet", *asked["arguments"]]
        ended_at_once(cli.main)
    shutil.rmtree(counters)


def _answer(client: socket.socket, asked: dict[str, Any]) -> None:
    """Answer until the tests are over. In a process that was forked, RunCommand is raised, and `asked` is what for."""
    processes: dict[int, Forked] = {}
    while True:
        text, files, _, _ = socket.recv_fds(client, LONGEST, 2)
        if not text:
            return
        message = json.loads(text)
        if "poll" in message:
            answer = processes[message["poll"]].poll()
        else:
            asked |= message
            for number, file in enumerate(files, 1):
                os.dup2(file, number)
                os.close(file)
            title = " ".join(["freshet", *message["arguments"]])
            started = Forked(title, "", [], message["environment"], (client.fileno(),))
            processes[started.pid] = started
            answer = started.pid
        client.send(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
