"""How a training goes: its losses, what is told of it, and when it stops early."""

import math
import time
from typing import Any

import numpy as np

from model import ModelSpec, OnlineModel
from model.losses import OUTPUTS, loss_of
from service import failpoints
from service.jobs.retraining import Retraining
from service.store.blocks import Block
from service.trainer.heartbeat import JobHeartbeat
from service.trainer.rows import Rows

TELL = 0.25  # least seconds between two reports of progress

Array = np.ndarray


class Progress:
    """What is told of the training, and when it stops early."""

    def __init__(self, asked: Retraining, heartbeat: JobHeartbeat, model: OnlineModel, rows: Rows) -> None:
        self._asked = asked
        self._heartbeat = heartbeat
        self._model = model
        self._rows = rows
        self._losses: list[dict[str, Any]] = []
        self._best: tuple[float, bytes] | None = None
        self._waited = 0
        self._started = time.monotonic()
        self._told_at = 0.0

    def on_epoch(self, epoch: int, loss: float) -> bool:
        """Tell the losses of an epoch; False stops the training."""
        validation = self._validation_loss()
        losses = {"loss": loss if math.isfinite(loss) else None, "validation_loss": validation}
        self._losses = [*self._losses, {"epoch": epoch + 1, **losses}]
        elapsed = time.monotonic() - self._started
        left = elapsed / (epoch + 1) * (self._asked.epochs - epoch - 1)
        self._heartbeat.note(epoch=epoch + 1, losses=self._losses, seconds_left=round(left, 3))
        if time.monotonic() - self._told_at >= TELL:
            self._told_at = time.monotonic()
            self._heartbeat.tell()
        failpoints.reach("job-training")
        return self._goes_on(validation)

    def best_model(self) -> OnlineModel:
        """The model after its best epoch, if the training was to stop early; else after its last."""
        return self._model if self._best is None else OnlineModel.from_bytes(self._best[1])

    def _validation_loss(self) -> float | None:
        """The loss of the model as it stands on the validation rows, which it does not learn."""
        if not len(self._rows.validation):
            return None
        score = Score(self._model.spec, self._rows)
        score.add(self._model.predict(self._rows.validation.features), self._rows.validation)
        return score.mean

    def _goes_on(self, validation: float | None) -> bool:
        if self._asked.patience is None or validation is None:
            return True
        if self._best is None or validation < self._best[0]:
            self._best, self._waited = (validation, self._model.to_bytes()), 0
        else:
            self._waited += 1
        return self._waited < self._asked.patience


class Score:
    """The weighted mean loss of predictions. Those of targets count in deviations of the window's labels, the same for
    every model."""

    def __init__(self, spec: ModelSpec, rows: Rows) -> None:
        self._spec = spec
        self._spread = rows.spread if spec.task == "regression" else np.ones(1)
        self._total = self._weight = 0.0

    def add(self, predictions: Array, block: Block) -> None:
        """Count predictions (n, outputs) for the n rows of a block."""
        spec = self._spec
        y = block.labels / self._spread
        scores = OUTPUTS[spec.output].score(predictions / self._spread)
        losses = loss_of(spec.loss, spec.output, spec.outputs).value(scores, y)
        weights = np.ones(len(losses)) if block.weights is None else block.weights
        self._total += float(np.dot(losses, weights))
        self._weight += float(weights.sum())

    @property
    def mean(self) -> float | None:
        """The loss so far; None without rows, or if it is not finite."""
        if not self._weight or not np.isfinite(self._total):
            return None
        return self._total / self._weight
