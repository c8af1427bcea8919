"""Compiled code in a place that cannot be written, as in a container with a read-only root."""

import os
import subprocess
import sys
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
def test_a_cache_that_can_only_be_read_is_used(tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    with small_disk(cache, megabytes=64):
        assert "compiled the learning loop" in warm_up(cache, temporary)
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (cache / "x").touch()
        assert "compil" not in warm_up(cache, temporary)
    [private] = temporary.glob("freshet-*")
    assert private.stat().st_mode & 0o077 == 0
    assert private.stat().st_uid == os.getuid()


def test_a_folder_that_others_prepared_is_not_trusted(tmp_path: Path) -> None:
    planted = tmp_path / f"freshet-{os.getuid()}"
    planted.mkdir(mode=0o777)
    planted.chmod(0o777)
    code = (
        "import os; from service.host import compiled_cache; compiled_cache.prepare(); "
        "print(os.environ['NUMBA_CACHE_DIR'])"
    )
    environment = clean_environment() | {"NUMBA_CACHE_DIR": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    chosen = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert Path(chosen.stdout.strip()).is_relative_to(tmp_path)
    assert not Path(chosen.stdout.strip()).is_relative_to(planted)
