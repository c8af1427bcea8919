"""Judging a candidate: the losses of both sides on the validation rows, by two measures, and which side is better."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from model import ModelSpec, OnlineModel, row_losses
from service.jobs.retraining import NOT_BETTER
from service.store.blocks import Block
from service.trainer.rows import Array, Rows


class Score:
    """The weighted mean loss of predictions for validation rows.

    Those of targets count in deviations of the window's labels, the same for every model.
    """

    def __init__(self, spec: ModelSpec, rows: Rows) -> None:
        self._spec = spec
        self._spread = rows.spread
        self._total = self._weight = 0.0

    def add(self, predictions: Array, block: Block) -> None:
        """Count predictions (n, outputs) for the n rows of a block."""
        losses = row_losses(self._spec, predictions, block.labels, self._spread)
        weights = np.ones(len(losses)) if block.weights is None else block.weights
        self._total += float(np.dot(losses, weights))
        self._weight += float(weights.sum())

    @property
    def mean(self) -> float | None:
        """The loss so far; None without rows, or if it is not finite."""
        if not self._weight or not np.isfinite(self._total):
            return None
        return self._total / self._weight


def validation_loss(model: OnlineModel, rows: Rows) -> float | None:
    """The loss of a model as it is on all validation rows: it learns none of them. None without rows."""
    score = Score(model.spec, rows)
    if len(rows.validation):
        score.add(model.predict(rows.validation.features), rows.validation)
    return score.mean


@dataclass(frozen=True, slots=True)
class Losses:
    """One side's losses on the validation rows; None where there are no rows, or if a loss is not finite.

    `validation` is of the model as it was before all of them. `prequential` is what a live model is scored by: each row
    is predicted, then learned.
    """

    validation: float | None
    prequential: float | None

    def to_record(self) -> dict[str, float | None]:
        """The record in Redis and in responses."""
        return {"validation_loss": self.validation, "prequential_loss": self.prequential}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The losses of the candidate and of the live model; None if there is no live model that compares."""

    candidate: Losses
    live: Losses | None

    @property
    def is_better(self) -> bool:
        """Whether the candidate predicts better while it learns, which is what it would have to do."""
        candidate = self.candidate.prequential
        live = None if self.live is None else self.live.prequential
        return candidate is not None and (live is None or candidate < live)

    def refusal(self, promote: str) -> str | None:
        """Why the candidate is not promoted if that is asked for by `promote`; None if it is."""
        if promote == "never":
            return "not asked for"
        return NOT_BETTER if promote == "if_better" and not self.is_better else None

    def to_record(self) -> dict[str, Any]:
        """The record in Redis and in responses."""
        live = None if self.live is None else self.live.to_record()
        return {"candidate": self.candidate.to_record(), "live": live}
