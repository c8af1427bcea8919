"""What is measured: each function runs one comparison and yields its figures."""

import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import retraining
from bench import FEEDBACK_PATH, INPUTS, PREDICT_PATH, SPEC, Bench, Run, Served
from client import Client, request_bytes
from load import milliseconds
from processes import socket_owner
from report import Figure

CONNECTIONS = (16, 32)
CALM_PREDICTIONS = 500  # per second, in the comparisons that hold the offered load fixed
CALM_FEEDBACK = 400  # per second: well within what two cores can learn
STALL_CONNECTIONS = 64  # of feedback beside predictions: more than may wait in both web processes
FRESHNESS_SAMPLES = 300
FRESHNESS_LIMIT = 5.0  # seconds to wait for one step to arrive
LEARN_ROWS = 1000


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def note_of(runs: list[Run]) -> str:
    """What an answer cost by role, and every status but 200, over the runs."""
    names = {name: None for run in runs for name in run.microseconds if name not in ("serve", "trainer")}
    costs = [f"{name} {median([run.microseconds.get(name, 0.0) for run in runs]):.0f}" for name in names]
    statuses: dict[str, int] = {}
    for run in runs:
        for status, n in run.load["statuses"].items():
            statuses[status] = statuses.get(status, 0) + n
    seen = ", ".join(f"{n} × {status}" for status, n in sorted(statuses.items()))
    broken = sum(run.load["broken"] + run.load["unanswered"] for run in runs)
    by = " and ".join(sorted({run.load["generator"] for run in runs}))
    return (
        f"by {by}: {seen}{f', {broken} without answer' if broken else ''}; µs an answer: {', '.join(costs)}"
    )


def latency(runs: list[Run], quantile: str) -> float:
    """The median over the runs of p50 or p99, in milliseconds."""
    return median([run.load[f"{quantile}_ms"] for run in runs])


def predict_rate(bench: Bench) -> Iterator[Figure]:
    """One row a request, closed loop."""
    for connections in CONNECTIONS:
        floor, ours = bench.alternately(
            lambda n=connections: bench.run("predict floor", bench.floor, PREDICT_PATH, n),
            lambda n=connections: bench.run("predict", bench.always, PREDICT_PATH, n),
        )
        yield from rate_figures(f"predict one row, {connections} connections", ours, floor, 0.8)


def rate_figures(name: str, ours: list[Run], floor: list[Run], target: float | None) -> Iterator[Figure]:
    """Requests per second, as they are and as a share of the floor's."""
    rate, floor_rate = median([run.ok() for run in ours]), median([run.ok() for run in floor])
    spread = (
        " ".join(f"{run.ok():.0f}" for run in ours) + " | " + " ".join(f"{run.ok():.0f}" for run in floor)
    )
    yield Figure(name, rate / floor_rate, "of floor", target, at_least=True, note=f"rounds: {spread}")
    yield Figure(
        "  200s per second",
        rate,
        "/s",
        floor=floor_rate,
        note=f"p99 {latency(ours, 'p99'):.1f} ms; {note_of(ours)}",
    )


def feed(label: str, bench: Bench, served: Served, connections: int) -> Run:
    """Feed a server. Raises RuntimeError if it acknowledged more observations than it then took."""
    before = step_of(served)
    run = bench.run(label, served, FEEDBACK_PATH, connections)
    caught_up(served)
    acknowledged, taken = run.load["answered"], step_of(served) - before
    if taken < acknowledged and set(run.load["statuses"]) <= {"200", "202"}:
        raise RuntimeError(f"{acknowledged} observations were acknowledged and {taken} taken")
    return run


def step_of(served: Served) -> int:
    """How many observations the model has taken."""
    with Client(served.port) as client:
        return json.loads(client.get("/v1/models/bench")[1])["step"]


