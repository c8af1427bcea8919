"""A committee of networks: its state, its weights by name, members that diverge, rows of every kind."""

import numpy as np
import pytest

from model import spec as spec_module
from model.members import FULL_UP_TO, THREE_UP_TO, TWO_UP_TO, auto_members
from model.online import OnlineModel
from model.predictor import Predictor
from model.spec import ModelSpec

TASKS = {
    "binary": {},
    "multiclass": {"task": "multiclass"},
    "regression": {"task": "regression", "targets": 2},
    "unscaled regression": {"task": "regression", "scaling": "none"},
    "hinge": {"loss": "hinge"},
    "perceptron": {"loss": "perceptron"},
    "squared": {"task": "multiclass", "loss": "mean_squared"},
    "absolute": {"task": "regression", "loss": "mean_absolute"},
    "no layers": {"layers": []},
    "eight layers": {"layers": [{"units": 6, "activation": "tanh"}] * 8},
    "dropout": {"layers": [{"units": 9, "dropout": 0.3}, {"units": 5, "batch_norm": True}]},
    "few units": {"layers": [{"units": 1}, {"units": 2}]},
    "batched": {"layers": [{"units": 64}, {"units": 40}]},
    "no drift": {"drift": {"detect": False}},
    "reset": {"drift": {"action": "reset"}},
}
SPARSE = [
    {"name": "amount"},
    {"name": "shop", "kind": "hash", "buckets": 500},
    {"name": "colour", "kind": "category", "values": ["red", "green"], "indicator": True},
]


def committee_spec(spec_of, **fields):
    return spec_of(**{"layers": [{"units": 8}, {"units": 6}], "optimizer": "auto", **fields})


def sparse_rows(rows, seed=0):
    generator = np.random.default_rng(seed)
    shops, colours = generator.integers(0, 500, rows), generator.integers(0, 3, rows).astype(np.float64)
    colours[generator.random(rows) < 0.2] = np.nan
    y = ((shops % 7 < 3) ^ (generator.random(rows) < 0.1)).astype(np.float64)[:, None]
    return np.column_stack([generator.normal(size=rows), shops, colours]), y


@pytest.mark.parametrize("fields", TASKS.values(), ids=TASKS)
def test_a_replay_from_any_snapshot_is_bit_identical(fields, spec_of, rows_of):
    spec = committee_spec(spec_of, **fields)
    X, y = rows_of(spec, 1300)
    X[::9, 1] = np.nan
    y[700:] = y[700:][::-1]
    model = OnlineModel(spec)
    snapshots = []
    for start, stop in [(0, 1), (1, 500), (500, 501), (501, 1013)]:
        model.learn(X[start:stop], y[start:stop])
        snapshots.append((stop, model.to_bytes()))
    model.learn(X[1013:], y[1013:])
    for place, snapshot in snapshots:
        replayed = OnlineModel.from_bytes(snapshot)
        replayed.learn(X[place:], y[place:])
        assert replayed.to_bytes() == model.to_bytes()


@pytest.mark.parametrize("fields", TASKS.values(), ids=TASKS)
def test_what_is_learned_was_predicted_alike(fields, spec_of, rows_of):
    spec = committee_spec(spec_of, **fields)
    X, y = rows_of(spec, 150)
    X[::7, 2] = np.nan
    model = OnlineModel(spec)
    for row in range(len(X)):
        one = slice(row, row + 1)
        before = Predictor(spec, model.predictor_bytes()).predict(X[one])
        learned = model.learn(X[one], y[one])
        assert learned.predictions == pytest.approx(before, rel=1e-4, abs=1e-5)
        assert not learned.skipped.any()


def test_a_sparse_first_layer_learns_what_a_dense_one_does(monkeypatch):
    optimizer = [member.model_dump() for member in auto_members(FULL_UP_TO, FULL_UP_TO)]
    fields = {"task": "binary", "features": SPARSE, "layers": [{"units": 8}], "optimizer": optimizer}
    X, y = sparse_rows(600)
    predictions = []
    for keep, least in ((1000, 64), (1001, 10**9)):  # specs that differ: layouts are remembered by spec
        monkeypatch.setattr(spec_module, "SPARSE_INPUTS", least)
        model = OnlineModel(ModelSpec.model_validate({**fields, "keep": keep}))
        assert model.spec.sparse == (least == 64)
        predictions.append(np.concatenate([model.learn(X, y).predictions, model.predict(X)]))
    assert predictions[0] == pytest.approx(predictions[1], rel=0.05, abs=0.02)


