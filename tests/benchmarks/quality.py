"""A committee ("auto") on real and drifting streams, beside one network, River's forest, its tree and a linear model.

    quality.py [--rows 10000] [--seed 0] [--only NAME ...] [--out FOLDER]

Each stream is predicted and learned row by row by models of which only task and features (and the number of classes,
if there are more than two) are given. Scores are log losses, of regressions mean absolute errors. Prints a table, and
writes quality.json and for each stream a plot: the fading losses, the members' weights and the alarms.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from plots import plot
from rich.console import Console
from rich.table import Table
from river import forest, linear_model, preprocessing, tree
from streams import STREAMS, Stream, read

from model import FeatureEncoder, LabelEncoder, ModelSpec, OnlineModel

Rows = list[tuple[list[float], Any]]

FADING = 0.99  # of the loss that is plotted, and by which recovery is judged
CHUNK = 100  # rows between two looks at the members' weights
WITHIN = 1.1  # a loss has recovered within this factor of what it was before the drift
SMALLEST_PROBABILITY = 1e-15

RECOVERIES = ("committee", "forest", "committee, to the forest's level before")

ONE_NETWORK: dict[str, Any] = {"optimizer": {}}
COMMITTEE: dict[str, Any] = {"optimizer": "auto"}


class Run:
    """The losses of one model on one stream, and what its members did."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = np.array(losses)
        self.weights: list[list[float]] = []
        self.alarms: list[int] = []

    @property
    def mean(self) -> float:
        return float(self.losses.mean())

    def fading(self) -> list[float]:
        level, levels = float(self.losses[:20].mean()), []
        for loss in self.losses:
            level = FADING * level + (1 - FADING) * loss
            levels.append(float(level))
        return levels

    def level_before(self, drift: int) -> float:
        """The fading loss in the 1,000 rows before a drift."""
        return fmean(self.fading()[drift - 1000 : drift])

    def recovery(self, drift: int | None, of: "Run | None" = None) -> int | None:
        """Rows from the drift until the fading loss is back where it was, or where that of another run was.

        None: it is not, or there is no drift.
        """
        if drift is None or len(self.losses) <= drift:
            return None
        before, after = (of or self).level_before(drift), self.fading()[drift:]
        risen = next((row for row, level in enumerate(after) if level > WITHIN * before), 0)
        return next((row for row in range(risen, len(after)) if after[row] <= WITHIN * before), None)


def run_ours(task: str, rows: Rows, extra: dict[str, Any], seed: int) -> Run:
    given: dict[str, Any] = {"task": task, "features": len(rows[0][0]), "seed": seed, **extra}
    if task == "multiclass":
        given["classes"] = sorted({label for _, label in rows})
    elif task == "binary":
        rows = [(row, int(label)) for row, label in rows]
    spec = ModelSpec.model_validate(given)
    model = OnlineModel(spec)
    X = FeatureEncoder(spec).encode([row for row, _ in rows])
    y = LabelEncoder(spec).encode([label for _, label in rows])
    run = Run([])
    losses = []
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        predictions = model.learn(X[part], y[part]).predictions
        losses.append(_losses(task, predictions, y[part]))
        diagnostics = model.diagnostics()
        run.weights.append([member["weight"] for member in diagnostics["members"]])
        for event in diagnostics["drift"]["events"]:
            if event["subject"] == "loss" and event["step"] > start:
                run.alarms.append(event["step"])
    run.losses = np.concatenate(losses)
    return run


def _losses(task: str, predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
    if task == "regression":
        return np.abs(predictions - y)[:, 0]
    if task == "binary":
        p = np.where(y == 1, predictions, 1 - predictions)[:, 0]
    else:
        p = predictions[np.arange(len(y)), y[:, 0].astype(int)]
    return -np.log(np.clip(p, SMALLEST_PROBABILITY, 1.0))


RIVALS: dict[str, dict[str, Callable[[], Any]]] = {
    "forest": {
        "classes": lambda: forest.ARFClassifier(n_models=10, seed=1),
        "regression": lambda: forest.ARFRegressor(n_models=10, seed=1),
    },
    "tree": {
        "classes": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1),
        "regression": lambda: tree.HoeffdingAdaptiveTreeRegressor(seed=1),
    },
    "linear": {
        "binary": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "multiclass": lambda: preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
        "regression": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    },
}


