"""A few rows are predicted by compiled code, once it is loaded; it says what the batch path says."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from model import FeatureEncoder, ModelSpec, OnlineModel, Predictor, load_predictions, predictor

ACTIVATIONS = ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus"]
MIXED = [
    {"name": "amount", "indicator": True},
    {"name": "city", "kind": "category", "values": ["Oslo", "Rome"]},
    {"name": "word", "kind": "hash", "buckets": 6, "indicator": True},
    {"name": "text", "kind": "hash", "buckets": 9, "tokens": 3},
]
SPECS = {
    **{
        name: {"task": "regression", "layers": [{"units": 7, "activation": name}] * 2} for name in ACTIVATIONS
    },
    "batch_norm": {"task": "binary", "layers": [{"units": 6, "batch_norm": True, "dropout": 0.5}]},
    "softmax": {"task": "multiclass", "classes": 4},
    "threshold": {"task": "multiclass", "classes": 3, "loss": "perceptron"},
    "sign": {"task": "binary", "loss": "perceptron"},
    "margin": {"task": "binary", "loss": "hinge"},
    "linear": {"task": "regression", "targets": 3, "layers": [], "bias": False},
    "unscaled": {"task": "regression", "scaling": "none"},
    "minmax": {"task": "binary", "scaling": "minmax"},
    "mixed": {"task": "binary", "features": MIXED},
    "committee": {"task": "multiclass", "classes": 3, "optimizer": "auto"},
    "committee of values": {"task": "regression", "targets": 2, "optimizer": "auto"},
    "committee of votes": {"task": "multiclass", "classes": 3, "loss": "perceptron", "optimizer": "auto"},
    "sparse committee": {
        "task": "binary",
        "features": [*MIXED[:3], {"name": "text", "kind": "hash", "buckets": 400, "tokens": 3}],
        "optimizer": "auto",
    },
}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(predictor, "predict_rows", None)
    load_predictions()


def rows_for(spec, rows, seed):
    generator = np.random.default_rng(seed)
    if isinstance(spec.features, int):
        X = generator.normal(size=(rows, spec.width)) * 10.0 ** generator.integers(-3, 4)
        X[generator.random(X.shape) < 0.1] = np.nan
        return X
    words = np.array(["Oslo", "Rome", "Bern", "a", "b", "c"])
    drawn = [
        [
            float(generator.normal()),
            *map(str, generator.choice(words, 2)),
            generator.choice(words, 3).tolist(),
        ]
        for _ in range(rows)
    ]
    return FeatureEncoder(spec).encode(
        [[None if generator.random() < 0.1 else v for v in row] for row in drawn]
    )


def trained(fields):
    spec = ModelSpec.model_validate({"features": 4, "initializer": "he", **fields})
    model = OnlineModel(spec)
    generator = np.random.default_rng(0)
    y = (
        generator.normal(size=(200, spec.targets))
        if spec.task == "regression"
        else generator.integers(0, len(spec.classes), (200, 1))
    )
    model.fit(rows_for(spec, 200, 1), y.astype(np.float64))
    return model


@pytest.mark.parametrize("fields", SPECS.values(), ids=SPECS)
def test_a_few_rows_are_predicted_as_many_are(fields, monkeypatch):
    model = trained(fields)
    each = Predictor(model.spec, model.predictor_bytes())
    X = rows_for(model.spec, 40, 2)
    singly = np.concatenate([each.predict(X[row : row + 1]) for row in range(len(X))])
    few = each.predict(X[:3])
    monkeypatch.setattr(predictor, "predict_rows", None)
    batch = each.predict(X)
    assert singly == pytest.approx(batch, rel=1e-5, abs=1e-6 * np.abs(batch).max())
    assert (few == singly[:3]).all()


def test_wild_rows_are_predicted_as_finite_numbers():
    model = trained({"task": "regression", "scaling": "none"})
    for value in (1e308, -1e308, 1e39, np.nan, 5e-324):
        assert np.isfinite(model.predict(np.full((1, 4), value))).all()


def test_a_row_of_the_wrong_shape_is_refused():
    model = trained({"task": "binary"})
    for X in (np.zeros((1, 5)), np.zeros(4)):
        with pytest.raises(ValueError, match="shape"):
            model.predict(X)


def test_rows_are_predicted_in_any_memory_layout():
    model = trained({"task": "binary"})
    X = rows_for(model.spec, 3, 3)
    expected = model.predict(X)
    assert (model.predict(np.asfortranarray(X)) == expected).all()
    assert (model.predict(np.repeat(X, 2, axis=0)[::2]) == expected).all()
    assert (model.predict(X.tolist()) == expected).all()


def test_threads_predict_by_one_predictor_at_once():
    model = trained({"task": "regression", "layers": [{"units": 64}, {"units": 32}]})
    each = Predictor(model.spec, model.predictor_bytes())
    X = rows_for(model.spec, 50, 4)
    expected = [each.predict(row[None]).tolist() for row in X]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: [each.predict(row[None]).tolist() for row in X], range(40)):
            assert found == expected


def test_a_process_that_has_loaded_nothing_predicts_without_the_compiler():
    code = (
        "import sys, numpy, model; spec = model.ModelSpec(task='binary', features=2);"
        "model.OnlineModel(spec).predict(numpy.zeros((1, 2)));"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_predictions_that_are_not_compiled_yet_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("model.compiled.is_stored", lambda name: False)
    monkeypatch.setattr(predictor, "predict_rows", None)
    assert not load_predictions(compile_now=False)
    assert predictor.predict_rows is None
