"""A block of observations as the log holds it: columns, little-endian, nothing executable."""

import json
import struct
from dataclasses import dataclass

import numpy as np

from service.errors import StoreError

Array = np.ndarray

# version, rows, features, targets, columns of the served prediction, has weights, has ids
_HEADER = struct.Struct("<BIIIIBB")
_VERSION = 1
_FLOAT = np.dtype("<f8")


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
        columns = [column for column in (self.weights, self.served) if column is not None]
        return b"".join(
            [
                _HEADER.pack(
                    _VERSION,
                    *self.features.shape,
                    self.labels.shape[1],
                    0 if self.served is None else self.served.shape[1],
                    self.weights is not None,
                    self.ids is not None,
                ),
                self.features.astype(_FLOAT, copy=False).tobytes(),
                self.labels.astype(_FLOAT, copy=False).tobytes(),
                *(column.astype(_FLOAT, copy=False).tobytes() for column in columns),
                b"" if self.ids is None else json.dumps(self.ids).encode(),
            ]
        )

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Block":
        """The block that `to_bytes` wrote. Raises StoreError if the bytes are no such block."""
        try:
            version, rows, width, targets, outputs, weighted, named = _HEADER.unpack_from(blob)
            if version != _VERSION:
                raise StoreError(f"a block of version {version}; this program reads version {_VERSION}")
            offset = _HEADER.size

            def column(count: int) -> Array:
                nonlocal offset
                values = np.frombuffer(blob, _FLOAT, rows * count, offset)
                offset += values.nbytes
                return values.reshape(rows, count)

            features, labels = column(width), column(targets)
            weights = column(1)[:, 0] if weighted else None
            served = column(outputs) if outputs else None
            ids = json.loads(blob[offset:]) if named else None
        except (struct.error, ValueError) as error:
            raise StoreError(f"not a block of observations: {error}") from error
        return cls(features, labels, weights, served, ids)


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
