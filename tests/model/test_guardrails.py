"""Nothing that arrives makes a model's numbers anything but finite."""

import numpy as np
import pytest
from safetensors.numpy import load

from model.online import OnlineModel

EXTREMES = [1e308, -1e308, 1e154, 1e39, 1e20, 5e-324, -1.7976931348623157e308]
OPTIMIZERS = {
    "sgd": {"name": "sgd", "learning_rate": 1e6},
    "momentum": {"name": "sgd", "learning_rate": 1e6, "momentum": 0.99},
    "decay": {"name": "sgd", "learning_rate": 1e6, "weight_decay": 1e6, "l1": 1e6, "l2": 1e6},
    "rmsprop": {"name": "rmsprop", "learning_rate": 1e6},
    "rmsprop_full": {
        "name": "rmsprop",
        "learning_rate": 1e6,
        "centered": True,
        "momentum": 0.99,
        "eps": 1e-12,
    },
    "adam": {"name": "adam", "learning_rate": 1e6, "eps": 1e-12},
    "adam_odd": {"name": "adam", "learning_rate": 1e6, "betas": [0.99, 0.5]},
    "adamw": {"name": "adamw", "learning_rate": 1e6, "weight_decay": 1e6},
    "adagrad": {"name": "adagrad", "learning_rate": 1e6},
}
LEARNED = ("parameters", "slots", "scaling.inputs", "scaling.targets", "norm", "monitor")


def assert_finite(model):
    for name, values in load(model.to_bytes()).items():
        assert np.isfinite(values).all(), name


