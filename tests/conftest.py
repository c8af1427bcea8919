"""Servers that many tests share, and models on them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import System, system
from tests.harness import Api, Server, running

MEMORY = Path("/dev/shm")
ROOM = 2 * 2**30  # bytes: the tests of a run leave a quarter of a gigabyte
PREFIX = f"freshet-tests-{os.getuid()}-"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' folders in memory if there is room: no pause of a disk is taken for one of Redis.

    Those of a run that was killed are removed; `--basetemp` puts them elsewhere, and keeps them.
    """
    if hasattr(config, "workerinput") or config.option.basetemp:
        return
    for left in MEMORY.glob(f"{PREFIX}*"):
        if not Path("/proc", left.name.split("-")[3]).exists():
            shutil.rmtree(left, ignore_errors=True)
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        config.option.basetemp = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=MEMORY)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where workers share the files (`--dist loadfile --no-loadscope-reorder`), the shortest, of `model`, come last."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path, reverse=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server; each test uses models of its own names."""
    with running(tmp_path_factory.mktemp("server"), web_workers=2, apply_timeout=4) as started:
        yield started


@pytest.fixture
def api(server: Server) -> Api:
    """A client of the shared server."""
    return server.api


@pytest.fixture
def name(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh model on the shared server, of the spec that the test's module calls SPEC."""
    name = server.create(request.module.SPEC)
    yield name
    server.api("DELETE", f"/v1/models/{name}")  # each model that stays is work for the server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for one server."""
    return tmp_path


@pytest.fixture
def whole(folder: Path) -> Iterator[System]:
    """A Redis of its own, and web processes and learners to be started."""
    with system(folder) as made:
        yield made