def feedback_rate(bench: Bench) -> Iterator[Figure]:
    """One observation a request, closed loop; only a 200 (applied and durable) counts."""
    for connections in CONNECTIONS:
        floor, always, everysec = bench.alternately(
            lambda n=connections: bench.run("feedback floor", bench.floor, FEEDBACK_PATH, n),
            lambda n=connections: feed("feedback always", bench, bench.always, n),
            lambda n=connections: feed("feedback everysec", bench, bench.everysec, n),
        )
        name = f"feedback one observation, {connections} connections"
        yield from rate_figures(f"{name}, always", always, floor, 0.5)
        yield from rate_figures(f"{name}, everysec", everysec, floor, None)


def feedback_alone(bench: Bench) -> Iterator[Figure]:
    """One connection: how long one observation takes until it is applied and durable."""
    floor, always, everysec = bench.alternately(
        lambda: bench.run("alone floor", bench.floor, FEEDBACK_PATH, 1),
        lambda: feed("alone always", bench, bench.always, 1),
        lambda: feed("alone everysec", bench, bench.everysec, 1),
    )
    floor_p50 = latency(floor, "p50")
    for name, runs, target in (("always", always, 3.0), ("everysec", everysec, None)):
        note = f"p99 {latency(runs, 'p99'):.1f} ms; {note_of(runs)}"
        yield Figure(
            f"feedback, one connection, {name}: p50",
            latency(runs, "p50"),
            "ms",
            target and target * floor_p50,
            floor=floor_p50,
            note=note,
        )


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Hold a process still for the length of the block."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def predict_beside_feedback(
    bench: Bench, predictions: float | None, feedback: float | None, stop_learner: bool
) -> tuple[Run, dict[str, Any]]:
    """Predict and feed at these rates per second (None: closed loop); what predict and feedback saw.

    The learner is stopped as the measured time begins, so the moment in which nobody knows yet is in it.
    """
    served = bench.always
    feeding = bench.load(served, FEEDBACK_PATH, STALL_CONNECTIONS, feedback, bench.seconds + 1)
    predicting = bench.load(served, PREDICT_PATH, 16, predictions)
    time.sleep(1.2)
    with stopped(served.learner()) if stop_learner else nullcontext():
        run, fed = Run(bench.finish(predicting)), bench.finish(feeding)
    caught_up(served)
    return run, fed


def caught_up(served: Served) -> None:
    """Wait until feedback is applied again."""
    row = {"features": [0.0] * INPUTS, "label": 0}
    deadline = time.monotonic() + 60
    with Client(served.port) as client:
        while client.post(FEEDBACK_PATH, row)[0] != 200:
            if time.monotonic() > deadline:
                raise RuntimeError("the learner did not go on")
            time.sleep(0.2)


def stalled_learner(bench: Bench) -> Iterator[Figure]:
    """Predict's p99 with the learner stopped, against its own with it running and without feedback."""
    yield from stall_figures(
        bench,
        f"predict {CALM_PREDICTIONS}/s beside feedback {CALM_FEEDBACK}/s",
        CALM_PREDICTIONS,
        CALM_FEEDBACK,
    )
    yield from stall_figures(
        bench, f"predict, 16 connections, beside feedback, {STALL_CONNECTIONS} connections", None, None
    )


def stall_figures(
    bench: Bench, name: str, predictions: float | None, feedback: float | None
) -> Iterator[Figure]:
    """The three p99 and their ratios at one offered load."""
    seen: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}

    def beside(stop_learner: bool) -> Run:
        run, fed = predict_beside_feedback(bench, predictions, feedback, stop_learner)
        seen[stop_learner].update(fed["statuses"])
        return run

    alone, running, halted = bench.alternately(
        lambda: bench.run("predict before the stall", bench.always, PREDICT_PATH, 16, predictions),
        lambda: beside(False),
        lambda: beside(True),
    )
    own, before, after = (latency(runs, "p99") for runs in (alone, running, halted))
    yield Figure(f"{name}, learner running: p99", before, "ms", note=f"feedback got {dict(seen[False])}")
    yield Figure("  learner stopped: p99", after, "ms", note=f"feedback got {dict(seen[True])}")
    yield Figure("  stopped ÷ running, same offered load", after / before, "×", 2.0)
    note = f"without feedback p99 {own:.2f} ms, p50 {latency(alone, 'p50'):.2f} ms"
    yield Figure("  stopped ÷ without any feedback", after / own, "×", 2.0, note=note)


