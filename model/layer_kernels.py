# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: one row through dense layers, batch normalisation, activations and dropout, and back.

`work` holds every vector of the row; arguments like `x`, `out` or `delta` are offsets in it. Indices are unsigned:
numba tests signed ones for being negative, which keeps loops from being vectorised.
"""

import math

import numpy as np

from model import activations, dropout, program
from model.activations import ACTIVATIONS, ERFC_COEFFICIENTS
from model.compiled import inlined, inner
from model.network import LARGEST_SUM, LAYER_NORM_EPSILON, NORM_EPSILON

U = np.uint64
ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
FOUR_ROWS = U(4)
U1, U2, U3 = U(1), U(2), U(3)

LINEAR, RELU, SIGMOID, TANH, LEAKY_RELU, ELU, GELU, SILU = (
    ACTIVATIONS[name].code
    for name in ("linear", "relu", "sigmoid", "tanh", "leaky_relu", "elu", "gelu", "silu")
)

_mix = inner(dropout.mix)


@inner
def add_dots(matrix, start, rows, columns, work, v, out):
    """out[r] += Σ_c matrix[r, c]·v[c], the matrix row-major at `start`; four rows share each load of v."""
    r = U(0)
    while r + FOUR_ROWS <= rows:
        a = start + r * columns
        b = a + columns
        c = b + columns
        d = c + columns
        sum_a, sum_b, sum_c, sum_d = ZERO, ZERO, ZERO, ZERO
        for i in range(columns):
            x = work[v + i]
            sum_a += matrix[a + i] * x
            sum_b += matrix[b + i] * x
            sum_c += matrix[c + i] * x
            sum_d += matrix[d + i] * x
        work[out + r] += sum_a
        work[out + r + U1] += sum_b
        work[out + r + U2] += sum_c
        work[out + r + U3] += sum_d
        r += FOUR_ROWS
    while r < rows:
        a = start + r * columns
        total = ZERO
        for i in range(columns):
            total += matrix[a + i] * work[v + i]
        work[out + r] += total
        r += U1


@inner
def add_rows(matrix, start, rows, columns, work, u, out):
    """out[c] += Σ_r u[r]·matrix[r, c], the matrix row-major at `start`; four rows share each store of out."""
    r = U(0)
    while r + FOUR_ROWS <= rows:
        a = start + r * columns
        b = a + columns
        c = b + columns
        d = c + columns
        u_a, u_b, u_c, u_d = work[u + r], work[u + r + U1], work[u + r + U2], work[u + r + U3]
        for i in range(columns):
            pair = u_a * matrix[a + i] + u_b * matrix[b + i]
            work[out + i] += pair + (u_c * matrix[c + i] + u_d * matrix[d + i])
        r += FOUR_ROWS
    while r < rows:
        a = start + r * columns
        u_a = work[u + r]
        for i in range(columns):
            work[out + i] += u_a * matrix[a + i]
        r += U1


@inner
def fill(work, offset, size, value):
    for i in range(size):
        work[offset + i] = value


@inner
def square_sum(work, offset, size):
    total = ZERO
    for i in range(size):
        total += work[offset + i] * work[offset + i]
    return float(total)


@inlined
def dense(layer, parameters, work, out, active):
    """out = weights · inputs + bias, for one layer; of a sparse one only for the inputs that `active` names."""
    inputs, units = U(layer[program.INPUTS]), U(layer[program.UNITS])
    start, x = U(layer[program.WEIGHT]), U(layer[program.VALUE])
    if layer[program.BIAS] >= 0:
        bias = U(layer[program.BIAS])
        for i in range(units):
            work[out + i] = parameters[bias + i]
    else:
        fill(work, out, units, ZERO)
    if layer[program.SPARSE] > 0:
        for piece in range(active[0]):
            value, row = work[x + U(piece)], start + U(active[1 + piece]) * units
            for i in range(units):
                work[out + i] += value * parameters[row + i]
    elif layer[program.BY_INPUT]:
        add_rows(parameters, start, inputs, units, work, x, out)
    else:
        add_dots(parameters, start, units, inputs, work, x, out)


@inlined
def dense_back(layer, parameters, work, back):
    """back = weightsᵀ · delta, for one layer."""
    inputs, units = U(layer[program.INPUTS]), U(layer[program.UNITS])
    start, delta = U(layer[program.WEIGHT]), U(layer[program.DELTA])
    fill(work, back, inputs, ZERO)
    if layer[program.BY_INPUT]:
        add_dots(parameters, start, inputs, units, work, delta, back)
    else:
        add_rows(parameters, start, units, inputs, work, delta, back)


@inlined
def normalise(layer, parameters, norm, work, z):
    """Batch normalisation of z by the running statistics, in place; a single row has none of its own."""
    units, offset = U(layer[program.UNITS]), U(layer[program.NORM])
    gain, normed = U(layer[program.GAIN]), U(layer[program.NORMED])
    for i in range(units):
        mean, variance = np.float32(norm[0, offset + i]), np.float32(norm[1, offset + i])
        share = (work[z + i] - mean) / math.sqrt(variance + np.float32(NORM_EPSILON))
        work[normed + i] = share
        work[z + i] = share * parameters[gain + i]
    if layer[program.SHIFT] >= 0:
        shift = U(layer[program.SHIFT])
        for i in range(units):
            work[z + i] += parameters[shift + i]


@inlined
def normalise_back(layer, parameters, norm, work):
    """From the gradient of the normalised sums, in `delta`, to that of the sums, of gain and of shift."""
    units, offset, delta = U(layer[program.UNITS]), U(layer[program.NORM]), U(layer[program.DELTA])
    gain, normed = U(layer[program.GAIN]), U(layer[program.NORMED])
    gain_gradient, shift_gradient = U(layer[program.GAIN_GRADIENT]), U(layer[program.SHIFT_GRADIENT])
    for i in range(units):
        variance = np.float32(norm[1, offset + i])
        work[gain_gradient + i] = work[delta + i] * work[normed + i]
        work[shift_gradient + i] = work[delta + i]
        work[delta + i] *= parameters[gain + i] / math.sqrt(variance + np.float32(NORM_EPSILON))


@inlined
def normalise_units(layer, work, z):
    """Layer normalisation of the sums z, in place."""
    units, normed = U(layer[program.UNITS]), U(layer[program.NORMED])
    total, squares = ZERO, ZERO
    for i in range(units):
        total += work[z + i]
    mean = total / np.float32(units)
    for i in range(units):
        away = work[z + i] - mean
        squares += away * away
    spread = math.sqrt(squares / np.float32(units) + np.float32(LAYER_NORM_EPSILON))
    work[U(layer[program.SPREAD])] = spread
    factor = ONE / spread
    for i in range(units):
        share = (work[z + i] - mean) * factor
        work[normed + i] = share
        work[z + i] = share


@inlined
def normalise_units_back(layer, work):
    """From the gradient of the normalised sums, in `delta`, to that of the sums."""
    units, normed, delta = U(layer[program.UNITS]), U(layer[program.NORMED]), U(layer[program.DELTA])
    total, along = ZERO, ZERO
    for i in range(units):
        total += work[delta + i]
        along += work[delta + i] * work[normed + i]
    factor = ONE / work[U(layer[program.SPREAD])]
    mean, along = total / np.float32(units), along / np.float32(units)
    for i in range(units):
        work[delta + i] = factor * (work[delta + i] - mean - along * work[normed + i])


@inner
def fold_norm(layer, norm, work, rate):
    """Fold the row's sums into the running mean and variance, at `rate` (exponentially weighted, West 1979)."""
    units, offset, normed = U(layer[program.UNITS]), U(layer[program.NORM]), U(layer[program.NORMED])
    for i in range(units):
        variance = norm[1, offset + i]
        delta = float(work[normed + i]) * math.sqrt(variance + NORM_EPSILON)
        delta = min(max(delta, -LARGEST_SUM), LARGEST_SUM) if delta == delta else 0.0
        mean = norm[0, offset + i] + rate * delta
        norm[0, offset + i] = min(max(mean, -LARGEST_SUM), LARGEST_SUM)
        norm[1, offset + i] = min((1.0 - rate) * (variance + rate * delta * delta), LARGEST_SUM * LARGEST_SUM)


