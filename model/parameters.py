"""The offset of each parameter in one flat vector, and named live views into it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.spec import LayerSpec, ModelSpec

LEAST_NORMED = 4  # units of a layer from which a member's layer_norm counts

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Dense:
    """One dense layer: its sizes, and the places of its parameters in the flat vector (None: it has none).

    The weights are stored with the longer of the two sides contiguous, so that the inner loops are long:
    (inputs, units) if `by_input`, else (units, inputs); a sparse layer is by input. `norm` is the place of its running
    statistics.
    """

    inputs: int
    units: int
    activation: str
    dropout: float
    weight: int
    by_input: bool
    bias: int | None
    gain: int | None
    shift: int | None
    norm: int | None
    layer_norm: bool
    sparse: bool

    def stored(self, flat: Vector) -> Vector:
        """The weights as they are stored, a live view, contiguous."""
        part = flat[self.weight : self.weight + self.inputs * self.units]
        return part.reshape(self.inputs if self.by_input else self.units, -1)

    def matrix(self, flat: Vector) -> Vector:
        """The weights as a live view of shape (inputs, units)."""
        return self.stored(flat) if self.by_input else self.stored(flat).T

    def vector(self, flat: NDArray[np.floating], place: int | None) -> NDArray[np.floating] | None:
        """The `units` numbers at `place`, a live view; None if this layer has none."""
        return None if place is None else flat[place : place + self.units]


@dataclass(frozen=True)
class Layout:
    """All layers, the output last. The weights of all layers come first in the flat vector: `weights` numbers."""

    layers: tuple[Dense, ...]
    weights: int
    size: int
    norm_units: int


@lru_cache(maxsize=256)
def layout_of(spec: ModelSpec, number: int = 0) -> Layout:
    """The layout of member `number`: the same for all but for layer normalisation, which not all have."""
    normed = spec.members[number].layer_norm
    hidden = [
        (layer.units, layer.activation, layer.dropout, layer.batch_norm, _has_layer_norm(layer, normed))
        for layer in spec.layers
    ]
    columns = [*hidden, (spec.outputs, "linear", 0.0, False, False)]
    weights = sum(inputs * units for inputs, units in zip(spec.widths[:-1], spec.widths[1:], strict=True))
    weight, vector, norm = 0, weights, 0
    layers: list[Dense] = []
    for inputs, (units, activation, dropout, batch_norm, layer_norm) in zip(
        spec.widths[:-1], columns, strict=True
    ):
        sparse = spec.sparse and not layers
        # A bias before batch normalisation would be subtracted again: the shift is the bias there.
        has_bias, has_shift = spec.bias and not batch_norm, spec.bias and batch_norm
        places: list[int | None] = []
        for present in (has_bias, batch_norm, has_shift):
            places.append(vector if present else None)
            vector += units if present else 0
        layers.append(
            Dense(
                inputs,
                units,
                activation,
                dropout,
                weight,
                units > inputs or sparse,
                bias=places[0],
                gain=places[1],
                shift=places[2],
                norm=norm if batch_norm else None,
                layer_norm=layer_norm,
                sparse=sparse,
            )
        )
        weight += inputs * units
        norm += units if batch_norm else 0
    return Layout(tuple(layers), weights, vector, norm)


def _has_layer_norm(layer: LayerSpec, normed: bool) -> bool:
    """Whether the layer itself asks for it, or its network does; few units would be left with next to nothing."""
    return layer.layer_norm or (normed and not layer.batch_norm and layer.units >= LEAST_NORMED)


def named_views(layout: Layout, flat: Vector) -> dict[str, Vector]:
    """Live views by PyTorch's names: "layers.0.weight" (units, inputs), "layers.0.bias" (units,), …"""
    views: dict[str, Vector] = {}
    for number, layer in enumerate(layout.layers):
        name = f"layers.{number}"
        views[f"{name}.weight"] = layer.matrix(flat).T
        parts = {"bias": layer.bias, "norm.weight": layer.gain, "norm.bias": layer.shift}
        for part, place in parts.items():
            if place is not None:
                views[f"{name}.{part}"] = flat[place : place + layer.units]
    return views


def named_parameters(spec: ModelSpec, parameters: Vector) -> dict[str, Vector]:
    """Live views by name into the parameters of all members: (members, size) or more rows.

    Those of a committee say whose they are: "members.1.layers.0.weight", …
    """
    members, named = len(spec.members), {}
    for number in range(members):
        prefix = f"members.{number + 1}." if members > 1 else ""
        for name, view in named_views(layout_of(spec, number), parameters[number]).items():
            named[prefix + name] = view
    return named


def parameter_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by name; allocates nothing."""
    empty = np.broadcast_to(np.float32(0), (len(spec.members), layout_of(spec).size))
    return {name: values.shape for name, values in named_parameters(spec, empty).items()}


def aligned_zeros(size: int, dtype: type = np.float32) -> NDArray[np.floating]:
    """Zeros whose first byte is at a multiple of 64, so that vector loads do not straddle cache lines."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.zeros(size * itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * itemsize].view(dtype)


def rows_apart(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """A copy of a matrix (rows, size), padded with zeros so that each row begins at a multiple of 64 bytes."""
    rows, size = values.shape
    per_line = 64 // values.itemsize
    padded = -(-size // per_line) * per_line
    copy = aligned_zeros(rows * padded, values.dtype.type).reshape(rows, padded)
    copy[:, :size] = values
    return copy
