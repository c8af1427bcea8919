"""What goes wrong: a network that drops, delays and cuts, a Redis of its own to restore and kill, parts to pause."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
import urllib3

from service.host import embedded
from service.settings import Settings
from tests import forking
from tests.harness import (
    APPLY_SECONDS,
    Api,
    Served,
    alive,
    clean_environment,
    descendants,
    free_port,
    wait_until,
)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own for a folder; the test is skipped where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def preloaded(folder: Path, source: str) -> dict[str, str]:
    """Compile C functions that stand before the C library's; the environment of a process that uses them.

    The test is skipped where there is no gcc.
    """
    if shutil.which("gcc") is None:
        pytest.skip("functions of the C library are replaced by ones compiled with gcc")
    written, library = folder / "functions.c", folder / "functions.so"
    written.write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, written, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}


class Proxy:
    """A TCP proxy in front of a port of this machine, whose connections can be cut, held, delayed and made mute.

    With `tls` its clients speak TLS.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self._tls = tls
        self.delay = 0.0  # seconds that each piece waits, either way
        self.mute: bytes | None = None  # answers on connections that have sent this are swallowed
        self.dropped = 0  # answers that were swallowed since `swallow` was called
        self._swallowed: tuple[bytes, int, int] = (b"", 0, 0)
        self._lost: tuple[bytes, int] = (b"", 0)
        self._flowing = threading.Event()
        self._flowing.set()
        self._pairs: set[Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Let nothing through, and close nothing: what was sent waits. The other end notices nothing."""
        self._flowing.clear()

    def release(self) -> None:
        """Let everything through again, what has waited first."""
        self._flowing.set()

    def swallow(self, what: bytes, times: int, after: int = 0) -> None:
        """Give the next requests that contain `what` no answer but a cut, so many times, after so many that pass."""
        self._swallowed = what, times, after
        self.dropped = 0

    def lose(self, what: bytes, times: int) -> None:
        """Cut the connections of the next requests that contain `what`, so many times, and pass nothing of them on."""
        self._lost = what, times

    def loses(self, request: bytes) -> bool:
        """Whether what a client has just sent is to be lost; it counts."""
        what, times = self._lost
        if not times or what not in request:
            return False
        self._lost = what, times - 1
        return True

    def takes_answer_of(self, request: bytes) -> bool:
        """Whether the answer to what a client has just sent is to be lost; it counts."""
        what, times, after = self._swallowed
        if not times or what not in request:
            return False
        self._swallowed = (what, times, after - 1) if after else (what, times - 1, 0)
        return not after

    def cut(self) -> None:
        """Close every connection."""
        for pair in list(self._pairs):
            pair.close()

    def close(self) -> None:
        """End."""
        self._listener.close()
        self.cut()
        self._flowing.set()

    def pass_on(self) -> None:
        """Wait until this proxy lets things through."""
        self._flowing.wait()
        if self.delay:
            time.sleep(self.delay)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._tls is not None:
                    client = self._tls.wrap_socket(client, server_side=True)
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            pair = Pair(self, client, server)
            self._pairs.add(pair)
            pair.start()

    def forget(self, pair: "Pair") -> None:
        """A pair is closed."""
        self._pairs.discard(pair)


class Pair:
    """A client's connection and the one that was made for it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._said: bytes = b""
        self._answer_is_lost = False

    def start(self) -> None:
        """Pass on both ways, in two threads."""
        for pump in (self._upward, self._downward):
            threading.Thread(target=self._run, args=(pump,), daemon=True).start()

    def close(self) -> None:
        """Close both connections."""
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._proxy.forget(self)

    def _run(self, pump: object) -> None:
        with suppress(OSError):
            pump()  # type: ignore[operator]
        self.close()

    def _upward(self) -> None:
        while piece := self._client.recv(2**16):
            self._proxy.pass_on()
            self._said = (self._said + piece)[-(2**16) :]
            if self._proxy.loses(piece):
                return
            if self._proxy.takes_answer_of(piece):
                self._answer_is_lost = True
            self._server.sendall(piece)

    def _downward(self) -> None:
        while piece := self._server.recv(2**16):
            self._proxy.pass_on()
            if self._answer_is_lost:
                self._proxy.dropped += 1
                return
            if self._proxy.mute is None or self._proxy.mute not in self._said:
                self._client.sendall(piece)


class Valkey:
    """A Redis on a TCP port, with the embedded server's flags, that can be killed, started and given other files."""

    def __init__(self, folder: Path, **flags: str) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.flags = flags
        self.environment = dict(os.environ)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def link(self) -> redis.Redis:
        """A client of it."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> "Valkey":
        """Start it and wait until it answers."""
        command = embedded.command(Settings(data_dir=self.folder))
        changes = {"port": str(self.port), "unixsocket": str(self.folder / "s"), **self.flags}
        for name, value in changes.items():
            command += [f"--{name}", value]
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        wait_until(self._answers, 20, lambda: (self.folder / "valkey.log").read_text(errors="replace"))
        return self

    def _answers(self) -> bool:
        try:
            with self.link as link:
                return bool(link.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Let it stand still."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def copy(self, to: Path) -> None:
        """Copy its files as they are at one moment."""
        self.kill()
        shutil.copytree(self.folder / "appendonlydir", to)
        self.start()

    def restore(self, copy: Path | None) -> None:
        """Kill it and start it with a copy's files, or with none."""
        self.kill()
        shutil.rmtree(self.folder / "appendonlydir")
        if copy is not None:
            shutil.copytree(copy, self.folder / "appendonlydir")
        self.start()


class Part(Served):
    """One `freshet web` or `freshet learner`, on a Redis of its own choice."""

    def __init__(self, kind: str, folder: Path, redis_port: int, **settings: object) -> None:
        self.kind = kind
        self.folder = folder
        self.port = free_port()
        self.redis_port = redis_port
        given = {
            "port": self.port,
            "data_dir": folder,
            "web_workers": 1,
            "apply_timeout": APPLY_SECONDS,
            **settings,
        }
        self.environment = clean_environment() | {
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            **{f"FRESHET_{name.upper()}": str(value) for name, value in given.items()},
        }
        self.process: forking.Process | None = None
        self.api = Api(self.port)

    def spawn(self) -> None:
        """Start it, without waiting."""
        with self._log.open("ab") as log:
            self.process = forking.start([self.kind], self.environment, log, log)

    def start(self) -> "Part":
        """Start it; a web process is waited for."""
        self.spawn()
        if self.kind == "web":
            wait_until(lambda: self.readiness() == 200, 30, self.log)
        return self

    def readiness(self) -> int:
        """The status of its answer whether it is ready; 0 if it does not answer."""
        with suppress(urllib3.exceptions.HTTPError):
            return self.api("GET", "/readyz").status
        return 0

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.kind}-{self.port}.log"

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def pause(self) -> None:
        """Let it stand still."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it, and what it has started, with SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            family = descendants(self.process.pid)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            wait_until(lambda: not any(alive(pid) for pid in family), 10)

    def stop(self) -> int:
        """End it with SIGTERM; returns its status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class System:
    """Valkey, one web process and learners, each of which may have a proxy before its Redis."""

    def __init__(self, folder: Path, **redis_environment: str) -> None:
        self.folder = folder
        self.redis = Valkey(folder / "redis")
        self.redis.environment |= redis_environment
        self.redis.start()
        self.proxies: list[Proxy] = []
        self.parts: list[Part] = []

    def proxy(self) -> Proxy:
        """A proxy before Redis."""
        self.proxies.append(Proxy(self.redis.port))
        return self.proxies[-1]

    def start(self, kind: str, proxy: Proxy | None = None, **settings: object) -> Part:
        """Start a part."""
        port = self.redis.port if proxy is None else proxy.port
        self.parts.append(Part(kind, self.folder, port, **settings))
        return self.parts[-1].start()

    def log(self) -> str:
        """What all parts have printed."""
        return "\n".join(part.log() for part in self.parts)

    def close(self) -> None:
        """End everything."""
        for part in self.parts:
            part.api.close()
            part.kill()
        for proxy in self.proxies:
            proxy.close()
        self.redis.kill()


@contextmanager
def system(folder: Path, **redis_environment: str) -> Iterator[System]:
    """A system that is ended at the end."""
    made = System(folder, **redis_environment)
    try:
        yield made
    finally:
        made.close()