def test_a_sparse_model_survives_snapshots_fits_and_weights():
    fields = {
        "task": "binary",
        "features": SPARSE,
        "layers": [{"units": 8}, {"units": 6}],
        "optimizer": "auto",
    }
    model = OnlineModel(ModelSpec.model_validate(fields))
    X, y = sparse_rows(900)
    model.learn(X[:300], y[:300])
    copy = OnlineModel.from_bytes(model.to_bytes())
    for each in (model, copy):
        each.learn(X[300:600], y[300:600])
        each.fit(X[:600], y[:600], epochs=2)
        each.learn(X[600:], y[600:])
    assert copy.to_bytes() == model.to_bytes()
    other = OnlineModel(model.spec)
    other.adopt(model)
    assert other.predict(X) == pytest.approx(model.predict(X), abs=1e-6)
    other.set_weights(model.weights_to_bytes())
    assert other.learn(X, y).losses.mean() < 0.6


def test_auto_is_chosen_by_the_cost_of_a_step_and_the_size_of_a_network():
    full, batched = auto_members(FULL_UP_TO, FULL_UP_TO), auto_members(FULL_UP_TO + 1, FULL_UP_TO + 1)
    assert len(full) == len(batched) == 3
    assert not any(member.rehearse and member.rehearse.batched for member in full)
    assert all(member.rehearse is None or member.rehearse.batched for member in batched)
    assert len(auto_members(THREE_UP_TO, THREE_UP_TO)) == 3
    assert len(auto_members(FULL_UP_TO, THREE_UP_TO + 1)) == 2
    assert len(auto_members(FULL_UP_TO, TWO_UP_TO)) == 2
    (one,) = auto_members(FULL_UP_TO, TWO_UP_TO + 1)
    assert not (one.average)
    assert not (one.rehearse)


def test_the_state_of_wide_rows_is_bounded(spec_of):
    spec = spec_of(features=20_000, layers=[{"units": 2}], optimizer="auto")
    window = OnlineModel(spec)._arrays["window"]
    assert window.nbytes <= 4 * 2**20


def test_a_list_of_one_member_is_that_network(spec_of, rows_of):
    X, y = rows_of(spec_of(), 300)
    optimizer = {"name": "sgd", "learning_rate": 0.1}
    one, listed = OnlineModel(spec_of(optimizer=optimizer)), OnlineModel(spec_of(optimizer=[optimizer]))
    assert (one.learn(X, y).predictions == listed.learn(X, y).predictions).all()
    assert list(listed.parameters) == list(one.parameters)


def test_weights_are_named_by_member(spec_of, rows_of):
    model = OnlineModel(committee_spec(spec_of))
    X, y = rows_of(model.spec, 400)
    assert "members.1.layers.0.weight" in model.parameters
    assert "members.3.layers.2.bias" in model.parameters
    model.learn(X, y)
    blob = model.weights_to_bytes()
    fresh = OnlineModel(model.spec)
    fresh.set_weights(blob)
    for name, values in model.parameters.items():
        assert (fresh.parameters[name] == values).all()


def test_changing_the_learning_rate_scales_all_members(spec_of):
    model = OnlineModel(committee_spec(spec_of))
    before = model._arrays["live"][:, 0].copy()
    model.set_learning_rate(model.learning_rate / 4)
    assert model._arrays["live"][:, 0] == pytest.approx(before / 4)
    model.set_clip_norm(3.0)
    assert (model._arrays["live"][:, 1] == 3.0).all()


