"""What a retraining is asked to do, and which observations of the log it takes."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from model import OptimizerSpec
from service.errors import ServiceError
from service.schemas import Strict
from service.store.jobs import Started, new_id
from service.store.log import Log
from service.store.model_store import ModelStore

LEAST_ROWS = 20
"""Observations that a retraining needs at least, of which half must be left for training."""
NOT_BETTER = "not better than the live model"
"""Why `if_better` refuses a candidate."""


class TooFewRows(ServiceError):
    """The window has too few observations for a retraining."""


def _read_time(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "time", "a time is seconds since 1970, or ISO 8601 such as 2026-01-31T12:00:00Z"
        ) from None


_Seconds = Annotated[float, Field(ge=-1e12, le=1e12)]
_Text = Annotated[str, Field(max_length=64)]
Time = Annotated[_Seconds, BeforeValidator(_read_time, json_schema_input_type=_Seconds | _Text)]
"""Seconds since the epoch; in JSON also as ISO 8601."""


class Window(Strict):
    """The newest observations: the `last` so many, or those `since` a time (seconds since the epoch, or ISO 8601)."""

    last: Annotated[int, Field(ge=1, le=2**53)] | None = None
    since: Time | None = None

    @model_validator(mode="after")
    def _check_one(self) -> "Window":
        if (self.last is None) == (self.since is None):
            raise PydanticCustomError("window", "a window has either last or since")
        return self


class Retraining(Strict):
    """How to retrain. `validation` is the share of the window, its newest rows, that the candidate is judged on."""

    epochs: Annotated[int, Field(ge=1, le=2**31)] = 5
    batch_size: Annotated[int, Field(ge=1, le=2**31)] | None = 32
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    optimizer: OptimizerSpec | None = None
    start: Literal["current", "scratch"] = "current"
    window: Window | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    patience: Annotated[int, Field(ge=1, le=2**31)] | None = None
    promote: Annotated[Literal["if_better", "always", "never"], Field(validate_default=True)] = "if_better"

    @field_validator("optimizer", mode="before")
    @classmethod
    def _read_name(cls, value: Any) -> Any:
        """A name alone is the optimizer with its defaults."""
        return {"name": value} if isinstance(value, str) else value

    @field_validator("window", mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        """A number alone is of the last observations."""
        return {"last": value} if type(value) is int else value

    @field_validator("patience", "promote")
    @classmethod
    def _check_validation(cls, value: Any, info: Any) -> Any:
        if info.data.get("validation") == 0.0 and value not in (None, "always", "never"):
            raise PydanticCustomError("validation", f"{info.field_name} needs a validation share above 0")
        return value

    def counts(self, rows: int) -> tuple[int, int]:
        """How many of so many rows are for training and for validation. Raises TooFewRows."""
        validation = round(self.validation * rows)
        training = rows - validation
        if rows < LEAST_ROWS or training < LEAST_ROWS // 2 or (self.validation > 0 and validation < 1):
            detail = (
                f"{rows} observations in the log's window, {training} of them for training; "
                f"a retraining needs {LEAST_ROWS}, of which {LEAST_ROWS // 2} for training"
            )
            raise TooFewRows(detail)
        return training, validation


def after_drift(store: ModelStore, step: int, job: Retraining) -> Started:
    """Start the retraining that a drift at a step asks for, once however often it is asked for. Raises StoreError."""
    request = {"retrain": job.model_dump(mode="json"), "by": "drift"}
    return store.jobs.start(new_id(store.name, f"drift-{step}"), request, "")


def start_of(window: Window | None, log: Log, head: int) -> int:
    """The position after which a window of a log begins; `head` is that of its newest observation."""
    oldest = log.oldest(head)
    if window is None:
        return oldest
    if window.last is not None:
        return max(oldest, head - window.last)
    assert window.since is not None
    return max(oldest, log.position_before(window.since, oldest, head))
