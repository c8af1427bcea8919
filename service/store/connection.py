"""One connection to Redis without hidden retries, and what its errors mean."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.errors import SettingsError, StoreError, StoreFull, StoreMisconfigured, StoreUnavailable
from service.logs import log
from service.store.scripts import Script

_REFUSED = ("OOM", "MISCONF")
_NOT_NOW = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "NOREPLICAS", "TRYAGAIN")

NoScript = redis.exceptions.NoScriptError
IDLE = 0.1  # seconds unused after which a connection is looked at before it is used
LEAST_GRACE = 0.01  # seconds below which it is not worth setting another timeout
MOST_CONNECTIONS = 64  # of one web process
ONE_WRITE = 256 * 1024  # bytes of commands that are sent in one system call
SLOWEST = 10e6  # bytes per second: a large command gets so much more time


class Link:
    """A connection that one thread uses. It connects on first use and again after an error.

    A command is sent once: if its answer does not come, StoreUnavailable tells whether it may have been carried out.
    A `steady` link does not connect again by itself: Redis may have come back as another one, so that its owner has to
    look first, after `open`.
    """

    def __init__(self, url: str, timeout: float, steady: bool = False) -> None:
        options: dict[str, Any] = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
        }
        if not url.startswith("unix:"):
            options["socket_keepalive"] = True
        try:
            self._connection: Any = redis.ConnectionPool.from_url(url, **options).make_connection()
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"REDIS_URL is not an address of Redis ({error}); it looks like redis://HOST:6379/0"
            ) from None
        self.timeout = timeout
        self._steady = steady
        self.connects = 0  # how often it has connected: Redis may have come back as another one
        self._used_at = 0.0
        self._grace = 0.0  # seconds more for the answers to what was sent

    def call(self, *command: Any, timeout: float | None = None) -> Any:
        """Send one command and return its answer; `timeout` in seconds, instead of the link's own."""
        return self.call_many([command], timeout)[0]

    def call_many(self, commands: Sequence[Sequence[Any]], timeout: float | None = None) -> list[Any]:
        """Send commands together and return their answers. The first error in an answer is raised."""
        self.refresh()
        self.send(commands)
        return self.receive(len(commands), timeout)

    def refresh(self) -> None:
        """Close a connection that has not been used for a while and that the server has closed."""
        now = time.monotonic()
        if now - self._used_at > IDLE and self._connection.is_connected and self._is_stale():
            self._connection.disconnect()
        self._used_at = now

    def _is_stale(self) -> bool:
        """Whether the server has closed this connection, on which nothing is awaited: better noticed before sending."""
        try:
            return bool(self._connection.can_read(0))
        except (redis.RedisError, OSError):
            return True

    def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[Any],
    ) -> Any:
        """Run a script, loading it where the server does not know it yet."""
        try:
            return self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScript:
            return self.call("EVAL", script.source, len(keys), *keys, *arguments)

    def run_many(self, script: Script, calls: Sequence[tuple[Sequence[bytes], Sequence[Any]]]) -> list[Any]:
        """Run a script once for each (keys, arguments), sent together. Where one fails, its answer is a StoreError."""
        self.refresh()
        self.send([("EVALSHA", script.sha, len(keys), *keys, *arguments) for keys, arguments in calls])
        answers = [self.answer() for _ in calls]
        self._grace = 0.0
        if any(isinstance(answer, NoScript) for answer in answers):
            self.call("SCRIPT", "LOAD", script.source)
            return self.run_many(script, calls)
        return answers

    def answer(self) -> Any:
        """The next answer; the error in its place if the command failed. Raises StoreUnavailable."""
        try:
            return self.read()
        except redis.ResponseError as error:
            return _translated(error)

    def open(self) -> None:
        """Connect, unless it is connected. Raises StoreUnavailable."""
        try:
            if not self._connection.is_connected:
                self._connection.connect()
                self.connects += 1
        except (redis.RedisError, OSError) as error:
            self._connection.disconnect()
            self._grace = 0.0
            raise StoreUnavailable(f"cannot connect to Redis: {error}") from error

    def send(self, commands: Sequence[Sequence[Any]]) -> None:
        """Send commands; `receive` must follow."""
        connection = self._connection
        if not connection.is_connected:
            if self._steady and self.connects:
                raise StoreUnavailable("the connection to Redis was lost")
            self.open()
        packed: list[bytes] = [pack_command(command) for command in commands]  # type: ignore[arg-type]
        size = sum(map(len, packed))
        self._grace += size / SLOWEST
        if len(packed) > 1 and size <= ONE_WRITE:
            packed = [b"".join(packed)]  # what Redis reads at once it writes with one sync
        try:
            if self._grace >= LEAST_GRACE:
                connection._sock.settimeout(self.timeout + self._grace)
            connection.send_packed_command(packed, check_health=False)
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            raise StoreUnavailable(f"lost Redis: {error}", sent=True) from error

    def receive(self, count: int, timeout: float | None = None) -> list[Any]:
        """The answers to the `count` commands that were sent last."""
        failure: redis.ResponseError | None = None
        answers = []
        for _ in range(count):
            try:
                answers.append(self.read(timeout))
            except redis.ResponseError as error:
                failure = failure or error
        self._grace = 0.0
        if failure is not None:
            raise _translated(failure) from failure
        return answers

    def read(self, timeout: float | None = None) -> Any:
        """The next answer or message."""
        try:
            if timeout is None and self._grace < LEAST_GRACE:
                return self._connection.read_response()
            patience = (self.timeout if timeout is None else timeout) + self._grace
            return self._connection.read_response(timeout=patience)
        except redis.ResponseError:
            raise
        except (redis.RedisError, OSError) as error:
            self._connection.disconnect()
            self._grace = 0.0
            raise StoreUnavailable(f"lost Redis: {error}", sent=True) from error

    def read_within(self, timeout: float) -> Any:
        """The next message; None if it has not come whole within `timeout` seconds. Nothing of it is lost then."""
        try:
            return self._connection.read_response(timeout=timeout, disconnect_on_error=False)
        except redis.TimeoutError:
            return None
        except (redis.RedisError, OSError) as error:
            self._connection.disconnect()
            raise StoreUnavailable(f"lost Redis: {error}") from error

    def readable(self, timeout: float) -> bool:
        """Whether an answer or message begins to come within `timeout` seconds."""
        try:
            return bool(self._connection.can_read(timeout))
        except (redis.RedisError, OSError) as error:
            self._connection.disconnect()
            raise StoreUnavailable(f"lost Redis: {error}") from error

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        self._connection.disconnect()


