"""Every state that finite data can lead to is written, read back, and serves finite numbers."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from model import ModelSpec, OnlineModel, Predictor
from model.optimizer_spec import OPTIMIZER_DEFAULTS
from model.spec import COMBINATIONS

ACTIVATIONS = ["linear", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu", "softplus"]
WILD = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, 1.0, 1e10, -1e15, 1e38, -1e39, 1e100, 1e150, -1e154, 1e200, 1.7e308, -1.7e308, 5e-324, 1e-190]
)
RATES = st.sampled_from([0.0, 1e-9, 0.01, 1.0, 30.0, 1e6])
WEIGHTS = st.sampled_from([0.0, 5e-324, 1e-190, 1e-9, 1.0, 1e6, 1e100, 1.7e308])


@st.composite
def optimizers(draw):
    name = draw(st.sampled_from(sorted(OPTIMIZER_DEFAULTS)))
    fields = {
        "name": name,
        "learning_rate": draw(RATES),
        "clip_norm": draw(st.sampled_from([None, 1e-9, 20.0, 1e6])),
    }
    choices = {
        "momentum": [0.0, 0.9, 1 - 2**-53],
        "eps": [1e-12, 1e-8, 1.0],
        "alpha": [0.0, 0.99, 1 - 2**-53],
        "betas": [(0.0, 0.999), (0.9, 0.0), (0.99, 0.5), (1 - 2**-53, 1 - 2**-53), (0.0, 0.0)],
        "centered": [False, True],
        "lr_decay": [0.0, 1e6],
        "initial_accumulator_value": [0.0, 1e6],
        "weight_decay": [0.0, 0.01, 1e6],
    }
    for field, values in choices.items():
        if field in OPTIMIZER_DEFAULTS[name]:
            fields[field] = draw(st.sampled_from(values))
    for field in ("l1", "l2"):
        fields[field] = draw(st.sampled_from([0.0, 1e-3, 1e6]))
    fields["schedule"] = draw(
        st.sampled_from(
            [
                {"name": "constant", "warm_up": 3},
                {"name": "cosine", "steps": 2},
                {"name": "exponential", "gamma": 5e-324},
                {"name": "inverse_time", "decay": 1e6},
            ]
        )
    )
    return fields


LAYERS = st.lists(
    st.fixed_dictionaries(
        {
            "units": st.integers(1, 6),
            "activation": st.sampled_from(ACTIVATIONS),
            "dropout": st.sampled_from([0.0, 0.0, 0.5, 1 - 2**-53]),
            "batch_norm": st.booleans(),
        }
    ),
    max_size=4,
)


@st.composite
def specs(draw):
    task = draw(st.sampled_from(sorted(COMBINATIONS)))
    loss, output = draw(st.sampled_from(COMBINATIONS[task]))
    fields = {
        "task": task,
        "features": draw(st.integers(1, 3)),
        "layers": draw(LAYERS),
        "loss": loss,
        "output": output,
        "scaling": draw(st.sampled_from(["standard", "minmax", "none"])),
        "bias": draw(st.booleans()),
        "initializer": draw(st.sampled_from([None, "he"])),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "optimizer": draw(optimizers()),
    }
    if task == "multiclass":
        fields["classes"] = 3
    if task == "regression":
        fields["targets"] = draw(st.integers(1, 2))
    if task != "regression":
        count = 3 if task == "multiclass" else 2
        fields["class_weights"] = draw(st.sampled_from([None, [1e6, 5e-324, 1.0][:count]]))
    return ModelSpec.model_validate(fields)


def numbers(draw, shape, elements):
    """An array of so many drawn numbers."""
    count = int(np.prod(shape))
    return np.array(draw(st.lists(elements, min_size=count, max_size=count)), np.float64).reshape(shape)


@st.composite
def blocks(draw, spec):
    """Rows, labels, weights and served predictions, as accepted requests hold them, some of them repeated often."""
    rows = draw(st.integers(1, 6))
    X = numbers(draw, (rows, spec.width), WILD | st.just(np.nan))
    if spec.task == "regression":
        y = numbers(draw, (rows, spec.targets), WILD)
    else:
        y = numbers(draw, (rows, 1), st.sampled_from(range(len(spec.classes))))
    weights = draw(st.none() | st.just(WEIGHTS))
    if weights is not None:
        weights = numbers(draw, (rows,), WEIGHTS)
    served = None
    if draw(st.booleans()):
        likely = st.floats(0, 1) if spec.output in ("sigmoid", "softmax") else WILD
        served = numbers(draw, (rows, spec.outputs), likely | st.just(np.nan))
    times = draw(st.sampled_from([1, 1, 3, 20]))
    block = [X, y, weights, served]
    return [None if part is None else np.concatenate([part] * times) for part in block]


def assert_serves(model):
    """The state is read back as it was written, and everything that is told of it is finite."""
    blob = model.to_bytes()
    for name, values in load(blob).items():
        assert np.isfinite(values).all(), name
    copy = OnlineModel.from_bytes(blob)
    assert copy.to_bytes() == blob
    json.dumps([copy.metrics(), copy.diagnostics()], allow_nan=False)
    probes = np.array([[0.0], [1.0], [1.7e308], [-1e20], [np.nan]]) * np.ones(model.spec.width)
    predicted = Predictor(model.spec, model.predictor_bytes()).predict(probes)
    assert np.isfinite(predicted).all()
    assert (copy.predict(probes) == predicted).all()
    return copy


def learn(model, draw):
    X, y, weights, served = draw(blocks(model.spec))
    learned = model.learn(X, y, weights, served)
    assert np.isfinite(learned.predictions).all()
    assert np.isfinite(learned.losses).all()


def fit(model, draw):
    X, y, weights, _ = draw(blocks(model.spec))
    model.fit(
        X,
        y,
        weights=weights,
        epochs=draw(st.sampled_from([1, 6])),
        batch_size=draw(st.sampled_from([1, 2, None])),
    )


def adopt(model, draw):
    other = OnlineModel(model.spec)
    fit(other, draw)
    model.adopt(other)


def upload(model, draw):
    other = OnlineModel(model.spec)
    size = draw(st.sampled_from([0.0, 1e-30, 1e10, 1e30]))
    for values in other.parameters.values():
        values[...] = np.where(np.arange(values.size).reshape(values.shape) % 2, size, -size)
    model.set_weights(other.weights_to_bytes())


def change_settings(model, draw):
    model.set_learning_rate(draw(RATES))
    model.set_clip_norm(draw(st.sampled_from([None, 5e-324, 1e6])))


MOVES = [learn, learn, learn, fit, adopt, upload, change_settings]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs(), st.data())
def test_every_state_that_finite_data_leads_to_is_written_read_back_and_served(spec, data):
    model = OnlineModel(spec)
    for move in data.draw(st.lists(st.sampled_from(MOVES), min_size=1, max_size=5)):
        move(model, data.draw)
        model = assert_serves(model)


@pytest.mark.parametrize("seed", range(20))
def test_a_learning_rate_of_one_on_normal_rows_leaves_a_state_that_is_read_back(seed, spec_of):
    spec = spec_of("regression", optimizer={"name": "sgd", "learning_rate": 1.0}, seed=seed)
    generator = np.random.default_rng(seed)
    model = OnlineModel(spec)
    model.learn(generator.normal(size=(3000, 5)), generator.normal(size=(3000, 1)))
    assert_serves(model)


def test_a_huge_label_with_a_tiny_weight_leaves_a_state_that_is_read_back(spec_of):
    model = OnlineModel(spec_of("regression", scaling="none"))
    for _ in range(3):
        model.learn(np.ones((1, 5)), np.array([1e200]), np.array([1e-190]))
        model = assert_serves(model)


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_fit_with_batch_norm_on_huge_inputs_leaves_a_state_that_is_read_back(batch_size, spec_of):
    layers = [{"units": 6, "activation": "linear", "batch_norm": True}] * 3
    model = OnlineModel(spec_of("regression", scaling="none", layers=layers, initializer="he"))
    X = np.random.default_rng(0).normal(size=(40, 5)) * 1e300
    model.fit(X, X[:, 0], epochs=5, batch_size=batch_size)
    assert_serves(model)


def test_a_training_that_grows_beyond_all_bounds_is_undone(spec_of):
    """Adagrad's sums of squares are past what a state may hold after two gradients of nearly the largest size."""
    optimizer = {"name": "adagrad", "learning_rate": 1e-30}
    model = OnlineModel(spec_of("regression", 1, layers=[], scaling="none", optimizer=optimizer))
    X, y = np.full((8, 1), 0.9e15), np.full(8, 0.4)
    before = model.to_bytes()
    assert len(model.fit(X, y, epochs=20, batch_size=1)) == 1
    assert load(model.to_bytes())["slots"].max() == load(before)["slots"].max()
    OnlineModel.from_bytes(model.to_bytes())