@inner
def _sigmoid(z):
    small = math.exp(-abs(z))
    return (ONE if z >= 0 else small) / (ONE + small)


@inner
def _normal_cdf(z):
    x = -float(z) * math.sqrt(0.5)
    t = 1.0 / (1.0 + 0.5 * abs(x))
    polynomial = 0.0
    for coefficient in ERFC_COEFFICIENTS:
        polynomial = polynomial * t + coefficient
    tail = t * math.exp(polynomial - x * x)
    return np.float32(0.5 * (tail if x >= 0 else 2.0 - tail))


@inlined
def activate(code, work, z, slope, units):
    """Replace z by its activation, and write the derivative there to `slope`."""
    if code == RELU:
        for i in range(units):
            x = work[z + i]
            work[z + i] = x if x > ZERO else ZERO
            work[slope + i] = ONE if x > ZERO else ZERO
    elif code == LINEAR:
        fill(work, slope, units, ONE)
    elif code == LEAKY_RELU:
        for i in range(units):
            factor = ONE if work[z + i] > ZERO else activations.LEAK
            work[z + i] *= factor
            work[slope + i] = factor
    else:
        for i in range(units):
            work[z + i], work[slope + i] = _curved(code, work[z + i])


@inner
def _curved(code, z):
    """Value and derivative of an activation that takes an exponential."""
    if code == SIGMOID:
        a = _sigmoid(z)
        return a, a * (ONE - a)
    if code == TANH:
        a = math.tanh(z)
        return a, ONE - a * a
    if code == ELU:
        a = math.expm1(min(z, ZERO))
        return (z, ONE) if z > ZERO else (a, a + ONE)
    if code == GELU:
        share = _normal_cdf(z)
        return z * share, share + z * activations.DENSITY * math.exp(-HALF * z * z)
    share = _sigmoid(z)
    if code == SILU:
        return z * share, share + z * share * (ONE - share)
    return max(z, ZERO) + math.log1p(math.exp(-abs(z))), share