def _translated(error: redis.ResponseError) -> Exception:
    text = str(error)
    if isinstance(error, NoScript):
        return error
    if isinstance(error, redis.exceptions.OutOfMemoryError) or text.startswith(_REFUSED):
        return StoreFull(f"Redis refuses writes: {text}")
    if isinstance(error, redis.ReadOnlyError) or text.startswith(_NOT_NOW):
        return StoreUnavailable(f"Redis is not ready: {text}")
    return StoreError(text)


class SharedLink(Link):
    """A link for many threads: each call borrows one of at most `most` connections, and waits if none is free."""

    def __init__(self, url: str, timeout: float, most: int = MOST_CONNECTIONS) -> None:
        self.url = url
        self.timeout = timeout
        self._most = most
        self._free: list[Link] = []  # the last one used comes first: few are kept busy, and warm
        self._room = threading.BoundedSemaphore(most)

    @contextmanager
    def _borrowed(self) -> Iterator[Link]:
        if not self._room.acquire(timeout=self.timeout):
            raise StoreUnavailable(f"all {self._most} connections to Redis are in use")
        try:
            link = self._free.pop()
        except IndexError:
            link = Link(self.url, self.timeout)
        try:
            yield link
        finally:
            self._free.append(link)
            self._room.release()

    def call_many(self, commands: Sequence[Sequence[Any]], timeout: float | None = None) -> list[Any]:
        """See Link."""
        with self._borrowed() as link:
            return link.call_many(commands, timeout)

    def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[Any],
    ) -> Any:
        """See Link."""
        with self._borrowed() as link:
            return link.run(script, keys, arguments)

    def run_many(self, script: Script, calls: Sequence[tuple[Sequence[bytes], Sequence[Any]]]) -> list[Any]:
        """See Link."""
        with self._borrowed() as link:
            return link.run_many(script, calls)

    def close(self) -> None:
        """Close the connections that are not in use."""
        for link in self._free:
            link.close()


def check_server(link: Link) -> None:
    """Raise StoreMisconfigured for a server with which the promises cannot be kept."""
    lines = link.call("INFO").decode().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    if facts["maxmemory_policy"] != "noeviction":
        raise StoreMisconfigured(
            f"Redis has maxmemory-policy {facts['maxmemory_policy']}: it would evict models; set noeviction"
        )
    if facts.get("aof_enabled") == "0":
        log.warning("Redis has appendonly no: what is acknowledged is lost with it; set appendonly yes")
    version = facts.get("valkey_version") or facts["redis_version"]
    if tuple(int(part) for part in version.split(".")[:2]) < (7, 2):
        raise StoreMisconfigured(f"Redis is of version {version}; Freshet needs 7.2 or newer")
