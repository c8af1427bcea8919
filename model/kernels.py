# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The online path: a compiled loop that takes rows one after the other.

For each row every network predicts, and the mixture of what they predict is served and scored. Then every member
learns, by one step of its optimizer, and rehearses; then the weights of the mixture move. One network alone is a
committee of one: its prediction is the mixture.

For one row the gradient of a layer's weights is the outer product of two vectors, so it is never written down: norms
come from the vectors, and each step reads them. No memory is allocated.

Nothing is changed before it is known that a step leaves everything finite. A row that no member can learn is skipped;
a member that cannot learn a row that others can starts anew as a copy of the best of them.
"""

from typing import Any

import numpy as np
from numba import boolean, float32, float64, int64, types

from model import program
from model.committee_kernels import error_of, look_for_drift, remember, restart_members
from model.compiled import UNCOUNTED, compiled, inlined, sources_of
from model.layer_kernels import U
from model.member_kernels import member_of, standardise, teach, weighted
from model.mixing_kernels import move
from model.monitor_kernels import note_loss
from model.network_kernels import enter, owner_of, predict_entered
from model.program import Fixed, Scratch, State
from model.scaling_kernels import fold
from model.score_kernels import is_label, loss_and_gradient
from model.twin_kernels import catch_up


@inlined
def _last(state):
    """The row of `work` with the mixture's scores: after the members', or the only one's own."""
    return state.counters.shape[0] if state.networks.shape[0] > 1 else 0


@inlined
def _predict_row(fixed, state, scratch, row, prediction):
    """Every network predicts a raw row, and the mixture's prediction is written."""
    layers, codes, active, work = fixed.layers, fixed.codes, scratch.active[0], scratch.work
    enter(layers[0], codes[0], fixed.plan, state.inputs, row, scratch.scaled[0], work[0], active)
    members = layers.shape[0]
    if layers[0, 0, program.SPARSE] > 0:
        for n in range(members, state.networks.shape[0]):
            member = owner_of(codes, n)
            averaged = state.averaged[n - members]
            catch_up(layers[0, 0], state.networks[member], state.networks[n], averaged, active)
    predict_entered(
        layers,
        codes,
        state.networks,
        state.norm,
        state.targets,
        state.mixture,
        work,
        active,
        scratch.forecasts,
        prediction,
    )


@inlined
def _teach_all(fixed, state, scratch, weight):
    """Every member learns the row; whether any did."""
    learned = False
    for number in range(fixed.layers.shape[0]):
        taught = teach(fixed, state, scratch, member_of(fixed, state, scratch, number), weight)
        scratch.bounds[number, program.FAILED] = 0.0 if taught else 1.0
        learned |= taught
    return learned


@inlined
def _learn_row(fixed, state, scratch, X, y, weights, row, predictions, losses):
    """Predict, score and learn one row; whether it was learned."""
    layers, codes, labels, entry = fixed.layers, fixed.codes, scratch.labels[0], scratch.entry
    width, depth, mixture = U(X.shape[1]), layers.shape[1] - 1, scratch.work[_last(state)]
    z, outputs = U(layers[0, depth, program.VALUE]), U(layers[0, depth, program.INPUTS])
    _write_entry(entry, X, y, weights[row], row)
    label = entry[width : entry.shape[0] - 1]
    _predict_row(fixed, state, scratch, entry[:width], predictions[row])
    if not is_label(codes[0], label, outputs):
        return False
    standardise(codes[0], state.targets, label, outputs, labels)
    weight = weighted(fixed.constants[0], labels, weights[row])
    delta = U(layers[0, depth - 1, program.DELTA])
    losses[row] = loss_and_gradient(codes[0, program.LOSS], labels, mixture, z, outputs, weight, delta)
    error = error_of(codes[0], labels, mixture, z, outputs, losses[row])
    if not _teach_all(fixed, state, scratch, weight):
        return False
    _move_on(fixed, state, scratch, labels, outputs, weight, losses[row])
    fold(codes[0, program.SCALING], state.inputs, X[row], width)
    if codes[0, program.SCALED_TARGETS]:
        fold(1, state.targets, y[row], outputs)
    remember(state, entry)
    if codes[0, program.DETECT] and weight > 0.0:
        look_for_drift(fixed, state, scratch, error)
    return True


