# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: prediction, loss and its gradient for one row of scores. Formulas as in `losses.py`.

Scores are in `work` at offset z, float32; all else is float64.
"""

import math

import numpy as np

from model import program, scaling
from model.compiled import inner
from model.losses import LOSSES, OUTPUTS

U = np.uint64
LARGEST_SCORE = np.float32(3e38)
ZERO = np.float32(0)

SIGMOID, SOFTMAX, THRESHOLD = (OUTPUTS[name].code for name in ("sigmoid", "softmax", "threshold"))
BINARY_CROSS_ENTROPY = LOSSES[("cross_entropy", "sigmoid")].code
CROSS_ENTROPY = LOSSES[("cross_entropy", "softmax")].code
SQUARED = LOSSES[("mean_squared", "linear")].code
SIGMOID_SQUARED = LOSSES[("mean_squared", "sigmoid")].code
BRIER = LOSSES[("mean_squared", "softmax")].code
ABSOLUTE = LOSSES[("mean_absolute", "linear")].code
HUBER = LOSSES[("huber", "linear")].code
HINGE = LOSSES[("hinge", "linear")].code
MULTI_HINGE = LOSSES[("multi_hinge", "linear")].code
PERCEPTRON = LOSSES[("perceptron", "threshold")].code
MULTI_PERCEPTRON = LOSSES[("multi_perceptron", "threshold")].code


@inner
def make_finite(work, z, outputs):
    """Cut scores to the largest number; one that is not a number becomes 0. Answers stay finite, whatever happens."""
    for k in range(outputs):
        x = work[z + k]
        work[z + k] = min(max(x, -LARGEST_SCORE), LARGEST_SCORE) if x == x else ZERO


@inner
def _sigmoid(z):
    small = math.exp(-abs(z))
    return (1.0 if z >= 0.0 else small) / (1.0 + small)


@inner
def _largest(work, z, outputs):
    best = U(0)
    for k in range(outputs):
        if work[z + k] > work[z + best]:
            best = U(k)
    return best


@inner
def _softmax(work, z, outputs, shares):
    top = float(work[z + _largest(work, z, outputs)])
    total = 0.0
    for k in range(outputs):
        shares[k] = math.exp(float(work[z + k]) - top)
        total += shares[k]
    for k in range(outputs):
        shares[k] /= total
    return top + math.log(total)


@inner
def predict(codes, targets, work, z, outputs, prediction):
    """Write the prediction (outputs,) that the scores at z mean; `targets` is the state of their scaling."""
    kind = codes[program.OUTPUT]
    if kind == SIGMOID:
        prediction[0] = _sigmoid(float(work[z]))
    elif kind == SOFTMAX:
        _softmax(work, z, outputs, prediction)
    elif kind == THRESHOLD:
        if outputs == 1:
            prediction[0] = 1.0 if work[z] >= ZERO else -1.0
        else:
            prediction[:] = -1.0
            prediction[_largest(work, z, outputs)] = 1.0
    elif codes[program.SCALED_TARGETS]:
        for k in range(outputs):
            spread = math.sqrt(targets[scaling.SQUARES, k] / max(targets[scaling.COUNT, k], 1.0))
            prediction[k] = targets[scaling.MEAN, k] + spread * float(work[z + k])
    else:
        for k in range(outputs):
            prediction[k] = float(work[z + k])


@inner
def is_label(codes, y, outputs):
    """Whether y is a label: finite numbers, or the index of a class, which is used as a place in memory."""
    if codes[program.LOSS] in (SQUARED, ABSOLUTE, HUBER):
        for k in range(outputs):  # noqa: SIM110 - numba compiles no generator expressions
            if not math.isfinite(y[k]):
                return False
        return True
    classes = 2 if outputs == 1 else outputs
    return y[0] >= 0.0 and y[0] < classes and y[0] == math.floor(y[0])


@inner
def loss_and_gradient(code, labels, work, z, outputs, factor, delta):
    """The loss of the scores at z for standardised targets or a class (labels), unweighted.

    Its gradient, times `factor`, goes to work[delta:].
    """
    if outputs == 1:
        loss, gradient = _of_one(code, float(work[z]), labels[0])
        work[delta] = factor * gradient
        return loss
    if code in (SQUARED, ABSOLUTE, HUBER):
        total = 0.0
        for k in range(outputs):
            loss, gradient = _of_one(code, float(work[z + k]), labels[k])
            total += loss
            work[delta + k] = factor * gradient / outputs
        return total / outputs
    label = U(labels[0])
    if code in (CROSS_ENTROPY, BRIER):
        return _of_shares(code, label, work, z, outputs, factor, delta)
    return _of_margins(code, label, work, z, outputs, factor, delta)


@inner
def _of_one(code, z, y):
    """Loss and gradient for one score."""
    if code == BINARY_CROSS_ENTROPY:
        return max(z, 0.0) + math.log1p(math.exp(-abs(z))) - y * z, _sigmoid(z) - y
    error = z - y
    if code == SQUARED:
        return error * error, 2.0 * error
    if code == ABSOLUTE:
        return abs(error), (1.0 if error > 0.0 else 0.0) - (1.0 if error < 0.0 else 0.0)
    if code == HUBER:
        near = abs(error) < 1.0
        return (0.5 * error * error if near else abs(error) - 0.5), min(max(error, -1.0), 1.0)
    if code == SIGMOID_SQUARED:
        p = _sigmoid(z)
        return (p - y) * (p - y), 2.0 * (p - y) * p * (1.0 - p)
    sign = 2.0 * y - 1.0
    if code == HINGE:
        return max(0.0, 1.0 - sign * z), (-sign if sign * z < 1.0 else 0.0)
    mistaken = (z >= 0.0) != (y > 0.5)
    return max(0.0, -sign * z), (-sign if mistaken else 0.0)


@inner
def _of_shares(code, label, work, z, outputs, factor, delta):
    """Cross-entropy, or the mean squared difference of softmax's shares from 1 for the label and 0 elsewhere."""
    top = float(work[z + _largest(work, z, outputs)])
    total = 0.0
    for k in range(outputs):
        share = math.exp(float(work[z + k]) - top)
        work[delta + k] = share
        total += share
    mean, squares = 0.0, 0.0
    for k in range(outputs):
        share = float(work[delta + k]) / total
        error = share - (1.0 if k == label else 0.0)
        squares += error * error
        mean += error * share
    for k in range(outputs):
        share = float(work[delta + k]) / total
        gradient = share - (1.0 if k == label else 0.0)
        if code == BRIER:
            gradient = 2.0 / outputs * share * (gradient - mean)
        work[delta + k] = factor * gradient
    if code == BRIER:
        return squares / outputs
    return top + math.log(total) - float(work[z + label])


@inner
def _of_margins(code, label, work, z, outputs, factor, delta):
    """The hinge and the perceptron for several classes."""
    own = float(work[z + label])
    for k in range(outputs):
        work[delta + k] = ZERO
    if code == MULTI_PERCEPTRON:
        best = _largest(work, z, outputs)
        work[delta + best] += factor
        work[delta + label] -= factor
        return float(work[z + best]) - own
    total = 0.0
    for k in range(outputs):
        margin = 1.0 - own + float(work[z + k])
        if k != label and margin > 0.0:
            total += margin
            work[delta + k] = factor / outputs
            work[delta + label] -= factor / outputs
    return total / outputs
