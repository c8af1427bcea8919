"""Retraining: `model.fit` beside scikit-learn, the time of a whole job, and what a job costs live traffic."""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bench import FEEDBACK_PATH, INPUTS, PREDICT_PATH, SPEC, Bench, Run, Served
from client import Client
from report import Figure

ROWS = 100_000
EPOCHS = 5
AT_ONCE = 4096
CONNECTIONS = 16
CALM_PREDICTIONS = 500  # per second, so that p99 compares at one offered load
ENDED = ("succeeded", "failed", "cancelled")
JOB_LIMIT = 300.0  # seconds
SEEDS = 5


def fit(_: Bench) -> Iterator[Figure]:
    """Mini-batches of 32 with Adam, from the same weights; in a process of its own with one BLAS thread."""
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(Path(__file__)), "fit"]
    measured = subprocess.run(script, env={**os.environ, **one_thread}, capture_output=True, check=True)
    found = json.loads(measured.stdout)
    ours, theirs = found["ours"], found["theirs"]
    yield Figure("model.fit, batch 32, Adam", ours["rate"], "rows/s", floor=theirs["rate"])
    yield Figure("  times scikit-learn's MLPClassifier", ours["rate"] / theirs["rate"], "×", 3.0, True)
    yield Figure(
        "  training loss after 10 epochs",
        ours["loss"],
        "",
        theirs["loss"] + theirs["spread"],
        floor=theirs["loss"],
        note=f"mean of {SEEDS} starts; theirs deviate by {theirs['spread']:.4f}",
    )


def whole_job(bench: Bench) -> Iterator[Figure]:
    """From the request until the job has ended, on an otherwise idle server."""
    with Client(bench.always.port, timeout=30) as client:
        _teach(client, ROWS)
        started = time.monotonic()
        job = _ended(client, _start(client, {"epochs": EPOCHS, "window": ROWS, "promote": "always"}))
        seconds = time.monotonic() - started
    if job["state"] != "succeeded":
        raise RuntimeError(f"the job {job['state']}: {job['detail']}")
    yield Figure(
        f"retraining, {ROWS:,} observations × {EPOCHS} epochs",
        seconds,
        "s",
        60.0,
        note=f"loss {job['losses'][-1]['loss']:.4f}, rows {job['result']['rows']}",
    )


def beside_traffic(bench: Bench) -> Iterator[Figure]:
    """Predictions at a fixed rate and feedback in a closed loop, without and with a job running."""
    served = bench.always
    with Client(served.port, timeout=30) as client:
        _teach(client, ROWS)
        idle, busy = bench.alternately(
            lambda: _predictions(bench, served, "idle"),
            lambda: _beside_job(client, lambda: _predictions(bench, served, "retraining")),
        )
        idle_p99, busy_p99 = (_median([run.load["p99_ms"] for run in runs]) for runs in (idle, busy))
        yield Figure(f"predict p99 at {CALM_PREDICTIONS}/s while retraining", busy_p99, "ms", floor=idle_p99)
        yield Figure("  times p99 without", busy_p99 / idle_p99, "×", 2.0)
        idle, busy = bench.alternately(
            lambda: bench.run("feedback idle", served, FEEDBACK_PATH, CONNECTIONS),
            lambda: _beside_job(
                client, lambda: bench.run("feedback retraining", served, FEEDBACK_PATH, CONNECTIONS)
            ),
        )
        idle_rate, busy_rate = (_median([run.ok() for run in runs]) for runs in (idle, busy))
        yield Figure("feedback while retraining", busy_rate, "/s", floor=idle_rate)
        yield Figure("  of the rate without", busy_rate / idle_rate, "×", 0.6, True)


def _predictions(bench: Bench, served: Served, what: str) -> Run:
    return bench.run(f"predict {what}", served, PREDICT_PATH, CONNECTIONS, CALM_PREDICTIONS)


def _beside_job(client: Client, measure: Any) -> Run:
    with _job(client):
        run: Run = measure()
    return run


