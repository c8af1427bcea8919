"""Servers that many tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Server, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server; each test uses models of its own names."""
    with running(tmp_path_factory.mktemp("server"), web_workers=2, trainers=1) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for one server."""
    return tmp_path
