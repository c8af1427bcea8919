"""Compiled code in a place that cannot be written, as in a container with a read-only root."""

import subprocess
from pathlib import Path

import pytest

from tests.faults import small_disk
from tests.harness import FRESHET, clean_environment


def warm_up(cache: Path, temporary: Path) -> str:
    """What `freshet warm-up` prints with this cache and this temporary folder."""
    environment = clean_environment() | {"NUMBA_CACHE_DIR": str(cache), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [*FRESHET, "warm-up"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)  # it compiles
def test_a_cache_that_can_only_be_read_is_used(tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    with small_disk(cache, megabytes=64):
        assert "compiled the learning loop" in warm_up(cache, temporary)
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (cache / "x").touch()
        assert "compil" not in warm_up(cache, temporary)
