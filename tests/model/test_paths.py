"""The online path equals the batch path row by row, and depends on the rows and their order only."""

import numpy as np
import pytest
from numba.core.runtime import _nrt_python

from model import dropout
from model.activations import ACTIVATIONS
from model.online import OnlineModel
from model.spec import COMBINATIONS, Scaling

ROWS = 40
TASKS = [(task, *pair) for task, pairs in COMBINATIONS.items() for pair in pairs]
OPTIMIZERS = {
    "sgd": {"name": "sgd", "learning_rate": 0.05},
    "momentum": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9, "dampening": 0.1},
    "nesterov": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9, "nesterov": True},
    "penalised": {"name": "sgd", "learning_rate": 0.05, "l1": 0.01, "l2": 0.02, "weight_decay": 0.03},
    "rmsprop": {"name": "rmsprop", "learning_rate": 0.001},
    "rmsprop_full": {
        "name": "rmsprop",
        "learning_rate": 0.0003,
        "momentum": 0.9,
        "centered": True,
        "weight_decay": 0.01,
    },
    "adam": {"name": "adam", "learning_rate": 0.005, "l2": 0.01},
    "adamw": {"name": "adamw", "learning_rate": 0.005, "l1": 0.001},
    "adagrad": {"name": "adagrad", "learning_rate": 0.05, "lr_decay": 0.01},
    "clipped": {"name": "sgd", "learning_rate": 0.1, "clip_norm": 0.5},
    "scheduled": {
        "name": "sgd",
        "learning_rate": 0.1,
        "schedule": {"name": "inverse_time", "decay": 0.1, "warm_up": 10},
    },
}
LAYERS = {
    "none": [],
    "one": [{"units": 7}],
    "narrowing and widening": [{"units": 9}, {"units": 3}, {"units": 6}],
    "batch_norm": [{"units": 6, "batch_norm": True}, {"units": 4, "batch_norm": True, "activation": "tanh"}],
    "layer_norm": [{"units": 6, "layer_norm": True}, {"units": 4, "layer_norm": True, "activation": "tanh"}],
    "dropout": [{"units": 8, "dropout": 0.4}, {"units": 5, "dropout": 0.2}],
}


def assert_same_parameters(online, batch, tolerance=1e-5):
    for name, values in online.parameters.items():
        assert values == pytest.approx(batch.parameters[name], rel=tolerance, abs=tolerance), name


def learn_both_ways(spec, X, y, weights=None):
    online, batch = OnlineModel(spec), OnlineModel(spec)
    for row in range(len(X)):
        one = slice(row, row + 1)
        before = batch.predict(X[one])
        given = None if weights is None else weights[one]
        learned = online.learn(X[one], y[one], given)
        assert learned.predictions == pytest.approx(before, rel=1e-4, abs=1e-5)
        losses = batch.fit(X[one], y[one], weights=given, batch_size=1)
        if weights is None and not spec.class_weights and not any(layer.dropout for layer in spec.layers):
            assert learned.losses == pytest.approx(losses, rel=1e-4, abs=1e-5)
        assert not learned.skipped.any()
    return online, batch


