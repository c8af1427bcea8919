"""The scheduler: one virtual clock, and simulated processes whose threads go on one at a time.

Each thread of a simulated process is a greenlet. It runs until it touches the world (a sleep, a lock, a connection),
and then gives the turn back. What happens next is the earliest event in the queue; how long each thing takes is drawn
from the seed. Nothing depends on the machine's clock, so a seed is a run.
"""

import hashlib
import heapq
import itertools
import traceback
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet

EPOCH = 1_800_000_000.0  # the wall clock when a run begins
TURN = 1e-6  # seconds that a look at the clock takes: a loop that only looks gets on
WAKING = 2e-4  # seconds until a thread that was woken runs, at most


class Killed(BaseException):
    """Ends the threads of a process that was killed: whatever they try, they try no more."""


class Process:
    """One simulated process."""

    def __init__(self, world: "World", name: str, kind: str, number: int) -> None:
        self.world = world
        self.name = name
        self.kind = kind
        self.number = number  # how often a process of this name was started
        self.pid = world.next_pid()
        self.random = Random(f"{world.seed}/{name}/{number}")  # for its secrets and its shuffles
        self.timing = Random(f"{world.seed}/{name}/{number}/timing")
        self.alive = True
        self.ready = False
        self.paused_until = 0.0
        self.wall_offset = 0.0
        self.tasks: list[Task] = []
        self.connections: list[Any] = []
        self.children: list[Process] = []
        self.started_at = world.now
        self.may_end_by: tuple[str, ...] = ()  # errors that are its way to give up
        self.ends: str | None = None  # how its main thread ended
        self.belongings: dict[str, Any] = {}  # what the simulation keeps with it

    def __repr__(self) -> str:
        return f"{self.name}#{self.number}"

    def spawn(self, name: str, function: Callable[[], object]) -> "Task":
        """A new thread."""
        task = Task(self, name, function)
        self.tasks.append(task)
        self.world.later(self.timing.uniform(0, WAKING), task.resume, task.ticket)
        return task

    def fork(self) -> "Process":
        """A child of it, which dies with it."""
        name = f"{self.name}.child"
        self.belongings["forks"] = self.belongings.get("forks", 0) + 1
        child = Process(self.world, name, self.kind, 1000 * self.number + self.belongings["forks"])
        child.ready = True
        child.may_end_by = ("StoreUnavailable",)  # then another one does its job
        self.world.processes[name] = child
        self.children.append(child)
        return child

    def kill(self) -> None:
        """End at once: nothing of it runs any more; what it has sent is still under way."""
        if not self.alive:
            return
        self.alive = False
        for child in self.children:
            child.kill()
        for connection in list(self.connections):
            connection.vanish()
        for task in self.tasks:
            task.kill()
        self.tasks.clear()


class Task:
    """One thread of a simulated process."""

    _idents = itertools.count(1)

    def __init__(self, process: Process, name: str, function: Callable[[], object]) -> None:
        self.process = process
        self.name = name
        self.ident = next(Task._idents)
        self.function = function
        self.done = False
        self.ticket = 0  # of the wait that it is in
        self.stalled_until = 0.0
        self.locals: dict[int, dict[str, Any]] = {}
        self.thread: Any = None
        self._woken = False
        self._greenlet = greenlet(self._run)

    def __repr__(self) -> str:
        return f"{self.process}/{self.name}"

    def _run(self, *_: object) -> None:
        world = self.process.world
        try:
            self.function()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever ends a thread is told of
            world.crashed(self, error, traceback.format_exc())
        finally:
            self.done = True
            if self in self.process.tasks:
                self.process.tasks.remove(self)

    def resume(self, ticket: int, woken: bool = True) -> None:
        """Go on, if this is still what it waits for."""
        process = self.process
        if ticket != self.ticket or self.done or not process.alive:
            return
        world = process.world
        held = max(process.paused_until, self.stalled_until)
        if held > world.now:
            world.at(held + process.timing.uniform(0, WAKING), self.resume, ticket, woken)
            return
        self.ticket += 1
        self._woken = woken
        world.switch(self)

    def park(self, timeout: float | None = None) -> bool:
        """Give the turn away until woken; False if `timeout` seconds pass before that."""
        world = self.process.world
        if not self.process.alive:
            raise Killed
        ticket = self.ticket
        if timeout is not None:
            world.at(world.now + max(0.0, timeout), self.resume, ticket, False)
        world.yield_turn()
        if not self.process.alive:
            raise Killed
        return self._woken

    def wake(self) -> None:
        """Let it go on soon, if it is parked."""
        process = self.process
        process.world.later(process.timing.uniform(0, WAKING), self.resume, self.ticket)

    def kill(self) -> None:
        """Unwind it. Only from the scheduler's own turn, or it ends itself."""
        self.ticket += 1
        if self._greenlet.dead or not self._greenlet:
            self.done = True
            return
        if getcurrent() is not self._greenlet:
            self.process.world.unwind(self)

    def throw(self) -> None:
        """Unwind now."""
        if self._greenlet and not self._greenlet.dead:
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(Killed)

    def switch(self) -> None:
        """Run until it parks or ends."""
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()


