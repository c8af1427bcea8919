"""Tokens of a text, as a raw row holds them: a bucket and a weight packed into one float64.

The packed number is bucket + 2^20 · (the bits of the weight as a float32): below 2^52, so a float64 holds it exactly.
"""

import struct
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

BUCKET_BITS = 20
BUCKETS = 2**BUCKET_BITS
LARGEST = float(2 ** (BUCKET_BITS + 32) - 1)

# A float32's exponent and fraction.
FRACTION_BITS = 23
HIDDEN_BIT = 2**FRACTION_BITS
EXPONENTS = 256
BIAS = 150  # of a fraction read as an integer

NOTHING = 0.0  # a token of weight 0: marks an empty list, which is not a missing one


def pack(weights: Iterable[tuple[int, float]]) -> list[float]:
    """One number for each pair of bucket and weight."""
    pairs = list(weights)
    packed = struct.pack(f"<{len(pairs)}f", *(weight for _, weight in pairs))
    bits = struct.unpack(f"<{len(pairs)}I", packed)
    return [float(bucket + BUCKETS * weight) for (bucket, _), weight in zip(pairs, bits, strict=True)]


def unpack(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Buckets and weights of packed tokens (n,). Any number is read as some token of finite weight."""
    whole = np.clip(values, 0.0, LARGEST).astype(np.int64)
    weights = (whole >> BUCKET_BITS).astype(np.uint32).view(np.float32)
    # The compiled path reads no subnormal, infinite or odd weights either.
    normal = (np.abs(weights) >= np.finfo(np.float32).tiny) & np.isfinite(weights)
    return whole & (BUCKETS - 1), np.where(normal, weights, np.float32(0))
