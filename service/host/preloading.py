"""Loading the code of every process before they are forked: they start at once, and share the memory that it takes.

Nothing that is loaded here may start a thread, open a connection or draw random numbers when it is imported: a
process that is forked would share it, or lack it. Locks that web processes hold while they wait must be made after
the fork too, when gevent has replaced `threading`'s.
"""

import gc
import importlib
import pkgutil
from collections.abc import Iterator

from model import is_compiled, warm_up

WEB = ("model", "service.store", "service.replay", "service.jobs", "service.web")
ALL = (*WEB, "service.learner", "service.trainer")
NOT_LOADED = {"service.web.gunicorn_conf"}  # gunicorn runs it, at each reload


def preload(packages: tuple[str, ...] = ALL) -> None:
    """Load these packages, and the compiled code if it is there: to compile it is left to the learner."""
    for package in packages:
        for name in _modules(package):
            importlib.import_module(name)
    if is_compiled():
        warm_up()
    gc.collect()
    gc.freeze()  # what is never looked at again stays shared


def _modules(package: str) -> Iterator[str]:
    """The modules of a package; those with compiled code only when all of it is there."""
    yield package
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if module.name not in NOT_LOADED and not module.name.endswith("kernels"):
            yield module.name
