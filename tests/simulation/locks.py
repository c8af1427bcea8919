"""Locks and queues in virtual time: whoever waits for one gives the turn to others."""

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

from scheduler import Holder, Task, world


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
                raise queue.Full
            self.queue.append(item)
            self._changed.notify_all()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self.queue), timeout if block else 0):
                raise queue.Empty
            self._changed.notify_all()
            return self.queue.popleft()

    def put_nowait(self, item: Any) -> None:
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        return self.get(block=False)
