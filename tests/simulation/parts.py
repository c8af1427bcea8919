"""The processes of a run (web with its request threads, learners, trainers), and HTTP from clients to them."""

import importlib
import io
import json
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import imitations
import structlog
from scheduler import Process, Task, World, world
from wire import URL

HTTP_LATENCY = 5e-4  # seconds on the way of a request or an answer, at most
AGAIN = 0.3  # seconds until a process that ended by itself is started again


class Lost(Exception):
    """The connection to a web process was refused or lost."""


class GaveUp(Exception):
    """The client's patience is over."""


@dataclass(eq=False)
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    body: Any  # bytes, or Pieces
    headers: dict[str, str]
    web: str
    facts: dict[str, Any] = field(default_factory=dict)  # what the client knows of it
    process: Process | None = None
    sent_at: float = 0.0
    begun_at: float | None = None
    ended_at: float | None = None
    status: int = 0  # 0: none came
    answer: Any = None
    answer_headers: dict[str, str] = field(default_factory=dict)
    outcome: str = ""  # "answered", "lost", "gave up"
    _waiting: Task | None = None

    def settle(self, outcome: str) -> None:
        """Tell the client."""
        if not self.outcome:
            self.outcome = outcome
            if self._waiting is not None:
                self._waiting.wake()

    def __str__(self) -> str:
        told = f"{self.status} {_short(self.answer)}" if self.status else self.outcome
        return f"{self.method} {self.path} at {self.process or self.web} -> {told}"


def _short(answer: Any) -> str:
    text = json.dumps(answer, default=str)
    return text if len(text) < 200 else text[:200] + "…"


