"""What all parts of a spec share: strict reading, types, and how a value is refused."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Name = Annotated[str, Field(min_length=1, max_length=128)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
NotNegative = Annotated[float, Field(ge=0.0, le=1e6)]
Positive = Annotated[float, Field(gt=0.0, le=1e6)]
PositiveInt = Annotated[int, Field(ge=1)]


class StrictModel(BaseModel):
    """Base of a spec and its parts: nothing is converted, no unknown field, nothing infinite."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )


def refuse(kind: str, message: str) -> PydanticCustomError:
    """The error to raise for a value that is refused, and why."""
    return PydanticCustomError(kind, message)
