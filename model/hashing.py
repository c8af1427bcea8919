"""MurmurHash3, the hash that spreads the values of a `hash` feature over its buckets."""

from __future__ import annotations

import struct

_MASK = 0xFFFFFFFF


def murmur3_32(key: bytes, seed: int = 0) -> int:
    """The 32-bit MurmurHash3 (x86_32, Austin Appleby, public domain) of `key`: from 0 to 2**32 − 1."""
    length = len(key)
    words = length // 4
    state = seed
    for block in struct.unpack_from(f"<{words}I", key):
        block = block * 0xCC9E2D51 & _MASK
        state ^= (block << 15 | block >> 17) * 0x1B873593 & _MASK
        state = ((state << 13 | state >> 19) & _MASK) * 5 + 0xE6546B64 & _MASK
    if length % 4:
        block = int.from_bytes(key[4 * words :], "little") * 0xCC9E2D51 & _MASK
        state ^= (block << 15 | block >> 17) * 0x1B873593 & _MASK
    state ^= length
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    return state ^ state >> 16
