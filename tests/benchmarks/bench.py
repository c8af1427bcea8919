"""The servers of one session of measuring, and runs of load against them."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from client import Client
from processes import (
    command_line,
    cpu_seconds,
    descendants,
    free_port,
    machine_busy_seconds,
    parents,
    server,
)

HERE = Path(__file__).parent
WRK = shutil.which("wrk")
"""A load generator that takes little of the processors; one in Python slows the floor more than the service."""
INPUTS = 20
SPEC = {
    "task": "binary",
    "features": INPUTS,
    "layers": [{"units": 64}, {"units": 32}],
    "optimizer": {"name": "sgd", "learning_rate": 0.01},
}
WEB_PROCESSES = 2
PREDICT_PATH = "/v1/models/bench/predict"
FEEDBACK_PATH = "/v1/models/bench/feedback"


@dataclass
class Run:
    """One run of the load generator, and what it cost."""

    load: dict[str, Any]
    microseconds: dict[str, float] = field(default_factory=dict)
    """Processor time per answer by role: web, learner, redis, load, …"""
    elsewhere: float = 0.0
    """Cores that processes of no part in the run kept busy meanwhile."""

    def ok(self) -> float:
        """Answers with status 200 per second."""
        return self.load["statuses"].get("200", 0) / self.load["seconds"]


class Served:
    """A running server: the floor or the service."""

    def __init__(self, port: int, process: int) -> None:
        self.port = port
        self.process = process

    def roles(self) -> dict[int, str]:
        """Process id → what it is."""
        return {member: role(command_line(member)) for member in descendants(self.process)}

    def workers(self) -> list[int]:
        """The processes that answer requests: gunicorn's children."""
        web = {process for process, name in self.roles().items() if name == "web"}
        parent_of = parents()
        return [process for process in web if parent_of.get(process) in web]

    def learner(self) -> int:
        """The learner's process id."""
        learners = [process for process, name in self.roles().items() if name == "learner"]
        if len(learners) != 1:
            raise RuntimeError(f"expected one learner, found {learners}")
        return learners[0]


def role(command: str) -> str:
    """What a process is, by its command line."""
    for word, name in (("gunicorn", "web"), ("valkey", "redis"), ("redis-server", "redis")):
        if word in command:
            return name
    for name in ("web", "learner", "trainer", "serve"):
        if f" {name} " in f"{command} ":
            return name
    return "other"


