"""The package's names are its whole interface, and copies of a model go by its bytes."""

import ast
import copy
import pickle
from pathlib import Path

import pytest

import model as package
from model import OnlineModel, StateError

ROOT = Path(package.__file__).parent.parent


def test_all_names_are_there_and_sorted():
    assert all(hasattr(package, name) for name in package.__all__)
    public = {
        name for name, value in vars(package).items() if getattr(value, "__module__", "").startswith("model.")
    }
    assert public <= set(package.__all__)


def imported(path):
    """The modules of the package, other than itself, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "service").rglob("*.py")), ids=lambda path: path.stem)
def test_the_service_imports_nothing_from_inner_modules(path):
    assert [name for name in imported(path) if name.startswith("model.")] == []


def test_every_public_name_says_what_it_is():
    documented = [name for name in package.__all__ if callable(getattr(package, name))]
    assert [name for name in documented if not (getattr(package, name).__doc__ or "").strip()] == []


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],  # noqa: S301
)
def test_a_copy_is_equal_and_independent(duplicate, spec_of, rows_of):
    model = OnlineModel(spec_of(layers=[{"units": 4, "dropout": 0.3}]))
    X, y = rows_of(model.spec, 40)
    model.learn(X, y)
    model.set_learning_rate(0.01)
    twin = duplicate(model)
    state = model.to_bytes()
    assert twin.to_bytes() == state
    twin.learn(X, y)
    assert model.to_bytes() == state
    model.learn(X, y)
    assert model.to_bytes() == twin.to_bytes()


def test_uploaded_weights_reset_the_optimizer(spec_of, rows_of):
    """Slots and bias corrections belong to the weights that they were made with."""
    model, fresh = (OnlineModel(spec_of(optimizer={"name": "adam"}, scaling="none")) for _ in range(2))
    X, y = rows_of(model.spec, 100)
    model.learn(X, y)
    weights = model.weights_to_bytes()
    for each in (model, fresh):
        each.set_weights(weights)
        each.learn(X[:10], y[:10])
    assert model.weights_to_bytes() == fresh.weights_to_bytes()


def test_weights_beyond_what_a_step_can_reach_are_refused(spec_of):
    model = OnlineModel(spec_of())
    model.parameters["members.1.layers.0.bias"][0] = 1e31
    with pytest.raises(StateError, match="beyond 1e\\+30"):
        model.set_weights(model.weights_to_bytes())
