"""Labels as they come from JSON → float64, and predictions → what a client reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import RowError
from model.features import UnreadableError, kind_of, listed, read_number
from model.spec import ModelSpec

Array = NDArray[np.float64]


class LabelEncoder:
    """Reads labels and writes predictions by the spec alone.

    A class is given as it was declared: 1 is not "1" and not true. 1.0 is 1: JSON has one kind of number.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._targets = spec.targets
        self._classes = spec.classes or ()
        self._class_type = type(self._classes[0]) if self._classes else None
        self._indices: dict[Any, float] = {label: float(index) for index, label in enumerate(self._classes)}
        self._names = [label if isinstance(label, str) else json.dumps(label) for label in self._classes]
        self._probabilistic = spec.output in ("sigmoid", "softmax")

    def encode(self, labels: Sequence[Any]) -> Array:
        """Class indices (n, 1), or the values of a regression (n, targets).

        Raises RowError for the first label that cannot be read.
        """
        values = [self._read(index, label) for index, label in enumerate(labels)]
        return np.array(values, dtype=np.float64).reshape(len(values), self._targets)

    def _read(self, index: int, label: Any) -> float | list[float]:
        if self._classes:
            return self._read_class(index, label)
        if self._targets == 1:
            return _read_value(index, "", label)
        if type(label) is not list or len(label) != self._targets:
            given = f"{len(label)}" if type(label) is list else kind_of(label)
            raise RowError(index, "", f"a label is a list of {self._targets} numbers, got {given}")
        return [_read_value(index, f"/{target}", value) for target, value in enumerate(label)]

    def _read_class(self, index: int, label: Any) -> float:
        if type(label) is self._class_type or (type(label) is float and self._class_type is int):
            found = self._indices.get(label)
            if found is not None:
                return found
        known = listed([json.dumps(known) for known in self._classes])
        raise RowError(index, "", f"unknown class; the classes are {known}")

    def decode(self, predictions: Array) -> list[dict[str, Any]]:
        """What a client reads, for predictions (n, outputs).

        `{"label", "probabilities"}`, keyed by the class as text ("true" for true); `{"label", "scores"}`
        where the output is no probability (hinge, perceptron); `{"value"}` for a regression, a list if there
        are several targets. Of equal classes the one declared first is the label.
        """
        rows = predictions.tolist()
        if not self._classes:
            return [{"value": row[0] if self._targets == 1 else row} for row in rows]
        if len(self._classes) == 2 and predictions.shape[1] == 1:
            rows = [[1.0 - row[0] if self._probabilistic else -row[0], row[0]] for row in rows]
        scores = "probabilities" if self._probabilistic else "scores"
        return [
            {"label": self._classes[row.index(max(row))], scores: dict(zip(self._names, row, strict=True))}
            for row in rows
        ]

    def decode_classes(self, classes: NDArray[Any], predictions: Array) -> list[dict[str, Any]]:
        """As `decode`, for some classes only, the most likely first: their indices and predictions, (n, columns)."""
        scores = "probabilities" if self._probabilistic else "scores"
        return [
            {
                "label": self._classes[indices[0]],
                scores: dict(zip([self._names[index] for index in indices], row, strict=True)),
            }
            for indices, row in zip(classes.tolist(), predictions.tolist(), strict=True)
        ]


def _read_value(index: int, pointer: str, value: Any) -> float:
    try:
        return read_number(value)
    except UnreadableError as error:
        raise RowError(index, pointer, str(error)) from None
