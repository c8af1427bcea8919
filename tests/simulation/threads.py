"""Threads and child processes in virtual time: each thread is a task of a simulated process."""

from collections.abc import Callable, Iterable
from typing import Any

from locks import Event
from scheduler import Holder, Task, world


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


class Main:
    """The main thread."""

    name, ident, daemon = "main", 0, False

    def is_alive(self) -> bool:
        return True


def current_thread() -> Any:
    """threading.current_thread."""
    task = Holder.world.current if Holder.world else None
    return task.thread or Main() if task else Main()


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
