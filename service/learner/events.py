"""What a model has met while it learns, drifts above all: told in the log, and a retraining started where it is due."""

import math

from model import OnlineModel
from service.errors import StoreFull
from service.jobs import schedules
from service.jobs.retraining import Retraining, after_drift
from service.logs import log
from service.store.model_store import ModelStore

PAUSE = 1.0  # seconds between two lines about one model


class Events:
    """The events of one model, from those that it has had when it was loaded."""

    def __init__(self, model: OnlineModel) -> None:
        self._seen = model.event_count
        self._told = self._seen
        self._told_at = -math.inf
        self._retrain_at: int | None = None  # the step of a drift whose retraining is to be started

    def note(self, model: OnlineModel) -> None:
        """Note what is new. A model that replaces another may have had fewer."""
        count = model.event_count
        if count < self._seen:
            self._seen = self._told = count
        if count == self._seen:
            return
        for event in model.events_after(self._seen):
            if event["retrain"]:
                self._retrain_at = event["step"]
        self._seen = count

    def tell(self, name: str, model: OnlineModel, now: float) -> None:
        """Log the newest event, and how many others there were, once in PAUSE seconds at most."""
        if self._told == self._seen or now - self._told_at < PAUSE:
            return
        events = model.events_after(self._told)
        if events:
            told = {key: events[-1][key] for key in ("step", "kind", "subject", "detail")}
            log.warning("drift", model=name, **told, others=self._seen - self._told - 1)
        self._told, self._told_at = self._seen, now

    def start_retraining(self, store: ModelStore) -> None:
        """Start the retraining that is due, by the schedule's `job` if there is one. Raises StoreError: try again."""
        if self._retrain_at is None:
            return
        scheduled = schedules.load(store)
        job = Retraining() if scheduled is None else scheduled.schedule.job
        try:
            started = after_drift(store, self._retrain_at, job)
            log.info(
                "a drift asks for a retraining", model=store.name, outcome=started.outcome, job=started.id
            )
        except StoreFull as error:
            log.error("no retraining after a drift", model=store.name, error=str(error))
        self._retrain_at = None
