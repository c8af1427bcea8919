# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: whether a step leaves all parameters and slots finite, told before it is made."""

import math

import numpy as np

from model import program
from model.compiled import inner
from model.layer_kernels import U
from model.step_kernels import ADAGRAD, ADAMW, RMSPROP, SGD

LARGEST_PARAMETER = 1e30
LARGEST_GRADIENT = 1e15  # its square is still a float32


@inner
def _largest(values, size):
    """The largest magnitude; infinite if one of them is not a number."""
    largest, odd = np.float32(0), False
    for i in range(size):
        x = abs(values[i])
        largest = max(largest, x)
        odd |= x != x
    return np.inf if odd else float(largest)


@inner
def _longest_step(codes, constants, gradient):
    """A bound of the step on any parameter, at a learning rate of 1; earlier gradients were LARGEST_GRADIENT at most.

    By Cauchy and Schwarz Adam's mean is at most so many times the root of its mean square; RMSProp's and Adagrad's
    squares hold the gradient itself. The 1 more is for squares that are too small for a float32.
    """
    kind = codes[program.OPTIMIZER]
    if kind == SGD:
        momentum = constants[program.MOMENTUM]
        return gradient if momentum == 0.0 else 2.0 * LARGEST_GRADIENT / (1.0 - momentum)
    if kind == ADAGRAD:
        return 2.0
    if kind == RMSPROP:
        if codes[program.CENTERED]:
            return gradient / constants[program.EPS]
        return 1.0 + 1.0 / math.sqrt(1.0 - constants[program.ALPHA])
    beta1, beta2 = constants[program.BETA1], constants[program.BETA2]
    ratio = beta1 / math.sqrt(beta2) if beta2 > 0.0 else 1.0
    if ratio >= 1.0:
        return LARGEST_GRADIENT / constants[program.EPS] / (1.0 - beta1)
    return 1.0 + 1.0 / math.sqrt(1.0 - beta2) / (1.0 - ratio)


@inner
def _reach(bounds, codes, constants, rate, gradient):
    """Bounds of what the parameters and the growing slot can become by a step of `rate` on a gradient so large.

    `bounds` holds bounds of what they are. Only Adagrad's sum and RMSProp's momentum can outgrow the gradients.
    """
    kind, decay = codes[program.OPTIMIZER], constants[program.WEIGHT_DECAY]
    parameter, slot = bounds[0], bounds[1]
    gradient += constants[program.L1] + (decay + constants[program.L2]) * parameter
    if not gradient <= LARGEST_GRADIENT:
        return np.inf, np.inf
    step = _longest_step(codes, constants, gradient)
    if kind == ADAGRAD:
        slot += gradient * gradient
    elif kind == RMSPROP and constants[program.MOMENTUM] > 0.0:
        slot = step = constants[program.MOMENTUM] * slot + step
    stretch = max(abs(1.0 - rate * decay), 1.0) if kind == ADAMW else 1.0
    return parameter * stretch + rate * step, slot


@inner
def stays_finite(bounds, codes, constants, rate, gradient, parameters, slots):
    """Whether a step on a gradient of this norm leaves everything finite. Looks at every number only if in doubt."""
    if not gradient <= LARGEST_GRADIENT:
        return False
    parameter, slot = _reach(bounds, codes, constants, rate, gradient)
    if not (parameter <= LARGEST_PARAMETER and slot <= LARGEST_PARAMETER):
        size = U(parameters.shape[0])
        bounds[0], bounds[1] = _largest(parameters, size), 0.0
        if codes[program.OPTIMIZER] == ADAGRAD or codes[program.OPTIMIZER] == RMSPROP:
            bounds[1] = _largest(slots[codes[program.SLOTS] - 1], size)
        parameter, slot = _reach(bounds, codes, constants, rate, gradient)
        if not (parameter <= LARGEST_PARAMETER and slot <= LARGEST_PARAMETER):
            return False
    bounds[0], bounds[1] = parameter, slot
    return True
