"""The defaults on real and drifting streams, beside River's linear models: what the defaults were chosen on.

    defaults.py [--seeds 3] [--rows 10000] [--only NAME ...]

Each stream is predicted and learned row by row, once by a model of which only task and features (and the number of
classes, if there are more than two) are given, for several seeds of its first weights, and once by River's
`StandardScaler | LogisticRegression`, `SoftmaxRegression` or `LinearRegression` as they come. River's side is scored
by River's metrics. Streams are real (bundled with River), drawn, or drawn and held out: never looked at while the
defaults were chosen.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from river import datasets, linear_model, metrics, preprocessing
from river.datasets import synth

from model import FeatureEncoder, LabelEncoder, ModelSpec, OnlineModel

Rows = Iterable[tuple[dict[Any, Any], Any]]

WINDOW_OF_DRIFT = 500  # rows from one concept to the next


@dataclass(frozen=True)
class Stream:
    """Where a stream comes from ("real", "drawn" or "held out"), its task, and how to begin it anew."""

    origin: str
    task: str
    open: Callable[[], Rows]


@dataclass(frozen=True)
class Scores:
    """`loss` is the log loss, or the MAE of a regression, which has no `accuracy`."""

    loss: float
    accuracy: float | None


def _drifting(before: Rows, after: Rows, width: int = WINDOW_OF_DRIFT) -> Rows:
    return synth.ConceptDriftStream(before, after, position=5000, width=width, seed=1)


STREAMS = {
    "Phishing": Stream("real", "binary", datasets.Phishing),
    "Bananas": Stream("real", "binary", datasets.Bananas),
    "ImageSegments": Stream("real", "multiclass", datasets.ImageSegments),
    "TrumpApproval": Stream("real", "regression", datasets.TrumpApproval),
    "ChickWeights": Stream("real", "regression", datasets.ChickWeights),
    "Shuttle": Stream("real", "binary", datasets.Shuttle),
    "SEA, drift": Stream(
        "drawn",
        "binary",
        lambda: _drifting(synth.SEA(variant=0, noise=0.1, seed=1), synth.SEA(variant=2, noise=0.1, seed=2)),
    ),
    "Agrawal, drift": Stream(
        "drawn",
        "binary",
        lambda: _drifting(
            synth.Agrawal(classification_function=0, perturbation=0.05, seed=1),
            synth.Agrawal(classification_function=4, perturbation=0.05, seed=2),
            width=50,
        ),
    ),
    "Sine, reversed": Stream(
        "drawn",
        "binary",
        lambda: _drifting(
            synth.Sine(classification_function=0, seed=1),
            synth.Sine(classification_function=1, seed=1),
            width=50,
        ),
    ),
    "Hyperplane": Stream(
        "drawn",
        "binary",
        lambda: synth.Hyperplane(seed=1, n_drift_features=5, mag_change=0.001, noise_percentage=0.05),
    ),
    "RandomRBF, drift": Stream(
        "drawn",
        "multiclass",
        lambda: synth.RandomRBFDrift(
            seed_model=1, seed_sample=1, n_classes=4, n_centroids=20, change_speed=0.001, n_drift_centroids=10
        ),
    ),
    "LED, drift": Stream(
        "drawn",
        "multiclass",
        lambda: synth.LEDDrift(seed=1, noise_percentage=0.1, irrelevant_features=True, n_drift_features=4),
    ),
    "Waveform": Stream("drawn", "multiclass", lambda: synth.Waveform(seed=1)),
    "Friedman, drift": Stream(
        "drawn",
        "regression",
        lambda: synth.FriedmanDrift(drift_type="gra", position=(3000, 6000), transition_window=1000, seed=1),
    ),
    "Planes2D": Stream("drawn", "regression", lambda: synth.Planes2D(seed=1)),
    "Mixed, reversed": Stream(
        "held out",
        "binary",
        lambda: _drifting(
            synth.Mixed(classification_function=0, seed=3),
            synth.Mixed(classification_function=1, seed=3),
        ),
    ),
    "Agrawal 2 to 7": Stream(
        "held out",
        "binary",
        lambda: _drifting(
            synth.Agrawal(classification_function=2, seed=3),
            synth.Agrawal(classification_function=7, seed=4),
        ),
    ),
    "STAGGER, drift": Stream(
        "held out",
        "binary",
        lambda: _drifting(
            synth.STAGGER(classification_function=0, seed=3),
            synth.STAGGER(classification_function=2, seed=3),
        ),
    ),
    "RandomRBF": Stream(
        "held out", "multiclass", lambda: synth.RandomRBF(seed_model=3, seed_sample=3, n_classes=5)
    ),
    "Friedman, sudden": Stream(
        "held out",
        "regression",
        lambda: synth.FriedmanDrift(drift_type="gsg", position=(2000, 6000), transition_window=500, seed=3),
    ),
}


def score_ours(task: str, rows: list[tuple[list[float], Any]], seed: int) -> Scores:
    """Learn the rows with nothing but task and features given."""
    given: dict[str, Any] = {"task": task, "features": len(rows[0][0]), "seed": seed}
    if task == "multiclass":
        given["classes"] = sorted({label for _, label in rows})
    elif task == "binary":
        rows = [(row, int(label)) for row, label in rows]
    spec = ModelSpec.model_validate(given)
    model = OnlineModel(spec)
    X = FeatureEncoder(spec).encode([row for row, _ in rows])
    model.learn(X, LabelEncoder(spec).encode([label for _, label in rows]))
    total = model.metrics()["total"]
    return Scores(total["mae" if task == "regression" else "log_loss"], total.get("accuracy"))


def score_river(task: str, rows: list[tuple[list[float], Any]]) -> Scores:
    """Learn the rows with River's linear model for the task, scored by River's metrics."""
    if task == "regression":
        return _score_river_regression(rows)
    binary = task == "binary"
    model = preprocessing.StandardScaler() | (
        linear_model.LogisticRegression() if binary else linear_model.SoftmaxRegression()
    )
    loss, accuracy = metrics.LogLoss() if binary else metrics.CrossEntropy(), metrics.Accuracy()
    for row, label in rows:
        features, truth = dict(enumerate(row)), bool(label) if binary else label
        probabilities = model.predict_proba_one(features)
        loss.update(truth, probabilities)
        accuracy.update(truth, max(probabilities, key=probabilities.__getitem__, default=None))
        model.learn_one(features, truth)
    return Scores(loss.get(), accuracy.get())


def _score_river_regression(rows: list[tuple[list[float], Any]]) -> Scores:
    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    error = metrics.MAE()
    for row, value in rows:
        features = dict(enumerate(row))
        error.update(value, model.predict_one(features))
        model.learn_one(features, value)
    return Scores(error.get(), None)


def read(stream: Stream, most: int) -> list[tuple[list[float], Any]]:
    """The first rows of a stream: features as numbers, in order."""
    return [([float(value) for value in x.values()], y) for x, y in islice(stream.open(), most)]


def row_of(name: str, stream: Stream, most: int, seeds: int) -> list[str]:
    """One line of the table: River's scores, and ours as the mean and the worst of the seeds."""
    rows = read(stream, most)
    river = score_river(stream.task, rows)
    ours = [score_ours(stream.task, rows, seed) for seed in range(seeds)]
    losses = [scores.loss for scores in ours]
    accuracies = [scores.accuracy for scores in ours if scores.accuracy is not None]
    holds = max(losses) < river.loss
    line = [name, stream.origin, f"{len(rows):,}", f"{river.loss:.3f}", f"{fmean(losses):.3f}"]
    line += [f"{max(losses):.3f}", f"{fmean(losses) / river.loss:.2f}"]
    if river.accuracy is not None:
        line += [f"{river.accuracy:.3f}", f"{fmean(accuracies):.3f}", f"{min(accuracies):.3f}"]
        holds = holds and min(accuracies) >= river.accuracy - 0.01
    else:
        line += [""] * 3
    return [*line, "yes" if holds else "no"]


def main() -> None:
    """Learn each stream and print the table."""
    parser = argparse.ArgumentParser(
        description="Compare the defaults with River's linear models on streams."
    )
    parser.add_argument("--seeds", type=int, default=3, help="first weights to try; all must hold")
    parser.add_argument("--rows", type=int, default=10_000, help="most rows of a stream")
    parser.add_argument("--only", choices=STREAMS, action="append", help="may be repeated; default: all")
    arguments = parser.parse_args()

    table = Table(
        title=f"Defaults beside River, {arguments.seeds} seeds: log loss (regression: MAE) and accuracy",
        caption="holds: for every seed the loss is below River's, the accuracy at most 0.01 below River's",
    )
    for heading in ("stream", "origin"):
        table.add_column(heading)
    for heading in ("rows", "River", "ours", "worst", "ratio", "River", "ours", "worst", "holds"):
        table.add_column(heading, justify="right")
    for name in arguments.only or STREAMS:
        table.add_row(*row_of(name, STREAMS[name], arguments.rows, arguments.seeds))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
