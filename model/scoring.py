"""The losses of given predictions, whichever model made them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.losses import OUTPUTS, loss_of
from model.spec import ModelSpec

Array = NDArray[Any]


def row_losses(spec: ModelSpec, predictions: Array, y: Array, spread: Array | None = None) -> Array:
    """The loss of each of n rows, (n,) float64, unweighted, by the loss that `spec` names.

    `predictions` (n, outputs) are as `predict` gives them, labels `y` (n, targets) as `learn` takes them. For
    regression, `spread` (targets,) is the unit that both are measured in; models with different scaling compare only
    in the same one.
    """
    if spec.task == "regression" and spread is not None:
        predictions, y = predictions / spread, y / spread
    scores = OUTPUTS[spec.output].score(np.asarray(predictions, np.float64))
    return loss_of(spec.loss, spec.output, spec.outputs).value(scores, y)
