"""How the online path is compiled.

numba compares only the age of the file that holds a cached function, not of what that function calls or of the
constants it uses. So only entry points are cached, and each has `SOURCES`, a number that follows from the source
files of this package, as a closure variable: numba makes those part of the cache's key.
"""

import hashlib
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.registry import cpu_target

# All of LLVM's fast flags but `nnan` and `ninf`: checks for numbers that are not finite must hold.
FAST = {"reassoc", "contract", "nsz", "arcp", "afn"}
OPTIONS: dict[str, Any] = {"fastmath": FAST, "nogil": True, "error_model": "numpy"}

# Functions that are only called by compiled ones need no wrappers for Python or C, which take long to compile.
inner = njit(**{**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True})

# Files that the compiled loop takes nothing from.
UNUSED = {
    "__init__",
    "builds",
    "comparing",
    "diagnostics",
    "errors",
    "features",
    "fitting",
    "hashing",
    "initializers",
    "labels",
    "metrics",
    "metrics_kernels",
    "online",
    "predictor",
    "spec",
    "state",
}


def _number_of_sources() -> int:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in UNUSED:
            digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:7])


SOURCES = _number_of_sources()


def processor() -> tuple[str, str]:
    """The processor that code is compiled for: its name and its features, as LLVM calls them."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return name, features
