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
from collections import deque
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from scheduler import Holder, Task, world


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


# -- locks ---------------------------------------------------------------------------------------------------


class Lock:
    """threading.Lock."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Task] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._taken:
            self._taken = True
            return True
        if not blocking or timeout == 0:
            return False
        task = world().task()
        deadline = None if timeout < 0 else world().now + timeout
        while self._taken:
            patience = None if deadline is None else deadline - world().now
            if patience is not None and patience <= 0:
                return False
            self._waiting.append(task)
            task.park(patience)
            if task in self._waiting:
                self._waiting.remove(task)
        self._taken = True
        return True

    def release(self) -> None:
        if not self._taken:
            current = Holder.world.current if Holder.world else None
            if current is not None and not current.process.alive:
                return  # it is being unwound
            raise RuntimeError("release unlocked lock")
        self._taken = False
        if self._waiting:
            self._waiting.popleft().wake()

    def locked(self) -> bool:
        return self._taken

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock:
    """threading.RLock."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: Task | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        here = Holder.world.current if Holder.world else None
        if self._depth and self._owner is here:
            self._depth += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner, self._depth = here, 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    """threading.Condition."""

    def __init__(self, lock: Any = None) -> None:
        self._lock = RLock() if lock is None else lock
        self._waiting: deque[Task] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return bool(self._lock.__enter__())

    def __exit__(self, *rest: object) -> None:
        self._lock.__exit__(*rest)

    def wait(self, timeout: float | None = None) -> bool:
        task = world().task()
        self._waiting.append(task)
        depth = getattr(self._lock, "_depth", 1)
        for _ in range(depth):
            self._lock.release()
        try:
            woken = task.park(timeout)
        finally:
            if task in self._waiting:
                self._waiting.remove(task)
        for _ in range(depth):
            self._lock.acquire()
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        deadline = None if timeout is None else world().now + timeout
        result = predicate()
        while not result:
            patience = None if deadline is None else deadline - world().now
            if patience is not None and patience <= 0:
                break
            self.wait(patience)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        for _ in range(min(n, len(self._waiting))):
            self._waiting.popleft().wake()

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Event:
    """threading.Event."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._set:
            return True
        task = world().task()
        self._waiting.append(task)
        woken = task.park(timeout)
        if task in self._waiting:
            self._waiting.remove(task)
        return woken or self._set


class Semaphore:
    """threading.Semaphore."""

    def __init__(self, value: int = 1) -> None:
        self._value = value
        self._waiting: deque[Task] = deque()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else world().now + timeout
        while self._value <= 0:
            if not blocking:
                return False
            patience = None if deadline is None else deadline - world().now
            if patience is not None and patience <= 0:
                return False
            task = world().task()
            self._waiting.append(task)
            task.park(patience)
            if task in self._waiting:
                self._waiting.remove(task)
        self._value -= 1
        return True

    def release(self, n: int = 1) -> None:
        self._value += n
        for _ in range(min(n, len(self._waiting))):
            self._waiting.popleft().wake()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class BoundedSemaphore(Semaphore):
    """threading.BoundedSemaphore."""


# -- threads -------------------------------------------------------------------------------------------------


class Thread:
    """threading.Thread."""

    _count = 0

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.name = name or (getattr(target, "__name__", "thread"))
        self.daemon = bool(daemon)
        self._target, self._args, self._kwargs = target, tuple(args), kwargs or {}
        self._task: Task | None = None
        self._ended = Event()

    @property
    def ident(self) -> int | None:
        return self._task.ident if self._task else None

    native_id = ident

    def start(self) -> None:
        task = world().task().process.spawn(self.name, self._bootstrap)
        task.thread = self
        self._task = task

    def _bootstrap(self) -> None:
        try:
            self.run()
        finally:
            self._ended.set()

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def join(self, timeout: float | None = None) -> None:
        if self._task is not None and not self._task.done:
            self._ended.wait(timeout)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done


class Timer(Thread):
    """threading.Timer."""

    def __init__(
        self, interval: float, function: Callable[..., object], args: Any = (), kwargs: Any = None
    ) -> None:
        super().__init__(target=function, args=args, kwargs=kwargs, name="timer")
        self._interval = interval
        self._cancelled = Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def run(self) -> None:
        if not self._cancelled.wait(self._interval):
            super().run()


class Local:
    """threading.local."""

    def _here(self) -> dict[str, Any]:
        task = Holder.world.current if Holder.world else None
        if task is None:
            return self.__dict__
        return task.locals.setdefault(id(self), {})

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name == "_here":
            return object.__getattribute__(self, name)
        try:
            return self._here()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._here()[name] = value

    def __delattr__(self, name: str) -> None:
        del self._here()[name]


class _Main:
    name, ident, daemon = "main", 0, False

    def is_alive(self) -> bool:
        return True


def current_thread() -> Any:
    """threading.current_thread."""
    task = Holder.world.current if Holder.world else None
    return task.thread or _Main() if task else _Main()


threading = _copy_of(real_threading)
for _name, _value in {
    **{
        kind.__name__: kind
        for kind in (Lock, RLock, Condition, Event, Semaphore, BoundedSemaphore, Thread, Timer)
    },
    "local": Local,
    "current_thread": current_thread,
    "main_thread": _Main,
    "get_ident": lambda: Holder.world.current.ident if Holder.world and Holder.world.current else 0,
}.items():
    setattr(threading, _name, _value)


# -- queues --------------------------------------------------------------------------------------------------


class Queue:
    """queue.Queue and queue.SimpleQueue."""

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self.queue: deque[Any] = deque()
        self._changed = Condition()

    def qsize(self) -> int:
        return len(self.queue)

    def empty(self) -> bool:
        return not self.queue

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self.queue)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: not self.full(), timeout if block else 0):
                raise real_queue.Full
            self.queue.append(item)
            self._changed.notify_all()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self.queue), timeout if block else 0):
                raise real_queue.Empty
            self._changed.notify_all()
            return self.queue.popleft()

    def put_nowait(self, item: Any) -> None:
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        return self.get(block=False)


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


class Exit(BaseException):
    """os._exit."""


class Child:
    """multiprocessing.Process."""

    def __init__(
        self, target: Callable[..., object], args: Iterable[Any] = (), daemon: bool = False, **_: Any
    ) -> None:
        self._target, self._args = target, tuple(args)
        self.exitcode: int | None = None
        self._process: Any = None
        self._ended = Event()

    def start(self) -> None:
        parent = world().task().process
        self._process = parent.fork()
        self._process.spawn("main", self._main)
        self.pid = self._process.pid

    def _main(self) -> None:
        code = 1
        try:
            self._target(*self._args)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Exit as error:
            code = error.args[0]
        finally:
            if self.exitcode is None:
                self.exitcode = code if self._process.alive else -9
            self._ended.set()
            if self._process.alive:
                world().later(0, self._process.kill)

    def is_alive(self) -> bool:
        return self._process is not None and self._process.alive and self.exitcode is None

    def kill(self) -> None:
        if self.exitcode is None:
            self.exitcode = -9
            self._process.kill()
            self._ended.set()

    terminate = kill

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)


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
