"""`freshet serve`: Redis, learner, trainer and web on one machine. A process that dies is started again."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from service.errors import CannotStart, SettingsError, StoreUnavailable
from service.host import embedded, listening
from service.host.exposure import check_exposure
from service.host.forked import Forked
from service.host.preloading import preload
from service.logs import log
from service.processes import die_with_parent, ending
from service.settings import Settings, check_certificate, child_environment, redis_url
from service.store.connection import Link, check_server
from service.telemetry import remove_counters, share_counters

TICK = 0.05  # seconds between looks at the children
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before a child is started again
HEALTHY = 3.0  # seconds after which a child that dies is not dying of its start
FAILED_STARTS = 3  # in a row, after which `serve` gives up if it has not served yet
REDIS_SECONDS = 15.0  # that a start waits for the Redis of REDIS_URL
WEB_SECONDS = 120.0  # that a start waits for the first answer of a web process
COMMANDS = {
    "learner": "service.learner.command:learner",
    "trainer": "service.trainer.command:trainer",
    "web": "service.host.commands:web",
}
REMINDER = 5.0  # seconds between two log lines that say what a start waits for


Process = subprocess.Popen[bytes] | Forked


@dataclass
class Child:
    """One supervised process."""

    name: str
    launch: Callable[[], Process]
    stop_within: float  # seconds after SIGTERM until it is killed
    log_line: Callable[[bytes], None] | None = None  # takes each line that it prints
    failed_starts: int = field(default=0, init=False)
    process: Process | None = field(default=None, init=False)
    _printed: bytes = field(default=b"", init=False)  # of a line that has not ended
    _started_at: float = field(default=0.0, init=False)
    _pause: float = field(default=SHORTEST_PAUSE, init=False)
    _due_at: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Start it in its own session. It gets SIGTERM when this thread of ours dies: start it from the main thread."""
        self._started_at = time.monotonic()
        self.process = self.launch()
        if self.process.stdout is not None:
            os.set_blocking(self.process.stdout.fileno(), False)

    def tend(self, now: float) -> None:
        """Pass on what it has printed, and start it again if it has died and its pause is over."""
        self._pass_on_lines()
        if self.process is not None and self.process.poll() is not None:
            self._pass_on_lines(to_end=True)
            # A process that was killed did not fail to start: it is wanted back at once.
            blameless = self.process.returncode == -signal.SIGKILL or now - self._started_at > HEALTHY
            self._pause = SHORTEST_PAUSE if blameless else min(2 * self._pause, LONGEST_PAUSE)
            self.failed_starts = 0 if blameless else self.failed_starts + 1
            self._end_orphans()
            log.error(
                "a process died", name=self.name, how=ending(self.process.returncode), restart_in=self._pause
            )
            self.process = None
            self._due_at = now + self._pause
        if self.process is None and now >= self._due_at:
            self.start()

    def _pass_on_lines(self, to_end: bool = False) -> None:
        """Pass on the lines that it has printed; at its end also the one that it has not ended."""
        if self.log_line is None or self.process is None or self.process.stdout is None:
            return
        with suppress(BlockingIOError):
            while printed := os.read(self.process.stdout.fileno(), 2**16):
                *lines, self._printed = (self._printed + printed).split(b"\n")
                for line in lines:
                    self.log_line(line)
        if to_end:
            self.process.stdout.close()
            if self._printed:
                self.log_line(self._printed)
            self._printed = b""

    def _end_orphans(self) -> None:
        """Ask what the dead process had started to end too: it would hold the port."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self) -> None:
        """Let it end; kill it if it takes too long."""
        if self.process is None:
            return
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(self.stop_within)
        except subprocess.TimeoutExpired:
            log.error("killed a process that did not stop", name=self.name)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._pass_on_lines(to_end=True)
        self.process = None


class Supervisor:
    """Runs the children in order and stops them in the reverse order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # No Events: a signal's handler could wait for the lock of what it interrupts.
        self._stopping = self._reload = False
        self._children: list[Child] = []
        self._counters: Path | None = None  # the folder that the processes count in
        self._lock: int | None = None  # of the data folder: the embedded Redis holds it to its end

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP reloads the web processes. Raises ServiceError if it cannot start."""
        os.umask(embedded.PRIVATE)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_stopping", True))
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "_reload", True))
        check_certificate(self._settings)
        listener = listening.bind(self._settings.host, self._settings.port)
        parent = os.getpid()
        try:
            self._start_redis()
            preload()
            self._wait_for_redis()
            self._start_processes(listener)
            self._wait_for_web(listener)
            while not self._stopping:
                self._tend()
                time.sleep(TICK)
        finally:
            if os.getpid() == parent:  # what was forked leaves here too
                listener.close()
                for child in reversed(self._children):
                    child.stop()
                if self._counters is not None:
                    remove_counters(self._counters)

    def _start_redis(self) -> None:
        if self._settings.redis_url is None:
            self._lock = embedded.lock_data_dir(self._settings)
            self._add(Child("redis", self._launch_redis, 60.0, embedded.log_line))
        self._share_counters()

    def _launch_redis(self) -> Process:
        assert self._lock is not None
        return subprocess.Popen(
            embedded.command(self._settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=(self._lock,),
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),
        )

    def _share_counters(self) -> None:
        try:
            self._counters = share_counters()
        except OSError as error:
            raise SettingsError(
                f"cannot write to {error.filename}, where the counters are: {error.strerror}"
            ) from None

    def _start_processes(self, listener: socket.socket) -> None:
        if self._stopping:
            return
        listening.listen(listener)
        self._add(Child("learner", partial(self._fork, "learner", [], listener), 30.0))
        for _ in range(self._settings.trainers):
            self._add(Child("trainer", partial(self._fork, "trainer", [], listener), 10.0))
        fd = ["--fd", str(listener.fileno())]
        self._add(Child("web", partial(self._fork, "web", fd, listener), 40.0))

    def _fork(self, name: str, arguments: list[str], listener: socket.socket) -> Process:
        variables = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **child_environment(self._settings)}
        ours = [] if name == "web" else [listener.fileno()]
        ours += [] if self._lock is None else [self._lock]
        ours += [
            child.process.stdout.fileno()
            for child in self._children
            if child.process is not None and child.process.stdout is not None
        ]
        return Forked(f"freshet {name}", COMMANDS[name], arguments, variables, tuple(ours))

    def _add(self, child: Child) -> None:
        self._children.append(child)
        child.start()

    def _wait_for_redis(self) -> None:
        trouble = ""

        def answered() -> bool:
            nonlocal trouble
            try:
                embedded.wait_until_ready(self._settings, timeout=0.0)
            except StoreUnavailable as error:
                trouble = str(error)
                return False
            return True

        def seconds() -> float:
            # Reading its files takes as long as it takes.
            is_reading = self._settings.redis_url is None or "LOADING" in trouble
            return embedded.LOADING if is_reading else REDIS_SECONDS

        self._wait(answered, seconds, lambda: f"Redis is not there: {trouble}")
        if not self._stopping:
            check_server(Link(redis_url(self._settings), self._settings.redis_timeout))
            check_exposure(self._settings)

    def _wait_for_web(self, listener: socket.socket) -> None:
        tls = self._settings.tls_certificate is not None
        self._wait(
            lambda: listening.answers(listener, tls, timeout=1.0),
            lambda: WEB_SECONDS,
            lambda: "no web process answers",
        )
        if not self._stopping:
            embedded_redis = self._settings.redis_url is None
            where = redis_url(self._settings) if embedded_redis else "REDIS_URL"
            log.info("serving", url=listening.url(listener, tls), redis=where)

    def _wait(
        self, condition: Callable[[], bool], seconds: Callable[[], float], why: Callable[[], str]
    ) -> None:
        """Wait for a condition, tending the children.

        Raises CannotStart after `seconds`, or if a child cannot start.
        """
        begun = reminded = time.monotonic()
        while not self._stopping and not condition():
            now = time.monotonic()
            if now - begun > seconds():
                raise CannotStart(why())
            if now - reminded > REMINDER:
                reminded = now
                log.warning("waiting", why=why())
            self._tend()
            failed = next((child for child in self._children if child.failed_starts >= FAILED_STARTS), None)
            if failed is not None:
                raise CannotStart(f"{failed.name} does not start; the lines above say why")
            time.sleep(TICK)

    def _tend(self) -> None:
        now = time.monotonic()
        for child in self._children:
            child.tend(now)
        if self._reload:
            self._reload = False
            try:
                check_certificate(self._settings)
            except SettingsError as error:
                log.error("not reloaded", detail=str(error))
                return
            for child in self._children:
                if child.name == "web":
                    child.signal(signal.SIGHUP)
