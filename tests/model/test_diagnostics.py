"""Each finding, on a network made to fail in that way, and none on one that is well."""

import json

import numpy as np
import pytest

from model.online import OnlineModel

SGD = {"name": "sgd", "learning_rate": 0.05}


def kinds(model):
    return {finding["kind"] for finding in model.diagnostics()["findings"]}


def trained(spec, rows_of, rows=3000):
    model = OnlineModel(spec)
    model.learn(*rows_of(spec, rows))
    return model


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_network_that_learns_well_has_no_findings(task, spec_of, rows_of):
    assert kinds(trained(spec_of(task), rows_of)) == set()


def test_nothing_is_found_before_there_is_enough_to_judge_by(spec_of, rows_of):
    optimizer = {"name": "sgd", "learning_rate": 1e-9}
    assert kinds(trained(spec_of(optimizer=optimizer), rows_of, 100)) == set()


def test_dead_units_are_found(spec_of, rows_of):
    model = OnlineModel(spec_of(layers=[{"units": 8}, {"units": 6}], optimizer=SGD))
    model.parameters["layers.1.bias"][:4] = -1e3
    model.learn(*rows_of(model.spec, 3000))
    (finding,) = [found for found in model.diagnostics()["findings"] if found["kind"] == "dead_units"]
    assert finding["layer"] == "layers.1"
    assert "leaky_relu" in finding["advice"]
    assert model.diagnostics()["layers"][1]["dead_share"] == pytest.approx(4 / 6)


def test_vanishing_gradients_are_found(spec_of, rows_of):
    layers = [{"units": 8, "activation": "sigmoid"}] * 8
    model = trained(spec_of(layers=layers, optimizer=SGD, initializer="lecun"), rows_of)
    assert "vanishing_gradients" in kinds(model)


def test_exploding_gradients_are_found(spec_of, rows_of):
    spec = spec_of(
        layers=[{"units": 20, "activation": "linear"}] * 6,
        optimizer={"name": "sgd", "learning_rate": 1e-12},
        initializer="he",
    )
    model = OnlineModel(spec)
    for number in range(6):
        model.parameters[f"layers.{number}.weight"][...] *= 8
    model.learn(*rows_of(spec, 1000))
    assert "exploding_gradients" in kinds(model)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_loss_that_diverges_is_found(task, spec_of, rows_of):
    spec = spec_of(task, optimizer={"name": "sgd", "learning_rate": 0.01, "clip_norm": 1.0})
    X, y = rows_of(spec, 2000)
    model = OnlineModel(spec)
    model.learn(X[:1000], y[:1000])
    assert "loss_diverges" not in kinds(model)
    model.set_learning_rate(5.0)
    model.learn(X[1000:], y[1000:])
    (finding,) = [found for found in model.diagnostics()["findings"] if found["kind"] == "loss_diverges"]
    assert "lower the learning rate" in finding["advice"]


LARGEST_WEIGHT = 1e6  # that an observation may have over HTTP


@pytest.mark.parametrize("clip_norm", [None, 20.0])
def test_an_observation_of_a_large_weight_is_told_of_where_gradients_are_not_clipped(
    clip_norm, spec_of, rows_of
):
    spec = spec_of(optimizer={"name": "sgd", "learning_rate": 0.01, "clip_norm": clip_norm})
    X, y = rows_of(spec, 1000)
    model = OnlineModel(spec)
    model.learn(X[:600], y[:600])
    model.learn(X[600:601], 1 - y[600:601], np.array([LARGEST_WEIGHT]))
    model.learn(X[601:], y[601:])
    findings = model.diagnostics()["findings"]
    assert any("clip_norm" in found["advice"] for found in findings) == (clip_norm is None), findings


def test_a_loss_that_explodes_at_once_is_found(spec_of, rows_of):
    spec = spec_of("regression", optimizer={"name": "sgd", "learning_rate": 5.0}, scaling="none")
    assert kinds(trained(spec, rows_of)) >= {"exploding_gradients", "skipped_observations"}


def test_steps_that_overshoot_are_found(spec_of):
    """With the absolute error each step has the same length: here it is far longer than the errors."""
    optimizer = {"name": "sgd", "learning_rate": 10.0}
    spec = spec_of(
        "regression", 1, layers=[], scaling="none", loss="mean_absolute", bias=False, optimizer=optimizer
    )
    model = OnlineModel(spec)
    model.learn(np.ones((1000, 1)), np.random.default_rng(0).normal(size=1000))
    assert "loss_oscillates" in kinds(model)


