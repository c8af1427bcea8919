"""What service's modules get in place of the clock, threads, locks, queues, randomness and process ids.

An import hook hands these to modules of `service` alone; redis-py, Flask and the model keep the real ones.
"""

import builtins
import gc as real_gc
import importlib.abc
import importlib.machinery
import os as real_os
import queue as real_queue
import random as real_random
import secrets as real_secrets
import signal as real_signal
import sys
import threading as real_threading
import time as real_time
import types
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from locks import BoundedSemaphore, Condition, Event, Lock, Queue, RLock, Semaphore
from scheduler import Holder, world
from threads import Child, Exit, Local, Main, Thread, Timer, current_thread


def _copy_of(module: types.ModuleType) -> Any:
    """A module with the same names, of which some are replaced."""
    copy = types.ModuleType(module.__name__)
    copy.__dict__.update({name: value for name, value in vars(module).items() if not name.startswith("__")})
    return copy


# -- time ----------------------------------------------------------------------------------------------------

time = _copy_of(real_time)


def _monotonic() -> float:
    return world().monotonic() if Holder.world else real_time.monotonic()


def _wall() -> float:
    return world().wall() if Holder.world else real_time.time()


def sleep(seconds: float) -> None:
    """Sleep by the virtual clock."""
    world().task().park(max(0.0, seconds))


time.monotonic = time.perf_counter = time.process_time = time.thread_time = _monotonic
time.time = _wall
time.monotonic_ns = time.perf_counter_ns = lambda: int(_monotonic() * 1e9)
time.time_ns = lambda: int(_wall() * 1e9)
time.sleep = sleep


# -- threads, locks and queues ------------------------------------------------------------------------------

threading = _copy_of(real_threading)
for _name, _value in {
    **{
        kind.__name__: kind
        for kind in (Lock, RLock, Condition, Event, Semaphore, BoundedSemaphore, Thread, Timer)
    },
    "local": Local,
    "current_thread": current_thread,
    "main_thread": Main,
    "get_ident": lambda: Holder.world.current.ident if Holder.world and Holder.world.current else 0,
}.items():
    setattr(threading, _name, _value)

queue = _copy_of(real_queue)
queue.Queue = queue.SimpleQueue = Queue


# -- chance, process ids, garbage, signals ---------------------------------------------------------------------


def _random() -> real_random.Random:
    task = Holder.world.current if Holder.world else None
    return task.process.random if task else real_random.Random(0)


random = _copy_of(real_random)
for _name in (
    "random",
    "uniform",
    "randint",
    "choice",
    "choices",
    "shuffle",
    "sample",
    "randrange",
    "expovariate",
):
    setattr(random, _name, lambda *args, _name=_name, **kwargs: getattr(_random(), _name)(*args, **kwargs))

secrets = _copy_of(real_secrets)
secrets.token_bytes = lambda n=32: _random().randbytes(n)
secrets.token_hex = lambda n=32: _random().randbytes(n).hex()
secrets.token_urlsafe = lambda n=32: _random().randbytes(n).hex()
secrets.randbelow = lambda n: _random().randrange(n)


os = _copy_of(real_os)
os.getpid = lambda: Holder.world.current.process.pid if Holder.world and Holder.world.current else 1
os.urandom = lambda n: _random().randbytes(n)
gc = _copy_of(real_gc)
for _name in ("collect", "freeze", "unfreeze", "disable", "enable", "set_threshold", "set_debug"):
    setattr(gc, _name, lambda *_: 0)
signal = _copy_of(real_signal)
signal.signal = lambda *_: None
signal.pthread_kill = lambda *_: None


# -- child processes -------------------------------------------------------------------------------------------


class _Context:
    Process = Child


multiprocessing = types.ModuleType("multiprocessing")
multiprocessing.get_context = lambda *_: _Context
multiprocessing.Process = Child


def _exit(code: int) -> None:
    raise Exit(code)


os._exit = _exit

IMITATED: dict[str, types.ModuleType] = {
    module.__name__: module
    for module in (time, threading, queue, random, secrets, os, gc, signal, multiprocessing)
}


# -- the hook ------------------------------------------------------------------------------------------------


def _import(name: str, *rest: Any) -> Any:
    level = rest[3] if len(rest) > 3 else 0
    if level == 0 and name in IMITATED:
        return IMITATED[name]
    return builtins.__import__(name, *rest)


_BUILTINS = dict(vars(builtins)) | {"__import__": _import}


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a module of service with the imitations in place of what it imports."""

    def exec_module(self, module: types.ModuleType) -> None:
        code = self.get_code(module.__name__)
        assert code is not None
        module.__dict__["__builtins__"] = _BUILTINS
        exec(code, module.__dict__)
        for adapt in ADAPTED.get(module.__name__, ()):
            adapt(module)


ADAPTED: dict[str, list[Callable[[types.ModuleType], None]]] = {}
"""What is changed in a module of service once it is loaded, by its name."""


class Finder(importlib.abc.MetaPathFinder):
    """Finds `service` and `model` in the folder that is simulated."""

    def __init__(self, code: Path) -> None:
        self._code = code

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        if top not in ("service", "model"):
            return None
        spec = PathFinder.find_spec(name, [str(self._code)] if path is None else path)
        if (
            spec is not None
            and top == "service"
            and isinstance(spec.loader, importlib.machinery.SourceFileLoader)
        ):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(code: Path) -> None:
    """Load `service` and `model` from a folder from now on."""
    sys.meta_path.insert(0, Finder(code))
