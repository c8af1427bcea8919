"""Lines of JSON with plain numbers → rows and labels, many at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

read_lines: Callable[..., None] | None = None
"""The compiled way, once `warming.load_predictions` has loaded it."""


def read(text: bytes, rows: int, width: int) -> tuple[NDArray[np.float64], list[Any]] | None:
    """Rows (n, width) and labels of `rows` lines `{"features": [numbers], "label": scalar}`, each with its line end.

    A null is a missing value: NaN. None if a line is anything else, or if the compiled way is not loaded.
    """
    if read_lines is None or len(text) < 2 * rows * width or not text.endswith(b"\n"):
        return None
    values = np.empty((rows, width))
    places, count = np.empty((rows, 2), np.int64), np.zeros(1, np.int64)
    read_lines(np.frombuffer(text, np.uint8), values.view(np.uint64), places, count)
    if count[0] < rows:
        return None
    known: dict[bytes, Any] = {}
    labels = []
    try:
        for start, end in places.tolist():
            token = text[start:end]
            label = known.get(token, known)
            if label is known:
                label = known[token] = from_json(token, allow_inf_nan=False)
            labels.append(label)
    except ValueError:
        return None
    return values, labels