@inner
def drop(seed, step, number, share, work, value, slope, units):
    """Dropout of a layer's values, and of the slope by which gradients pass; the mask is that of `dropout.mask`."""
    base = _mix(_mix(U(seed) + dropout.STRIDE * U(step)) + dropout.STRIDE * U(number))
    kept = np.float32(1.0 / (1.0 - float(share) / dropout.RESOLUTION))
    for i in range(units):
        bits = _mix(base + dropout.STRIDE * (i + U1)) >> dropout.S40
        factor = kept if bits >= U(share) else ZERO
        work[value + i] *= factor
        work[slope + i] *= factor


@inner
def forward(layers, parameters, norm, work, active, seed, step, dropping):
    """From the inputs in `work` to the scores; with dropout if `dropping`."""
    last = layers.shape[0] - 2
    for number in range(last + 1):
        layer = layers[number]
        units, out = U(layer[program.UNITS]), U(layers[number + 1, program.VALUE])
        dense(layer, parameters, work, out, active)
        if layer[program.NORM] >= 0:
            normalise(layer, parameters, norm, work, out)
        if layer[program.LAYER_NORM] > 0:
            normalise_units(layer, work, out)
        if number < last:
            slope = U(layer[program.SLOPE])
            activate(layer[program.ACTIVATION], work, out, slope, units)
            if dropping and layer[program.SHARE] > 0:
                drop(seed, step, number, layer[program.SHARE], work, out, slope, units)


@inner
def backward(layers, parameters, norm, work):
    """From the gradient of the scores, in the last layer's `delta`, to that of every layer's weighted sums."""
    for number in range(layers.shape[0] - 2, 0, -1):
        below = layers[number - 1]
        delta, slope = U(below[program.DELTA]), U(below[program.SLOPE])
        dense_back(layers[number], parameters, work, delta)
        for i in range(U(below[program.UNITS])):
            work[delta + i] *= work[slope + i]
        if below[program.NORM] >= 0:
            normalise_back(below, parameters, norm, work)
        if below[program.LAYER_NORM] > 0:
            normalise_units_back(below, work)