@inlined
def _write_entry(entry, X, y, weight, row):
    """Write a row in the window's layout: columns, targets, weight."""
    width = U(X.shape[1])
    for j in range(width):
        entry[j] = X[row, j]
    for k in range(U(y.shape[1])):
        entry[width + k] = y[row, k]
    entry[entry.shape[0] - 1] = weight


@inlined
def _move_on(fixed, state, scratch, labels, outputs, weight, loss):
    """Move the mixture's weights, and restart members where that is due."""
    networks = state.networks.shape[0]
    if networks > 1:
        step, kind = float(state.counters[0, program.STEP]), fixed.codes[0, program.MIXING]
        move(kind, state.mixture, scratch.forecasts, networks, labels, outputs, weight, step)
        note_loss(state.notes[state.notes.shape[0] - 1], loss, step)
    restart_members(fixed, state, scratch)


READ_ONLY = types.Array(float64, 2, "C", readonly=True)
FIXED = types.NamedTuple(
    (int64[:, :, ::1], int64[:, ::1], float64[:, ::1], int64[:, ::1], float32[:, ::1], int64[::1]), Fixed
)
STATE = types.NamedTuple(
    (
        float32[:, ::1],
        float64[:, :, ::1],
        float64[:, ::1],
        float64[:, ::1],
        float32[:, :, ::1],
        int64[:, ::1],
        float64[:, ::1],
        float64[::1],
        float64[:, ::1],
        int64[:, ::1],
        float64[:, ::1],
        float64[:, ::1],
        float64[:, :, ::1],
        float64[::1],
        float64[:, ::1],
    ),
    State,
)
SCRATCH = types.NamedTuple(
    (
        float32[:, ::1],
        int64[:, ::1],
        float64[:, ::1],
        float64[:, ::1],
        float64[::1],
        float64[::1],
        float64[:, ::1],
        float32[::1],
        int64[::1],
        float64[:, ::1],
        float32[::1],
    ),
    Scratch,
)
ROWS = (READ_ONLY, READ_ONLY, types.Array(float64, 1, "C", readonly=True))
RESULTS = (float64[:, ::1], float64[::1], boolean[::1])


def _compile_learn_rows(sources: int) -> Any:
    @compiled(types.void(FIXED, STATE, SCRATCH, *ROWS, *RESULTS), **UNCOUNTED)
    def learn_rows(fixed, state, scratch, X, y, weights, predictions, losses, skipped):
        """One step per row of X (n, width), in order; predictions, losses and skipped are written for each."""
        sources  # noqa: B018 - part of the cache's key, see compiled.py
        for number in range(scratch.bounds.shape[0]):
            for i in range(scratch.bounds.shape[1]):
                scratch.bounds[number, i] = np.inf
        for row in range(X.shape[0]):
            losses[row] = np.nan
            state.counters[0, program.STEP] += 1
            learned = _learn_row(fixed, state, scratch, X, y, weights, row, predictions, losses)
            skipped[row] = not learned
            state.counters[0, program.SKIPPED] += not learned

    return learn_rows


def _compile_fold_rows(sources: int) -> Any:
    @compiled(types.void(int64, float64[:, ::1], READ_ONLY), **UNCOUNTED)
    def fold_rows(kind, state, X):
        """Fold rows of shape (n, columns) into the running statistics, in order, in place."""
        sources  # noqa: B018
        for row in range(X.shape[0]):
            fold(kind, state, X[row], U(X.shape[1]))

    return fold_rows


learn_rows = _compile_learn_rows(sources_of(__name__))
fold_rows = _compile_fold_rows(sources_of(__name__))
