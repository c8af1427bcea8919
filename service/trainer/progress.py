"""A training's progress: its losses, when they are reported, and when it stops early."""

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from model import OnlineModel
from service import failpoints
from service.jobs.retraining import Retraining
from service.trainer.judging import validation_loss
from service.trainer.rows import Rows

TELL = 0.25  # least seconds between two reports of progress


class Reports(Protocol):
    """Where progress is reported: the job's heartbeat."""

    def note(self, **progress: Any) -> None:
        """Progress that goes with the next report."""

    def tell(self) -> None:
        """Report now."""


class Progress:
    """What is reported of a training, and when it stops early."""

    def __init__(
        self,
        asked: Retraining,
        reports: Reports,
        model: OnlineModel,
        rows: Rows,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked = asked
        self._reports = reports
        self._model = model
        self._rows = rows
        self._clock = clock
        self._losses: list[dict[str, Any]] = []
        self._best: tuple[float, bytes] | None = None
        self._waited = 0
        self._started = self._clock()
        self._reported_at = -math.inf

    def on_epoch(self, epoch: int, loss: float) -> bool:
        """Report the losses of an epoch; False stops the training."""
        validation = validation_loss(self._model, self._rows)
        losses = {"loss": loss if math.isfinite(loss) else None, "validation_loss": validation}
        self._losses = [*self._losses, {"epoch": epoch + 1, **losses}]
        elapsed = self._clock() - self._started
        left = elapsed / (epoch + 1) * (self._asked.epochs - epoch - 1)
        self._reports.note(epoch=epoch + 1, losses=self._losses, seconds_left=round(left, 3))
        if self._clock() - self._reported_at >= TELL:
            self._reported_at = self._clock()
            self._reports.tell()
        failpoints.reach("job-training")
        return self._goes_on(validation)

    def best_model(self) -> OnlineModel:
        """The model after its best epoch, if the training was to stop early; else after its last."""
        return self._model if self._best is None else OnlineModel.from_bytes(self._best[1])

    def _goes_on(self, validation: float | None) -> bool:
        if self._asked.patience is None or validation is None:
            return True
        if self._best is None or validation < self._best[0]:
            self._best, self._waited = (validation, self._model.to_bytes()), 0
        else:
            self._waited += 1
        return self._waited < self._asked.patience
