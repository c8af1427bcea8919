# mypy: disable-error-code="no-any-return"
"""Predictor: what a web process needs to answer, and nothing more."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.inputs import Inputs
from model.losses import OUTPUTS
from model.mixing import Mixture
from model.network import Network
from model.parameters import layout_of, rows_apart
from model.program import fixed_of, owners_of, work_shape
from model.scaling import MEAN, deviation, scaler_of
from model.spec import ModelSpec
from model.state import read_predictor_state, worked_out, write_weights

Array = NDArray[Any]

LARGEST_SCORE = 3e38
predict_rows: Callable[..., None] | None = None
"""The compiled way of a few rows, once `warming.load_predictions` has loaded it."""
FEW_ROWS, FEW_WEIGHTS = 64, 400_000
"""Rows, and rows times weights, up to which the compiled way is faster than NumPy's; a single row always is."""
CELLS_AT_ONCE = 2**22
"""Rows are predicted in slices of so many numbers, so that memory does not grow with their count."""
MIXED = 8
"""Numbers that mixing takes for each output of each network: some copies of double precision."""


@lru_cache(maxsize=256)
def _program_for(spec: ModelSpec) -> tuple[Array, Array, Array, int, int, int]:
    """The spec as the compiled way reads it, and the sizes of its scratch memory."""
    fixed = fixed_of(spec)
    return fixed.layers, fixed.codes, fixed.plan, *work_shape(spec), spec.most_active


class Predictor:
    """A model's predictions at one moment; it does not change. Needs no compiler.

    `blob` is what `OnlineModel.predictor_bytes` gives. Raises StateError if it does not fit `spec`.
    """

    def __init__(self, spec: ModelSpec, blob: bytes) -> None:
        arrays = read_predictor_state(spec, blob)
        self._bind(spec, arrays, rows_apart(arrays["parameters"]))

    @classmethod
    def of(cls, spec: ModelSpec, arrays: dict[str, NDArray[Any]]) -> "Predictor":
        """A predictor over a model's own arrays, which must not change while it is used."""
        predictor = cls.__new__(cls)
        predictor._bind(spec, arrays, worked_out(spec, arrays))
        return predictor

    def _bind(self, spec: ModelSpec, arrays: dict[str, NDArray[Any]], parameters: Array) -> None:
        """`parameters` has a row for each network, which may be longer than the network."""
        self.spec = spec
        norm = arrays["norm"]
        self._parameters = parameters
        self._networks = [
            Network(layout_of(spec, owner), parameters[number], norm[owner])
            for number, owner in enumerate(owners_of(spec))
        ]
        self._mixture = Mixture(spec, arrays["mixture"]) if len(self._networks) > 1 else None
        self._inputs = Inputs(spec, scaler_of(spec.scaling, arrays["scaling.inputs"]))
        self._width = spec.width
        self._few_rows = max(min(FEW_WEIGHTS // (spec.step_size * spec.networks), FEW_ROWS), 1)
        mixed = MIXED * spec.networks * spec.outputs if self._mixture is not None else 0
        self._rows_at_once = max(CELLS_AT_ONCE // (spec.cells + mixed), 1)
        self._output = OUTPUTS[spec.output].value
        self._bound = (
            *_program_for(spec),
            parameters,
            *(arrays[name] for name in ("scaling.inputs", "scaling.targets", "norm", "mixture")),
        )
        self._targets = None
        if spec.scales_targets:
            targets = arrays["scaling.targets"]
            self._targets = (targets[MEAN].copy(), deviation(targets))

    def weights_to_bytes(self) -> bytes:
        """The parameters as safetensors, by name and in PyTorch's shapes: what `OnlineModel.set_weights` takes."""
        return write_weights(self.spec, self._parameters)

    def predict(self, X: Array) -> Array:
        """Predictions (n, outputs) for raw rows X (n, width), float64, with NaN for missing values.

        Raises ValueError if X has another shape.
        """
        X = np.asarray(X, np.float64)
        if X.ndim != 2 or X.shape[1] != self._width:
            raise ValueError(f"X must have the shape (n, {self._width}), not {X.shape}")
        if predict_rows is not None and len(X) <= self._few_rows:
            predictions = np.empty((len(X), self.spec.outputs))
            predict_rows(*self._bound, np.ascontiguousarray(X), predictions)
            return predictions
        if len(X) <= self._rows_at_once:
            return self._predict(X)
        starts = range(0, len(X), self._rows_at_once)
        return np.concatenate([self._predict(X[start : start + self._rows_at_once]) for start in starts])

    def _predict(self, X: Array) -> Array:
        with np.errstate(all="ignore"):
            scores = self._scores(self._inputs(X))
            if self._targets is None:
                return self._output(scores)
            mean, spread = self._targets
            return mean + spread * scores

    def _scores(self, inputs: Array) -> Array:
        scores = [_finite(network.scores(inputs)).astype(np.float64) for network in self._networks]
        return scores[0] if self._mixture is None else self._mixture(np.stack(scores))


def _finite(scores: Array) -> Array:
    """Scores cut to the largest number, and 0 for one that is not a number: answers stay finite."""
    if math.isfinite(np.vdot(scores, scores)):
        return scores
    return np.nan_to_num(scores, nan=0.0, posinf=LARGEST_SCORE, neginf=-LARGEST_SCORE)
