"""`freshet serve`: Redis, learner and web on one machine; what dies is started again."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from service.errors import StoreUnavailable
from service.host import embedded
from service.host.exposure import check_exposure
from service.logs import log
from service.processes import die_with_parent
from service.settings import Settings, environment, redis_url
from service.store.connection import Link, check_server
from service.telemetry import share_counters

TICK = 0.05  # seconds between looks at the children
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before a child is started again
HEALTHY = 3.0  # seconds after which a child that dies is not dying of its start


@dataclass
class Child:
    """One supervised process."""

    name: str
    command: list[str]
    environment: dict[str, str]
    stop_within: float  # seconds after SIGTERM until it is killed
    descriptors: tuple[int, ...] = ()  # inherited open files
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _started_at: float = field(default=0.0, init=False)
    _pause: float = field(default=SHORTEST_PAUSE, init=False)
    _due_at: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Start it in its own session. It gets SIGTERM when this thread of ours dies: start it from the main thread."""
        parent = os.getpid()
        self._started_at = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            pass_fds=self.descriptors,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, parent, signal.SIGTERM),
        )

    def tend(self, now: float) -> None:
        """Start it again if it has died and its pause is over."""
        if self.process is not None and self.process.poll() is not None:
            # Whoever was killed is not to blame for its start: it is wanted back at once.
            blameless = self.process.returncode == -signal.SIGKILL or now - self._started_at > HEALTHY
            self._pause = SHORTEST_PAUSE if blameless else min(2 * self._pause, LONGEST_PAUSE)
            self._end_orphans()
            log.error("a process died", name=self.name, status=self.process.returncode, again_in=self._pause)
            self.process = None
            self._due_at = now + self._pause
        if self.process is None and now >= self._due_at:
            self.start()

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
        self.process = None


class Supervisor:
    """Runs the children in order and stops them in the reverse order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # No Events: a signal's handler could wait for the lock of what it interrupts.
        self._stopping = self._reload = False
        self._children: list[Child] = []

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP reloads the web processes. Raises ServiceError if it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_stopping", True))
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "_reload", True))
        try:
            self._start()
            while not self._stopping:
                self._tend()
                time.sleep(TICK)
        finally:
            for child in reversed(self._children):
                child.stop()

    def _start(self) -> None:
        share_counters(self._settings.data_dir / "counters")
        if self._settings.redis_url is None:
            lock = embedded.lock_data_dir(self._settings)
            self._add("redis", embedded.command(self._settings), 60.0, (lock,))
        self._wait_for_redis()
        check_server(Link(redis_url(self._settings), self._settings.redis_timeout))
        check_exposure(self._settings)
        freshet = [sys.executable, "-m", "service.cli"]
        self._add("learner", [*freshet, "learner"], 30.0)
        for _ in range(self._settings.trainers):
            self._add("trainer", [*freshet, "trainer"], 10.0)
        self._add("web", [*freshet, "web"], 40.0)
        log.info(
            "serving",
            url=f"http://{self._settings.host}:{self._settings.port}",
            redis=redis_url(self._settings) if self._settings.redis_url is None else "REDIS_URL",
        )

    def _add(
        self, name: str, command: list[str], stop_within: float, descriptors: tuple[int, ...] = ()
    ) -> None:
        variables = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **os.environ}
        variables |= environment(self._settings)
        child = Child(name, command, variables, stop_within, descriptors)
        self._children.append(child)
        child.start()

    def _wait_for_redis(self) -> None:
        deadline = time.monotonic() + embedded.LOADING
        while not self._stopping:
            try:
                return embedded.wait_until_ready(self._settings, timeout=0.5)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                self._tend()
        return None

    def _tend(self) -> None:
        now = time.monotonic()
        for child in self._children:
            child.tend(now)
        if self._reload:
            self._reload = False
            for child in self._children:
                if child.name == "web":
                    child.signal(signal.SIGHUP)