@contextmanager
def _job(client: Client) -> Iterator[None]:
    """A job that trains all the while."""
    where = _start(client, {"epochs": 1000, "window": ROWS, "promote": "never", "validation": 0.1})
    deadline = time.monotonic() + 60
    while (job := _read(client, where))["stage"] != "training":
        if job["state"] in ENDED or time.monotonic() > deadline:
            raise RuntimeError(f"the job does not train: {job}")
        time.sleep(0.05)
    try:
        yield
        if _read(client, where)["state"] != "running":
            raise RuntimeError("the job ended before the measurement")
    finally:
        client.exchange(f"DELETE {where} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        _ended(client, where)


def _teach(client: Client, rows: int) -> None:
    """Let the model have learned at least so many observations."""
    X, y = problem(rows, 0)
    step = json.loads(client.get("/v1/models/bench")[1])["step"]
    for start in range(step, rows, AT_ONCE):
        part = slice(start, min(start + AT_ONCE, rows))
        observations = [
            {"features": row, "label": int(label)}
            for row, label in zip(X[part].tolist(), y[part], strict=True)
        ]
        status, body = client.post(FEEDBACK_PATH, {"observations": observations})
        if status not in (200, 202):
            raise RuntimeError(f"feedback was refused: {status} {body[:300]!r}")


def _start(client: Client, asked: dict[str, Any]) -> str:
    status, body = client.post("/v1/models/bench/retrain", asked)
    if status != 202:
        raise RuntimeError(f"no job: {status} {body[:300]!r}")
    return f"/v1/jobs/{json.loads(body)['job']}"


def _read(client: Client, where: str) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(client.get(where)[1])
    return job


def _ended(client: Client, where: str) -> dict[str, Any]:
    deadline = time.monotonic() + JOB_LIMIT
    while (job := _read(client, where))["state"] not in ENDED:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the job does not end: {job}")
        time.sleep(0.05)
    return job


def _median(values: list[float]) -> float:
    return float(np.median(values))


# -- in a process of its own ---------------------------------------------------------------------------------


def problem(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, INPUTS) and labels that a straight line does not part."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, INPUTS))
    slopes = np.linspace(-1, 1, INPUTS)
    scores = X @ slopes + X[:, 0] * X[:, 1] + rng.normal(scale=0.5, size=rows)
    return X, (scores > 0).astype(float)


def compare_fit(rows: int = 20_000) -> dict[str, dict[str, float]]:
    """Rows per second and final losses of both, over several starts."""
    X, y = problem(rows, 1)
    runs = [(_fit_ours(X, y, seed), _fit_theirs(X, y, seed)) for seed in range(SEEDS)]
    sides = [list(side) for side in zip(*runs, strict=True)]
    return {
        name: {
            "rate": float(np.median([rate for rate, _ in side])),
            "loss": float(np.mean([loss for _, loss in side])),
            "spread": float(np.std([loss for _, loss in side])),
        }
        for name, side in zip(("ours", "theirs"), sides, strict=True)
    }


def _classifier(seed: int, epochs: int, rate: float) -> Any:
    from sklearn.neural_network import MLPClassifier

    sizes = [layer["units"] for layer in SPEC["layers"]]
    options = {"batch_size": 32, "alpha": 0.0, "random_state": seed, "n_iter_no_change": epochs + 1}
    return MLPClassifier(sizes, max_iter=epochs, learning_rate_init=rate, **options)


def _fit_theirs(X: np.ndarray, y: np.ndarray, seed: int, epochs: int = 10) -> tuple[float, float]:
    classifier = _classifier(seed, epochs, 0.001)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        classifier.fit(X, y)
    return epochs * len(X) / (time.perf_counter() - started), float(classifier.loss_curve_[-1])


def _fit_ours(X: np.ndarray, y: np.ndarray, seed: int, epochs: int = 10) -> tuple[float, float]:
    from model import ModelSpec, OnlineModel

    asked = {**SPEC, "optimizer": {"name": "adam", "learning_rate": 0.001}, "scaling": "none", "seed": seed}
    model = OnlineModel(ModelSpec.model_validate(asked))
    _take_start(model, X[:64], y[:64], seed)
    started = time.perf_counter()
    losses = model.fit(X, y, epochs=epochs, batch_size=32)
    return epochs * len(X) / (time.perf_counter() - started), losses[-1]


def _take_start(model: Any, X: np.ndarray, y: np.ndarray, seed: int) -> None:
    """Give a model the weights that scikit-learn starts from: a fit with a learning rate of next to nothing."""
    classifier = _classifier(seed, 1, 1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier.fit(X, y)
    for number, (weight, bias) in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True)):
        model.parameters[f"layers.{number}.weight"][...] = weight.T
        model.parameters[f"layers.{number}.bias"][...] = bias


if __name__ == "__main__":
    compare_fit(200)
    json.dump(compare_fit(), sys.stdout)
