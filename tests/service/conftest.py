"""What the tests of a part of the service share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.store.connection import Link
from tests.faults import Valkey


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Redis without other processes."""
    started = Valkey(tmp_path_factory.mktemp("valkey")).start()
    yield started
    started.kill()


@pytest.fixture
def link(valkey: Valkey) -> Iterator[Link]:
    """A connection to it, emptied."""
    made = Link(valkey.url, 5)
    made.call("FLUSHALL")
    yield made
    made.close()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes text or bytes into a file; returns its path."""

    def write(text: str | bytes, name: str = "rows") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write
