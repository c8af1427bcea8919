"""One step of the online path against the same loop in C: `python tests/benchmarks/online_step/bench.py`.

Prints microseconds per row for blocks of 1,000 rows on one core, ours and C's in turn, the least of several rounds;
then those of a step that a committee's member makes on a row that it rehearses; the fixed cost of learning and of
predicting a single row, and mini-batch training beside scikit-learn's. Needs gcc.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier

from model import ModelSpec, OnlineModel, Predictor

ROWS = 1000
ROUNDS = 5
FIT_EPOCHS = 10
FLAGS = ["-O3", "-march=native", "-ffast-math"]
NETWORKS = {
    "20-64-32-1 SGD": ((20, 64, 32, 1), "sgd", 60),
    "20-64-32-1 Adam": ((20, 64, 32, 1), "adam", 40),
    "100-256-128-10 SGD": ((100, 256, 128, 10), "sgd", 10),
    "100-256-128-10 Adam": ((100, 256, 128, 10), "adam", 6),
}
MEMBER = (20, 64, 32, 1)
LESSONS = 8


def least(call: Callable[[], object], repeats: int) -> float:
    """The least seconds that a call takes."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def compile_reference(folder: str) -> Path:
    program = Path(folder, "reference")
    source = Path(__file__).with_name("reference.c")
    subprocess.run(["gcc", *FLAGS, source, "-o", program, "-lm"], check=True)
    return program


def measure_reference(program: Path, sizes: tuple[int, ...], optimizer: str, repeats: int) -> float:
    words = [program, ROWS, repeats, optimizer, *sizes]
    answer = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
    return float(answer.stdout)


def spec_of(sizes: tuple[int, ...], optimizer: str) -> ModelSpec:
    fields = {
        "task": "binary" if sizes[-1] == 1 else "multiclass",
        "classes": max(sizes[-1], 2),
        "features": sizes[0],
        "layers": [{"units": units} for units in sizes[1:-1]],
        "optimizer": {"name": optimizer, "learning_rate": 0.001},
    }
    return ModelSpec.model_validate(fields)


def rows_of(spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, max(spec.outputs, 2), (ROWS, 1))
    return generator.uniform(-2, 2, (ROWS, spec.width)), labels.astype(np.float64)


def measure_learn(spec: ModelSpec, repeats: int) -> float:
    model = OnlineModel(spec)
    X, y = rows_of(spec)
    model.learn(X, y)
    return 1e6 * least(lambda: model.learn(X, y), repeats) / ROWS


def print_steps() -> None:
    print(f"{'block of 1,000 rows':<22}{'C':>9}{'learn':>9}{'ratio':>8}   (microseconds a row)")
    with tempfile.TemporaryDirectory() as folder:
        program = compile_reference(folder)
        for name, (sizes, optimizer, repeats) in NETWORKS.items():
            spec = spec_of(sizes, optimizer)
            rounds = [
                (measure_reference(program, sizes, optimizer, repeats), measure_learn(spec, repeats))
                for _ in range(ROUNDS)
            ]
            floor, ours = (min(column) for column in zip(*rounds, strict=True))
            print(f"{name:<22}{floor:>9.2f}{ours:>9.2f}{ours / floor:>8.2f}")


def print_lessons() -> None:
    """What a rehearsed row costs: drawn from the window and scaled, learned by a step of the member."""
    print(f"{'a step of a member':<22}{'C':>9}{'lesson':>9}{'ratio':>8}")
    X, y = rows_of(spec_of(MEMBER, "adam"))
    with tempfile.TemporaryDirectory() as folder:
        program = compile_reference(folder)
        for kind, layer_norm in (("member", False), ("normed", True)):
            models = [member_of(layer_norm, rows) for rows in (0, LESSONS)]
            floor, times = float("inf"), [float("inf")] * 2
            for _ in range(ROUNDS):
                floor = min(floor, measure_reference(program, MEMBER, kind, 60))
                for number, model in enumerate(models):
                    spent = least(lambda model=model: model.learn(X, y), 20)  # type: ignore[misc]
                    times[number] = min(times[number], 1e6 * spent / ROWS)
            ours = (times[1] - times[0]) / LESSONS
            print(f"{'20-64-32-1 ' + kind:<22}{floor:>9.2f}{ours:>9.2f}{ours / floor:>8.2f}")


def member_of(layer_norm: bool, rehearsed: int) -> OnlineModel:
    """A committee of one, of the default optimizer, that has learned its first rows."""
    member: dict[str, object] = {"layer_norm": layer_norm}
    if rehearsed:
        member["rehearse"] = {"rows": rehearsed}
    spec = ModelSpec.model_validate({"task": "binary", "features": MEMBER[0], "optimizer": [member]})
    model = OnlineModel(spec)
    model.learn(*rows_of(spec))
    return model


def print_single_rows() -> None:
    spec = spec_of((20, 64, 32, 1), "sgd")
    model = OnlineModel(spec)
    X, y = rows_of(spec)
    model.learn(X, y)
    predictor = Predictor(spec, model.predictor_bytes())
    calls = {
        "learn, one row": lambda: model.learn(X[:1], y[:1]),
        "predict, one row": lambda: predictor.predict(X[:1]),
        "predictor_bytes": model.predictor_bytes,
        "to_bytes": model.to_bytes,
    }
    for name, call in calls.items():
        print(f"{name:<22}{1e6 * least(call, 3000):>18.1f}")


def print_start() -> None:
    """Seconds until a new process has learned its first row, with everything compiled earlier."""
    code = (
        "import numpy, model; spec = model.ModelSpec(task='binary', features=20);"
        "model.OnlineModel(spec).learn(numpy.zeros((1, 20)), numpy.zeros(1))"
    )
    seconds = least(lambda: subprocess.run([sys.executable, "-c", code], check=True), 5)
    print(f"{'new process':<22}{seconds:>18.2f} s until it has learned a row")


def print_fit() -> None:
    """Mini-batches of 32 with Adam: rows per second, and the last epoch's training loss, ours and scikit-learn's."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(20_000, 20))
    y = (X[:, :5].sum(axis=1) + X[:, 5] * X[:, 6] > 0).astype(np.float64)
    optimizer = {"name": "adam", "learning_rate": 0.001}
    layers = [{"units": 64}, {"units": 32}]
    spec = ModelSpec.model_validate(
        {
            "task": "binary",
            "features": 20,
            "layers": layers,
            "optimizer": optimizer,
            "scaling": "none",
            "initializer": "glorot",
        }
    )
    model = OnlineModel(spec)
    model.warm_up()
    start = time.perf_counter()
    losses = model.fit(X, y, epochs=FIT_EPOCHS)
    ours = time.perf_counter() - start
    reference = MLPClassifier((64, 32), batch_size=32, alpha=0.0, max_iter=FIT_EPOCHS)
    start = time.perf_counter()
    with warnings.catch_warnings(action="ignore"):
        reference.fit(X, y)
    theirs = time.perf_counter() - start
    for name, seconds, loss in (("fit", ours, losses[-1]), ("MLPClassifier", theirs, reference.loss_)):
        print(f"{name:<22}{FIT_EPOCHS * len(X) / seconds:>18,.0f} rows/s, training loss {loss:.4f}")


if __name__ == "__main__":
    print_steps()
    print_lessons()
    print_single_rows()
    print_start()
    print_fit()
