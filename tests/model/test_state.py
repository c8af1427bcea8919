"""A model's state survives the round trip bit for bit, and nothing that does not fit is read."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from model.errors import StateError
from model.online import OnlineModel
from model.optimizer_spec import OPTIMIZER_DEFAULTS
from model.predictor import Predictor
from model.spec import COMBINATIONS, ModelSpec

LAYERS = st.lists(
    st.fixed_dictionaries(
        {
            "units": st.integers(2, 9),
            "activation": st.sampled_from(["relu", "tanh", "gelu"]),
            "dropout": st.sampled_from([0.0, 0.3]),
            "norm": st.sampled_from([{}, {"batch_norm": True}, {"layer_norm": True}]),
        }
    ).map(lambda layer: {name: value for name, value in layer.items() if name != "norm"} | layer["norm"]),
    max_size=3,
)


@st.composite
def specs(draw):
    task = draw(st.sampled_from(sorted(COMBINATIONS)))
    loss, output = draw(st.sampled_from(COMBINATIONS[task]))
    fields = {
        "task": task,
        "features": draw(st.integers(1, 4)),
        "layers": draw(LAYERS),
        "loss": loss,
        "output": output,
        "scaling": draw(st.sampled_from(["standard", "minmax", "none"])),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "optimizer": {
            "name": draw(st.sampled_from(sorted(OPTIMIZER_DEFAULTS))),
            "clip_norm": draw(st.sampled_from([None, 0.5])),
        },
    }
    if task == "multiclass":
        fields["classes"] = draw(st.sampled_from([2, 3, ["a", "b", "c"]]))
    if task == "regression":
        fields["targets"] = draw(st.integers(1, 3))
    return ModelSpec.model_validate(fields)


def some_rows(spec, rows, seed):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, spec.width)) * 10.0 ** generator.integers(-3, 4)
    X[generator.random(X.shape) < 0.1] = np.nan
    if spec.task == "regression":
        return X, generator.normal(size=(rows, spec.targets))
    return X, generator.integers(0, len(spec.classes), (rows, 1)).astype(np.float64)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), st.integers(0, 40), st.integers(0, 9))
def test_any_reachable_state_survives_the_round_trip(spec, rows, seed):
    model = OnlineModel(spec)
    X, y = some_rows(spec, rows, seed)
    model.learn(X, y)
    blob = model.to_bytes()
    copy = OnlineModel.from_bytes(blob)
    assert copy.to_bytes() == blob
    assert copy.spec == spec
    assert copy.step == rows
    assert copy.metrics() == model.metrics()
    more, labels = some_rows(spec, 5, seed + 1)
    assert copy.learn(more, labels).losses.tolist() == model.learn(more, labels).losses.tolist()
    assert copy.to_bytes() == model.to_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), st.integers(0, 20))
def test_a_predictor_says_what_its_model_says(spec, rows):
    model = OnlineModel(spec)
    X, y = some_rows(spec, rows, 1)
    model.learn(X, y)
    fresh, _ = some_rows(spec, 7, 2)
    assert (Predictor(spec, model.predictor_bytes()).predict(fresh) == model.predict(fresh)).all()


@pytest.fixture
def model(spec_of, rows_of):
    layers = [{"units": 4, "batch_norm": True}]
    model = OnlineModel(spec_of(layers=layers, optimizer={"name": "adam", "clip_norm": 20.0}))
    model.learn(*rows_of(model.spec, 30))
    return model


def test_a_predictor_does_not_change_when_its_model_learns(model, rows_of):
    X, y = rows_of(model.spec, 20)
    predictor = Predictor(model.spec, model.predictor_bytes())
    before = predictor.predict(X)
    model.learn(X, y)
    assert (predictor.predict(X) == before).all()
    assert (model.predict(X) != before).any()


def resaved(model, change):
    tensors = {name: values.copy() for name, values in load(model.to_bytes()).items()}
    change(tensors)
    return save(tensors, {"spec": model.spec.model_dump_json()})


CHANGES = {
    "missing": lambda tensors: tensors.pop("slots"),
    "unknown": lambda tensors: tensors.update(extra=np.zeros(3)),
    "shape": lambda tensors: tensors.update(parameters=tensors["parameters"][:-1]),
    "type": lambda tensors: tensors.update(parameters=tensors["parameters"].astype(np.float64)),
    "nan": lambda tensors: tensors["parameters"].fill(np.nan),
    "infinity": lambda tensors: tensors["scaling.inputs"].fill(np.inf),
    "huge": lambda tensors: tensors["slots"].fill(1e38),
    "negative": lambda tensors: tensors["counters"].fill(-1),
    "rate": lambda tensors: tensors["live"].fill(-1.0),
    "metrics": lambda tensors: tensors.pop("metrics.sums"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_state_that_does_not_fit_is_refused(change, model):
    with pytest.raises(StateError):
        OnlineModel.from_bytes(resaved(model, change))


@pytest.mark.parametrize(
    "blob",
    [b"", b"short", b"\x00" * 64, b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}", b"\x80\x04]\x94."],
)
def test_bytes_that_are_no_state_are_refused(blob, model):
    with pytest.raises(StateError):
        OnlineModel.from_bytes(blob)
    with pytest.raises(StateError):
        Predictor(model.spec, blob)


def test_a_truncated_state_is_refused(model):
    blob = model.to_bytes()
    for size in (10, 200, len(blob) // 2, len(blob) - 1):
        with pytest.raises(StateError):
            OnlineModel.from_bytes(blob[:size])


def test_a_state_with_a_bad_spec_is_refused(model):
    tensors = load(model.to_bytes())
    for spec in ("", "{}", json.dumps({"task": "binary", "features": 10**9})):
        with pytest.raises(StateError):
            OnlineModel.from_bytes(save(tensors, {"spec": spec}))


def test_a_predictor_of_another_spec_is_refused(model, spec_of):
    with pytest.raises(StateError):
        Predictor(spec_of(layers=[{"units": 5}]), model.predictor_bytes())


def test_the_first_byte_of_loaded_parameters_is_aligned(model):
    loaded = OnlineModel.from_bytes(model.to_bytes())
    assert loaded._arrays["parameters"].ctypes.data % 64 == 0


def test_adopting_takes_what_was_learned_and_keeps_the_score(model, rows_of):
    X, y = rows_of(model.spec, 200, 3)
    candidate = OnlineModel(model.spec)
    candidate.fit(X, y, epochs=5)
    model.set_learning_rate(0.25)
    score, step = model.metrics(), model.step
    model.adopt(candidate)
    assert (model.predict(X) == candidate.predict(X)).all()
    assert (model.metrics(), model.step, model.learning_rate) == (score, step, 0.25)
    candidate.set_learning_rate(0.25)
    candidate.learn(X, y)
    model.learn(X, y)
    for name, values in candidate.parameters.items():
        assert (model.parameters[name] == values).all()


def test_adopting_from_another_optimizer_resets_the_slots(model, spec_of, rows_of):
    X, y = rows_of(model.spec, 50)
    other = OnlineModel(
        spec_of(layers=[{"units": 4, "batch_norm": True}], optimizer={"name": "sgd", "momentum": 0.9})
    )
    other.learn(X, y)
    model.adopt(other)
    assert (model.predict(X) == other.predict(X)).all()
    assert (model._arrays["slots"] == 0).all()


def test_adopting_from_another_network_is_refused(model, spec_of):
    before = model.to_bytes()
    for other in (spec_of(layers=[]), spec_of("regression"), spec_of(scaling="none"), spec_of(features=6)):
        with pytest.raises(ValueError, match="differ"):
            model.adopt(OnlineModel(other))
    assert model.to_bytes() == before


def test_a_successor_inherits_metrics_and_step(model, spec_of):
    successor = OnlineModel(spec_of(layers=[{"units": 9}]))
    successor.inherit(model)
    its_own = dict.fromkeys(("members", "leader"))
    assert successor.metrics() | its_own == model.metrics() | its_own
    assert successor.step == model.step
    with pytest.raises(ValueError, match="differ"):
        OnlineModel(spec_of("regression")).inherit(model)


def test_live_settings_are_part_of_the_state(model):
    model.set_learning_rate(0.5)
    model.set_clip_norm(None)
    copy = OnlineModel.from_bytes(model.to_bytes())
    assert (copy.learning_rate, copy.clip_norm) == (0.5, None)
    model.set_clip_norm(2.0)
    assert model.clip_norm == 2.0


@pytest.mark.parametrize("rate", [-1.0, np.nan, np.inf, 1e7])
def test_a_bad_learning_rate_is_refused(rate, model):
    with pytest.raises(ValueError, match="learning rate"):
        model.set_learning_rate(rate)
    with pytest.raises(ValueError, match="clip norm"):
        model.set_clip_norm(rate)


def test_warming_up_changes_nothing(model):
    before = model.to_bytes()
    model.warm_up()
    assert model.to_bytes() == before


def test_predicting_does_not_import_the_compiler():
    code = (
        "import sys, numpy, model; spec = model.ModelSpec(task='binary', features=2);"
        "online = model.OnlineModel(spec); x = numpy.zeros((1, 2)); online.predict(x);"
        "model.Predictor(spec, online.predictor_bytes()).predict(x);"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
