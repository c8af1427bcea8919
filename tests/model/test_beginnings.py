"""First weights, and how the learning rate changes from there."""

import math

import numpy as np
import pytest

from model.initializers import INITIALIZERS, initial_parameters
from model.online import OnlineModel
from model.optimizer_spec import ScheduleSpec
from model.parameters import layout_of, named_views
from model.schedules import schedule_of
from model.spec import Activation

SHAPE = (400, 300)  # units, inputs
VARIANCES = {
    "he": 2 / 300,
    "glorot": 2 / 700,
    "lecun": 1 / 300,
    "uniform": 1 / 900,
    "zeros": 0.0,
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_variance_is_that_of_the_definition(name):
    weights = INITIALIZERS[name](np.random.default_rng(0), SHAPE)
    assert weights.mean() == pytest.approx(0.0, abs=1e-3)
    assert weights.var() == pytest.approx(VARIANCES[name], rel=0.02)


@pytest.mark.parametrize("activation", Activation.__args__)
def test_the_initializer_follows_from_the_activation(activation, spec_of):
    spec = spec_of(features=300, layers=[{"units": 400, "activation": activation}])
    weights = named_views(layout_of(spec), initial_parameters(spec, layout_of(spec)))["layers.0.weight"]
    wanted = "glorot" if activation in ("linear", "sigmoid", "tanh") else "he"
    assert weights.var() == pytest.approx(VARIANCES[wanted], rel=0.02)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_a_named_initializer_is_used_for_every_layer(name, spec_of):
    spec = spec_of(features=300, layers=[{"units": 400}], initializer=name)
    for parameter, values in OnlineModel(spec).parameters.items():
        if parameter.endswith("layers.0.weight"):
            assert values.var() == pytest.approx(VARIANCES[name], rel=0.02)
        if parameter.endswith("layers.1.weight"):
            assert bool(values.any()) == (name != "zeros")


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_first_prediction_is_neutral(task, spec_of):
    model = OnlineModel(spec_of(task))
    chances = model.predict(np.ones((1, 5)))[0]
    assert chances == pytest.approx(0.5 if task == "binary" else 1 / 3)


def test_seeds_decide_the_weights(spec_of):
    first, same, other = (OnlineModel(spec_of(seed=seed)) for seed in (1, 1, 2))
    assert first.to_bytes() == same.to_bytes()
    for member in (1, 2, 3):
        weight = f"members.{member}.layers.0.weight"
        assert (first.parameters[weight] != other.parameters[weight]).any()


def test_biases_start_at_0_and_gains_at_1(spec_of):
    model = OnlineModel(spec_of(layers=[{"units": 3, "batch_norm": True}, {"units": 2}]))
    for member in (1, 2, 3):
        first, second = f"members.{member}.layers.0", f"members.{member}.layers.1"
        assert (model.parameters[f"{first}.norm.weight"] == 1).all()
        assert (model.parameters[f"{first}.norm.bias"] == 0).all()
        assert (model.parameters[f"{second}.bias"] == 0).all()
        assert f"{first}.bias" not in model.parameters


def test_parameters_are_live_views(spec_of):
    model = OnlineModel(spec_of(features=3, layers=[{"units": 2}, {"units": 4}], optimizer={}))
    shapes = {name: values.shape for name, values in model.parameters.items()}
    assert shapes == {
        "layers.0.weight": (2, 3),
        "layers.0.bias": (2,),
        "layers.1.weight": (4, 2),
        "layers.1.bias": (4,),
        "layers.2.weight": (1, 4),
        "layers.2.bias": (1,),
    }
    model.parameters["layers.2.bias"][...] = 100.0
    assert model.predict(np.zeros((1, 3)))[0, 0] == 1.0


FACTORS = {
    "constant": ({"name": "constant"}, lambda t: 1.0),
    "inverse_time": ({"name": "inverse_time", "decay": 0.5}, lambda t: 1 / (1 + 0.5 * t)),
    "exponential": ({"name": "exponential", "gamma": 0.9}, lambda t: 0.9**t),
    "cosine": (
        {"name": "cosine", "steps": 10, "minimum": 0.2},
        lambda t: 0.2 + 0.4 * (1 + math.cos(math.pi * min(t, 10) / 10)),
    ),
    "warm_up": ({"name": "constant", "warm_up": 4}, lambda t: min(1.0, (t + 1) / 4)),
    "both": ({"name": "exponential", "gamma": 0.9, "warm_up": 4}, lambda t: 0.9**t * min(1.0, (t + 1) / 4)),
}


@pytest.mark.parametrize(("fields", "wanted"), FACTORS.values(), ids=FACTORS)
def test_the_schedule_multiplies_the_learning_rate(fields, wanted, spec_of):
    factors = [schedule_of(ScheduleSpec.model_validate(fields))(t) for t in range(15)]
    assert factors == pytest.approx([wanted(t) for t in range(15)])
    optimizer = {"name": "sgd", "learning_rate": 0.1, "schedule": fields}
    spec = spec_of("regression", 1, layers=[], scaling="none", loss="mean_absolute", optimizer=optimizer)
    model = OnlineModel(spec)
    for t in range(15):
        before = float(model.parameters["layers.0.bias"][0])
        model.learn(np.zeros((1, 1)), np.array([100.0]))
        assert model.parameters["layers.0.bias"][0] - before == pytest.approx(0.1 * wanted(t), rel=1e-4)


def test_the_learning_rate_can_change_between_steps(spec_of):
    optimizer = {"name": "sgd", "learning_rate": 0.1}
    spec = spec_of("regression", 1, layers=[], scaling="none", loss="mean_absolute", optimizer=optimizer)
    model = OnlineModel(spec)
    model.learn(np.zeros((1, 1)), np.array([100.0]))
    model.set_learning_rate(2.0)
    model.learn(np.zeros((1, 1)), np.array([100.0]))
    assert model.parameters["layers.0.bias"][0] == pytest.approx(2.1)
    model.set_clip_norm(0.5)
    model.learn(np.zeros((1, 1)), np.array([100.0]))
    assert model.parameters["layers.0.bias"][0] == pytest.approx(3.1, rel=1e-5)
