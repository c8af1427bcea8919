# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: a twin's weights, the exponential average of its member's after each row.

Of a sparse first layer most weights do not change, so that their average need not be looked at: while a weight w
stays, the average's distance from it shrinks by the decay of each row. `averaged` holds the sum of the decays'
logarithms, and for each input what that sum was when its weights' average was last worked out.
"""

import math

import numpy as np

from model import program
from model.compiled import inner
from model.layer_kernels import U

LONGEST = 0.99  # the decay of the average in the long run: of the last 100 rows
QUICKEN = 0.2  # how soon the first rows are forgotten


@inner
def catch_up(layer, parameters, twin, averaged, active):
    """Work out the average of the weights of the inputs that `active` names."""
    units = U(layer[program.UNITS])
    for piece in range(active[0]):
        row = active[1 + piece]
        if averaged[1 + row] != averaged[0]:
            share = np.float32(math.exp(averaged[0] - averaged[1 + row]))
            averaged[1 + row] = averaged[0]
            start = U(row) * units
            for i in range(units):
                twin[start + i] = parameters[start + i] + share * (twin[start + i] - parameters[start + i])


@inner
def average(layer, counters, parameters, twin, averaged):
    """Fold the member's weights, as they are after a row, into the twin's."""
    counters[program.AVERAGED] += 1
    decay = min(LONGEST, 1.0 - 1.0 / (1.0 + QUICKEN * counters[program.AVERAGED]))
    first = U(0)
    if layer[program.SPARSE] > 0:
        averaged[0] += math.log(decay)
        first = U(layer[program.INPUTS] * layer[program.UNITS])
    keep, fresh = np.float32(decay), np.float32(1.0 - decay)
    for i in range(first, U(parameters.shape[0])):
        twin[i] = keep * twin[i] + fresh * parameters[i]