class Pieces:
    """A body that comes in pieces; as gunicorn, a read returns when as much has come as was asked for."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._ended = self._cut = False
        self._waiting: list[Task] = []

    def push(self, piece: bytes) -> None:
        """More has come."""
        self._buffer += piece
        self._wake()

    def end(self, cut: bool = False) -> None:
        """All has come, or no more will."""
        self._ended, self._cut = not cut, cut
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.wake()

    def read(self, size: int = -1) -> bytes:
        while not (self._ended or self._cut or (0 <= size <= len(self._buffer))):
            task = world().task()
            self._waiting.append(task)
            task.park()
        if self._cut and len(self._buffer) < max(size, 1):
            raise OSError("the client has gone")
        count = len(self._buffer) if size < 0 else size
        piece = bytes(self._buffer[:count])
        del self._buffer[:count]
        return piece

    def readline(self, size: int = -1) -> bytes:
        raise NotImplementedError  # of the protocol, but the service reads bodies in pieces of its own size

    readinto: Any = None


class Fleet:
    """All processes of a run, by name; started, killed and started again."""

    def __init__(self, here: World, one_machine: bool) -> None:
        self.world = here
        self.one_machine = one_machine
        self.logged: list[tuple[float, str, str, dict[str, Any]]] = []
        self.supervised = True
        self._numbers: dict[str, int] = {}
        self._wanted: set[str] = set()
        self.floor: Callable[[Process], None] = lambda _: None  # called when a process starts
        self.finished: Callable[[Exchange], None] = lambda _: None  # called when an answer leaves

    def start(self, name: str) -> Process:
        """Start the process of this name, if it does not run. `web-1`, `learner-2`, `trainer-1`."""
        running = self.world.processes.get(name)
        if running is not None and running.alive:
            return running
        kind = name.partition("-")[0]
        self._numbers[name] = self._numbers.get(name, 0) + 1
        process = Process(self.world, name, kind, self._numbers[name])
        self.world.processes[name] = process
        self._wanted.add(name)
        self.world.trace.add(self.world.now, str(process), "starts")
        main = {"web": self._web, "learner": self._learner, "trainer": self._trainer}[kind]
        self.floor(process)
        process.spawn("main", lambda: self._main(process, main))
        return process

    def kill(self, name: str) -> None:
        """Kill the process of this name."""
        process = self.world.processes.get(name)
        self._wanted.discard(name)
        if process is not None and process.alive:
            self.world.trace.add(self.world.now, str(process), "is killed")
            self._kill(process)

    def _kill(self, process: Process) -> None:
        pending = process.belongings.get("exchanges", set())
        process.kill()
        for exchange in sorted(pending, key=lambda e: e.sent_at):
            self.world.later(HTTP_LATENCY, exchange.settle, "lost")

    def _main(self, process: Process, main: Callable[[Process], None]) -> None:
        try:
            main(process)
            process.ends = "ended"
        except Exception as error:
            process.ends = f"{type(error).__name__}: {error}"
            raise
        finally:
            if process.alive:
                self.world.later(0, self._ended, process)

    def _ended(self, process: Process) -> None:
        if process.kind == "web" and process.ends == "ended":
            return  # its main thread has made the application
        self._kill(process)
        if process.name in self._wanted and self.supervised:
            self.world.later(AGAIN, self._again, process.name)

    def _again(self, name: str) -> None:
        if name in self._wanted:
            self.start(name)

    # -- what each does ----------------------------------------------------------------------------------------

    def _web(self, process: Process) -> None:
        app = importlib.import_module("service.web.app")
        process.belongings.update(exchanges=set(), workers=None)
        application = app.create_app(_settings())
        process.belongings["workers"] = Workers(
            process, application, getattr(_settings(), "web_threads", 1000), self.finished
        )
        process.ready = True
        self.world.trace.add(self.world.now, str(process), "listens")

    def _learner(self, process: Process) -> None:
        learner = importlib.import_module("service.learner.learner")
        made = learner.Learner(_settings(), URL)
        process.belongings["learner"] = made
        process.ready = True
        made.run()

    def _trainer(self, process: Process) -> None:
        from trainers import train

        process.ready = True
        train(process, _settings())

    # -- HTTP ----------------------------------------------------------------------------------------------------

    def send(self, exchange: Exchange, patience: float) -> Exchange:
        """Send a request and wait for its answer. In a client's thread. Raises Lost, GaveUp."""
        here = self.world
        task = here.task()
        exchange.sent_at = here.now
        exchange._waiting = task
        here.later(task.process.timing.uniform(0.1, 1) * HTTP_LATENCY, self._arrive, exchange)
        deadline = here.now + patience
        while not exchange.outcome:
            if deadline <= here.now:
                exchange.outcome = "gave up"
                break
            task.park(deadline - here.now)
        if exchange.outcome == "lost":
            raise Lost(str(exchange))
        if exchange.outcome == "gave up":
            if isinstance(exchange.body, Pieces):
                exchange.body.end(cut=True)
            raise GaveUp(str(exchange))
        return exchange

    def _arrive(self, exchange: Exchange) -> None:
        process = self.world.processes.get(exchange.web)
        if process is None or not process.alive or not process.ready:
            exchange.settle("lost")
            return
        exchange.process = process
        process.belongings["exchanges"].add(exchange)
        process.belongings["workers"].take(exchange)


class Workers:
    """The request threads of a web process: as many as are needed, at most `most`, used again."""

    def __init__(self, process: Process, app: Any, most: int, finished: Callable[[Exchange], None]) -> None:
        self._process = process
        self._app = app
        self._most = most
        self._finished = finished
        self._count = 0
        self._idle: list[Task] = []
        self._queue: deque[Exchange] = deque()

    def take(self, exchange: Exchange) -> None:
        """Let a thread answer a request."""
        self._queue.append(exchange)
        if self._idle:
            self._idle.pop().wake()
        elif self._count < self._most:
            self._count += 1
            self._process.spawn(f"request-{self._count}", self._work)

    def _work(self) -> None:
        here = world()
        while True:
            while not self._queue:
                self._idle.append(here.task())
                here.task().park()
            self._answer(self._queue.popleft())

    def _answer(self, exchange: Exchange) -> None:
        here, process = world(), self._process
        exchange.begun_at = here.now
        status: list[Any] = []

        def start_response(line: str, headers: list[tuple[str, str]], *_: object) -> Callable[[bytes], None]:
            status[:] = [int(line.split(" ", 1)[0]), dict(headers)]
            return lambda _: None

        parts = self._app(_environ(exchange), start_response)
        raw = b"".join(parts)
        if hasattr(parts, "close"):
            parts.close()
        exchange.ended_at = here.now
        exchange.status, exchange.answer_headers = status
        kind = exchange.answer_headers.get("Content-Type", "")
        exchange.answer = json.loads(raw) if raw and "json" in kind else raw
        process.belongings["exchanges"].discard(exchange)
        here.trace.add(
            here.now, str(process), f"answers {exchange.method} {exchange.path} {exchange.status}", raw
        )
        self._finished(exchange)
        here.later(process.timing.uniform(0.1, 1) * HTTP_LATENCY, exchange.settle, "answered")


