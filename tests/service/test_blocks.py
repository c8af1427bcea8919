"""Blocks of observations as the log holds them: read back bit for bit, and small where their numbers are."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.errors import StoreError
from service.store.blocks import Block

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(width=32, allow_nan=True),
    st.integers(-40_000, 40_000).map(float),
    st.sampled_from([0.0, -0.0, 255.0, 256.0, 32767.0, -32768.0, 1e300, float("nan")]),
)


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two are equal bit for bit, NaN and -0 included."""
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def check(block: Block) -> int:
    """Assert that a block is read back as it was; returns how many bytes it takes."""
    blob = block.to_bytes()
    back = Block.from_bytes(blob)
    for name in ("features", "labels", "weights", "served"):
        assert same(getattr(block, name), getattr(back, name)), name
    assert back.ids == block.ids
    return len(blob)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), rows=st.sampled_from([1, 17, 400]), width=st.integers(1, 5), tall=st.integers(1, 8))
def test_a_block_is_read_back_bit_for_bit(data: st.DataObject, rows: int, width: int, tall: int) -> None:
    def matrix(columns: int) -> np.ndarray:
        some = data.draw(arrays.arrays(np.float64, (7, columns), elements=NUMBERS))
        return np.ascontiguousarray(np.resize(some, (rows * tall, columns)))

    count = rows * tall
    weights = matrix(1)[:, 0].copy() if data.draw(st.booleans()) else None
    served = matrix(3) if data.draw(st.booleans()) else None
    ids = [f"id-{row}" if row % 2 else None for row in range(count)] if data.draw(st.booleans()) else None
    check(Block(matrix(width), matrix(1), weights, served, ids))


@pytest.mark.parametrize(
    ("columns", "share"),
    [
        (np.random.default_rng(0).normal(size=(4096, 20)).astype(np.float32).astype(float), 0.51),
        (np.random.default_rng(0).integers(0, 256, (4096, 20)).astype(float), 0.14),
        (np.random.default_rng(0).integers(-1000, 1000, (4096, 20)).astype(float), 0.27),
        (np.random.default_rng(0).normal(size=(4096, 20)), 1.01),
    ],
    ids=["float32", "bytes", "small integers", "float64"],
)
def test_a_large_block_takes_what_its_numbers_need(columns: np.ndarray, share: float) -> None:
    assert check(Block(columns, np.zeros((4096, 1)))) < share * (columns.nbytes + 4096 * 8) + 100


def test_a_column_that_changes_far_down_is_not_cut() -> None:
    rows = 4096
    features = np.zeros((rows, 3))
    features[-1] = [0.1, -0.0, np.nan]
    check(Block(features, np.zeros((rows, 1))))


def test_a_block_of_version_0_1_is_read() -> None:
    features, labels = np.arange(6.0).reshape(3, 2), np.ones((3, 1))
    blob = (
        struct.pack("<BIIIIBB", 1, 3, 2, 1, 0, 0, 1)
        + features.tobytes()
        + labels.tobytes()
        + b'["a", null, "c"]'
    )
    back = Block.from_bytes(blob)
    assert same(back.features, features)
    assert back.ids == ["a", None, "c"]


@pytest.mark.parametrize("cut", [0, 5, 23, 30, -1])
def test_what_is_no_block_is_refused(cut: int) -> None:
    blob = Block(np.zeros((2000, 2)), np.zeros((2000, 1))).to_bytes()
    with pytest.raises(StoreError):
        Block.from_bytes(blob[:cut])
    for wrong in (b"\x03" + blob[1:], blob[:19] + b"\x00\x09" + blob[21:]):
        with pytest.raises(StoreError):
            Block.from_bytes(wrong)