def test_adopting_and_fitting_train_every_member(spec_of, rows_of):
    model = OnlineModel(committee_spec(spec_of))
    X, y = rows_of(model.spec, 500)
    losses = model.fit(X, y, epochs=3)
    assert losses[-1] < losses[0]
    other = OnlineModel(model.spec)
    other.adopt(model)
    assert (other.predict(X) == model.predict(X)).all()
    trained = OnlineModel(
        model.spec.with_optimizer(
            ModelSpec.model_validate(
                {"task": "binary", "features": 2, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
            ).optimizer
        )
    )
    trained.adopt(model)
    trained.fit(X, y)
    other.adopt(trained)
    assert (other.predict(X) == trained.predict(X)).all()


def test_a_committee_does_not_adopt_a_single_network(spec_of):
    model = OnlineModel(committee_spec(spec_of))
    single = OnlineModel(committee_spec(spec_of, optimizer={}))
    with pytest.raises(ValueError, match="members"):
        model.adopt(single)


WILD = [{"learning_rate": 0.01}, {"name": "sgd", "learning_rate": 1e6, "clip_norm": None}]


def test_a_member_that_diverges_starts_anew_as_the_leader(spec_of, rows_of):
    spec = spec_of("regression", layers=[{"units": 6}], optimizer=WILD, initializer="he")
    X, y = rows_of(spec, 600)
    model = OnlineModel(spec)
    learned = model.learn(X, y)
    assert not learned.skipped.any()
    assert np.isfinite(learned.predictions).all()
    diagnostics = model.diagnostics()
    assert diagnostics["members"][1]["restarts"] > 0
    assert any(event["kind"] == "restart" for event in diagnostics["drift"]["events"])
    assert learned.losses[300:].mean() < 1.0


def test_a_row_that_no_member_can_learn_is_skipped_and_changes_nothing(spec_of, rows_of):
    model = OnlineModel(committee_spec(spec_of))
    X, y = rows_of(model.spec, 100)
    model.learn(X, y)
    arrays = {name: values.copy() for name, values in model._arrays.items()}
    learned = model.learn(X[:1], np.array([[7.0]]))
    assert learned.skipped.all()
    for name, values in arrays.items():
        if name != "counters":
            assert np.array_equal(values, model._arrays[name], equal_nan=True), name


def test_rows_of_no_weight_move_no_weight_of_the_mixture(spec_of, rows_of):
    model = OnlineModel(committee_spec(spec_of))
    X, y = rows_of(model.spec, 200)
    model.learn(X, y)
    shares = model._arrays["mixture"][8 : 8 + model.spec.networks].copy()
    model.learn(X[:1], 1 - y[:1], np.zeros(1))
    after = model._arrays["mixture"][8 : 8 + model.spec.networks]
    assert after == pytest.approx(0.99 * shares + 0.01 / model.spec.networks)


def test_one_positive_in_a_thousand_is_told_from_the_others(spec_of):
    generator = np.random.default_rng(1)
    X = generator.normal(size=(20_000, 5))
    y = (generator.random(20_000) < 0.001).astype(np.float64)
    X[y == 1, 0] += 4.0
    for class_weights in (None, [1.0, 1000.0]):
        fields = {"layers": [{"units": 8}, {"units": 6}], "class_weights": class_weights}
        one, committee = (
            OnlineModel(spec_of(**fields, optimizer={})),
            OnlineModel(spec_of(**fields, optimizer="auto")),
        )
        for model in (one, committee):
            model.learn(X, y)
        scores, rival = committee.metrics()["total"], one.metrics()["total"]
        assert scores["roc_auc"] > rival["roc_auc"]
        if class_weights is None:
            assert scores["log_loss"] < min(rival["log_loss"], scores["baselines"]["majority"]["log_loss"])


def test_labels_in_bursts_by_class_do_no_lasting_harm(spec_of, rows_of):
    spec = committee_spec(spec_of)
    X, y = rows_of(spec, 4000)
    order = np.concatenate([part[np.argsort(y[part, 0])] for part in np.split(np.arange(4000), 80)])
    model = OnlineModel(spec)
    losses = model.learn(X[order], y[order]).losses
    assert losses[2000:].mean() < np.log(2)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_committee_follows_drift_better_than_one_network(task, spec_of, rows_of):
    spec = spec_of(task, optimizer="auto")
    X, y = rows_of(spec, 4000)
    for start in (1000, 2000, 3000):
        X[start : start + 1000] = np.roll(X[start : start + 1000], start // 1000, axis=1)
    one, committee = OnlineModel(spec_of(task, optimizer={})), OnlineModel(spec)
    assert committee.learn(X, y).losses.mean() < 0.9 * one.learn(X, y).losses.mean()


def test_members_are_told_in_words(spec_of, rows_of):
    model = OnlineModel(committee_spec(spec_of))
    model.learn(*rows_of(model.spec, 800))
    diagnostics = model.diagnostics()
    assert sum(member["weight"] for member in diagnostics["members"]) == pytest.approx(1.0)
    assert diagnostics["members"][1]["optimizer"] == "Adam 0.01 with layer norm and rehearsal"
    assert "leads since step" in diagnostics["leader"]["detail"]
