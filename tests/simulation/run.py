"""One run: a plan carried out, from the start of all processes to the verdict."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clients import Clients
from faults import Faults
from ledger import Ledger
from parts import Exchange, Fleet, set_environment
from plans import FAULTS, Plan
from promises import Broken, Oracle, probes_body
from scheduler import Holder, Process, World
from server import Server
from truth import Truth

START_SECONDS = 10.0  # until all processes serve
DRAIN_SECONDS = 45.0  # after the last fault until everything is applied: the bound


@dataclass
class Outcome:
    """What a run came to."""

    plan: Plan
    broken: list[Broken]
    digest: str
    events: int
    commands: int
    met: dict[str, int]
    seconds: float  # that it took, really
    recent: list[tuple[float, str, str]] = field(default_factory=list)
    logged: list[tuple[float, str, str, dict[str, Any]]] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)


class Run:
    """One run of a plan."""

    def __init__(self, server: Server, plan: Plan) -> None:
        self.plan = plan
        self.server = server
        server.reset()
        self.world = World(plan["seed"])
        Holder.world = self.world
        set_environment(plan["settings"] | {"log_level": "debug"})
        self.fleet = Fleet(self.world, plan["one_machine"])
        self.world.fleet = self.fleet  # type: ignore[attr-defined]
        self.truth = Truth(server)
        server.learn_names()
        self.ledger = Ledger()
        self.oracle = Oracle(self.world, self.fleet, server, self.truth, self.ledger)
        self.fleet.floor, self.fleet.finished = self.oracle.started, self._finished
        self.faults = Faults(self.world, self.fleet, server, self.truth)
        self.process = Process(self.world, "clients", "clients", 1)
        self.clients = Clients(self.world, self.fleet, self.ledger, self.process, plan["settings"])

    def _finished(self, exchange: Exchange) -> None:
        if exchange.method == "PUT" and exchange.status in (200, 201) and "generation" in exchange.answer:
            self.truth.open(exchange.facts["model"])
        self.oracle.finished(exchange)

    def go(self) -> Outcome:
        """Carry the plan out."""
        began = time.perf_counter()
        try:
            self._go()
        finally:
            self.world.end()
            Holder.world = None
        requests = Counter(
            f"{exchange.method} {exchange.facts.get('command', '')} {exchange.status}"
            for exchange in self.ledger.exchanges
        )
        return Outcome(
            self.plan,
            self.oracle.broken,
            self.world.trace.digest,
            self.world.trace.events,
            self.server.carried_out,
            self.faults.met,
            time.perf_counter() - began,
            list(self.world.trace.recent),
            self.fleet.logged,
            requests,
        )

    def _go(self) -> None:
        for name in self.plan["processes"]:
            self.fleet.start(name)
        ready = self._until(
            lambda: all(p.ready for p in self.world.processes.values() if p is not self.process),
            START_SECONDS,
        )
        if not ready:
            self.oracle.tell(
                "all processes start",
                str([str(p) for p in self.world.processes.values() if not p.ready and p is not self.process]),
            )
            return
        web = next(name for name in self.plan["processes"] if name.startswith("web"))
        for model in self.plan["models"]:
            self.clients.do(
                {
                    "id": f"first-{model}",
                    "do": "create",
                    "web": web,
                    "model": model,
                    "more": self.plan["more"],
                }
            )
        self._until(lambda: not self.clients.busy, START_SECONDS)
        start = self.world.now
        for move in self.plan["moves"]:
            self.world.at(start + move["at"], self._move, move)
        last = max((move["at"] for move in self.plan["moves"]), default=0.0)
        self._until(lambda: self.world.now >= start + last + 0.01, last + 1.0)
        self._finish()

    def _move(self, move: dict[str, Any]) -> None:
        self.world.trace.add(self.world.now, "move", str(move))
        if move["do"] in FAULTS:
            self.faults.do(move)
        else:
            self.clients.do({"more": self.plan["more"], **move})

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        return self.world.run(condition, self.world.now + seconds)

    # -- the end -------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        self.world.run_for(0.5)
        self.faults.cease()
        self.world.run_for(2.0)
        for name in self.plan["processes"]:
            self.fleet.start(name)
        self.clients.stopping = False
        if not self._until(lambda: not self.clients.busy, DRAIN_SECONDS):
            self.clients.stopping = True
            self._until(lambda: not self.clients.busy, DRAIN_SECONDS)
        deadline = self.world.now + DRAIN_SECONDS
        while self.world.now < deadline:
            final, listed = self._look()
            if self._drained(final):
                break
            self.world.run_for(1.0)
        self.world.run_for(1.0)
        final, listed = self._look()
        self.oracle.judge(final, listed)
        self.oracle.judge_schedules(final)
        self.oracle.verify()

    def _look(self) -> tuple[dict[str, dict[str, Exchange]], dict[str, Exchange]]:
        """What each web process tells of each model."""
        final: dict[str, dict[str, Exchange]] = {}
        listed: dict[str, Exchange] = {}

        def ask(web: str) -> None:
            ask_ = self.clients.ask
            for name in self.plan["models"]:
                final[web][name] = ask_(web, "GET", f"/v1/models/{name}", model=name)
                path = f"/v1/models/{name}/predict"
                final[web][f"{name}:probes"] = ask_(web, "POST", path, probes_body(), model=name, probes=True)
            listed[web] = ask_(web, "GET", "/v1/models")

        webs = [name for name in self.plan["processes"] if name.startswith("web")]
        for web in webs:
            final[web] = {}
            self.process.spawn(f"look-{web}", lambda web=web: ask(web))
        self._until(lambda: len(listed) == len(webs), 60.0)
        return final, listed

    def _drained(self, final: dict[str, dict[str, Exchange]]) -> bool:
        for answers in final.values():
            for name, exchange in answers.items():
                book = self.truth.book(name.partition(":")[0])
                if book is None:
                    if exchange.status != 404:
                        return False
                elif (
                    exchange.status != 200
                    or exchange.answer["step"] != book.head.position
                    or not self.truth.is_published(book.name, book)
                    or (
                        not name.endswith(":probes")
                        and (exchange.answer["trouble"] or exchange.answer["job"])
                    )
                ):
                    return False
        return True
