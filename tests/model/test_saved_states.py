"""States that version 0.1 wrote are read, and say what they said."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from model import OnlineModel, OptimizerSpec, StateError, compare_states

FOLDER = Path(__file__).parent / "states_0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def state_of(name):
    return gzip.decompress((FOLDER / f"{name}.safetensors.gz").read_bytes())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_state_of_version_0_1_says_what_it_said(name):
    expected = EXPECTED[name]
    model = OnlineModel.from_bytes(state_of(name))
    assert (model.step, model.learning_rate) == (expected["step"], expected["learning_rate"])
    assert model.metrics() == {**expected["metrics"], "members": [], "leader": None, "events": 0}
    rows = np.array(expected["rows"], np.float64)
    assert model.predict(rows) == pytest.approx(np.array(expected["predictions"]), rel=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_state_of_version_0_1_goes_on_learning_and_is_written_anew(name, rows_of):
    model = OnlineModel.from_bytes(state_of(name))
    rows, labels = rows_of(model.spec, 40)
    learned = model.learn(rows, labels)
    assert not learned.skipped.any()
    model.diagnostics()
    blob = model.to_bytes()
    assert OnlineModel.from_bytes(blob).to_bytes() == blob


def test_a_wide_state_of_version_0_1_has_a_sparse_first_layer_now_and_names_its_one_optimizer():
    spec = OnlineModel.from_bytes(state_of("wide_one_hot")).spec
    assert spec.sparse
    assert spec.optimizer == OptimizerSpec.model_validate({})


def test_a_state_of_version_0_1_is_equal_to_itself_in_the_present_format():
    old = state_of("binary_default")
    comparison = compare_states(old, OnlineModel.from_bytes(old).to_bytes())
    assert comparison.equal
    assert "0.1" in comparison.other_builds[0]


def overflown(name, tensor, value, place=-1):
    """A state as version 0.1 left it after an overflow."""
    tensors = {key: values.copy() for key, values in load(state_of(name)).items()}
    tensors[tensor].ravel()[place] = value
    return save(tensors, {"spec": OnlineModel.from_bytes(state_of(name)).spec.model_dump_json()})


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    ("name", "tensor"),
    [("binary_default", "monitor"), ("regression_sgd", "norm"), ("regression_sgd", "metrics.values")],
)
def test_a_state_of_version_0_1_with_statistics_that_overflowed_serves_again(name, tensor, value, rows_of):
    model = OnlineModel.from_bytes(overflown(name, tensor, value))
    rows, labels = rows_of(model.spec, 10)
    model.learn(rows, labels)
    assert np.isfinite(model.predict(rows)).all()
    json.dumps([model.metrics(), model.diagnostics()], allow_nan=False)
    OnlineModel.from_bytes(model.to_bytes())


def test_diagnostics_that_overflowed_are_said_to_be_reset():
    model = OnlineModel.from_bytes(overflown("binary_default", "monitor", np.inf))
    assert [finding["kind"] for finding in model.diagnostics()["findings"]] == ["diagnostics_reset"]


def test_a_state_of_a_later_format_is_refused():
    header = {"format": 99, "spec": "{}", "builds": []}
    blob = save(load(state_of("as_created")), {"freshet": json.dumps(header)})
    with pytest.raises(StateError, match="format 99"):
        OnlineModel.from_bytes(blob)