def test_steps_that_undo_each_other_are_found(spec_of):
    """Least squares with labels that are noise, and steps that go nearly all the way to each."""
    optimizer = {"name": "sgd", "learning_rate": 0.45}
    spec = spec_of("regression", 1, layers=[], scaling="none", bias=False, optimizer=optimizer)
    model = OnlineModel(spec)
    model.learn(np.ones((2000, 1)), np.random.default_rng(0).normal(size=2000))
    assert kinds(model) == {"loss_oscillates"}


def test_a_loss_that_hardly_moves_is_found(spec_of, rows_of):
    model = trained(spec_of(optimizer={"name": "sgd", "learning_rate": 1e-7}), rows_of)
    assert kinds(model) == {"loss_hardly_moves"}


def test_skipped_observations_are_found(spec_of, rows_of):
    model = trained(spec_of("regression", scaling="none"), rows_of, 20)
    model.learn(np.zeros((1, 5)), np.array([1e300]))
    assert kinds(model) == {"skipped_observations"}


def test_the_report_describes_every_layer_and_is_json(spec_of, rows_of):
    spec = spec_of(layers=[{"units": 6}, {"units": 4, "activation": "tanh"}], optimizer={})
    model = trained(spec, rows_of)
    report = json.loads(json.dumps(model.diagnostics(), allow_nan=False))
    assert [layer["name"] for layer in report["layers"]] == ["layers.0", "layers.1", "layers.2"]
    weights = np.linalg.norm(model.parameters["layers.0.weight"])
    assert report["layers"][0]["weight_norm"] == pytest.approx(weights, rel=1e-5)
    assert report["layers"][0]["gradient_norm"] > 0
    assert report["layers"][0]["activation_deviation"] > 0
    assert report["layers"][0]["dead_share"] is not None
    assert report["layers"][1]["dead_share"] is None
    assert report["loss"]["best"] <= report["loss"]["first"]


def test_a_model_that_has_learned_nothing_has_a_report_without_zeros_that_nothing_was_measured_for(spec_of):
    report = OnlineModel(spec_of()).diagnostics()
    json.dumps(report, allow_nan=False)
    assert set(report["loss"].values()) == set(report["steps"].values()) == {None}
    assert {layer["gradient_norm"] for layer in report["layers"]} == {None}


@pytest.mark.parametrize("number", [1, 2])
def test_gradient_norms_are_those_of_the_batch_path(number, spec_of, rows_of):
    spec = spec_of(layers=[{"units": 6}], scaling="none", optimizer=SGD, initializer="he")
    X, y = rows_of(spec, number)
    model, plain = OnlineModel(spec), OnlineModel(spec)
    plain.learn(X[:-1], y[:-1])
    before = {name: values.copy() for name, values in plain.parameters.items()}
    plain.learn(X[-1:], y[-1:])
    steps = [plain.parameters[f"layers.1.{part}"] - before[f"layers.1.{part}"] for part in ("weight", "bias")]
    norm = np.sqrt(sum((step**2).sum() for step in steps)) / 0.05
    model.learn(X, y)
    if number == 1:
        assert model.diagnostics()["layers"][1]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    else:
        assert model.diagnostics()["layers"][1]["gradient_norm"] > 0


@pytest.mark.parametrize("replace", ["adopt", "set_weights", "inherit"])
def test_nothing_is_found_right_after_the_weights_were_replaced(replace, spec_of, rows_of):
    model = trained(spec_of(layers=[{"units": 8}]), rows_of)
    other = trained(model.spec, rows_of, 10)
    if replace == "adopt":
        model.adopt(other)
    elif replace == "set_weights":
        model.set_weights(other.weights_to_bytes())
    else:
        other.inherit(model)
        model = other
    for rows in (20, 600):
        model.learn(*rows_of(model.spec, rows, 5))
        assert kinds(model) == set()
        assert model.diagnostics()["layers"][0]["dead_share"] == 0.0


def test_notes_that_overflow_begin_anew_and_the_report_says_so(spec_of, rows_of):
    model = trained(spec_of("regression", scaling="none", layers=[]), rows_of, 1500)
    model.learn(np.zeros((1, 5)), np.array([1e200]), np.array([1e-190]))
    model.learn(*rows_of(model.spec, 10))
    report = model.diagnostics()
    assert {found["kind"] for found in report["findings"]} == {"diagnostics_reset"}
    assert report["loss"]["recent"] < 1e10
    assert OnlineModel.from_bytes(model.to_bytes()).diagnostics() == report