def connections_to_two_workers(served: Served) -> tuple[Client, Client]:
    """One connection to each of two web processes. Raises RuntimeError when only one ever accepts."""
    found: dict[int, Client] = {}
    for _ in range(200):
        client = Client(served.port)
        owner = socket_owner(served.port, client.port, served.workers())
        if owner is None or owner in found:
            client.socket.close()
            continue
        found[owner] = client
        if len(found) == 2:
            first, second = found.values()
            return first, second
    raise RuntimeError("a second web process never accepted a connection")


def freshness(bench: Bench) -> Iterator[Figure]:
    """From an acknowledgement by one web process until another has answered a prediction with that step."""
    for rate in (None, CALM_FEEDBACK):
        background = None
        if rate:
            background = bench.load(bench.always, FEEDBACK_PATH, 16, rate, seconds=bench.seconds * 2)
            time.sleep(1.0)
        delays, asked = freshness_samples(bench.always, bench.seconds * 2)
        if background is not None:
            bench.finish(background)
        beside = f"beside {rate}/s of feedback" if rate else "alone"
        yield Figure(
            f"freshness in another web process, {beside}: p99",
            milliseconds(delays, 0.99),
            "ms",
            20.0,
            note=f"p50 {milliseconds(delays, 0.5):.2f} ms, max {milliseconds(delays, 1.0):.2f} ms, "
            f"{len(delays)} samples, {asked / len(delays):.1f} predictions each",
        )


def freshness_samples(served: Served, seconds: float) -> tuple[list[float], int]:
    """Ascending delays in seconds, and how many predictions it took to see them."""
    feedback = request_bytes(
        "POST", FEEDBACK_PATH, json.dumps({"features": [0.5] * INPUTS, "label": 1}).encode()
    )
    predict = request_bytes("POST", PREDICT_PATH, json.dumps({"instances": [[0.5] * INPUTS]}).encode())
    delays, asked, deadline = [], 0, time.perf_counter() + seconds
    teacher, reader = connections_to_two_workers(served)
    with teacher, reader:
        while len(delays) < FRESHNESS_SAMPLES and time.perf_counter() < deadline:
            status, body = teacher.exchange(feedback)
            acknowledged = time.perf_counter()
            if status != 200:
                continue
            step = json.loads(body)["step"]
            while time.perf_counter() < acknowledged + FRESHNESS_LIMIT:
                asked += 1
                if json.loads(reader.exchange(predict)[1])["step"] >= step:
                    break
            delays.append(time.perf_counter() - acknowledged)
    return sorted(delays), asked


def learn(bench: Bench) -> Iterator[Figure]:
    """The compiled loop, without any server."""
    from model import ModelSpec, OnlineModel

    generator = np.random.default_rng(0)
    X = generator.standard_normal((LEARN_ROWS, INPUTS))
    y = (X[:, 0] * X[:, 1] > 0).astype(np.float64)
    model = OnlineModel(ModelSpec.model_validate(SPEC))
    model.learn(X, y)  # compiles
    times = []
    until = time.perf_counter() + min(bench.seconds, 3.0)
    while time.perf_counter() < until:
        start = time.perf_counter()
        model.learn(X, y)
        times.append((time.perf_counter() - start) / LEARN_ROWS * 1e6)
    yield Figure(
        f"model.learn, {LEARN_ROWS} rows, {INPUTS}-64-32-1 SGD",
        median(times),
        "µs a row",
        5.0,
        note=f"median of {len(times)}; best {min(times):.2f}",
    )


BENCHMARKS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "learn": learn,
    "predict": predict_rate,
    "feedback": feedback_rate,
    "alone": feedback_alone,
    "freshness": freshness,
    "stalled": stalled_learner,
    "fit": retraining.fit,
    "retrain": retraining.whole_job,
    "retraining": retraining.beside_traffic,
}
