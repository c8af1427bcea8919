"""What `OnlineModel` does beside learning: scores of served predictions, fit, weights in and out."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from model.errors import StateError
from model.online import OnlineModel


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_metrics_score_the_prediction_that_was_served(task, spec_of, rows_of):
    spec = spec_of(task)
    X, y = rows_of(spec, 60)
    plain, late, oracle = OnlineModel(spec), OnlineModel(spec), OnlineModel(spec)
    served = np.full((60, spec.outputs), np.nan)
    served[::2] = plain.learn(X, y).predictions[::2]
    late.learn(X, y, served=served)
    for path in ("total", "window"):
        assert late.metrics()[path]["loss"] == pytest.approx(plain.metrics()[path]["loss"], rel=0.2)
    best = y if task == "regression" else np.eye(len(spec.classes))[y[:, 0].astype(int)]
    oracle.learn(X, y, served=best[:, -spec.outputs :])
    name = "mae" if task == "regression" else "log_loss"
    assert oracle.metrics()["total"][name] == pytest.approx(0.0, abs=1e-6)
    assert plain.metrics()["total"][name] > 0.1
    for key, values in plain.parameters.items():
        assert (oracle.parameters[key] == values).all()


@pytest.mark.parametrize(("loss", "served"), [("hinge", 5.0), ("perceptron", 1.0)])
def test_served_margins_and_signs_are_scored(loss, served, spec_of, rows_of):
    spec = spec_of(loss=loss)
    X, _ = rows_of(spec, 10)
    model = OnlineModel(spec)
    model.learn(X, np.ones(10), served=np.full((10, 1), served))
    assert model.metrics()["total"]["accuracy"] == 1.0
    assert model.metrics()["total"]["loss"] == 0.0


def test_the_loss_of_a_served_class_is_its_log_loss(spec_of, rows_of):
    spec = spec_of("multiclass")
    X, _ = rows_of(spec, 4)
    model = OnlineModel(spec)
    model.learn(X, np.full(4, 2.0), served=np.tile([0.5, 0.3, 0.2], (4, 1)))
    assert model.metrics()["total"]["loss"] == pytest.approx(-np.log(0.2))


def test_fit_touches_neither_metrics_nor_step(spec_of, rows_of):
    spec = spec_of()
    X, y = rows_of(spec, 100)
    model = OnlineModel(spec)
    model.learn(X[:20], y[:20])
    before = model.metrics(), model.step
    losses = model.fit(X, y, epochs=20)
    assert (model.metrics(), model.step) == before
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fit_is_decided_by_its_seed(dropout, spec_of, rows_of):
    spec = spec_of(layers=[{"units": 8, "dropout": dropout}])
    X, y = rows_of(spec, 100)
    first, same, other = OnlineModel(spec), OnlineModel(spec), OnlineModel(spec)
    for model, seed in ((first, 1), (same, 1), (other, 2)):
        model.fit(X, y, epochs=2, seed=seed)
    assert first.to_bytes() == same.to_bytes()
    assert first.to_bytes() != other.to_bytes()


def test_fit_reports_every_epoch_and_stops_when_told(spec_of, rows_of):
    spec = spec_of()
    X, y = rows_of(spec, 50)
    seen = []

    def on_epoch(epoch, loss):
        seen.append((epoch, loss))
        return epoch < 2

    losses = OnlineModel(spec).fit(X, y, epochs=10, on_epoch=on_epoch)
    assert seen == list(enumerate(losses))
    assert len(losses) == 3


def test_a_weight_of_two_is_the_row_twice(spec_of, rows_of):
    optimizer = {"name": "sgd", "learning_rate": 0.1}
    spec = spec_of(scaling="none", optimizer=optimizer)
    X, y = rows_of(spec, 30)
    weighted, doubled = OnlineModel(spec), OnlineModel(spec)
    weighted.fit(X, y, weights=np.full(30, 2.0), epochs=3, batch_size=None)
    # Twice the rows, at the same mean: the weight doubles the step, as twice the learning rate does.
    doubled.set_learning_rate(0.2)
    doubled.fit(np.concatenate([X, X]), np.concatenate([y, y]), epochs=3, batch_size=None)
    for name, values in weighted.parameters.items():
        assert doubled.parameters[name] == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_fit_then_learn_scales_alike(spec_of, rows_of):
    spec = spec_of("regression")
    X, y = rows_of(spec, 500)
    model = OnlineModel(spec)
    model.fit(1e3 * X, 1e5 * y, epochs=20)
    before = model.predict(1e3 * X)
    assert np.abs(before - 1e5 * y).mean() < 0.4 * np.abs(1e5 * y).mean()
    assert model.learn(1e3 * X[:1], 1e5 * y[:1]).predictions == pytest.approx(before[:1], rel=1e-4)


def test_weights_go_out_and_in_by_name(spec_of, rows_of):
    spec = spec_of(layers=[{"units": 7, "batch_norm": True}, {"units": 3}])
    X, y = rows_of(spec, 50)
    teacher, pupil = OnlineModel(spec), OnlineModel(spec)
    teacher.learn(X, y)
    pupil.learn(X, y)
    pupil.learn(X, 1 - y)
    tensors = load(teacher.weights_to_bytes())
    assert tensors.keys() == teacher.parameters.keys()
    assert all((tensors[name] == values).all() for name, values in teacher.parameters.items())
    step, score = pupil.step, pupil.metrics()
    pupil.set_weights(teacher.weights_to_bytes())
    assert all((pupil.parameters[name] == values).all() for name, values in teacher.parameters.items())
    assert (pupil.step, pupil.metrics()) == (step, score)


WEIGHT, BIAS = "members.1.layers.0.weight", "members.1.layers.0.bias"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop(BIAS),
        lambda tensors: tensors.update(extra=np.zeros(1, np.float32)),
        lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].T.copy()}),
        lambda tensors: tensors.update({BIAS: tensors[BIAS].astype(np.float64)}),
        lambda tensors: tensors[BIAS].fill(np.nan),
    ],
    ids=["missing", "unknown", "shape", "type", "nan"],
)
def test_weights_that_do_not_fit_are_refused(change, spec_of):
    model = OnlineModel(spec_of(layers=[{"units": 7}]))
    tensors = {name: values.copy() for name, values in load(model.weights_to_bytes()).items()}
    change(tensors)
    before = model.to_bytes()
    with pytest.raises(StateError):
        model.set_weights(save(tensors))
    with pytest.raises(StateError):
        model.set_weights(b"no tensors")
    assert model.to_bytes() == before


def test_readonly_rows_can_be_learned(spec_of, rows_of):
    spec = spec_of()
    X, y = rows_of(spec, 10)
    model, other = OnlineModel(spec), OnlineModel(spec)
    weights = np.frombuffer(np.ones(10).tobytes())
    model.learn(
        np.frombuffer(X.tobytes()).reshape(X.shape), np.frombuffer(y.tobytes()).reshape(y.shape), weights
    )
    other.learn(X, y)
    assert model.to_bytes() == other.to_bytes()


def test_learning_no_rows_changes_nothing(spec_of):
    model = OnlineModel(spec_of())
    before = model.to_bytes()
    learned = model.learn(np.zeros((0, 5)), np.zeros((0, 1)))
    assert learned.predictions.shape == (0, 1)
    assert model.predict(np.zeros((0, 5))).shape == (0, 1)
    assert model.to_bytes() == before
