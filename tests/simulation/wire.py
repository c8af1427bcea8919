"""Connections to Redis: what is sent, carried out and answered are three moments, and the scheduler owns each.

A connection stands where redis-py has its socket, so that all of redis-py's own code and the service's code above it
run as they are.
"""

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import hiredis
import redis._parsers.hiredis as parsers
import redis.connection
from scheduler import Holder, Process, Task, world

if TYPE_CHECKING:
    from server import Server

PATH = "/simulated/redis.sock"
URL = f"unix://{PATH}"
LATENCY = 3e-4  # seconds on the way to Redis and back, usually at most
SLOW, SLOW_SHARE = 5e-3, 0.03  # at most for a share of all
LOCAL = {b"CLIENT", b"SELECT", b"HELLO", b"AUTH"}


@dataclass(slots=True)
class Command:
    """One command under way."""

    connection: "Connection"
    words: list[bytes]
    label: str
    number: int
    sent_at: float = 0.0
    hold: float = 0.0  # seconds more before it is carried out
    hold_answer: float = 0.0  # seconds more before its answer arrives
    cut_after: bool = False  # the connection breaks before its answer
    done: bool = False
    keys: list[bytes] = field(default_factory=list)
    blocked_until: float | None = None
    due: bool = False  # it has come to Redis


class Connection:
    """The client's end and the way to Redis; in place of a socket."""

    def __init__(self, server: "Server", process: Process, task: Task) -> None:
        self.server = server
        self.process = process
        self.task = task  # who opened it
        process.belongings["connections"] = process.belongings.get("connections", 0) + 1
        self.number = process.belongings["connections"]
        self.name = f"{process}/{task.name}:{self.number}"
        self.timing = Random(f"{world().seed}/{process}/{self.number}")
        self.timeout: float | None = None
        self.open = True  # this end
        self.broken = False  # the way
        self.inbox = bytearray()
        self.outbox: deque[Command] = deque()
        self.channels: set[bytes] = set()
        self.patterns: set[bytes] = set()
        self.life = server.life
        self._carried_at = 0.0
        self._answered_at = 0.0
        self._arriving: deque[bytes] = deque()
        self._reader = hiredis.Reader()
        self._waiting: list[Task] = []
        self._sent = 0
        process.connections.append(self)
        server.connections.append(self)

    # -- what redis-py asks of a socket ----------------------------------------------------------------------

    def settimeout(self, timeout: float | None) -> None:
        self.timeout = timeout

    def gettimeout(self) -> float | None:
        return self.timeout

    def setsockopt(self, *_: object) -> None:
        return

    def getsockname(self) -> str:
        return PATH

    def fileno(self) -> int:
        return -1

    def shutdown(self, _how: int) -> None:
        return

    def close(self) -> None:
        """Close this end. What was sent is still under way."""
        if self.open:
            self.open = False
            self._leave()

    def sendall(self, data: Any, *_: object) -> None:
        """Send commands."""
        self._check()
        if self.broken:
            raise BrokenPipeError(32, "Broken pipe")
        self._reader.feed(bytes(data))
        while (words := self._reader.gets()) is not False:
            self._send([word if isinstance(word, bytes) else str(word).encode() for word in words])

    def recv_into(self, buffer: Any, *_: object) -> int:
        """Take what has arrived."""
        self._check()
        if not self._wait(self.timeout):
            if self.timeout == 0:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            raise TimeoutError("timed out")
        count = min(len(buffer), len(self.inbox))
        buffer[:count] = self.inbox[:count]
        del self.inbox[:count]
        return count

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Take what has arrived."""
        buffer = bytearray(size)
        if flags & socket.MSG_PEEK:
            return bytes(self.inbox[:size])
        return bytes(buffer[: self.recv_into(buffer)])

    def readable(self, timeout: float | None) -> bool:
        """Whether something has arrived within a timeout, or the connection is broken."""
        self._check()
        return self._wait(timeout)

    def _wait(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else world().now + timeout
        while not self.inbox and not self.broken:
            patience = None if deadline is None else deadline - world().now
            if patience is not None and patience <= 0:
                return False
            task = world().task()
            self._waiting.append(task)
            try:
                task.park(patience)
            finally:
                if task in self._waiting:
                    self._waiting.remove(task)
            self._check()
        return True

    def _check(self) -> None:
        if Holder.world is None or not self.open:
            raise OSError(9, "Bad file descriptor")

    # -- on the way ------------------------------------------------------------------------------------------

    def _latency(self) -> float:
        most = SLOW if self.timing.random() < SLOW_SHARE else LATENCY
        return self.timing.uniform(0.1, 1.0) * most

    def _send(self, words: list[bytes]) -> None:
        name = words[0].upper()
        if name in LOCAL:
            self.inbox += b"+OK\r\n"
            return
        self._sent += 1
        here = world()
        command = Command(self, words, self.server.label(words), self._sent, here.now)
        here.trace.add(here.now, self.name, f"sends {command.label}")
        for hold in list(self.server.holds):
            hold(command)
        self.outbox.append(command)
        self._carried_at = max(self._carried_at, here.now + self._latency() + command.hold)
        here.at(self._carried_at, self.server.carry_out, command)

    def answer(self, command: Command, raw: bytes) -> None:
        """Bring an answer or message to the client, in order."""
        if not self.open or self.broken:
            return
        here = world()
        self._answered_at = max(self._answered_at, here.now + self._latency() + command.hold_answer)
        self._arriving.append(raw)
        here.at(self._answered_at, self._arrive)

    def _arrive(self) -> None:
        raw = self._arriving.popleft()
        if not self.open or self.broken:
            return
        self.inbox += raw
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.wake()

    def cut(self) -> None:
        """Break the way: the client notices at its next use."""
        self.broken = True
        self._leave()
        self._wake()

    def vanish(self) -> None:
        """The client has died."""
        self.open = False
        self._leave()

    def _leave(self) -> None:
        if self in self.process.connections:
            self.process.connections.remove(self)
        self.server.leave(self)


# -- in redis-py ---------------------------------------------------------------------------------------------

_connect_really = redis.connection.UnixDomainSocketConnection._connect
_can_read_really, _is_closed_really = parsers._socket_can_read, parsers._socket_is_closed
_server: list["Server"] = []


def _connect(self: Any) -> Any:
    if self.path != PATH:
        return _connect_really(self)
    here = world()
    task = here.task()
    task.park(task.process.timing.uniform(0, LATENCY))
    if not _server[0].up:
        raise ConnectionRefusedError(111, "Connection refused")
    connection = Connection(_server[0], task.process, task)
    connection.settimeout(self.socket_timeout)
    return connection


def _can_read(sock: Any, timeout: float | None) -> bool:
    if isinstance(sock, Connection):
        return sock.readable(timeout)
    return bool(_can_read_really(sock, timeout))


def _is_closed(sock: Any) -> bool:
    if isinstance(sock, Connection):
        return sock.broken and not sock.inbox
    return bool(_is_closed_really(sock))


def install(server: "Server") -> None:
    """Let redis-py connect to the simulated address by way of the scheduler."""
    _server[:] = [server]
    redis.connection.UnixDomainSocketConnection._connect = _connect  # type: ignore[method-assign]
    parsers._socket_can_read, parsers._socket_is_closed = _can_read, _is_closed


Hold = Callable[[Command], None]
