"""What befalls a run: Redis, the ways to it, the processes and their clocks."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from parts import Fleet
from scheduler import Process, World
from server import Copy, Server
from truth import Truth
from wire import Command

HELD = "held"  # before it is carried out
LATE = "late"  # its answer
LOST = "lost"  # its answer, with the connection
BROKEN = "broken"  # the connection, while the command is still on its way; it is carried out later
ALSO_CALLED = {"heartbeat": ("heart", "pulse")}  # threads, in version 0.1


@dataclass
class Faults:
    """Carries out the moves that clients do not make."""

    world: World
    fleet: Fleet
    server: Server
    truth: Truth
    met: dict[str, int] = field(default_factory=dict)  # fault -> how often it took effect
    _copies: list[Copy] = field(default_factory=list)

    def do(self, move: dict[str, Any]) -> None:
        """Do a move."""
        getattr(self, move["do"])(move)

    def _count(self, what: str, who: str = "") -> None:
        self.met[what] = self.met.get(what, 0) + 1
        self.world.trace.add(self.world.now, "fault", f"{what} {who}")

    # -- commands under way --------------------------------------------------------------------------------------

    def hold(self, move: dict[str, Any]) -> None:
        """Hold back the next command of a kind, its answer, or lose the answer; others overtake it."""
        until = self.world.now + move.get("within", 5.0)
        left = [move.get("times", 1)]

        def held(command: Command) -> None:
            process = command.connection.process
            if self.world.now > until or left[0] <= 0:
                self.server.holds.remove(held)
                return
            if command.label != move["what"] or move["who"] not in (process.kind, process.name):
                return
            left[0] -= 1
            how = move.get("how", HELD)
            if how == HELD:
                command.hold = move["seconds"]
            elif how == LATE:
                command.hold_answer = move["seconds"]
            elif how == BROKEN:
                command.hold = move["seconds"]
                self.world.later(min(0.02, move["seconds"]), command.connection.cut)
            else:
                command.cut_after = True
            self._count(
                f"{'command' if how in (HELD, BROKEN) else 'answer'} {how}",
                f"{command.label} of {command.connection.name}",
            )

        self.server.holds.append(held)

    def cut(self, move: dict[str, Any]) -> None:
        """Cut connections of a process; with `drop`, what was under way on them never arrives."""
        process = self._process(move)
        if process is None:
            return
        chance = Random(f"{self.world.seed}/{move['id']}")
        for connection in list(process.connections):
            if move.get("all") or chance.random() < 0.5:
                if move.get("drop"):
                    for command in connection.outbox:
                        command.done = True
                    connection.outbox.clear()
                connection.cut()
                self._count("connection cut", connection.name)

    # -- processes -------------------------------------------------------------------------------------------------

    def _process(self, move: dict[str, Any]) -> Process | None:
        process = self.world.processes.get(move["who"])
        return process if process is not None and process.alive else None

    def pause(self, move: dict[str, Any]) -> None:
        """A process stands still."""
        process = self._process(move)
        if process is not None:
            process.paused_until = max(process.paused_until, self.world.now + move["seconds"])
            self._count("process paused", str(process))

    def stall(self, move: dict[str, Any]) -> None:
        """One thread of a process stands still."""
        process = self._process(move)
        names = (move["thread"], *ALSO_CALLED.get(move["thread"], ()))
        tasks = [task for task in process.tasks if task.name in names] if process else []
        for task in tasks:
            task.stalled_until = self.world.now + move["seconds"]
            self._count("thread stalled", str(task))

    def kill(self, move: dict[str, Any]) -> None:
        """A process is killed, and started again after a while."""
        if self._process(move) is not None:
            self._count("process killed", move["who"])
            self.fleet.kill(move["who"])
            self.world.later(move.get("seconds", 0.3), self.fleet.start, move["who"])

    def jump(self, move: dict[str, Any]) -> None:
        """The clock on the wall of a process, or Redis's, jumps."""
        if move["who"] == "redis":
            self.world.server_offset += move["seconds"]
        else:
            process = self._process(move)
            if process is None:
                return
            process.wall_offset += move["seconds"]
        self._count("clock jumped", move["who"])

    # -- Redis -----------------------------------------------------------------------------------------------------

    def copy(self, move: dict[str, Any]) -> None:
        """Take a copy of Redis."""
        if self.server.up:
            self._copies.append(self.server.copy())
            self.truth.keep_state()
            self._count("copy of Redis taken")

    def back(self, move: dict[str, Any]) -> None:
        """Redis dies, and comes back as the newest copy has it."""
        if not self._copies or not self.server.up:
            return
        number = len(self._copies) - 1
        self.server.stop()
        self._room()
        self.server.take(self._copies[number])
        self.truth.go_back(number)
        self.world.later(move.get("seconds", 0.05), self._up)
        self._count("Redis came back older")

    def empty(self, move: dict[str, Any]) -> None:
        """Redis dies, and comes back with nothing."""
        if not self.server.up:
            return
        self.server.stop()
        self.server.take({})
        self.truth.go_back(None)
        self.world.later(move.get("seconds", 0.05), self._up)
        self._count("Redis came back empty")

    def restart(self, move: dict[str, Any]) -> None:
        """Redis dies, and comes back as it was."""
        if self.server.up:
            self.server.stop()
            self.world.later(move.get("seconds", 0.05), self._up)
            self._count("Redis restarted")

    def _up(self) -> None:
        self.server.start()

    def freeze(self, move: dict[str, Any]) -> None:
        """Redis carries out nothing for a while."""
        self.server.frozen_until = max(self.server.frozen_until, self.world.now + move["seconds"])
        self._count("Redis stood still")

    def full(self, move: dict[str, Any]) -> None:
        """Redis is full for a while."""
        self.server.real("CONFIG", "SET", "maxmemory", "1")
        self.world.later(move["seconds"], self._room)
        self._count("Redis full")

    def _room(self) -> None:
        self.server.real("CONFIG", "SET", "maxmemory", "0")

    # -- the end -----------------------------------------------------------------------------------------------------

    def cease(self) -> None:
        """No fault any more: all runs, Redis is there and has room."""
        self.server.holds.clear()
        self._room()
        if not self.server.up:
            self._up()
        self.server.frozen_until = 0.0
        for process in self.world.processes.values():
            process.paused_until = 0.0
            for task in process.tasks:
                task.stalled_until = 0.0
