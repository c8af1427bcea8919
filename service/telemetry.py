"""What the processes count, as Prometheus metrics.

The processes of one `freshet serve`, and those of one `freshet web`, share a folder of counters (prometheus_client's
multiprocess mode), so a restart loses no count and any web process can tell all of them. What a model's own state
counts (observations, losses) is read from there when it is asked for: no process counts it again.
"""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Must be set before prometheus_client is imported."""

YOUNG = 60.0  # seconds: a folder that was just made may not be locked yet
_PREFIX = f"freshet-metrics-{os.getuid()}-"


def share_counters() -> Path | None:
    """Let this process and its children count in a new folder; None if its parent chose one. Raises OSError.

    It is in memory if possible, and not in the data folder: a full disk would kill who counts in a file that is mapped
    into memory. What a server that was killed left behind is removed.
    """
    if FOLDER in os.environ:
        return None
    shared = Path("/dev/shm")
    root = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    for left in root.glob(f"{_PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    _lock(folder)
    os.environ[FOLDER] = str(folder)
    return folder


def remove_counters(folder: Path) -> None:
    """Remove the folder that `share_counters` has made: no process counts any more."""
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.pop(FOLDER, None)


def _lock(folder: Path) -> int | None:
    """Lock a folder while this process, or one that is forked from it, has this descriptor; None if another has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):
        status = folder.stat()
        if status.st_uid != os.getuid() or time.time() - status.st_mtime < YOUNG:
            return
        descriptor = _lock(folder)
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def serve_counters(host: str, port: int) -> None:
    """Tell the counters of a learner or trainer that runs by itself at `http://host:port/metrics`."""
    if port and FOLDER not in os.environ:
        from prometheus_client import start_http_server

        start_http_server(port, host)
