"""The gradients of the batch path against finite differences, in float64, over all registries."""

import numpy as np
import pytest

from model.activations import ACTIVATIONS
from model.losses import LOSSES, OUTPUTS
from model.network import Network, new_norm
from model.parameters import layout_of

ROWS = 7
STEP = 1e-6
LAYER_KINDS = {
    "dense": {},
    "dropout": {"dropout": 0.3},
    "batch_norm": {"batch_norm": True},
    "batch_norm_and_dropout": {"batch_norm": True, "dropout": 0.3},
    "layer_norm": {"layer_norm": True},
    "layer_norm_and_dropout": {"layer_norm": True, "dropout": 0.3},
}
REGIMES = {"single rows": False, "batches": True}


def labels_for(loss, outputs, generator):
    if loss[0] in ("mean_squared", "mean_absolute", "huber") and loss[1] == "linear":
        return generator.normal(size=(ROWS, outputs)) * 2
    return generator.integers(0, max(outputs, 2), (ROWS, 1)).astype(np.float64)


def outputs_of(loss):
    several = loss[0].startswith("multi") or loss[1] == "softmax"
    return 3 if several else 1


def numeric_gradient(function, x):
    gradient = np.zeros_like(x)
    for place in range(x.size):
        saved = x.flat[place]
        x.flat[place] = saved + STEP
        above = function()
        x.flat[place] = saved - STEP
        gradient.flat[place] = (above - function()) / (2 * STEP)
        x.flat[place] = saved
    return gradient


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_is_the_derivative_of_the_activation(name):
    activation = ACTIVATIONS[name]
    z = np.array([-30.0, -3.1, -1.0, -0.2, 0.3, 1.0, 2.7, 30.0])
    numeric = (activation.value(z + STEP) - activation.value(z - STEP)) / (2 * STEP)
    assert activation.slope(z, activation.value(z)) == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids="-".join)
def test_gradient_of_the_scores_matches_finite_differences(loss):
    generator = np.random.default_rng(3)
    outputs = outputs_of(loss)
    z, y = generator.normal(size=(ROWS, outputs)), labels_for(loss, outputs, generator)
    numeric = numeric_gradient(lambda: LOSSES[loss].value(z, y).sum(), z)
    assert LOSSES[loss].gradient(z, y) == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss[1] == "linear" and loss[0] != "hinge"])
def test_gradient_of_several_targets_matches_finite_differences(loss):
    generator = np.random.default_rng(4)
    z, y = generator.normal(size=(ROWS, 3)), labels_for(loss, 3, generator)
    numeric = numeric_gradient(lambda: LOSSES[loss].value(z, y).sum(), z)
    assert LOSSES[loss].gradient(z, y) == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("by_batch", REGIMES.values(), ids=REGIMES)
@pytest.mark.parametrize("kind", LAYER_KINDS.values(), ids=LAYER_KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES, ids="-".join)
def test_gradient_of_the_parameters_matches_finite_differences(loss, activation, kind, by_batch, spec_of):
    generator = np.random.default_rng(5)
    layers = [{"units": 4, "activation": activation, **kind}, {"units": 3, "activation": activation, **kind}]
    outputs = outputs_of(loss)
    layout = layout_of(
        spec_of("multiclass" if outputs > 1 else "binary", 3, layers=layers, classes=max(outputs, 2))
    )
    parameters = generator.normal(size=layout.size)
    norm = np.stack(
        [generator.normal(size=layout.norm_units), generator.uniform(0.5, 2.0, layout.norm_units)]
    )
    network = Network(layout, parameters, norm)
    X, y = generator.normal(size=(ROWS, 3)), labels_for(loss, outputs, generator)

    def total():
        scores, _ = network.forward(X, seed=1, position=2, by_batch=by_batch)
        return LOSSES[loss].value(scores, y).sum()

    scores, traces = network.forward(X, seed=1, position=2, by_batch=by_batch)
    gradient = np.zeros(layout.size)
    network.backward(traces, LOSSES[loss].gradient(scores, y), gradient)
    numeric = numeric_gradient(total, parameters)
    assert gradient == pytest.approx(numeric, abs=2e-4 * max(1.0, np.abs(numeric).max()))


def test_every_output_has_a_loss():
    assert {output for _, output in LOSSES} == set(OUTPUTS)


def test_new_statistics_leave_values_as_they_are(spec_of):
    layout = layout_of(spec_of(layers=[{"units": 4, "batch_norm": True}]))
    mean, variance = new_norm(layout)
    assert (mean == 0).all()
    assert (variance == 1).all()
