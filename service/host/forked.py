"""Processes that are forked with all code loaded, and run one of the commands."""

import atexit
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

import click
from setproctitle import setproctitle

from service.processes import die_with_parent

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # by `serve`
LOOK = 0.01  # seconds between looks whether a process has ended


class RunCommand(BaseException):
    """Raised in a forked process: it leaves what its parent was doing, untouched, and runs a command."""

    def __init__(self, location: str, arguments: list[str]) -> None:
        """`location` is that of a command, as `service.learner.command:learner`."""
        self._location, self._arguments = location, arguments

    def run(self) -> None:
        """Run the command, and end this process with its status. Raises ServiceError."""
        module, _, name = self._location.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        ended_at_once(lambda: command.main(self._arguments, prog_name="freshet", standalone_mode=False))


class Forked:
    """A forked process, with the methods of `subprocess.Popen` that a supervisor needs."""

    stdout = None

    def __init__(
        self,
        title: str,
        location: str,
        arguments: list[str],
        environment: Mapping[str, str],
        close: tuple[int, ...],
    ) -> None:
        """Fork. Here it returns, in the new process it raises RunCommand. Only for a process without threads.

        `title` is what lists of processes show, `location` that of the command. The new process must not hold the open
        files `close`.
        """
        self.returncode: int | None = None
        parent = os.getpid()
        # A signal must not be taken by what it was not sent to.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number in CAUGHT:
                signal.signal(number, signal.SIG_DFL)
            die_with_parent(parent, signal.SIGTERM)
            for descriptor in close:
                os.close(descriptor)
            _read_nothing()
            os.environ.clear()
            os.environ.update(environment)
            setproctitle(title)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self.pid == 0:
            raise RunCommand(location, arguments)

    def poll(self) -> int | None:
        """The exit status, or the negative number of the signal that ended it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("freshet", timeout or 0.0)
            time.sleep(LOOK)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def ended_at_once(main: Callable[[], object]) -> NoReturn:
    """Run `main`, and end this process as the interpreter would, but leave it to the system to free what was loaded."""
    status: object = None
    try:
        main()
    except SystemExit as end:
        status = end.code
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def _read_nothing() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
