"""`learn` of a committee is what a plain NumPy committee does, row by row."""

import numpy as np
import pytest

from model.online import OnlineModel
from tests.model.reference_committee import ReferenceCommittee

ROWS = 400
NO_MORE_EARLY = [
    {"learning_rate": 0.02, "layer_norm": True},
    {"learning_rate": 0.01, "layer_norm": True, "average": True, "rehearse": {"rows": 8, "rate": 0.2}},
    {"learning_rate": 0.005, "average": True, "rehearse": {"rows": 4}},
]
"""As "auto", but without more steps early on: where gradients jump, rounding is multiplied by each step."""
CASES = {
    "binary": {},
    "multiclass": {"task": "multiclass"},
    "regression": {"task": "regression"},
    "two targets": {"task": "regression", "targets": 2},
    "hinge": {"loss": "hinge", "optimizer": NO_MORE_EARLY},
    "perceptron of three classes": {
        "task": "multiclass",
        "loss": "perceptron",
        "optimizer": NO_MORE_EARLY,
    },
    "no hidden layer": {"layers": []},
    "dropout and batch norm": {
        "layers": [{"units": 9, "dropout": 0.3, "activation": "tanh"}, {"units": 6, "batch_norm": False}]
    },
    "two members, batched": {
        "optimizer": [
            {"learning_rate": 0.02, "layer_norm": True},
            {"learning_rate": 0.005, "average": True, "rehearse": {"rows": 5, "rate": 2.0, "batched": True}},
        ]
    },
    "batched, more of them early": {
        "optimizer": [
            {"learning_rate": 0.02, "layer_norm": True, "rehearse": {"rows": 1, "batched": True, "early": 2}},
            {"learning_rate": 0.005, "rehearse": {"rows": 3, "rate": 2.0, "batched": True, "early": 3}},
        ]
    },
    "mixed optimizers": {
        "optimizer": [
            {"name": "sgd", "learning_rate": 0.02, "momentum": 0.5},
            {"name": "rmsprop", "learning_rate": 0.002, "average": True},
            {"name": "adagrad", "learning_rate": 0.03, "rehearse": {"rows": 2}},
        ]
    },
    "sparse": {
        "features": [
            {"name": "a"},
            {"name": "b", "indicator": True},
            {"name": "shop", "kind": "hash", "buckets": 200},
        ],
        "optimizer": NO_MORE_EARLY,
    },
    "sparse, batched": {
        "features": [{"name": "a"}, {"name": "b"}, {"name": "shop", "kind": "hash", "buckets": 60}],
        "optimizer": [
            {"learning_rate": 0.02, "layer_norm": True, "average": True},
            {"learning_rate": 0.005, "average": True, "rehearse": {"rows": 5, "rate": 2.0, "batched": True}},
        ],
    },
}


def rows_with_drift(spec, rows_of):
    """Rows whose labels mean something else after the first half; where there are buckets, some values of them."""
    X, y = rows_of(spec, ROWS)
    half = ROWS // 2
    y[half:] = -y[half:] if spec.task == "regression" else len(spec.classes) - 1 - y[half:]
    for column, feature in enumerate(spec.feature_list):
        if feature.kind == "hash":
            X[:, column] = np.random.default_rng(5).integers(0, feature.buckets, ROWS) // 3
    if spec.feature_list[1].indicator:
        X[::6, 1] = np.nan
    return X, y


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_learning_is_what_the_reference_does(fields, spec_of, rows_of):
    spec = spec_of(**{"layers": [{"units": 8}, {"units": 5}], "optimizer": "auto", **fields})
    X, y = rows_with_drift(spec, rows_of)
    model, reference, votes = OnlineModel(spec), ReferenceCommittee(spec), [True]
    for row in range(ROWS):
        one = slice(row, row + 1)
        learned = model.learn(X[one], y[one])
        expected = reference.learn(X[one], y[one])
        if spec.output == "threshold":  # a vote is all or nothing, and rounding decides some
            votes.append((learned.predictions[0] == expected).all())
        else:
            # Rounding grows from step to step: float32 sums are made in another order.
            tolerance = 5e-3 if row < ROWS // 2 else 5e-2
            assert learned.predictions[0] == pytest.approx(expected, rel=2e-2, abs=tolerance), row
    assert np.mean(votes) > 0.97
    rises = [event["step"] for event in model.diagnostics()["drift"]["events"] if event["subject"] == "loss"]
    assert rises[::-1] == reference.rises