def _environ(exchange: Exchange) -> dict[str, Any]:
    parts = urlsplit(exchange.path)
    body = exchange.body
    environ: dict[str, Any] = {
        "REQUEST_METHOD": exchange.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(parts.path),
        "QUERY_STRING": parts.query,
        "SERVER_NAME": "simulated",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    if isinstance(body, Pieces):
        environ["wsgi.input"] = body
        environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    else:
        environ["wsgi.input"] = io.BytesIO(body or b"")
        environ["CONTENT_LENGTH"] = str(len(body or b""))
    for name, value in exchange.headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return environ


# -- what is adapted in service ------------------------------------------------------------------------------


_loaded: list[Any] = []


def _settings() -> Any:
    """The settings of this run. They are immutable, so its processes share them."""
    if not _loaded:
        _loaded.append(importlib.import_module("service.settings").load_settings())
    return _loaded[0]


def set_environment(settings: dict[str, Any]) -> None:
    """The settings that every process of a run reads. Those that the code does not know are left out."""
    known = importlib.import_module("service.settings").Settings.model_fields
    for name in [name for name in os.environ if name.startswith("FRESHET_")]:
        del os.environ[name]
    for name, value in settings.items():
        if name in known:
            os.environ[f"FRESHET_{name.upper()}"] = str(value)
    os.environ["REDIS_URL"] = URL
    _loaded.clear()


def _capture(_logger: Any, method: str, event: dict[str, Any]) -> Any:
    here = world()
    who = str(here.current) if here.current else "?"
    event = dict(event)
    error = event.pop("exc_info", None)
    if error is not None:
        import traceback

        raised = error if isinstance(error, BaseException) else sys.exc_info()[1]
        event["traceback"] = "".join(traceback.format_exception(raised)) if raised else ""
    text = event.pop("event", "")
    fleet = here.fleet  # type: ignore[attr-defined]
    fleet.logged.append((here.now, who, f"{method}: {text}", event))
    shown = {name: value for name, value in event.items() if name != "traceback"}
    here.trace.recent.append((here.now, who, f"logs {method}: {text} {shown}"))
    raise structlog.DropEvent


def _adapt_logs(module: Any) -> None:
    structlog.configure(
        processors=[_capture], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False
    )
    module.configure = lambda *_: None


def _adapt_processes(module: Any) -> None:
    def identity(pid: int | None = None) -> str:
        here = world()
        for process in here.processes.values():
            if pid is not None and process.pid == pid:
                return f"boot machine {pid} {process}" if process.alive else ""
        process = here.task().process
        return f"boot machine {process.pid} {process}" if pid is None else ""

    def has_died(holder: str) -> bool:
        parts = holder.split(" ")
        if len(parts) != 4 or not world().fleet.one_machine:  # type: ignore[attr-defined]
            return False
        return identity(int(parts[2])) != holder

    module.identity, module.has_died = identity, has_died
    module.die_with_parent = lambda *_: None


def _adapt_loop(module: Any) -> None:
    """Where a web process leaves its turn to others, others have it."""

    def breathe() -> None:
        if world().current is not None:
            world().task().park(0.0)

    def run(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        breathe()
        value = function(*arguments)
        breathe()
        return value

    module.breathe, module.run = breathe, run
    module.start = lambda *_: None


imitations.ADAPTED["service.web.loop"] = [_adapt_loop]
imitations.ADAPTED["service.logs"] = [_adapt_logs]
imitations.ADAPTED["service.processes"] = [_adapt_processes]
