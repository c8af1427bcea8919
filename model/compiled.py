"""How functions are compiled, and where their code is kept.

Every entry point is compiled by `compiled`, for one signature, or loaded from a folder. numba notices changes only in
the file of the function itself. So the folder's name depends on the code of all modules that the function uses, on
the processor and on numba's version. The number of the code is also a closure variable of each entry point, which
numba makes part of its key.
"""

import ast
import hashlib
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba import njit
from numba.core.registry import cpu_target

config: Any = numba.config  # its names come from the environment

# All of LLVM's fast flags but `nnan` and `ninf`: checks for numbers that are not finite must hold.
FAST = {"reassoc", "contract", "nsz", "arcp", "afn"}
OPTIONS: dict[str, Any] = {"fastmath": FAST, "nogil": True, "error_model": "numpy"}

# A view of an array would count as a reference to it, by two atomic instructions each: a third of a row's time. The
# caller of an entry point holds the arrays. What is compiled so can allocate nothing, and only `inlined` functions may
# return an array.
UNCOUNTED: dict[str, Any] = {"_nrt": False}
# Functions that are only called by compiled ones need no wrappers for Python or C, which take long to compile.
inner = njit(**{**OPTIONS, **UNCOUNTED, "no_cpython_wrapper": True, "no_cfunc_wrapper": True})
# What a function calls is optimised anew with it, level by level: functions that are called from one place are
# better made part of their caller.
inlined = njit(**{**OPTIONS, "inline": "always"})

FOLDER = Path(__file__).parent
WITHOUT_CODE = {"errors", "feature_spec", "optimizer_spec", "parameters", "spec", "strict"}
"""Modules of which nothing is compiled, though modules that are compiled import them."""


@cache
def sources_of(name: str) -> int:
    """A number that follows from the code of a module of this package and of all modules that it uses.

    To find it takes most of a second, so it is kept beside the compiled code, under the digest of all files.
    """
    module = name.removeprefix("model.")
    kept = f"{module}-{_digest_of_files()}.sources"
    for parent in _parents():
        with suppress(OSError, ValueError):
            return int((parent / kept).read_text("ascii"), 16)
    digest = hashlib.sha256()
    for used in sorted(_used_by(module, set())):
        digest.update(_source_of(FOLDER / f"{used}.py").code)
    number = int.from_bytes(digest.digest()[:7])
    _keep(kept, f"{number:014x}")
    return number


def _digest_of_files() -> str:
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.py")):
        digest.update(b"%s %d " % (path.name.encode(), path.stat().st_size))
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _keep(name: str, text: str) -> None:
    parent = next(filter(_is_writable, _parents()), None)
    if parent is not None:
        with suppress(OSError), tempfile.NamedTemporaryFile("w", dir=parent, delete=False) as file:
            file.write(text)
            file.flush()
            Path(file.name).replace(parent / name)  # at once whole, for other processes


class Source(NamedTuple):
    """What of a file makes compiled code stale."""

    code: bytes  # without comments and docstrings: better words do not
    imports: tuple[str, ...]  # the modules of this package that it imports from


def _source_of(path: Path) -> Source:
    return _parsed(path.read_bytes())


@cache
def _parsed(text: bytes) -> Source:
    tree = ast.parse(text)
    imports: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "model":
            imports += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("model."):
            imports.append((node.module or "").removeprefix("model."))
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [statement for statement in body if not _is_text(statement)]
    return Source(ast.dump(tree).encode(), tuple(imports))


def _is_text(statement: ast.AST) -> bool:
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return False
    return isinstance(statement.value.value, str)


def _used_by(module: str, found: set[str]) -> set[str]:
    found.add(module)
    for other in imports_of(FOLDER / f"{module}.py"):
        if other not in found and other not in WITHOUT_CODE:
            _used_by(other, found)
    return found


def imports_of(path: Path) -> tuple[str, ...]:
    """The modules of this package that a file imports from."""
    return _source_of(path).imports


def processor() -> tuple[str, str]:
    """The processor that code is compiled for: its name and its features, as LLVM calls them."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return name, features


def compiled(signature: Any, **options: Any) -> Callable[[Callable[..., None]], Any]:
    """Decorates an entry point: its code is loaded from its folder, else compiled now and kept there if possible.

    The function must have `sources_of` its module as a closure variable.
    """

    def compile_for(function: Callable[..., None]) -> Any:
        with _own_folders():
            try:
                dispatcher = njit(cache=True, **{**OPTIONS, **options})(function)
            except RuntimeError:  # no folder can be read or written
                dispatcher = njit(**{**OPTIONS, **options})(function)
        try:
            dispatcher.compile(signature)
        except OSError:
            if not dispatcher.signatures:
                raise
            # It is compiled; only the folder could not be written.
        dispatcher.disable_compile()
        return dispatcher

    return compile_for


@contextmanager
def _own_folders() -> Iterator[None]:
    before = getattr(config, "CACHE_LOCATOR_CLASSES", "")
    config.CACHE_LOCATOR_CLASSES = f"{CodeFolder.__module__}.{CodeFolder.__qualname__}"
    try:
        yield
    finally:
        config.CACHE_LOCATOR_CLASSES = before


def _parents() -> Iterator[Path]:
    """Folders that may hold compiled code: the one asked for, beside the sources, the user's, a temporary one."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR)
    yield FOLDER / "__pycache__"
    if "HOME" in os.environ or "XDG_CACHE_HOME" in os.environ:
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "freshet"
    yield from _temporary()


def _temporary() -> Iterator[Path]:
    """A folder under the temporary one, if it is this user's alone: code found there is run."""
    try:
        path = Path(tempfile.gettempdir()) / f"freshet-{os.getuid()}"
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError:
        return
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
        yield path


class CodeFolder:
    """numba's locator of a function's compiled code: a folder that holds it, if only to read, else one to write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def from_function(cls, function: Any, file: str) -> "CodeFolder | None":
        name = _folder_name(Path(file).stem)
        paths = [parent / name for parent in _parents()]
        holding = (path for path in paths if _holds(path, function))
        path = next(holding, None) or next(filter(_is_writable, paths), None)
        return None if path is None else cls(path)

    def ensure_cache_path(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return self._path.name

    def get_disambiguator(self) -> str:
        return "entry"


def _folder_name(module: str) -> str:
    build = (numba.__version__, sys.version, platform.machine(), *processor())
    return f"{module}-{sources_of(module):014x}-{hashlib.sha256(repr(build).encode()).hexdigest()[:12]}"


def _holds(path: Path, function: Any) -> bool:
    try:
        return any(function.__name__ in found.name for found in path.glob("*.nbi"))
    except OSError:
        return False


def is_stored(module: str) -> bool:
    """Whether the code of a module's entry points can be loaded, compiled for this processor by this build."""
    name = _folder_name(module)
    return any(any((parent / name).glob("*.nbi")) for parent in _parents())


def _is_writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError:
        return False
    return True
