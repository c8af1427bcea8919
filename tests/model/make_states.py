"""Writes the saved states of `tests/model/states_0_1`. Run once, on version 0.1: later versions must read them."""

import gzip
import json
from pathlib import Path

import numpy as np

from model import ModelSpec, OnlineModel

FOLDER = Path(__file__).parent / "states_0_1"
MIXED = [
    {"name": "amount"},
    {"name": "known", "kind": "boolean", "indicator": True},
    {"name": "city", "kind": "category", "values": ["Oslo", "Rome", 3]},
    {"name": "word", "kind": "hash", "buckets": 6, "indicator": True},
]
WIDE = [
    {"name": "amount"},
    {"name": "shop", "kind": "category", "values": [f"s{number}" for number in range(50)]},
    {"name": "word", "kind": "hash", "buckets": 40, "indicator": True},
]
SPECS = {
    "binary_default": {"task": "binary", "features": 4, "layers": [{"units": 8}, {"units": 4}]},
    "binary_mixed_adamw": {
        "task": "binary",
        "features": MIXED,
        "classes": ["no", "yes"],
        "layers": [{"units": 6, "activation": "gelu", "dropout": 0.25}],
        "class_weights": [1.0, 2.5],
        "scaling": "minmax",
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "clip_norm": 5.0},
        "seed": 7,
    },
    "multiclass_rmsprop": {
        "task": "multiclass",
        "features": 3,
        "classes": ["a", "b", "c"],
        "layers": [{"units": 5, "activation": "tanh", "batch_norm": True}],
        "optimizer": {"name": "rmsprop", "centered": True, "momentum": 0.5, "l1": 1e-5},
    },
    "regression_sgd": {
        "task": "regression",
        "features": 3,
        "targets": 2,
        "layers": [{"units": 7, "batch_norm": True}, {"units": 3, "activation": "elu"}],
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.02,
            "momentum": 0.9,
            "nesterov": True,
            "schedule": {"name": "inverse_time", "decay": 0.001, "warm_up": 5},
        },
    },
    "regression_unscaled_adagrad": {
        "task": "regression",
        "features": 2,
        "scaling": "none",
        "layers": [],
        "bias": False,
        "loss": "huber",
        "optimizer": {"name": "adagrad", "learning_rate": 0.1},
    },
    "margin_perceptron": {"task": "binary", "features": 2, "layers": [], "loss": "perceptron"},
    "wide_one_hot": {"task": "multiclass", "features": WIDE, "classes": 3, "layers": [{"units": 4}]},
    "as_created": {"task": "binary", "features": 2},
}


def rows_of(spec, rows, seed):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, spec.width))
    for column, feature in enumerate(spec.feature_list):
        if feature.kind != "number":
            X[:, column] = generator.integers(0, feature.slots if feature.one_hot else 2, rows)
    X[generator.random(X.shape) < 0.05] = np.nan
    if spec.task == "regression":
        return X, generator.normal(size=(rows, spec.targets)) * 30.0 + 100.0
    return X, generator.integers(0, len(spec.classes), (rows, 1)).astype(np.float64)


def main():
    expected = {}
    for name, fields in SPECS.items():
        spec = ModelSpec.model_validate(fields)
        model = OnlineModel(spec)
        if name != "as_created":
            model.learn(*rows_of(spec, 300, 1))
            model.set_learning_rate(0.0125)
            model.learn(*rows_of(spec, 100, 2))
        X, _ = rows_of(spec, 5, 3)
        (FOLDER / f"{name}.safetensors.gz").write_bytes(gzip.compress(model.to_bytes(), mtime=0))
        expected[name] = {
            "rows": [[None if value != value else value for value in row] for row in X.tolist()],
            "predictions": model.predict(X).tolist(),
            "metrics": model.metrics(),
            "step": model.step,
            "learning_rate": model.learning_rate,
        }
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
