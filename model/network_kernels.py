# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: what a committee predicts for a row, while it learns and while it only predicts."""

from model import program
from model.compiled import inner
from model.layer_kernels import U, forward
from model.mixing_kernels import forecast, mix
from model.scaling_kernels import expand, expand_sparse, scale
from model.score_kernels import make_finite, predict


@inner
def enter(layers, codes, plan, inputs, row, scaled, work, active):
    """Write the network's inputs for a raw row, by way of its scaled columns at scaled[:]."""
    width, place = U(scaled.shape[0]), U(layers[0, program.VALUE])
    scale(codes[program.SCALING], inputs, row, width, scaled, U(0))
    if layers[0, program.SPARSE] > 0:
        expand_sparse(plan, row, scaled, U(0), work, place, active)
    else:
        expand(plan, row, scaled, U(0), work, place, U(layers[0, program.INPUTS]))


@inner
def owner_of(codes, network):
    """The member that a network is, or whose twin it is."""
    owner = network if network < codes.shape[0] else 0
    for number in range(codes.shape[0]):
        owner = number if codes[number, program.TWIN] == network else owner
    return owner


@inner
def predict_entered(layers, codes, networks, norm, targets, mixture, work, active, forecasts, prediction):
    """Write the prediction for the row that was entered into work[0].

    Each member's forward pass is left in its row of `work`; the mixture's scores in the last row, or in the only one.
    """
    members, count, last = layers.shape[0], networks.shape[0], layers.shape[1] - 1
    z, outputs = U(layers[0, last, program.VALUE]), U(layers[0, last, program.INPUTS])
    place, kind = U(layers[0, 0, program.VALUE]), codes[0, program.MIXING]
    size = U(active[0] if layers[0, 0, program.SPARSE] > 0 else layers[0, 0, program.INPUTS])
    for n in range(count):
        number, own = owner_of(codes, n), work[min(n, members)]
        if 0 < n <= members:
            for i in range(size):
                own[place + i] = work[0, place + i]
        forward(layers[number], networks[n], norm[number], own, active, 0, 0, False)
        make_finite(own, z, outputs)
        if count > 1:
            forecast(kind, mixture, own, z, outputs, count, n, forecasts)
    if count > 1:
        mix(kind, mixture, forecasts, count, work[members], z, outputs)
    predict(codes[0], targets, work[members if count > 1 else 0], z, outputs, prediction)