def run_rival(task: str, rows: Rows, rivals: dict[str, Callable[[], Any]]) -> Run:
    model = rivals.get(task, rivals.get("classes"))
    assert model is not None
    return Run(list(_losses_of_rival(task, rows, model())))


def _losses_of_rival(task: str, rows: Rows, model: Any) -> Iterator[float]:
    classes = len({label for _, label in rows})
    for row, label in rows:
        features, truth = dict(enumerate(row)), bool(label) if task == "binary" else label
        if task == "regression":
            yield abs(label - (model.predict_one(features) or 0.0))
        else:
            shares = model.predict_proba_one(features)
            p = shares.get(truth, 0.0) if shares else 1.0 / classes
            yield -math.log(min(max(p, SMALLEST_PROBABILITY), 1.0))
        model.learn_one(features, truth)


def compare(stream: Stream, most: int, seed: int) -> dict[str, Run]:
    rows = read(stream, most)
    runs = {
        "committee": run_ours(stream.task, rows, COMMITTEE, seed),
        "one network": run_ours(stream.task, rows, ONE_NETWORK, seed),
    }
    for name, rivals in RIVALS.items():
        runs[name] = run_rival(stream.task, rows, rivals)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare a committee with other models on streams.")
    parser.add_argument("--rows", type=int, default=10_000, help="most rows of a stream")
    parser.add_argument("--seed", type=int, default=0, help="of our first weights")
    parser.add_argument("--only", choices=STREAMS, action="append", help="may be repeated; default: all")
    parser.add_argument("--out", type=Path, default=Path("build/quality"), help="where JSON and plots go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    names = ["committee", "one network", *RIVALS]
    table = Table(
        title="Log loss; of regressions the mean absolute error",
        caption="bold: best of its line; there after: rows until the committee is where the forest was",
    )
    for heading in ("stream", "origin", "rows"):
        table.add_column(heading)
    for heading in (*names, "alarms", "back after", "forest back after", "there after"):
        table.add_column(heading, justify="right")
    results = {}
    for stream_name in arguments.only or STREAMS:
        stream = STREAMS[stream_name]
        runs = compare(stream, arguments.rows, arguments.seed)
        least = min(run.mean for run in runs.values())
        cells = [
            f"[bold]{runs[n].mean:.3f}[/]" if runs[n].mean == least else f"{runs[n].mean:.3f}" for n in names
        ]
        back = [runs[n].recovery(stream.drift) for n in ("committee", "forest")]
        back.append(runs["committee"].recovery(stream.drift, runs["forest"]))
        told = ["" if stream.drift is None else ("never" if rows is None else f"{rows:,}") for rows in back]
        rows = len(runs["committee"].losses)
        table.add_row(
            stream_name, stream.origin, f"{rows:,}", *cells, str(len(runs["committee"].alarms)), *told
        )
        results[stream_name] = {
            "task": stream.task,
            "origin": stream.origin,
            "rows": rows,
            "loss": {name: run.mean for name, run in runs.items()},
            "alarms": runs["committee"].alarms,
            "recovery": dict(zip(RECOVERIES, back, strict=True)) if stream.drift else None,
        }
        (arguments.out / "quality.json").write_text(json.dumps(results, indent=2) + "\n")
        path = arguments.out / f"{stream_name.lower().replace(', ', '-').replace(' ', '-')}.svg"
        losses = {name: run.fading() for name, run in runs.items()}
        path.write_text(plot(stream_name, losses, runs["committee"].weights, CHUNK, runs["committee"].alarms))
    Console(width=130).print(table)
    print(f"JSON and plots: {arguments.out}")


if __name__ == "__main__":
    main()