@pytest.mark.parametrize(("task", "loss", "output"), TASKS)
def test_both_paths_agree_on_every_loss(task, loss, output, spec_of, rows_of):
    extra = {"targets": 3} if task == "regression" else {}
    spec = spec_of(
        task,
        loss=loss,
        output=output,
        scaling="none",
        layers=[{"units": 6, "activation": "tanh"}],
        initializer="glorot",
        optimizer=OPTIMIZERS["sgd"],
        **extra,
    )
    assert_same_parameters(*learn_both_ways(spec, *rows_of(spec, ROWS)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_both_paths_agree_on_every_activation(activation, spec_of, rows_of):
    layers = [{"units": 6, "activation": activation}, {"units": 20, "activation": activation}]
    spec = spec_of(scaling="none", layers=layers, initializer="lecun", optimizer=OPTIMIZERS["sgd"])
    assert_same_parameters(*learn_both_ways(spec, *rows_of(spec, ROWS)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_both_paths_agree_on_every_optimizer(optimizer, spec_of, rows_of):
    layers = [{"units": 6, "activation": "silu"}]
    spec = spec_of(scaling="none", layers=layers, initializer="lecun", optimizer=optimizer)
    assert_same_parameters(*learn_both_ways(spec, *rows_of(spec, ROWS)), tolerance=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_both_paths_agree_on_every_kind_of_layer(layers, bias, spec_of, rows_of):
    spec = spec_of(
        "multiclass",
        scaling="none",
        layers=layers,
        bias=bias,
        initializer="he",
        optimizer=OPTIMIZERS["sgd"],
        seed=5,
    )
    online, batch = learn_both_ways(spec, *rows_of(spec, ROWS))
    assert_same_parameters(online, batch)


def test_both_paths_agree_on_weights(spec_of, rows_of):
    spec = spec_of("multiclass", scaling="none", class_weights=[0.5, 2.0, 1.0], optimizer=OPTIMIZERS["sgd"])
    weights = np.random.default_rng(1).uniform(0.0, 3.0, ROWS)
    assert_same_parameters(*learn_both_ways(spec, *rows_of(spec, ROWS), weights))


@pytest.mark.parametrize("scaling", Scaling.__args__)
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_what_learn_predicts_is_what_predict_says_before(task, scaling, spec_of, rows_of):
    spec = spec_of(task, scaling=scaling)
    X, y = rows_of(spec, 300)
    X[::7, 2] = np.nan
    X[5, 1] = 1e6
    model = OnlineModel(spec)
    for row in range(len(X)):
        before = model.predict(X[row : row + 1])
        assert model.learn(X[row : row + 1], y[row : row + 1]).predictions == pytest.approx(
            before, rel=1e-5, abs=2e-6
        )


FEATURES = [
    {"name": "amount"},
    {"name": "vip", "kind": "boolean", "indicator": True},
    {"name": "colour", "kind": "category", "values": ["red", "green"], "indicator": True},
    {"name": "shop", "kind": "hash", "buckets": 5},
]


def test_both_paths_expand_features_alike(spec_of):
    spec = spec_of(features=FEATURES, scaling="minmax")
    generator = np.random.default_rng(2)
    X = np.column_stack(
        [generator.normal(size=80), *(generator.integers(0, top, 80) for top in (2, 3, 5))]
    ).astype(np.float64)
    X[generator.random(X.shape) < 0.2] = np.nan
    y = generator.integers(0, 2, 80).astype(np.float64)
    model = OnlineModel(spec)
    for row in range(len(X)):
        before = model.predict(X[row : row + 1])
        assert model.learn(X[row : row + 1], y[row : row + 1]).predictions == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("scaling", Scaling.__args__)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_cutting_rows_into_blocks_makes_no_difference(optimizer, scaling, spec_of, rows_of):
    spec = spec_of("regression", targets=2, scaling=scaling, layers=LAYERS["dropout"], optimizer=optimizer)
    X, y = rows_of(spec, 400)
    whole, cut = OnlineModel(spec), OnlineModel(spec)
    whole.learn(X, y)
    for start, stop in [(0, 1), (1, 130), (130, 131), (131, 400)]:
        cut.learn(X[start:stop], y[start:stop])
    assert cut.to_bytes() == whole.to_bytes()


def test_a_replay_from_a_saved_state_is_bit_identical(spec_of, rows_of):
    layers = [{"units": 9, "dropout": 0.3, "batch_norm": True}, {"units": 17, "activation": "gelu"}]
    spec = spec_of("multiclass", layers=layers)
    X, y = rows_of(spec, 500)
    model = OnlineModel(spec)
    model.learn(X[:200], y[:200])
    replayed = OnlineModel.from_bytes(model.to_bytes())
    model.learn(X[200:], y[200:])
    replayed.learn(X[200:], y[200:])
    assert replayed.to_bytes() == model.to_bytes()


def test_a_step_allocates_no_memory(spec_of, rows_of):
    layers = [{"units": 9, "dropout": 0.3, "batch_norm": True}, {"units": 17, "activation": "gelu"}]
    spec = spec_of("multiclass", layers=layers, scaling="minmax", optimizer={"name": "adamw", "l1": 0.1})
    X, y = rows_of(spec, 1000)
    model = OnlineModel(spec)
    model.learn(X[:1], y[:1])
    counts = []
    _nrt_python.memsys_enable_stats()
    for rows in (1, 1000):
        before = _nrt_python.memsys_get_stats_alloc()
        model.learn(X[:rows], y[:rows])
        counts.append(_nrt_python.memsys_get_stats_alloc() - before)
    _nrt_python.memsys_disable_stats()
    assert counts[0] == counts[1]


def test_dropout_leaves_out_the_share_that_is_asked_for():
    mask = dropout.mask(7, 11, 0, (500, 100), 0.3)
    assert (mask == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert mask.mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("changed", [(8, 11, 0), (7, 12, 0), (7, 11, 1)])
def test_dropout_differs_by_seed_position_and_layer(changed):
    shares = dropout.mask(7, 11, 0, (50, 100), 0.5) == dropout.mask(*changed, (50, 100), 0.5)
    assert shares.mean() == pytest.approx(0.5, abs=0.05)


def test_predicting_uses_no_dropout(spec_of, rows_of):
    spec = spec_of(layers=[{"units": 8, "dropout": 0.5}])
    X, y = rows_of(spec, 50)
    model = OnlineModel(spec)
    model.learn(X, y)
    assert (model.predict(X) == model.predict(X)).all()