@pytest.mark.parametrize("scaling", ["standard", "minmax", "none"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_extreme_inputs_do_no_harm(task, scaling, spec_of, rows_of):
    spec = spec_of(task, scaling=scaling)
    X, y = rows_of(spec, 600)
    model, calm = OnlineModel(spec), OnlineModel(spec)
    for place, extreme in enumerate(EXTREMES * 2):
        X[40 * place, place % spec.width] = extreme
    learned = model.learn(X, y)
    keep = np.abs(X).max(axis=1) < 1e10
    calm.learn(X[keep], y[keep])
    assert_finite(model)
    assert np.isfinite(learned.predictions).all()
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.predict(np.full((1, spec.width), 1e308))).all()


def test_a_model_goes_on_learning_after_extreme_inputs(spec_of, rows_of):
    spec = spec_of()
    X, y = rows_of(spec, 2000)
    X[::97, 0] = 1e308
    model = OnlineModel(spec)
    learned = model.learn(X, y)
    assert ((learned.predictions[1000:, 0] > 0.5) == y[1000:, 0]).mean() > 0.8


@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_targets_leave_everything_finite(extreme, spec_of, rows_of):
    for scaling in ("standard", "none"):
        spec = spec_of("regression", scaling=scaling, loss="mean_squared")
        X, y = rows_of(spec, 300)
        y[[0, 10, 200]] = extreme
        model = OnlineModel(spec)
        learned = model.learn(X, y)
        assert_finite(model)
        assert np.isfinite(learned.predictions).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_huge_learning_rate_leaves_everything_finite(optimizer, spec_of, rows_of):
    layers = [{"units": 5, "activation": "linear"}, {"units": 4, "activation": "linear"}]
    spec = spec_of("regression", scaling="none", layers=layers, optimizer=optimizer, initializer="he")
    X, y = rows_of(spec, 500)
    model = OnlineModel(spec)
    learned = model.learn(1e3 * X, 1e3 * y)
    assert_finite(model)
    assert np.isfinite(learned.predictions).all()
    assert np.isfinite(model.predict(X)).all()
    assert model.skipped == learned.skipped.sum()
    model.fit(X, y, epochs=3, batch_size=50)
    assert_finite(model)


def test_a_skipped_observation_changes_nothing_but_the_count(spec_of, rows_of):
    layers = [{"units": 5, "batch_norm": True}]
    spec = spec_of("regression", scaling="none", layers=layers, optimizer={"name": "sgd", "momentum": 0.9})
    X, y = rows_of(spec, 50)
    model = OnlineModel(spec)
    model.learn(X, y)
    before = load(model.to_bytes())
    learned = model.learn(X[:1], np.array([1e300]))
    after = load(model.to_bytes())
    assert learned.skipped.tolist() == [True]
    assert all((before[name] == after[name]).all() for name in LEARNED)
    assert model.step == 51
    assert model.skipped == 1
    assert model.metrics()["skipped"] == 1


@pytest.mark.parametrize("optimizer", [{}, "auto"], ids=["one optimizer", "a committee"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_rows_after_a_skipped_one_are_learned_as_if_it_had_not_been(optimizer, dropout, spec_of, rows_of):
    layers = [{"units": 5, "dropout": dropout}]
    spec = spec_of("regression", scaling="none", layers=layers, initializer="he", optimizer=optimizer)
    X, y = rows_of(spec, 300)
    plain, disturbed = OnlineModel(spec), OnlineModel(spec)
    plain.learn(X, y)
    y = np.insert(y, 30, 1e300, axis=0)
    X = np.insert(X, 30, X[0], axis=0)
    assert np.flatnonzero(disturbed.learn(X, y).skipped).tolist() == [30]
    for name, values in plain.parameters.items():
        assert (disturbed.parameters[name] == values).all()


@pytest.mark.parametrize("label", [-1.0, 2.0, 0.5, np.nan, np.inf, 1e300])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_number_that_is_no_class_is_skipped_and_not_scored(label, task, spec_of, rows_of):
    model = OnlineModel(spec_of(task, classes=2))
    assert_skipped_and_not_scored(model, *rows_of(model.spec, 10), np.array([[label]]))


@pytest.mark.parametrize("label", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_a_target_that_is_not_finite_is_skipped_and_not_scored(label, scaling, spec_of, rows_of):
    model = OnlineModel(spec_of("regression", scaling=scaling, targets=2))
    assert_skipped_and_not_scored(model, *rows_of(model.spec, 10), np.array([[0.0, label]]))


def assert_skipped_and_not_scored(model, X, y, label):
    model.learn(X, y)
    before, score = load(model.to_bytes()), model.metrics()
    assert model.learn(X[:1], label).skipped.all()
    after = load(model.to_bytes())
    assert all((before[name] == after[name]).all() for name in LEARNED)
    assert model.metrics()["total"] == score["total"]
    assert (model.metrics()["observations"], model.metrics()["skipped"]) == (11, 1)


def test_wrong_shapes_are_refused_and_change_nothing(spec_of, rows_of):
    model = OnlineModel(spec_of())
    X, y = rows_of(model.spec, 5)
    before = model.to_bytes()
    for call in (
        lambda: model.learn(X[:, :4], y),
        lambda: model.learn(X[0], y),
        lambda: model.learn(X, y[:4]),
        lambda: model.learn(X, np.ones((5, 2))),
        lambda: model.learn(X, y, weights=np.ones(4)),
        lambda: model.learn(X, y, served=np.ones((5, 2))),
        lambda: model.predict(X[:, :4]),
        lambda: model.fit(X, y, epochs=0),
        lambda: model.fit(X, y, batch_size=0),
        lambda: model.fit(X[:0], y[:0]),
        lambda: model.fit(X, y + 0.5),
    ):
        with pytest.raises(ValueError, match=r"shape|at least|class indices"):
            call()
    assert model.to_bytes() == before


@pytest.mark.parametrize("weight", [np.nan, np.inf, -1.0])
def test_a_weight_that_is_no_finite_number_from_0_is_refused(weight, spec_of, rows_of):
    model = OnlineModel(spec_of())
    X, y = rows_of(model.spec, 3)
    before = model.to_bytes()
    for call in (model.learn, model.fit):
        with pytest.raises(ValueError, match="finite numbers from 0"):
            call(X, y, weights=np.array([1.0, weight, 1.0]))
    assert model.to_bytes() == before
