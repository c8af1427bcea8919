"""Random requests of every kind against one server, by a seed: what arrives may be refused, and breaks nothing.

    python -m tests.fuzz.fuzz --minutes 10

At the end: no answer of 500 or above but a deliberate 503, no traceback in any log, every model's weights are finite,
no process died or swelled, and `freshet verify` finds all models equal.
"""

import json
import math
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import urllib3
from safetensors.numpy import load

from model import ModelSpec
from tests.fuzz.tables import table_stream
from tests.harness import FRESHET, Server, running

NAMES = ["a", "b", "c", "d.e", "F-9"]
KEYS = [None, None, "k1", "k2", "\xe4" * 3, "x" * 129]
TABLES = "application/vnd.apache.arrow.stream"
GROWTH = 300  # mebibytes that a process may have grown by at the end
NUMBERS: list[Any] = [
    *(0, 1, -1, 0.5, 1e-300, 1e300, -1e308, 1e308, 5e-324, 2**53, 2**63, 10**30, 10**400, -0.0),
    *(math.nan, math.inf, -math.inf),
]
TEXTS = [
    "",
    "a",
    "1",
    "true",
    "null",
    "\x00",
    "\ud800",
    "ä" * 40,
    "x" * 9000,
    "/~0",
    '"',
    "{}",
    "observations",
]
SPECS: list[dict[str, Any]] = [
    {"task": "binary", "features": 2, "layers": []},
    {"task": "binary", "features": 3, "layers": [{"units": 8, "batch_norm": True}], "keep": 500},
    {
        "task": "multiclass",
        "features": 2,
        "classes": ["x", "y", "z"],
        "layers": [{"units": 4, "dropout": 0.3}],
    },
    {"task": "regression", "features": 2, "targets": 2, "scaling": "minmax"},
    {
        "task": "regression",
        "features": 2,
        "optimizer": {"name": "sgd", "learning_rate": 1.0},
        "scaling": "none",
    },
    {
        "task": "binary",
        "classes": [True, False],
        "features": [
            {"name": "n", "indicator": True},
            {"name": "c", "kind": "category", "values": ["u", "v"]},
            {"name": "h", "kind": "hash", "buckets": 50},
            {"name": "b", "kind": "boolean"},
        ],
    },
]


