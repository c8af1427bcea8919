"""Held to PyTorch: `make_references.py` wrote what it computes."""

from pathlib import Path

import numpy as np
import pytest

from model.activations import ACTIVATIONS
from model.losses import LOSSES
from model.online import OnlineModel
from model.optimizer_spec import OptimizerSpec

REFERENCES = np.load(Path(__file__).with_name("references.npz"))
KEPT = (1, 2, 10, 50, 200)
TOLERANCE = 2e-4  # float32, after 200 steps

OPTIMIZERS = {
    "sgd": {"name": "sgd", "learning_rate": 0.05},
    "sgd_decay": {"name": "sgd", "learning_rate": 0.05, "weight_decay": 0.02},
    "momentum": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9, "dampening": 0.2},
    "nesterov": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9, "nesterov": True},
    "rmsprop": {"name": "rmsprop", "learning_rate": 0.002},
    "rmsprop_centered": {
        "name": "rmsprop",
        "learning_rate": 0.0005,
        "centered": True,
        "momentum": 0.8,
        "weight_decay": 0.01,
    },
    "adam": {"name": "adam", "learning_rate": 0.005},
    "adam_decay": {
        "name": "adam",
        "learning_rate": 0.005,
        "betas": [0.8, 0.99],
        "eps": 1e-6,
        "weight_decay": 0.05,
    },
    "adamw": {"name": "adamw", "learning_rate": 0.005, "weight_decay": 0.1},
    "adagrad": {
        "name": "adagrad",
        "learning_rate": 0.05,
        "lr_decay": 0.01,
        "initial_accumulator_value": 0.1,
        "weight_decay": 0.01,
    },
    **{f"default_{name}": {"name": name} for name in ("sgd", "rmsprop", "adam", "adamw", "adagrad")},
}
SGD = {"name": "sgd", "learning_rate": 0.1}
SCHEDULES = {
    "exponential": {"name": "exponential", "gamma": 0.98},
    "cosine": {"name": "cosine", "steps": 200, "minimum": 0.1},
}


def new_model(spec_of, optimizer, reference, batch_norm=False):
    layers = [{"units": 7, "activation": "tanh", "batch_norm": batch_norm}]
    model = OnlineModel(spec_of("multiclass", 6, layers=layers, scaling="none", optimizer=optimizer))
    place = 0
    for values in model.parameters.values():
        values[...] = REFERENCES[f"{reference}.parameters"][0, place : place + values.size].reshape(
            values.shape
        )
        place += values.size
    return model


def flat(model):
    return np.concatenate([values.ravel() for values in model.parameters.values()])


def follow_rows(model, reference):
    """Learn the rows one by one, and compare losses and parameters with the trajectory."""
    X, y = REFERENCES["X"].astype(np.float64), REFERENCES["y"].astype(np.float64)
    order = np.arange(KEPT[-1]) % len(X)
    start = 0
    for number, stop in enumerate(KEPT):
        learned = model.learn(X[order[start:stop]], y[order[start:stop]])
        losses = REFERENCES[f"{reference}.losses"][start:stop]
        assert learned.losses == pytest.approx(losses, rel=TOLERANCE, abs=TOLERANCE)
        wanted = REFERENCES[f"{reference}.parameters"][number + 1]
        assert flat(model) == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE)
        start = stop


def follow_batches(model, reference):
    X, y = REFERENCES["X"].astype(np.float64), REFERENCES["y"].astype(np.float64)
    start = 0
    for number, stop in enumerate(KEPT):
        losses = model.fit(X, y, epochs=stop - start, batch_size=None)
        assert losses == pytest.approx(REFERENCES[f"{reference}.losses"][start:stop], abs=TOLERANCE)
        wanted = REFERENCES[f"{reference}.parameters"][number + 1]
        assert flat(model) == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE)
        start = stop


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_200_steps_on_single_rows(name, spec_of):
    reference = f"rows.{name}"
    follow_rows(new_model(spec_of, OPTIMIZERS[name], reference), reference)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_200_steps_on_the_full_batch(name, spec_of):
    reference = f"full.{name}"
    follow_batches(new_model(spec_of, OPTIMIZERS[name], reference), reference)


def test_200_clipped_steps(spec_of):
    follow_rows(new_model(spec_of, {**SGD, "clip_norm": 0.5}, "rows.clipped"), "rows.clipped")


@pytest.mark.parametrize("name", SCHEDULES)
def test_200_scheduled_steps(name, spec_of):
    reference = f"rows.{name}"
    follow_rows(new_model(spec_of, {**SGD, "schedule": SCHEDULES[name]}, reference), reference)


def test_200_steps_with_batch_normalisation(spec_of):
    gentle = {"name": "sgd", "learning_rate": 0.02}
    model = new_model(spec_of, gentle, "full.batch_norm", batch_norm=True)
    follow_batches(model, "full.batch_norm")
    assert model._arrays["norm"][0] == pytest.approx(REFERENCES["full.batch_norm.norm"], rel=1e-3, abs=1e-4)


def test_every_optimizer_has_a_trajectory():
    names = OptimizerSpec.model_fields["name"].annotation.__args__
    assert {options["name"] for options in OPTIMIZERS.values()} == set(names)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_slopes(name):
    z = REFERENCES["grid"].astype(np.float64)
    value = ACTIVATIONS[name].value(z)
    wanted = REFERENCES[f"activation.{name}"]
    assert value == pytest.approx(wanted[0], rel=1e-5, abs=1e-6)
    assert ACTIVATIONS[name].slope(z, value) == pytest.approx(wanted[1], rel=1e-4, abs=2e-6)


@pytest.mark.parametrize(
    "key",
    [("mean_squared", "linear"), ("mean_absolute", "linear"), ("huber", "linear")],
    ids=lambda key: key[0],
)
def test_losses_of_several_targets(key):
    z, y = REFERENCES["scores"], REFERENCES["targets"]
    wanted = REFERENCES[f"loss.{key[0]}"]
    assert LOSSES[key].value(z, y) == pytest.approx(wanted[0][:, 0])
    assert LOSSES[key].gradient(z, y) == pytest.approx(wanted[1])


@pytest.mark.parametrize("key", [("cross_entropy", "softmax"), ("multi_hinge", "linear")], ids="-".join)
def test_losses_of_several_classes(key):
    z, y = REFERENCES["scores"], REFERENCES["labels"][:, None]
    wanted = REFERENCES[f"loss.{key[0]}"]
    assert LOSSES[key].value(z, y) == pytest.approx(wanted[0][:, 0])
    assert LOSSES[key].gradient(z, y) == pytest.approx(wanted[1])


def test_binary_cross_entropy():
    z, y = REFERENCES["scores"][:, :1], (REFERENCES["labels"][:, None] > 1).astype(np.float64)
    wanted = REFERENCES["loss.binary_cross_entropy"]
    loss = LOSSES[("cross_entropy", "sigmoid")]
    assert loss.value(z, y) == pytest.approx(wanted[0][:, 0])
    assert loss.gradient(z, y) == pytest.approx(wanted[1])
