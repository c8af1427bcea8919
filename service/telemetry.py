"""What the processes count, as Prometheus metrics.

The processes of one `freshet serve`, and those of one `freshet web`, share a folder of counters (prometheus_client's
multiprocess mode), so a restart loses no count and any web process can tell all of them. What a model's own state
counts (observations, losses) is read from there when it is asked for: no process counts it again.
"""

import os
import shutil
import tempfile
from pathlib import Path

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Must be set before prometheus_client is imported."""


def share_counters(folder: Path) -> None:
    """Let this process and its children count in one new, empty folder, unless its parent chose one."""
    if FOLDER in os.environ:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[FOLDER] = str(folder)


def folder_of_counters(port: int) -> Path:
    """Where the processes of the server at a port count: in memory if possible."""
    shared = Path("/dev/shm")
    root = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return root / f"freshet-{os.getuid()}-{port}"


def serve_counters(host: str, port: int) -> None:
    """Tell the counters of a learner or trainer that runs by itself at `http://host:port/metrics`."""
    if port and FOLDER not in os.environ:
        from prometheus_client import start_http_server

        start_http_server(port, host)
