"""A block of observations as the log holds it: columns, little-endian, nothing executable."""

import json
import struct
from dataclasses import dataclass

import numpy as np

from service.errors import StoreError

Array = np.ndarray

# version, rows, features, targets, columns of the served prediction, has weights, has ids
_HEADER = struct.Struct("<BIIIIBB")
_PLAIN = 1  # version: all numbers are float64
_PACKED = 2  # version: each matrix begins with the kind of each of its columns
_FLOAT = np.dtype("<f8")
_KINDS = [np.dtype(name) for name in ("<f8", "<f4", "<i2", "u1")]
"""How a column may be stored, where that gives back its float64 bit for bit."""
_SAMPLE = 16  # rows that decide which kinds are worth trying
_LEAST_BYTES = 8192  # of features: below, packing costs more than it saves


@dataclass(frozen=True, slots=True)
class Block:
    """Observations in order, checked and encoded.

    features (n, d) float64, raw: NaN is missing. labels (n, targets) float64. weights (n,) float64 or None.
    served (n, outputs) float64 or None: the prediction that was served before the label came, NaN where none.
    ids: n strings, None for an observation without one; or None.
    """

    features: Array
    labels: Array
    weights: Array | None = None
    served: Array | None = None
    ids: list[str | None] | None = None

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def take(self, rows: slice) -> "Block":
        """Some rows of the block."""
        return self._of(rows, None if self.ids is None else self.ids[rows])

    def without(self, rows: set[int]) -> "Block":
        """The block without the rows whose indices are given."""
        keep = [row for row in range(len(self)) if row not in rows]
        return self._of(keep, None if self.ids is None else [self.ids[row] for row in keep])

    def _of(self, rows: slice | list[int], ids: list[str | None] | None) -> "Block":
        return Block(
            self.features[rows],
            self.labels[rows],
            None if self.weights is None else self.weights[rows],
            None if self.served is None else self.served[rows],
            ids,
        )

    def to_bytes(self) -> bytes:
        """The block as bytes, see `from_bytes`."""
        matrices = [self.features, self.labels]
        if self.weights is not None:
            matrices.append(self.weights[:, None])
        if self.served is not None:
            matrices.append(self.served)
        version = _PACKED if self.features.nbytes >= _LEAST_BYTES else _PLAIN
        write = _packed if version == _PACKED else _plain
        head = _HEADER.pack(
            version,
            *self.features.shape,
            self.labels.shape[1],
            0 if self.served is None else self.served.shape[1],
            self.weights is not None,
            self.ids is not None,
        )
        ids = b"" if self.ids is None else json.dumps(self.ids).encode()
        return b"".join([head, *map(write, matrices), ids])

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Block":
        """The block that `to_bytes` wrote, now or in version 0.1. Raises StoreError if the bytes are no such block."""
        try:
            version, rows, width, targets, outputs, weighted, named = _HEADER.unpack_from(blob)
            if version not in (_PLAIN, _PACKED):
                raise StoreError(f"a block of version {version}; this program reads up to {_PACKED}")
            read = _read_packed if version == _PACKED else _read_plain
            features, offset = read(blob, _HEADER.size, rows, width)
            labels, offset = read(blob, offset, rows, targets)
            weights = served = None
            if weighted:
                weights, offset = read(blob, offset, rows, 1)
            if outputs:
                served, offset = read(blob, offset, rows, outputs)
            ids = json.loads(blob[offset:]) if named else None
        except (struct.error, ValueError, IndexError) as error:
            raise StoreError(f"not a block of observations: {error}") from error
        return cls(features, labels, None if weights is None else weights[:, 0], served, ids)


def _plain(matrix: Array) -> bytes:
    return matrix.astype(_FLOAT, copy=False).tobytes()


def _read_plain(blob: bytes, offset: int, rows: int, width: int) -> tuple[Array, int]:
    values = np.frombuffer(blob, _FLOAT, rows * width, offset)
    return values.reshape(rows, width), offset + values.nbytes


def _packed(matrix: Array) -> bytes:
    """The kind of each column, then for each kind its columns, row by row."""
    matrix = np.ascontiguousarray(matrix, _FLOAT)
    kinds = _kinds_of(matrix)
    parts = [kinds.tobytes()]
    for kind, stored in enumerate(_KINDS):
        columns = np.flatnonzero(kinds == kind)
        if len(columns) == matrix.shape[1]:
            parts.append(matrix.astype(stored).tobytes())
        elif len(columns):
            parts.append(matrix[:, columns].astype(stored).tobytes())
    return b"".join(parts)


def _kinds_of(matrix: Array) -> Array:
    """For each column the smallest kind that gives it back bit for bit."""
    kinds = np.zeros(matrix.shape[1], np.uint8)
    with np.errstate(all="ignore"):
        for kind in range(len(_KINDS) - 1, 0, -1):
            columns = np.flatnonzero((kinds == 0) & _gives_back(matrix[:_SAMPLE], kind))
            if len(columns) == matrix.shape[1]:
                fits = _gives_back(matrix, kind)
            else:
                fits = _gives_back(matrix[:, columns], kind)
            kinds[columns[fits]] = kind
    return kinds


def _gives_back(matrix: Array, kind: int) -> Array:
    """Which columns come back bit for bit: −0 is not 0, and a NaN keeps its bits."""
    back: Array = matrix.astype(_KINDS[kind]).astype(_FLOAT)
    fits: Array = (back.view(np.int64) == np.ascontiguousarray(matrix).view(np.int64)).all(axis=0)
    return fits


def _read_packed(blob: bytes, offset: int, rows: int, width: int) -> tuple[Array, int]:
    kinds = np.frombuffer(blob, np.uint8, width, offset)
    if (kinds >= len(_KINDS)).any():
        raise ValueError("a column of an unknown kind")
    offset += width
    matrix = np.empty((rows, width), _FLOAT)
    for kind, stored in enumerate(_KINDS):
        columns = np.flatnonzero(kinds == kind)
        values = np.frombuffer(blob, stored, rows * len(columns), offset).reshape(rows, len(columns))
        offset += values.nbytes
        if len(columns) == width:
            matrix = values.astype(_FLOAT)
        elif len(columns):
            matrix[:, columns] = values
    return matrix, offset


def join(blocks: list[Block], outputs: int) -> Block:
    """One block with the rows of all, in order, without ids. `outputs` is the width of a served prediction."""
    if len(blocks) == 1:
        return blocks[0]
    weights = served = None
    if any(block.weights is not None for block in blocks):
        weights = np.concatenate([np.ones(len(b)) if b.weights is None else b.weights for b in blocks])
    if any(block.served is not None for block in blocks):
        served = np.concatenate(
            [np.full((len(b), outputs), np.nan) if b.served is None else b.served for b in blocks]
        )
    return Block(
        np.concatenate([block.features for block in blocks]),
        np.concatenate([block.labels for block in blocks]),
        weights,
        served,
    )
