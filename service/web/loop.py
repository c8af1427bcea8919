"""The event loop of a web process: how code leaves it to others, and a watch over what holds it.

This is the only file that knows gevent, apart from gunicorn's worker. Everything else uses `threading`, `time` and
`queue`, which the worker replaces by their cooperative twins. Outside such a worker, as in tests, `run` calls the
function where it is and `breathe` does nothing.
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, TypeVar

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

from service.counters import LOOP_HELD
from service.logs import log

Value = TypeVar("Value")

Pool = Literal["short", "long", "compiler"]

SHORT_THREADS = 2  # for work that a client waits for: predictions of many rows
LONG_THREADS = 2  # for work of seconds: building and loading models
COMPILER_THREADS = 1  # for work that imports or calls the compiler: two threads in it can block each other
THREADS: dict[Pool, int] = {"short": SHORT_THREADS, "long": LONG_THREADS, "compiler": COMPILER_THREADS}
SWITCH_SECONDS = (
    0.0005  # after which a thread of the pool lets the loop go on, and the loop looks for what has come
)
BEAT = 0.05  # seconds between signs of life of the loop
HELD = 0.1  # seconds without one after which the loop was held
QUIET = 5.0  # seconds between two lines in the log; all are counted
IDLE = "run (hub.py"  # where the loop is while it waits

_pools: dict[str, ThreadPool] = {}


def is_running() -> bool:
    """Whether this process runs in an event loop."""
    return bool(monkey.is_module_patched("threading"))


def start() -> None:
    """Prepare the process for its loop: short turns for threads of the pool, and the watch."""
    if is_running():
        sys.setswitchinterval(SWITCH_SECONDS)
        gevent.setswitchinterval(SWITCH_SECONDS)
        Watch().start()


def spawn(function: Callable[[], object]) -> None:
    """Call a function beside what goes on; where there is no loop, at once."""
    if is_running():
        gevent.spawn(function)
    else:
        function()


def breathe() -> None:
    """Let everything else that is ready go on before this does."""
    if is_running():
        gevent.sleep(0)


def slices(total: int, size: int) -> Iterator[slice]:
    """`range(total)` in slices of `size`; between two of them everything else goes on."""
    for start in range(0, total, size):
        if start:
            breathe()
        yield slice(start, start + size)


def run(function: Callable[..., Value], *arguments: Any, pool: Pool = "short") -> Value:
    """Call a function that computes for more than some milliseconds, in a thread beside the loop.

    Work of seconds has threads of its own, "long", so that it never delays a prediction. What may import or call the
    compiler goes to the one thread of "compiler". The function must share no lock, connection or queue with the loop;
    a connection to Redis that it opens itself is fine.
    """
    if not is_running():
        return function(*arguments)
    threads = _pools.get(pool)
    if threads is None:
        threads = _pools[pool] = ThreadPool(THREADS[pool])
    value, error = threads.apply(_caught, (partial(function, *arguments),))
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


def _caught(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """The value or the error of a call: an error that leaves a pool's thread is printed by gevent."""
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked for
        return None, error


class Watch:
    """Logs what held the loop: the loop beats, and a thread of its own looks where it is when it has not beaten."""

    def __init__(self) -> None:
        self._beat_at = time.monotonic()
        self._loop_thread = monkey.get_original("_thread", "get_ident")()
        self._sleep = monkey.get_original("time", "sleep")
        self._logged_at = -QUIET
        self._seen = ""  # where the loop was held

    def start(self) -> None:
        """Start beating and looking."""
        gevent.spawn(self._beat)
        monkey.get_original("_thread", "start_new_thread")(self._look, ())

    def _beat(self) -> None:
        while True:
            gevent.sleep(BEAT)
            now = time.monotonic()
            held, self._beat_at = now - self._beat_at - BEAT, now
            if held > HELD and not self._seen.startswith(IDLE):  # else the machine was busy with others
                LOOP_HELD.observe(held)
                if now - self._logged_at > QUIET:
                    self._logged_at = now
                    log.warning("the event loop was held", seconds=round(held, 3), by=self._seen or "unknown")
            self._seen = ""

    def _look(self) -> None:
        while True:
            self._sleep(BEAT)
            if not self._seen and time.monotonic() - self._beat_at > HELD + BEAT:
                frame = sys._current_frames().get(self._loop_thread)
                self._seen = " < ".join(
                    f"{line.name} ({line.filename.rpartition('/')[2]}:{line.lineno})"
                    for line in reversed(traceback.extract_stack(frame, 12))
                )
