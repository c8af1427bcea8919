"""How rows are grouped into calls of `learn` changes nothing: neither the state nor the scores."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import ModelSpec, OnlineModel
from model.spec import COMBINATIONS

CASES = [
    (task, loss, scaling)
    for task, pairs in COMBINATIONS.items()
    for loss, _ in pairs
    for scaling in ("standard", "none")
]


def spec_of_case(task, loss, scaling):
    fields = {"task": task, "features": 3, "layers": [{"units": 4, "dropout": 0.2, "batch_norm": True}]}
    fields |= {"loss": loss, "scaling": scaling}
    if task == "multiclass":
        fields["classes"] = 3
    if task == "regression":
        fields["targets"] = 2
    return ModelSpec.model_validate(fields)


def observations(spec, rows, seed):
    """Rows, labels, weights and served predictions of which half are missing; now and then a label that is skipped."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, spec.width))
    if spec.task == "regression":
        y = np.round(generator.normal(size=(rows, spec.targets)), generator.integers(0, 3))
        y[generator.random(rows) < 0.1] = 1e300
        served = y + generator.normal(size=y.shape)
    else:
        y = generator.integers(0, len(spec.classes), (rows, 1)).astype(np.float64)
        served = generator.dirichlet(np.ones(spec.outputs + 1), rows)[:, : spec.outputs]
    served[generator.random(rows) < 0.5] = np.nan
    return X, y, generator.exponential(size=rows), served


@pytest.mark.parametrize(("task", "loss", "scaling"), CASES)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_any_grouping_of_the_same_rows_gives_the_same_bytes(task, loss, scaling, seed, sizes):
    spec = spec_of_case(task, loss, scaling)
    parts = observations(spec, sum(sizes), seed)
    at_once, grouped, singly = OnlineModel(spec), OnlineModel(spec), OnlineModel(spec)
    losses = at_once.learn(*parts).losses
    bounds = np.cumsum([0, *sizes])
    for start, end in pairwise(bounds):
        learned = grouped.learn(*(part[start:end] for part in parts))
        assert learned.losses.tolist() == losses[start:end].tolist()
    for row in range(sum(sizes)):
        singly.learn(*(part[row : row + 1] for part in parts))
    assert at_once.to_bytes() == grouped.to_bytes() == singly.to_bytes()


def late(model, label, served):
    model.learn(np.zeros((1, 5)), np.array([float(label)]), served=np.array([[float(served)]]))
    return model.metrics()["total"]["loss"]


def test_a_late_label_is_scored_by_what_was_known_when_it_came(spec_of):
    """Labels −1 and 1, then 1 served as 0: one deviation off, whatever huge labels follow in the same block."""
    model = OnlineModel(spec_of("regression", layers=[]))
    y = np.array([-1.0, 1.0] * 50 + [1e6, -1e6] * 10)
    served = np.full((120, 1), np.nan)
    served[99] = 0.0
    with_served, without = OnlineModel(model.spec), OnlineModel(model.spec)
    with_served.learn(np.zeros((120, 5)), y, served=served)
    own = without.learn(np.zeros((120, 5)), y).losses[99]
    totals = [each.metrics()["total"]["loss"] * 120 for each in (with_served, without)]
    assert totals[0] - totals[1] == pytest.approx(1.0 - own, rel=0.05)


@pytest.mark.parametrize("served", [0.0, 7.0, 1e300])
def test_the_first_late_labels_have_losses_of_at_most_a_hundred(served, spec_of):
    model = OnlineModel(spec_of("regression"))
    assert late(model, 7.0, served) == 0.0
    assert late(model, 7.0, served) == (0.0 if served == 7.0 else 50.0)
    assert late(model, 7.1, served) <= 100.0


def test_a_late_label_that_was_predicted_exactly_has_no_loss(spec_of):
    model = OnlineModel(spec_of("regression"))
    for label in (3.0, 3.0, 8.0, -1e9, 5e-3):
        assert late(model, label, label) == pytest.approx(0.0, abs=1e-12)