class Bench:
    """The servers and bodies of one session; servers start when they are first asked for."""

    def __init__(self, folder: Path, stack: ExitStack, seconds: float, rounds: int) -> None:
        self.folder = folder
        self.stack = stack
        self.seconds = seconds
        self.rounds = rounds
        self.runs: list[tuple[str, Run]] = []
        self.bodies = write_bodies(folder)

    @cached_property
    def floor(self) -> Served:
        """gunicorn with its own gevent worker and handlers that only parse."""
        port = free_port()
        command = [
            *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", str(WEB_PROCESSES)),
            *("--bind", f"127.0.0.1:{port}", "--keep-alive", "75", "--no-control-socket"),
            *("--pythonpath", str(HERE), "floor:app"),
        ]
        process = self.stack.enter_context(server(command, port, "/", self.folder / "floor.log"))
        return Served(port, process.pid)

    @cached_property
    def always(self) -> Served:
        """The service as it is by default: what is acknowledged is on disk."""
        return self.service("always")

    @cached_property
    def everysec(self) -> Served:
        """The service that syncs its log once a second."""
        return self.service("everysec")

    def service(self, appendfsync: str) -> Served:
        """Start the whole service with a model that has learned its first observations."""
        port = free_port()
        command = [
            *(str(Path(sys.executable).parent / "freshet"), "serve", "--port", str(port)),
            *("--data-dir", str(self.folder / appendfsync), "--web-workers", str(WEB_PROCESSES)),
        ]
        log = self.folder / f"{appendfsync}.log"
        process = self.stack.enter_context(
            server(command, port, "/readyz", log, FRESHET_APPENDFSYNC=appendfsync)
        )
        prepare_model(port, log)
        return Served(port, process.pid)

    def load(
        self,
        served: Served,
        path: str,
        connections: int,
        rate: float | None = None,
        seconds: float | None = None,
    ) -> "subprocess.Popen[str]":
        """Start the load generator; `finish` reads its result. wrk, where it is installed, for closed loops."""
        length = self.seconds if seconds is None else seconds
        if WRK and not rate:
            command = [
                WRK,
                "-t1",
                "-c",
                str(connections),
                "-d",
                f"{math.ceil(length)}s",
                "-s",
                str(HERE / "load.lua"),
            ]
            return subprocess.Popen(
                [*command, f"http://127.0.0.1:{served.port}{path}"],
                env=os.environ | {"BODIES": str(self.bodies[path])},
                stdout=subprocess.PIPE,
                text=True,
            )
        command = [
            *(sys.executable, str(HERE / "load.py"), f"http://127.0.0.1:{served.port}{path}"),
            *(str(self.bodies[path]), "--connections", str(connections)),
            *("--seconds", str(length), "--warmup", "1"),
            *("--spread", *map(str, served.workers())),
        ]
        if rate:
            command += ["--rate", str(rate)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def finish(self, generator: "subprocess.Popen[str]") -> dict[str, Any]:
        """The result of a load generator that ends by itself; it is killed when it does not."""
        try:
            output, _ = generator.communicate(timeout=self.seconds * 4 + 60)
        finally:
            if generator.poll() is None:
                generator.kill()
                generator.wait()
        if generator.returncode:
            raise RuntimeError("the load generator failed")
        return {"generator": "load.py", "cpu_share": 0.0} | json.loads(output.strip().splitlines()[-1])

    def run(self, label: str, served: Served, path: str, connections: int, rate: float | None = None) -> Run:
        """Load a server alone and note what each role of process cost per answer."""
        roles = served.roles()
        before = {process: cpu_seconds(process) for process in roles}
        busy_before, started = machine_busy_seconds(), time.monotonic()
        generator = self.load(served, path, connections, rate)
        load = self.finish(generator)
        busy = machine_busy_seconds() - busy_before
        used: dict[str, float] = {}
        for process, name in roles.items():
            used[name] = used.get(name, 0.0) + cpu_seconds(process) - before[process]
        used["load"] = load["cpu_share"] * (load["seconds"] + 1)
        elsewhere = max(busy - sum(used.values()), 0.0) / (time.monotonic() - started)
        answers = max(load["answered"], 1)
        run = Run(load, {name: 1e6 * cpu / answers for name, cpu in used.items()}, elsewhere)
        self.runs.append((label, run))
        return run

    def alternately(self, *sides: Callable[[], Run]) -> list[list[Run]]:
        """Run each side once a round; the runs by side."""
        rounds = [[side() for side in sides] for _ in range(self.rounds)]
        return [list(runs) for runs in zip(*rounds, strict=True)]


def write_bodies(folder: Path, count: int = 512) -> dict[str, Path]:
    """Files of varying request bodies, one a line, by the path they are for."""
    generator = random.Random(0)
    rows = [[round(generator.gauss(0, 1), 6) for _ in range(INPUTS)] for _ in range(count)]
    predict, feedback = folder / "predict.ndjson", folder / "feedback.ndjson"
    predict.write_text("\n".join(json.dumps({"instances": [row]}) for row in rows))
    feedback.write_text(
        "\n".join(json.dumps({"features": row, "label": int(row[0] * row[1] > 0)}) for row in rows)
    )
    return {PREDICT_PATH: predict, FEEDBACK_PATH: feedback}


def prepare_model(port: int, log: Path) -> None:
    """Create the model and wait until its learner has compiled its loop and applies what it is sent."""
    row = {"features": [0.0] * INPUTS, "label": 0}
    deadline = time.monotonic() + 120
    with Client(port) as client:
        status, body = client.put("/v1/models/bench", SPEC)
        if status not in (200, 201):
            raise RuntimeError(f"the model was not created: {status} {body!r}")
        while client.post(FEEDBACK_PATH, row)[0] != 200:
            if time.monotonic() > deadline:
                raise RuntimeError(f"feedback is not applied:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
