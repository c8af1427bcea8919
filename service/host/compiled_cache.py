"""Where compiled code is kept when the usual places cannot be written, as in a container with a read-only root.

numba refuses a cache that it cannot write, even one that holds all that is needed. So such a cache is copied to a
folder of this user's under the temporary folder, and numba is pointed there. Call `prepare` before numba is imported.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def prepare() -> None:
    """Point numba to a cache that it can write. Child processes inherit it."""
    if os.environ.get("NUMBA_CPU_NAME") == "":  # an image that was built for the processor of its build
        del os.environ["NUMBA_CPU_NAME"]
    configured = os.environ.get(VARIABLE)
    if configured:
        if not _is_writable(Path(configured)):
            os.environ[VARIABLE] = str(_copy_of(Path(configured)))
    elif not _is_writable(Path(__file__).parents[2] / "model") and not _is_writable(_user_cache()):
        os.environ[VARIABLE] = str(_private_folder())


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())


def _is_writable(folder: Path) -> bool:
    """Whether files can be created in a folder, which is created if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):
        return False


def _copy_of(cache: Path) -> Path:
    """A copy of a cache that can only be read. Several processes may make it at once; the last whole one stays."""
    target = _private_folder() / _version(cache)
    if cache.is_dir() and not target.is_dir():
        fresh = Path(tempfile.mkdtemp(dir=target.parent))
        shutil.copytree(cache, fresh, dirs_exist_ok=True, copy_function=shutil.copyfile)
        for folder in (fresh, *fresh.rglob("*/")):
            folder.chmod(0o700)
        with suppress(OSError):  # another process was faster
            fresh.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
    target.mkdir(exist_ok=True)
    return target


def _version(cache: Path) -> str:
    """A name for the state of a cache: another installation's code is not mixed with it."""
    times = [path.stat().st_mtime_ns for path in cache.rglob("*")]
    return hashlib.sha256(f"{cache.resolve()} {sorted(times)}".encode()).hexdigest()[:16]


def _private_folder() -> Path:
    """A folder that only this user can write: what is in it is executed."""
    folder = Path(tempfile.gettempdir()) / f"freshet-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="freshet-"))
