"""Dropout masks that depend on (seed, position, layer, unit) only, so that a replay draws the same ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Odd constants of SplitMix64 (Steele, Lea and Flood 2014).
STRIDE = np.uint64(0x9E3779B97F4A7C15)
FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
S27, S30, S31, S40 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(40)
RESOLUTION = 2.0**24


def mix(x: Any) -> Any:
    """SplitMix64's finaliser, of one number or an array; also compiled, by `kernels.py`."""
    x = (x ^ (x >> S30)) * FIRST_FACTOR
    x = (x ^ (x >> S27)) * SECOND_FACTOR
    return x ^ (x >> S31)


def mask(seed: int, position: int, layer: int, shape: tuple[int, int], share: float) -> NDArray[np.float32]:
    """0 with probability `share`, else 1 / (1 − share), of shape (rows, units)."""
    with np.errstate(over="ignore"):
        base = mix(mix(np.uint64(seed) + STRIDE * np.uint64(position)) + STRIDE * np.uint64(layer))
        units = np.arange(1, shape[0] * shape[1] + 1, dtype=np.uint64).reshape(shape)
        kept = (mix(base + STRIDE * units) >> S40) >= np.uint64(share * RESOLUTION)
    mask: NDArray[np.float32] = kept / np.float32(1.0 - share)
    return mask
