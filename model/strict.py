"""What all parts of a spec share: strict reading, types, and how a value is refused."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(lambda name: _check_text(name))]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
NotNegative = Annotated[float, Field(ge=0.0, le=1e6)]
Positive = Annotated[float, Field(gt=0.0, le=1e6)]
LARGEST_INT = 10**15  # of counts: exact as a 64-bit float too
Count = Annotated[int, Field(ge=0, le=LARGEST_INT)]
PositiveInt = Annotated[int, Field(ge=1, le=LARGEST_INT)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class StrictModel(BaseModel):
    """Base of a spec and its parts: nothing is converted, no unknown field, nothing infinite."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )


def _check_text(text: str) -> str:
    if not text.isascii():
        check_names([text], "names", 4 * len(text))
    return text


def check_names(values: Iterable[Any], kind: str, most: int) -> None:
    """Raise PydanticCustomError if one of the classes or categories is too long, too large, or no text."""
    for value in values:
        if isinstance(value, str):
            try:
                size = len(value.encode())
            except UnicodeEncodeError:
                raise refuse(kind, f"{kind} hold text that UTF-8 cannot encode") from None
            if size > most:
                raise refuse(
                    kind, f"a string in {kind} has at most {most:,} bytes in UTF-8; one has {size:,}"
                )
        elif not -(2**63) <= value < 2**63:
            raise refuse(kind, f"the integers in {kind} are 64-bit")


def refuse(kind: str, message: str) -> PydanticCustomError:
    """The error to raise for a value that is refused, and why."""
    return PydanticCustomError(kind, message)
