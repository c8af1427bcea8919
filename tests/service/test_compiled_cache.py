"""Compiled code in a place that cannot be written, as in a container with a read-only root."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import small_disk
from tests.harness import FRESHET, clean_environment

CHECKOUT = Path(__file__).parents[2]


def sources(folder: Path) -> Path:
    """A copy of the sources without the code that is compiled beside them."""
    for name in ("model", "service"):
        shutil.copytree(
            CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
        )
    return folder


def warm_up(cache: Path, folder: Path) -> str:
    """What `freshet warm-up` prints with this cache, from a copy of the sources."""
    empty = {"TMPDIR": str(folder), "XDG_CACHE_HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*FRESHET, "warm-up"],
        env=clean_environment() | {"NUMBA_CACHE_DIR": str(cache)} | empty,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)  # it compiles
def test_a_cache_that_can_only_be_read_is_used(tmp_path: Path) -> None:
    cache, folder = tmp_path / "cache", sources(tmp_path / "sources")
    with small_disk(cache, megabytes=64):
        assert "compiled the learning loop" in warm_up(cache, folder)
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (cache / "x").touch()
        assert "compil" not in warm_up(cache, folder)