class Fuzzer:
    """Makes requests from a seed, and sends them."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.broken: list[str] = []
        self._pool = urllib3.PoolManager(retries=False, timeout=60)
        self._specs: dict[str, dict[str, Any]] = {}

    def step(self) -> None:
        """Send one request."""
        kinds: list[Callable[[], None]] = [
            *[self.feed] * 6,
            *[self.predict] * 4,
            *[self.stream] * 3,
            *[self.table] * 3,
            *[
                self.create,
                self.patch,
                self.command,
                self.look,
                self.weights,
                self.raw,
                self.protocols,
                self.delete,
            ],
        ]
        self.random.choice(kinds)()

    # -- values ----------------------------------------------------------------------------------------------

    def number(self) -> Any:
        if self.random.random() < 0.97:
            return self.random.choice([self.random.gauss(0, 1), self.random.randint(-3, 3)])
        return self.random.choice(NUMBERS)

    def value(self, depth: int = 0) -> Any:
        """Anything that JSON can say."""
        kind = self.random.randrange(8 if depth < 3 else 5)
        if kind < 2:
            return self.number()
        if kind == 2:
            return self.random.choice(TEXTS)
        if kind in (3, 4):
            return self.random.choice([None, True, False])
        if kind == 5:
            return [self.value(depth + 1) for _ in range(self.random.randrange(5))]
        return {
            self.random.choice([*TEXTS, "features", "label", "id"]): self.value(depth + 1) for _ in range(3)
        }

    def row(self, spec: dict[str, Any]) -> Any:
        """A row that mostly fits."""
        if self.random.random() < 0.05:
            return self.value()
        if isinstance(spec["features"], int):
            return [None if self.random.random() < 0.1 else self.number() for _ in range(spec["features"])]
        made = {"n": self.number(), "c": self.random.choice("uvw"), "h": self.random.choice(TEXTS), "b": True}
        return {name: value for name, value in made.items() if self.random.random() < 0.9}

    def label(self, spec: dict[str, Any]) -> Any:
        if self.random.random() < 0.05:
            return self.value()
        if spec["task"] == "regression":
            targets = spec.get("targets", 1)
            return self.number() if targets == 1 else [self.number() for _ in range(targets)]
        return self.random.choice(spec.get("classes", [0, 1]))

    def observation(self, spec: dict[str, Any]) -> dict[str, Any]:
        made = {"features": self.row(spec), "label": self.label(spec)}
        if self.random.random() < 0.3:
            made["id"] = str(self.random.randrange(2000))
        if self.random.random() < 0.2:
            made["weight"] = self.random.choice([0.5, 1, 2.0, 1e-9, 1e6, 1e9, 0, -1])
        if self.random.random() < 0.05:
            made.pop(self.random.choice(list(made)))
        if self.random.random() < 0.03:
            made[self.random.choice(TEXTS)] = self.value()
        return made

    def spec(self) -> dict[str, Any]:
        spec = dict(self.random.choice(SPECS))
        for _ in range(self.random.choice([0, 0, 1, 2])):
            field = self.random.choice(
                ["seed", "keep", "keep_bytes", "loss", "layers", "optimizer", "bias", "x"]
            )
            optimizers = [
                {"learning_rate": self.number()},
                {"schedule": {"name": "cosine", "steps": self.number()}},
            ]
            spec[field] = self.random.choice([self.value(), self.number(), *optimizers])
        return spec

    # -- requests --------------------------------------------------------------------------------------------

    def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> urllib3.BaseHTTPResponse:
        raw = (
            body
            if isinstance(body, bytes) or body is None
            else json.dumps(body).encode("utf-8", "surrogatepass")
        )
        if raw and self.random.random() < 0.03:
            raw = self.damaged(raw)
        headers = {
            "Content-Type": kind
            if self.random.random() < 0.98
            else self.random.choice(["", "text/plain", "a"])
        }
        key = self.random.choice(KEYS)
        if key is not None:
            headers["Idempotency-Key"] = key.encode("latin-1").decode("latin-1")
        sent: Any = raw
        if raw and self.random.random() < 0.2:
            sent = iter([raw[start : start + 997] for start in range(0, len(raw), 997)])
        call = f"{method} {re.sub('/(a|b|c|d.e|F-9)(/|$)', '/NAME/', path).partition('?')[0]}"
        try:
            answer = self._pool.request(method, self.server.api.base + path, body=sent, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            self.broken.append(f"{call} got no answer: {error!r} {kind} {(raw or b'')[:3000]!r}")
            return urllib3.HTTPResponse(status=0)
        self.note(call, answer, raw)
        return answer

    def note(self, call: str, answer: urllib3.BaseHTTPResponse, raw: bytes | None) -> None:
        self.statuses[call, answer.status] += 1
        if answer.status >= 500 and answer.status != 503:
            self.broken.append(f"{call} {answer.status} {(raw or b'')[:500]!r} {answer.data[:300]!r}")
        for line in answer.data.splitlines() if b'"status":5' in answer.data else []:
            if b'"status":500' in line:
                self.broken.append(f"{call} in its stream: {line[:300]!r} {(raw or b'')[:500]!r}")

    def damaged(self, raw: bytes) -> bytes:
        cut = self.random.randrange(len(raw))
        return self.random.choice(
            [raw[:cut], raw[:cut] + b"\xff" + raw[cut:], raw + raw, raw[cut:], b"\x00" * 50]
        )

    def name(self) -> str:
        return self.random.choice(list(self._specs) or NAMES)

    def known(self) -> tuple[str, dict[str, Any]]:
        name = self.name()
        return name, self._specs.get(name, SPECS[0])

    def create(self) -> None:
        name, spec = self.random.choice(NAMES), self.spec()
        query = self.random.choice(["", "", "?rebuild=true"])
        if self.send("PUT", f"/v1/models/{name}{query}", spec).status == 201:
            self._specs[name] = spec

    def delete(self) -> None:
        if self.random.random() < 0.2:
            name = self.name()
            self.send("DELETE", f"/v1/models/{name}")
            self._specs.pop(name, None)

    def feed(self) -> None:
        name, spec = self.known()
        rows = [self.observation(spec) for _ in range(self.random.choice([1, 1, 3, 60]))]
        body: Any = rows[0] if len(rows) == 1 else {"observations": rows}
        self.send(
            "POST", f"/v1/models/{name}/feedback{self.random.choice(['', '', '?top=2', '?top=x'])}", body
        )

    def predict(self) -> None:
        name, spec = self.known()
        body: dict[str, Any] = {
            "instances": [self.row(spec) for _ in range(self.random.choice([1, 1, 5, 100]))]
        }
        if self.random.random() < 0.3:
            body["ids"] = [str(self.random.randrange(2000)) for _ in body["instances"]]
        if self.random.random() < 0.1:
            body[self.random.choice(["min_step", "top", "ids", "x"])] = self.random.choice(
                [self.value(), 1, 0]
            )
        self.send("POST", f"/v1/models/{name}/predict", body)

    def stream(self) -> None:
        name, spec = self.known()
        queries = [
            "",
            "?results=each",
            "?results=blocks",
            "?on_error=stop",
            "?results=each&on_error=stop&top=2",
            "?x=1",
        ]
        lines = [self.observation(spec) for _ in range(self.random.choice([0, 1, 30, 1500]))]
        call, query = "feedback", self.random.choice(queries)
        if self.random.random() < 0.4:
            call, query = "predict", self.random.choice(["", "?on_error=stop", "?ids=true", "?top=1"])
            lines = [line if query == "?ids=true" else line.get("features") for line in lines]  # type: ignore[misc]
        body = b"".join(json.dumps(line).encode("utf-8", "surrogatepass") + b"\n" for line in lines)
        self.send("POST", f"/v1/models/{name}/{call}{query}", body, "application/x-ndjson")

    def table(self) -> None:
        """A data frame, for feedback or predictions."""
        name, spec = self.known()
        names = [feature.name for feature in ModelSpec.model_validate(spec).feature_list]
        rows = [self.observation(spec) for _ in range(self.random.choice([0, 1, 30, 1500]))]
        body = table_stream(self.random, rows, names)
        calls = ["feedback", "feedback?results=each", "feedback?on_error=stop&results=blocks", "predict"]
        self.send("POST", f"/v1/models/{name}/{self.random.choice(calls)}", body, TABLES)

    def patch(self) -> None:
        change = {self.random.choice(["learning_rate", "clip_norm", "retrain", "x"]): self.value()}
        cron = {
            "cron": self.random.choice(["0 3 * * *", "R R * * *", "0 0 30 2 *", "* * * *", "99 * * * *", ""])
        }
        schedules = [{"every": self.number()}, cron, {"after": self.number()}, None]
        if self.random.random() < 0.5:
            change["retrain"] = self.random.choice(schedules)
        self.send("PATCH", f"/v1/models/{self.name()}", change)

    def command(self) -> None:
        path = f"/v1/models/{self.name()}"
        calls = [
            (
                f"{path}/checkpoints",
                self.random.choice([None, {"note": self.random.choice(TEXTS)}, self.value()]),
            ),
            (f"{path}/rollback", self.random.choice([{"checkpoint": "0-1"}, self.value()])),
            (f"{path}/retrain", self.random.choice([{"epochs": 1}, {"epochs": self.number()}, self.value()])),
        ]
        self.send("POST", *self.random.choice(calls))

    def look(self) -> None:
        name = self.name()
        paths = ["", "/metrics", "/diagnostics", "/checkpoints", "/jobs", "/weights", "/weights?min_step=x"]
        others = [
            "/v1/models",
            "/readyz",
            "/livez",
            "/metrics",
            "/openapi.json",
            "/v1/jobs/x",
            "/%00",
            "/v1/models/%ff",
        ]
        self.send("GET", self.random.choice([f"/v1/models/{name}{path}" for path in paths] + others))

    def weights(self) -> None:
        path = f"/v1/models/{self.name()}/weights"
        raw = self._pool.request("GET", self.server.api.base + path).data
        sent = self.random.choice([raw, self.damaged(raw or b"x"), raw[:-4] + b"\x00\x00\xc0\x7f", b""])
        self.send("PUT", path, sent, "application/octet-stream")

    def protocols(self) -> None:
        name, spec = self.known()
        tensor = {
            "name": "features",
            "shape": [1, self.number()],
            "datatype": "FP64",
            "data": [self.row(spec)],
        }
        calls = [
            (f"/v2/models/{name}/infer", {"inputs": [tensor]}),
            (f"/v2/models/{name}/infer", self.value()),
            (f"/v1/models/{name}:predict", {"instances": [self.row(spec)]}),
            (f"/v1/models/{name}:predict", self.value()),
        ]
        self.send("POST", *self.random.choice(calls))

    def raw(self) -> None:
        """Bytes that are perhaps no HTTP, on a connection of their own."""
        body = json.dumps(self.observation(SPECS[0])).encode("utf-8", "surrogatepass")
        framings = [
            "Transfer-Encoding: chunked",
            f"Content-Length: {len(body) + self.random.randrange(-3, 3)}",
            "A: b",
        ]
        head = f"POST /v1/models/{self.name()}/feedback HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\n{self.random.choice(framings)}\r\n\r\n"
        sent = self.damaged(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        try:
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
        except OSError:
            return
        status = int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1") else 0
        self.statuses["raw", status] += 1
        if status >= 500 and status not in (501, 503, 505):
            self.broken.append(f"raw {status} {sent[:500]!r}")


def memory(server: Server) -> dict[str, int]:
    """What each process has in memory, in mebibytes."""
    pids = [(part, pid) for part in ("web", "learner", "redis") for pid in server.pids(part)]
    texts = {f"{part} {pid}": Path(f"/proc/{pid}/status").read_text() for part, pid in pids}
    return {name: int(re.search(r"VmRSS:\s+(\d+)", text)[1]) // 1024 for name, text in texts.items()}  # type: ignore[index]


def faults(server: Server, fuzzer: Fuzzer, before: dict[str, int]) -> list[str]:
    """What should not be at the end."""
    found = list(fuzzer.broken)
    after = memory(server)
    print("MiB before:", before)
    print("MiB after:", after)
    if after.keys() != before.keys():
        found.append("a process died")
    found += [f"{name} grew" for name in after if after[name] - before.get(name, 0) > GROWTH]
    if "Traceback" in server.log():
        found.append("a traceback: " + server.log().partition("Traceback")[2][:3000])
    names = [model["model"] for model in server.api("GET", "/v1/models").body["models"]]
    for name in names:
        raw = server.api.raw("GET", f"/v1/models/{name}/weights").data
        found += [f"{name} {tensor}" for tensor, values in load(raw).items() if not np.isfinite(values).all()]
        done = subprocess.run(
            [*FRESHET, "verify", name, "--data-dir", str(server.data_dir)],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if done.returncode not in (0, 3):  # 3: nothing to compare
            found.append(f"verify {name}: {done.returncode} {done.stdout} {done.stderr}")
    return found


@click.command()
@click.option("--minutes", default=10.0)
@click.option("--seed", default=0)
@click.option("--keep-log", type=click.Path(path_type=Path), help="Copy the server's log there.")
def main(minutes: float, seed: int, keep_log: Path | None) -> None:
    """Send random requests for some minutes, and say what should not be."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), web_workers=2, trainers=1) as server:
        fuzzer = Fuzzer(server, seed)
        for name, spec in zip(NAMES, SPECS, strict=False):
            server.api("PUT", f"/v1/models/{name}", spec)
            fuzzer._specs[name] = spec
        before, deadline, count = memory(server), time.monotonic() + 60 * minutes, 0
        try:
            while time.monotonic() < deadline:
                fuzzer.step()
                count += 1
            for (call, status), times in sorted(fuzzer.statuses.items()):
                print(f"{times:7} {status} {call}")
            found = faults(server, fuzzer, before)
            print(f"{count} requests, seed {seed}")
            for fault in found:
                print("FAULT:", fault)
        finally:
            if keep_log is not None:
                keep_log.write_text(server.log())
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
