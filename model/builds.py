"""The builds of this program that computed a state.

Learning is repeatable bit for bit only on one build and one kind of processor. A state lists the builds that computed
it, so that a difference after a replay elsewhere is not taken for corruption.
"""

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import version

UNKNOWN = "version 0.1, on a processor that it did not note"
SEVERAL = "several earlier builds"
MOST_BUILDS = 16

Builds = tuple[tuple[str, int], ...]
"""Builds, oldest first, each with the step from which on it computed the state."""


@lru_cache(maxsize=1)
def this_build() -> str:
    """This program's sources, compiler, libraries and processor, in one line. Imports the compiler."""
    from model.compiled import processor, sources_of

    name, features = processor()
    sources = "-".join(
        f"{sources_of(module):014x}" for module in ("kernels", "served_kernels", "metrics_kernels")
    )
    digest = hashlib.sha256(features.encode()).hexdigest()[:8]
    libraries = " ".join(f"{library} {version(library)}" for library in ("numba", "llvmlite", "numpy"))
    system = f"{platform.machine()} {name} ({digest}) {' '.join(platform.libc_ver())}"
    return f"sources {sources} {libraries} {system}".strip()


def continued(builds: Builds, build: str, step: int) -> Builds:
    """`builds`, with another one from `step` on; the oldest are merged beyond MOST_BUILDS."""
    if builds and builds[-1][0] == build:
        return builds
    builds = (*builds, (build, step))
    if len(builds) > MOST_BUILDS:
        builds = ((SEVERAL, builds[0][1]), *builds[2:])
    return builds


def since(builds: Builds, step: int) -> set[str]:
    """The builds that computed anything after `step`; none for a state that has learned nothing."""
    ends = [*(start for _, start in builds[1:]), float("inf")]
    return {build for (build, _), end in zip(builds, ends, strict=False) if end > step}
