"""What a server stands: long streams, tables, big networks, many models, busy neighbours, reloads under load.

    limits.py [--only NAME ...] [--rows 1000000] [--seconds 10]

Each prints its figures as it ends. A `freshet serve` of its own, on a free port and in a temporary folder (TMPDIR
chooses the disk), is used for each. wrk and curl are needed.
"""

import argparse
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from bench import INPUTS, PREDICT_PATH, SPEC, Bench, role
from client import Client
from processes import command_line, cpu_seconds, descendants, free_port, server
from pyarrow import ipc

BIG = {
    "task": "multiclass",
    "classes": list(range(10)),
    "features": 784,
    "layers": [{"units": 512}, {"units": 256}],
    "optimizer": {"name": "adam", "learning_rate": 0.001},
}
HUGE = BIG | {"layers": [{"units": 2048}, {"units": 1536}, {"units": 128}]}  # 5 million parameters
QUIET = 3.0  # seconds after which what a change has set going has ended


class Machine:
    """One server, its processes, and streams to it."""

    def __init__(self, folder: Path, port: int, process: int) -> None:
        self.folder, self.port, self.process = folder, port, process

    def create(self, name: str, spec: dict[str, Any]) -> None:
        """Create a model."""
        with Client(self.port) as client:
            status, body = client.put(f"/v1/models/{name}", spec)
        assert status == 201, body

    def memory(self) -> dict[str, int]:
        """MiB by role: the proportional set size, so that what processes share counts once."""
        found: Counter[str] = Counter()
        for pid in descendants(self.process):
            with suppress(ProcessLookupError, FileNotFoundError):  # Redis rewrites its log in a child
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                found[role(command_line(pid))] += int(rollup.split("\nPss:")[1].split()[0])
        return {name: kibibytes // 1024 for name, kibibytes in found.items()}

    def processor(self) -> Counter[str]:
        """Processor seconds by role."""
        found: Counter[str] = Counter()
        for pid in descendants(self.process):
            found[role(command_line(pid))] += cpu_seconds(pid)
        return found

    def stream(self, name: str, body: Path | None, kind: str) -> "subprocess.Popen[bytes]":
        """Start to send a file, or what is written to the process, as one body without a known length."""
        return subprocess.Popen(
            [
                *(
                    "curl",
                    "-sS",
                    "-T",
                    "-" if body is None else str(body),
                    "-X",
                    "POST",
                    "-H",
                    f"Content-Type: {kind}",
                ),
                *("-H", "Transfer-Encoding: chunked", "-H", "Expect:"),
                f"http://127.0.0.1:{self.port}/v1/models/{name}/feedback",
            ],
            stdin=subprocess.PIPE if body is None else None,
            stdout=subprocess.PIPE,
        )

    def feed(self, name: str, body: Path, kind: str) -> float:
        """Send a file and wait until it is learned; returns the seconds."""
        begun = time.monotonic()
        output, _ = self.stream(name, body, kind).communicate()
        last = json.loads(output.splitlines()[-1])
        assert "detail" not in last, last
        with Client(self.port) as client:
            while (told := json.loads(client.get(f"/v1/models/{name}")[1]))["step"] < last["position"]:
                time.sleep(0.01)
        assert told["step"] > 0, last
        return time.monotonic() - begun

    def rate(
        self, path: str, body: bytes, kind: str, seconds: float, token: str = "", clients: int = 32
    ) -> float:
        """Answers a second to the same POST of so many clients, by wrk."""
        (self.folder / "posted").write_bytes(body)
        script = self.folder / "post.lua"
        script.write_text(
            f'wrk.method = "POST"; wrk.headers["Content-Type"] = "{kind}"\n'
            + (f'wrk.headers["Authorization"] = "Bearer {token}"\n' if token else "")
            + f'wrk.body = io.open("{self.folder / "posted"}", "rb"):read("*a")\n'
        )
        command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
        address = f"http://127.0.0.1:{self.port}{path}"
        text = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout
        assert "Non-2xx" not in text, text
        return float(text.split("Requests/sec:")[1].split()[0])


@contextmanager
def machine(**settings: str) -> Iterator[Machine]:
    """A server, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="freshet-limits-") as name:
        folder, port = Path(name), free_port()
        command = [str(Path(sys.executable).parent / "freshet"), "serve", "--port", str(port)]
        command += ["--data-dir", str(folder / "data"), "--web-workers", "2"]
        with server(command, port, "/readyz", folder / "log", **settings) as process:
            yield Machine(folder, port, process.pid)


def numbers(rows: int, columns: int = INPUTS) -> np.ndarray:
    """Rows of numbers with six digits."""
    return np.random.default_rng(1).normal(size=(rows, columns)).round(5)


def ndjson(features: np.ndarray, labels: np.ndarray) -> bytes:
    """Observations, one a line."""
    pairs = zip(features.tolist(), labels.tolist(), strict=True)
    return b"".join(json.dumps({"features": row, "label": label}).encode() + b"\n" for row, label in pairs)


def arrow(features: np.ndarray, labels: np.ndarray) -> bytes:
    """The same as an Arrow stream."""
    columns = {f"x{number}": features[:, number] for number in range(features.shape[1])}
    table = pyarrow.table(columns | {"label": labels})
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4096)
    return sink.getvalue()


def bulk(arguments: argparse.Namespace) -> None:
    """Observations a second in one stream, as NDJSON and as Arrow, beside the floor's requests a second."""
    rows = min(arguments.rows, 400_000)
    with ExitStack() as stack, machine() as tested:
        bench = Bench(tested.folder, stack, arguments.seconds, 1)
        floor = bench.run("floor", bench.floor, PREDICT_PATH, 32).ok()
        features = numbers(rows)
        labels = (features[:, 0] > 0).astype(int)
        for kind, write in (("application/x-ndjson", ndjson), ("application/vnd.apache.arrow.stream", arrow)):
            body = tested.folder / "body"
            body.write_bytes(write(features, labels))
            for optimizer in ("sgd", "auto"):
                spec = SPEC if optimizer == "sgd" else {**SPEC, "optimizer": "auto"}
                name = f"{optimizer}-{kind[-3:]}"
                tested.create(name, spec | {"features": [{"name": f"x{i}"} for i in range(INPUTS)]})
                rate = rows / tested.feed(name, body, kind)
                ratio = f"{rate / floor:.1f} times the floor's {floor:,.0f} requests/s"
                print(f"{kind}, {optimizer}: {rate:,.0f} rows/s, {ratio}")


def endless(arguments: argparse.Namespace) -> None:
    """A stream of many rows: time and memory beside those of a tenth of it."""
    lines = ndjson(features := numbers(10_000), (features[:, 0] > 0).astype(int))
    with machine() as tested:
        tested.create("m", SPEC)
        for rows in (arguments.rows // 10, arguments.rows):
            before, begun = tested.memory(), time.monotonic()
            sender = tested.stream("m", None, "application/x-ndjson")
            assert sender.stdin is not None
            most: Counter[str] = Counter(before)
            for number in range(rows // 10_000):
                sender.stdin.write(lines)
                if number % 50 == 0:
                    most |= Counter(tested.memory())
            output, _ = sender.communicate()
            seconds = time.monotonic() - begun
            print(f"{rows:,} rows: {seconds:.1f} s, {rows / seconds:,.0f} rows/s; {output[:160].decode()}")
            print(f"  MiB before {before}, at most {dict(most)}, after {tested.memory()}")


def reload(arguments: argparse.Namespace) -> None:
    """SIGHUP each 3 seconds under load until 20,000 requests are answered."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), stack, 5, 1)
        served = bench.always
        answered: Counter[str] = Counter()
        while answered["200"] < 20_000:
            generator = bench.load(served, "/v1/models/bench/predict", 32, seconds=12)
            for _ in range(3):
                time.sleep(3)
                os.kill(served.process, signal.SIGHUP)
            load = bench.finish(generator)
            answered += Counter(load["statuses"])
            answered.update(broken=load["broken"], unanswered=load["unanswered"], reloads=3)
        print(
            f"reloads under load: {dict(answered)}, p99 {load['p99_ms']:.0f} ms, longest {load['max_ms']:.0f} ms"
        )


def latencies(tested: Machine, name: str, row: list[float], until: float) -> list[float]:
    """Seconds of single observations, one after the other."""
    found = []
    with Client(tested.port) as client:
        while time.monotonic() < until:
            begun = time.monotonic()
            status, body = client.post(f"/v1/models/{name}/feedback", {"features": row, "label": 1})
            assert status in (200, 202), body
            found.append(time.monotonic() - begun)
            time.sleep(0.005)
    return found


def told(seconds: list[float]) -> str:
    """Percentiles, in milliseconds."""
    ranked = sorted(1e3 * each for each in seconds)
    p99 = ranked[int(0.99 * len(ranked))]
    return f"p50 {statistics.median(ranked):.1f}, p99 {p99:.1f} ms, longest {ranked[-1]:.0f}"


def big(arguments: argparse.Namespace) -> None:
    """A stream of 784 small integers to 535,000 parameters with Adam, then 5 million beside a small model."""
    rows = 6000
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (rows, 784)) * (generator.random((rows, 784)) < 0.2)
    body_bytes = ndjson(pixels, generator.integers(0, 10, rows))
    with machine() as tested:
        body = tested.folder / "body"
        body.write_bytes(body_bytes)
        tested.create("big", BIG)
        tested.feed("big", body, "application/x-ndjson")
        before, begun = tested.processor(), time.monotonic()
        pauses: list[float] = []
        done = threading.Event()
        watch = threading.Thread(target=_watch_versions, args=(tested, "big", pauses, done))
        watch.start()
        seconds = tested.feed("big", body, "application/x-ndjson")
        used = tested.processor() - before
        done.set()
        watch.join()
        print(f"784-512-256-10, Adam: {rows / seconds:,.0f} rows/s; cores {_cores(used, begun)}")
        print(f"  a version is served for {told(pauses[1:])}")  # the first was there before
        print(f"  {1e6 * seconds / rows:,.0f} us a row; model.learn by itself {_alone(pixels):,.0f}")
    with machine() as tested:
        tested.create("small", SPEC)
        row = [0.5] * INPUTS
        latencies(tested, "small", row, time.monotonic() + QUIET)
        print(
            "small model alone:", told(latencies(tested, "small", row, time.monotonic() + arguments.seconds))
        )
        tested.create("huge", HUGE)
        huge_row = {"features": [0] * 784, "label": 3}
        stop = time.monotonic() + arguments.seconds
        teacher = threading.Thread(target=_teach, args=(tested, "huge", huge_row, stop + 1))
        teacher.start()
        print("beside 5 million parameters:", told(latencies(tested, "small", row, stop)))
        teacher.join()


def _teach(tested: Machine, name: str, observation: dict[str, Any], until: float) -> None:
    with Client(tested.port) as client:
        while time.monotonic() < until:
            client.post(f"/v1/models/{name}/feedback", observation)
            time.sleep(0.3)


def _watch_versions(tested: Machine, name: str, pauses: list[float], done: threading.Event) -> None:
    """How long a web process served each version, in seconds."""
    with Client(tested.port) as client:
        seen, since = 0, time.monotonic()
        while not done.is_set():
            step = json.loads(client.get(f"/v1/models/{name}")[1])["step"]
            if step > seen:
                pauses.append(time.monotonic() - since)
                seen, since = step, time.monotonic()
            time.sleep(0.005)


def _alone(pixels: np.ndarray) -> float:
    from model import ModelSpec, OnlineModel

    model = OnlineModel(ModelSpec.model_validate(BIG))
    features, labels = pixels[:1000].astype(float), np.arange(1000) % 10
    model.learn(model.encode(features.tolist()), labels) if hasattr(model, "encode") else model.learn(
        features, labels
    )
    begun = time.monotonic()
    model.learn(features, labels)
    return 1e6 * (time.monotonic() - begun) / 1000


def _cores(used: Counter[str], begun: float) -> dict[str, float]:
    return {name: round(seconds / (time.monotonic() - begun), 3) for name, seconds in used.items()}


def many(arguments: argparse.Namespace) -> None:
    """1,000 idle models: memory and processor of each role; then predictions of one and of 200 models."""
    with machine() as tested:
        time.sleep(QUIET)
        empty, before, begun = tested.memory(), tested.processor(), time.monotonic()
        time.sleep(arguments.seconds)
        print("no model: MiB", empty, "cores", _cores(tested.processor() - before, begun))
        for number in range(1000):
            tested.create(f"m{number}", SPEC)
        time.sleep(2 * QUIET)
        full, before, begun = tested.memory(), tested.processor(), time.monotonic()
        time.sleep(2 * arguments.seconds)
        print("1,000 idle models: MiB", full, "cores", _cores(tested.processor() - before, begun))
    with machine() as tested:
        for number in range(200):
            tested.create(f"m{number}", SPEC)
        time.sleep(QUIET)
        rates: dict[int, list[float]] = {1: [], 200: []}
        for _ in range(3):
            for count in rates:
                script = tested.folder / "rotate.lua"
                script.write_text(
                    ROTATE.replace("COUNT", str(count)).replace("ROW", json.dumps([0.5] * INPUTS))
                )
                command = ["wrk", "-t1", "-c32", f"-d{int(arguments.seconds)}s", "-s", str(script)]
                text = subprocess.run(
                    [*command, f"http://127.0.0.1:{tested.port}"], capture_output=True, text=True, check=True
                ).stdout
                rates[count].append(float(text.split("Requests/sec:")[1].split()[0]))
        print("predictions and feedback (1 in 10) to 1 and to 200 models, requests/s:", rates)


ROTATE = """
local number = 0
function request()
  number = number + 1
  local row = 'ROW'
  wrk.headers["Content-Type"] = "application/json"
  local model = "/v1/models/m" .. (number % COUNT)
  if number % 10 == 0 then
    return wrk.format("POST", model .. "/feedback", nil, '{"features": ' .. row .. ', "label": 1}')
  end
  return wrk.format("POST", model .. "/predict", nil, '{"instances": [' .. row .. ']}')
end
"""


def fair(arguments: argparse.Namespace) -> None:
    """Single feedback of one model alone, and beside a stream that keeps the learner busy with another."""
    features = numbers(400_000)
    with machine() as tested:
        body = tested.folder / "body"
        body.write_bytes(ndjson(features, (features[:, 0] > 0).astype(int)))
        for name in ("calm", "busy"):
            tested.create(name, SPEC)
        row = [0.5] * INPUTS
        latencies(tested, "calm", row, time.monotonic() + QUIET)
        print("alone:", told(latencies(tested, "calm", row, time.monotonic() + arguments.seconds)))
        sender = tested.stream("busy", body, "application/x-ndjson")
        found = []
        while sender.poll() is None:
            found += latencies(tested, "calm", row, time.monotonic() + 0.2)
        print("beside a busy model:", told(found))


def keyed(arguments: argparse.Namespace) -> None:
    """Predict and feedback with an API key that has limits, beside a server without keys, in turn."""
    row = json.dumps([0.5] * INPUTS)
    bodies = {"predict": f'{{"instances": [{row}]}}', "feedback": f'{{"features": {row}, "label": 1}}'}
    with machine() as free, machine() as guarded:
        for tested in (free, guarded):
            tested.create("m", SPEC)
        command = [str(Path(sys.executable).parent / "freshet"), "keys", "create", "k"]
        command += ["--scope", "predict", "--scope", "feedback", "--model", "m*"]
        command += ["--requests-per-second", "100000", "--observations-per-second", "100000"]
        command += ["--data-dir", str(guarded.folder / "data")]
        token = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        time.sleep(QUIET)
        for call, body in bodies.items():
            shares = []
            for turn in range(10):
                rates = {}
                for tested in (free, guarded) if turn % 2 else (guarded, free):
                    given = (f"/v1/models/m/{call}", body.encode(), "application/json", arguments.seconds / 3)
                    rates[tested] = tested.rate(*given, token=token if tested is guarded else "")
                shares.append(rates[guarded] / rates[free])
            print(f"{call} with a key: {statistics.median(shares):.3f} of the rate without", sorted(shares))


def together(arguments: argparse.Namespace) -> None:
    """Predictions of 1,000 rows a request, as JSON and as Arrow."""
    rows = numbers(1000)
    columns = {f"x{number}": rows[:, number] for number in range(INPUTS)}
    table = pyarrow.table(columns)
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    kinds = {
        "application/json": json.dumps({"instances": rows.tolist()}).encode(),
        "application/vnd.apache.arrow.stream": sink.getvalue(),
    }
    with machine() as tested:
        tested.create("m", SPEC | {"features": [{"name": name} for name in columns]})
        for kind, body in kinds.items():
            rate = tested.rate("/v1/models/m/predict", body, kind, arguments.seconds / 2, clients=8)
            print(f"{kind}: {rate * len(rows):,.0f} rows/s")


def main() -> None:
    """Measure what is asked for."""
    known = (bulk, endless, reload, big, many, fair, keyed, together)
    measures = {each.__name__: each for each in known}
    parser = argparse.ArgumentParser(description="Measure what a server stands.")
    parser.add_argument("--only", choices=measures, action="append", help="may be repeated; default: all")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the longest stream")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of one run")
    arguments = parser.parse_args()
    for name in arguments.only or measures:
        print(f"-- {name}")
        measures[name](arguments)


if __name__ == "__main__":
    main()
