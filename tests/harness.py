"""Real servers for tests: `freshet serve` in a temporary folder, stopped and killed by pid."""

import itertools
import json
import os
import re
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
import urllib3

from tests import contract, forking

READY_SECONDS = 60.0
APPLY_SECONDS = 10.0
"""The `apply_timeout` of servers whose test sets none: on a crowded machine the default would end in 202."""
FRESHET = [sys.executable, "-m", "service.cli"]
_numbers = itertools.count(1)


class Answer:
    """An HTTP answer: its status, headers and JSON body."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body: Any = json.loads(response.data) if response.data else None

    def __repr__(self) -> str:
        return f"<{self.status} {self.body}>"


class Api:
    """A client without retries."""

    def __init__(self, port: int, timeout: float = 30.0) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self._pool = urllib3.PoolManager(retries=False, timeout=timeout, maxsize=32)

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send `body` as JSON; bytes are sent as they are, an iterator of bytes in chunks."""
        answer = Answer(self.raw(method, path, body, headers))
        contract.check(method, path, answer.status, answer.body)
        return answer

    def raw(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """The answer as it came."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        if not isinstance(body, bytes | Iterator | None):
            body = json.dumps(body).encode()
        return self._pool.request(method, self.base + path, body=body, headers=sent)

    def close(self) -> None:
        """Close its connections."""
        self._pool.clear()


class Served(ABC):
    """Models behind HTTP."""

    api: Api

    @abstractmethod
    def log(self) -> str:
        """What the processes behind it have printed."""

    def create(self, spec: dict[str, Any]) -> str:
        """Create a model; returns its name, which no other model has."""
        name = f"model-{next(_numbers)}"
        assert self.api("PUT", f"/v1/models/{name}", spec).status == 201
        return name

    def described(self, name: str) -> dict[str, Any]:
        """What the server tells of the model."""
        found: dict[str, Any] = self.api("GET", f"/v1/models/{name}").body
        return found

    def troubles(self) -> dict[str, str]:
        """The models that it says are in trouble, and why."""
        found: dict[str, str] = self.api("GET", "/readyz").body["troubles"]
        return found

    def step(self, name: str) -> int:
        """The model's step."""
        return int(self.described(name)["step"])

    def wait_step(self, name: str, step: int, seconds: float = 20) -> None:
        """Wait until the model has reached a step."""
        wait_until(lambda: self.step(name) >= step, seconds, self.log)


class Server(Served):
    """One `freshet serve`, which can be started again on the same data folder and port.

    It has no trainer unless `trainers` says so: few tests need one.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.port = free_port()
        self.environment = clean_environment() | {
            f"FRESHET_{name.upper()}": str(value)
            for name, value in {"trainers": 0, "apply_timeout": APPLY_SECONDS, **settings}.items()
        }
        self.process: forking.Process | None = None
        self.api = Api(self.port)

    def start(self) -> "Server":
        """Start it and wait until it is ready."""
        self.spawn()
        self.wait_ready()
        return self

    def spawn(self, **variables: str) -> None:
        """Start it, without waiting."""
        arguments = ["serve", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = forking.start(arguments, self.environment | variables, log, log)

    def wait_ready(self) -> None:
        """Wait until the web answers that it is ready."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            with suppress(urllib3.exceptions.HTTPError):
                return self.api("GET", "/readyz").status == 200
            return False

        wait_until(ready, READY_SECONDS, self.log)

    def log(self) -> str:
        """What it has printed."""
        return (self.folder / "serve.log").read_text(errors="replace")

    def stop(self) -> int:
        """Stop it with SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """Kill `serve` itself with SIGKILL, and wait until all it started is gone too."""
        assert self.process is not None
        family = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(alive(pid) for pid in family), 30, self.log)

    def pids(self, part: str) -> list[int]:
        """The processes of one part: "learner", "web" (the workers), "gunicorn" (their master), "redis"."""
        assert self.process is not None
        lines = {pid: command_line(pid) for pid in descendants(self.process.pid)[1:]}
        if part == "learner":
            return [pid for pid, line in lines.items() if "freshet learner" in line]
        if part == "redis":
            return [pid for pid, line in lines.items() if "valkey-server" in line]
        gunicorns = [pid for pid, line in lines.items() if "gunicorn" in line]
        masters = [pid for pid in gunicorns if parent(pid) not in gunicorns]
        return masters if part == "gunicorn" else [pid for pid in gunicorns if pid not in masters]

    def kill_part(self, part: str) -> None:
        """SIGKILL one process of a part, as soon as there is one."""
        wait_until(lambda: bool(self.pids(part)), 20, self.log)
        os.kill(self.pids(part)[0], signal.SIGKILL)

    @property
    def link(self) -> redis.Redis:
        """A client of its embedded Redis."""
        return redis.Redis(unix_socket_path=str(self.data_dir / "redis.sock"))


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[Server]:
    """A server that is stopped at the end."""
    server = Server(folder, **settings)
    try:
        yield server.start()
    finally:
        server.api.close()
        if server.process is not None and server.process.poll() is None:
            server.stop()
        check_log(server.log())


SECRET = re.compile(r"fk_[0-9a-f]{12}_|\"(features|instances|label)\":")


def check_log(text: str) -> None:
    """No line that a server has written may hold an API key, a row or a label."""
    found = SECRET.search(text)
    assert found is None, text[max(0, found.start() - 300) : found.end() + 100]


def clean_environment() -> dict[str, str]:
    """This environment without any setting of Freshet."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FRESHET_") and name != "REDIS_URL"
    }


def crowd() -> float:
    """How many times longer things take, at least once, where other work shares the processors."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, tell: Callable[[], str] = lambda: "") -> None:
    """Wait until a condition holds. Raises AssertionError after `seconds`, longer on a crowded machine."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds * crowd(), f"not within {seconds} s\n{tell()}"
        time.sleep(0.02)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process has used; 0 when it is gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def parent(pid: int) -> int:
    """A process's parent; 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def command_line(pid: int) -> str:
    """A process's command line."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def descendants(pid: int) -> list[int]:
    """A process and all that come from it, itself first."""
    parents = {
        int(entry.name): parent(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()
    }
    family = [pid]
    for member in family:
        family.extend(child for child, its_parent in parents.items() if its_parent == member)
    return family
