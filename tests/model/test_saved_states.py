"""States that version 0.1 wrote are read, and say what they said."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from model import OnlineModel, compare_states

FOLDER = Path(__file__).parent / "states_0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def state_of(name):
    return gzip.decompress((FOLDER / f"{name}.safetensors.gz").read_bytes())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_state_of_version_0_1_says_what_it_said(name):
    expected = EXPECTED[name]
    model = OnlineModel.from_bytes(state_of(name))
    assert (model.step, model.learning_rate) == (expected["step"], expected["learning_rate"])
    assert model.metrics() == expected["metrics"]
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


def test_a_state_of_version_0_1_is_equal_to_itself_in_the_present_format():
    old = state_of("binary_default")
    comparison = compare_states(old, OnlineModel.from_bytes(old).to_bytes())
    assert comparison.equal
    assert "0.1" in comparison.other_builds[0]
