"""Snapshots and checkpoints are written in a thread of their own: the models go on learning meanwhile."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from service.errors import StaleWrite, StoreUnavailable
from service.store.connection import Link

AGAIN = 0.2  # seconds until a write that must not be left out is tried again
STALE_TRIES = 5
FINISH = 20.0  # seconds that a stop waits for what is still to be written


class Saving:
    """A state to be written: copied first, then serialised and stored. If it `must` be, until Redis answers.

    `capture` copies the state and returns what serialises the copy.
    """

    def __init__(
        self, capture: Callable[[], Callable[[], bytes]], store: Callable[[Link, bytes], None], must: bool
    ) -> None:
        self._capture = capture
        self._copy: Callable[[], bytes] | None = None
        self._store = store
        self.must = must
        self.copy_seconds = 0.0  # that the copy took,
        self.seconds = 0.0  # and all the rest
        self.error: Exception | None = None
        self.is_done = False

    def copy(self) -> None:
        """Copy the state; what goes wrong is raised by `write`."""
        started = time.monotonic()
        with suppress(MemoryError):
            self._copy = self._capture()
        self.copy_seconds = time.monotonic() - started

    def write(self, link: Link) -> None:
        """Serialise the copy and store it. Raises StoreError, MemoryError."""
        if self._copy is None:
            raise MemoryError("no memory for a copy of the state")
        self._store(link, self._copy())


class Saver(threading.Thread):
    """Writes one after another, in order: a checkpoint is stored before any snapshot that was captured later.

    The scripts refuse a write by a learner that leads no longer, and one that has come too late.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(name="saver", daemon=True)
        self._link = link
        self._waiting: deque[Saving] = deque()
        self._changed = threading.Condition()
        self._has_begun = False
        self._stopping = False
        self._is_patient = True

    def copy_and_submit(self, saving: Saving) -> Saving:
        """Copy a state, in this thread, and let it be written."""
        saving.copy()
        if not self._has_begun:
            self._has_begun = True
            self.start()
        with self._changed:
            self._waiting.append(saving)
            self._changed.notify_all()
        return saving

    def hurry(self) -> None:
        """Try nothing again from now on: the process is to end."""
        self._is_patient = False

    def wait(self, saving: Saving, seconds: float = FINISH) -> bool:
        """Wait until something is written; False if it is not within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: saving.is_done, seconds)

    def run(self) -> None:
        """Write until stopped, and then what is left."""
        while (saving := self._next()) is not None:
            self._write(saving)
            with self._changed:
                saving.is_done = True
                self._changed.notify_all()

    def stop(self) -> None:
        """Write what is left, and end."""
        self.hurry()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._has_begun:
            self.join(FINISH)

    def _next(self) -> Saving | None:
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _write(self, saving: Saving) -> None:
        stale = 0
        while not self._has_ended(saving):
            # Stale is also what is written while a new timeline begins: the next try shows that one.
            stale += isinstance(saving.error, StaleWrite)
            again = saving.must if isinstance(saving.error, StoreUnavailable) else 0 < stale <= STALE_TRIES
            if not (again and self._is_patient):
                return
            time.sleep(AGAIN)

    def _has_ended(self, saving: Saving) -> bool:
        """Try once; whether it is written, or can never be."""
        started = time.monotonic()
        saving.error = None
        try:
            saving.write(self._link)
        except (StoreUnavailable, StaleWrite) as error:
            saving.error = error
        except Exception as error:  # noqa: BLE001 - the learner's main thread deals with it
            saving.error = error
            return True
        finally:
            saving.seconds = time.monotonic() - started
        return saving.error is None
