"""Two states are equal, differ, or are not comparable because another build or processor computed them."""

import pytest

from model import OnlineModel, builds, compare_states, comparing
from model.builds import MOST_BUILDS, SEVERAL, continued, since


@pytest.fixture
def model(spec_of, rows_of):
    model = OnlineModel(spec_of(layers=[{"units": 3}]))
    model.learn(*rows_of(model.spec, 20))
    return model


@pytest.fixture
def on_another_machine(monkeypatch):
    """Makes this process believe that it runs on another processor."""

    def move():
        monkeypatch.setattr("model.online.this_build", lambda: "elsewhere")
        monkeypatch.setattr(comparing, "this_build", lambda: "elsewhere")

    return move


def test_a_replay_on_the_same_build_is_equal(model, spec_of, rows_of):
    replayed = OnlineModel(model.spec)
    replayed.learn(*rows_of(model.spec, 20))
    comparison = compare_states(model.to_bytes(), replayed.to_bytes())
    assert (comparison.difference, comparison.other_builds, comparison.comparable) == ("", (), True)


def test_states_that_have_learned_nothing_are_compared(spec_of):
    model = OnlineModel(spec_of(layers=[{"units": 3}]))
    model.set_learning_rate(0.5)
    comparison = compare_states(model.to_bytes(), OnlineModel.from_bytes(model.to_bytes()).to_bytes())
    assert (comparison.difference, comparison.other_builds) == ("", ())


def test_a_difference_is_named_by_array_and_place(model):
    stored = model.to_bytes()
    model.parameters["members.2.layers.0.weight"][0, 0] += 1
    comparison = compare_states(stored, model.to_bytes())
    assert comparison.difference.startswith("parameters[22] is stored as ")
    assert "1 of " in comparison.difference
    assert comparison.comparable


def test_a_difference_from_a_state_of_another_machine_is_not_comparable(model, on_another_machine):
    stored = model.to_bytes()
    model.parameters["members.2.layers.0.weight"][0, 0] += 1
    on_another_machine()
    comparison = compare_states(stored, model.to_bytes())
    assert comparison.difference
    assert not comparison.comparable
    assert comparison.other_builds == (builds.this_build(),)


def test_an_equal_state_of_another_machine_is_comparable(model, on_another_machine):
    stored = model.to_bytes()
    on_another_machine()
    comparison = compare_states(stored, model.to_bytes())
    assert comparison.equal
    assert comparison.comparable


def test_only_builds_that_computed_what_is_replayed_count(model, on_another_machine, rows_of):
    on_another_machine()
    model.learn(*rows_of(model.spec, 5))
    state = model.to_bytes()
    assert compare_states(state, state, after=0).other_builds == (builds.this_build(),)
    assert compare_states(state, state, after=20).other_builds == ()


def test_reading_a_state_elsewhere_leaves_its_builds_as_they_were(model, on_another_machine):
    stored = model.to_bytes()
    on_another_machine()
    assert OnlineModel.from_bytes(stored).to_bytes() == stored


def test_old_builds_are_merged():
    found = ()
    for step in range(100):
        found = continued(found, f"build {step}", step)
    assert len(found) == MOST_BUILDS
    assert found[0] == (SEVERAL, 0)
    assert found[-1] == ("build 99", 99)
    assert since(found, 98) == {"build 98", "build 99"}
    assert SEVERAL in since(found, 0)