class Trace:
    """What happened, in order; its hash tells two runs apart."""

    def __init__(self, kept: int = 4000) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.events = 0
        self.recent: deque[tuple[float, str, str]] = deque(maxlen=kept)

    def add(self, now: float, who: str, what: str, weight: bytes = b"") -> None:
        """Note an event; `weight` are bytes that count for the hash."""
        self.events += 1
        self._hash.update(f"{now!r} {who} {what} ".encode())
        self._hash.update(weight)
        self.recent.append((now, who, what))

    @property
    def digest(self) -> str:
        """The hash of all events."""
        return self._hash.hexdigest()


class World:
    """The clock, the queue of events, and who runs."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.now = 1000.0
        self.trace = Trace()
        self.processes: dict[str, Process] = {}
        self.current: Task | None = None
        self.crashes: list[tuple[str, str]] = []
        self.server_offset = 0.0  # of Redis's clock
        self._queue: list[tuple[float, float, int, Callable[..., object], tuple[object, ...]]] = []
        self._number = 0
        self._pids = 100
        self._ties = Random(f"{seed}/ties")
        self._doomed: list[Task] = []

    def next_pid(self) -> int:
        """A number for a process, never given before."""
        self._pids += 1
        return self._pids

    # -- time ------------------------------------------------------------------------------------------------

    def at(self, moment: float, action: Callable[..., object], *arguments: object) -> None:
        """Do something at a moment."""
        self._number += 1
        heapq.heappush(self._queue, (moment, self._ties.random(), self._number, action, arguments))

    def later(self, seconds: float, action: Callable[..., object], *arguments: object) -> None:
        """Do something after some seconds."""
        self.at(self.now + seconds, action, *arguments)

    def monotonic(self) -> float:
        """The clock that never jumps."""
        if self.current is not None and not self.current.process.alive:
            raise Killed
        self.now += TURN
        return self.now

    def wall(self) -> float:
        """The clock on the wall of the current process."""
        self.now += TURN
        offset = self.current.process.wall_offset if self.current else 0.0
        return EPOCH + self.now + offset

    @property
    def since_start(self) -> float:
        """Seconds since the run began."""
        return self.now - 1000.0

    # -- turns -----------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], deadline: float) -> bool:
        """Let events happen until a condition holds; False if it does not by the deadline."""
        while not until():
            if not self._queue or self._queue[0][0] > deadline:
                self.now = max(self.now, min(deadline, self._queue[0][0] if self._queue else deadline))
                return False
            moment, _, _, action, arguments = heapq.heappop(self._queue)
            self.now = max(self.now, moment)
            action(*arguments)
            self._bury()
        return True

    def run_for(self, seconds: float) -> None:
        """Let events happen for some seconds."""
        self.run(lambda: False, self.now + seconds)

    def switch(self, task: Task) -> None:
        """Give a task its turn."""
        before, self.current = self.current, task
        self._hub = getcurrent()
        try:
            task.switch()
        finally:
            self.current = before

    def yield_turn(self) -> None:
        """Give the turn back to the scheduler."""
        getcurrent().parent.switch()

    def task(self) -> Task:
        """The task whose turn it is."""
        if self.current is None:
            raise RuntimeError("this can only be done in a simulated thread")
        return self.current

    def unwind(self, task: Task) -> None:
        """End a task as soon as it is the scheduler's turn."""
        self._doomed.append(task)

    def _bury(self) -> None:
        while self._doomed:
            task = self._doomed.pop()
            before, self.current = self.current, task
            try:
                task.throw()
            finally:
                self.current = before

    def crashed(self, task: Task, error: BaseException, text: str) -> None:
        """A thread has ended by an error that nobody caught."""
        if not task.process.alive or type(error).__name__ in task.process.may_end_by:
            return
        self.trace.add(self.now, str(task), f"ended by {type(error).__name__}: {error}")
        self.crashes.append((str(task), text))

    def end(self) -> None:
        """Kill what is left, so that nothing of this run outlives it."""
        for process in list(self.processes.values()):
            process.kill()
        self._bury()
        self._queue.clear()


class Holder:
    """The world of the current run: what the service's modules were given as clock and threads looks here."""

    world: World | None = None


def world() -> World:
    """The world of the current run."""
    if Holder.world is None:
        raise RuntimeError("no simulation runs")
    return Holder.world
