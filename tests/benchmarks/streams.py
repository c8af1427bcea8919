"""Streams that models are compared on: real ones that come with River, and ones that River draws.

Those held out had no part in any choice of a default but that of `early`, which was made by the mean over all.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from river import datasets
from river.datasets import synth

Rows = Iterable[tuple[dict[Any, Any], Any]]

WINDOW_OF_DRIFT = 500  # rows from one concept to the next
ABRUPT = 50  # River overflows below 29


@dataclass(frozen=True)
class Stream:
    """Where a stream comes from ("real", "drawn" or "held out"), its task, and how to begin it anew.

    `drift` is the row of an abrupt drift, if it has one.
    """

    origin: str
    task: str
    open: Callable[[], Rows]
    drift: int | None = None


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
            width=ABRUPT,
        ),
        5000,
    ),
    "Sine, reversed": Stream(
        "drawn",
        "binary",
        lambda: _drifting(
            synth.Sine(classification_function=0, seed=1),
            synth.Sine(classification_function=1, seed=1),
            width=ABRUPT,
        ),
        5000,
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
    "Sine": Stream("held out", "binary", lambda: synth.Sine(classification_function=2, seed=5)),
    "Mixed": Stream("held out", "binary", lambda: synth.Mixed(classification_function=1, seed=5)),
    "STAGGER": Stream("held out", "binary", lambda: synth.STAGGER(classification_function=1, seed=5)),
    "SEA, abrupt": Stream(
        "held out",
        "binary",
        lambda: _drifting(
            synth.SEA(variant=1, noise=0.1, seed=7),
            synth.SEA(variant=3, noise=0.1, seed=8),
            width=ABRUPT,
        ),
        5000,
    ),
    "Sine 0 to 3, abrupt": Stream(
        "held out",
        "binary",
        lambda: _drifting(
            synth.Sine(classification_function=0, seed=7),
            synth.Sine(classification_function=3, seed=7),
            width=ABRUPT,
        ),
        5000,
    ),
}


def read(stream: Stream, most: int) -> list[tuple[list[float], Any]]:
    """The first rows of a stream: features as numbers, in order."""
    return [([float(value) for value in x.values()], y) for x, y in islice(stream.open(), most)]
