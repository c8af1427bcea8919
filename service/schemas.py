"""Request bodies, checked at the edge: strict types, no unknown fields. Rows and labels are checked by the model."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, from_json

from service.errors import BadRequest, Invalid

Body = TypeVar("Body", bound=BaseModel)
MOST_CLASSES = 10_000  # that a model may have
LARGEST_WEIGHT = 1e6
"""Of an observation: beyond it a weight is nearly always a mistake, and ruins a model whose steps are not clipped."""
ABSENT = object()
"""Features that were left out: those of the prediction that awaits the observation's label are meant."""
ObservationId = Annotated[str, Field(min_length=1, max_length=128)]


class Strict(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class PredictRequest(Strict):
    """Body of `POST /v1/models/{name}/predict`."""

    instances: Annotated[list[Any], Field(min_length=1)]
    ids: Annotated[list[ObservationId], Field(min_length=1)] | None = None
    min_step: Annotated[int, Field(ge=0, le=2**53)] | None = None
    top: Annotated[int, Field(ge=1, le=MOST_CLASSES)] | None = None


class Observation(Strict):
    """A row with its label, or the label alone for a row that was predicted with the same id."""

    features: Any = Field(default_factory=lambda: ABSENT)
    label: Any
    id: ObservationId | None = None
    weight: Annotated[float, Field(gt=0, le=LARGEST_WEIGHT)] | None = None


class Observations(Strict):
    """Several observations in order."""

    observations: Annotated[list[Observation], Field(min_length=1)]


def parse(body_type: type[Body], raw: bytes) -> Body:
    """A body from raw JSON. Raises BadRequest if it is no JSON, Invalid with the bad fields."""
    try:
        return body_type.model_validate_json(raw)
    except ValidationError as error:
        raise problem(error, body_type) from None


def parse_feedback(raw: bytes, check: Callable[[int], None] = lambda rows: None) -> list[Observation]:
    """The observations of a feedback body: one, or a list; `check` is given their number. Raises as `parse` does."""
    try:
        value = from_json(raw)
    except ValueError as error:
        raise BadRequest(f"not JSON: {error}") from None
    several = isinstance(value, dict) and "observations" in value
    if several and isinstance(value["observations"], list):
        check(len(value["observations"]))
    try:
        if several:
            return Observations.model_validate(value).observations
        return [Observation.model_validate(value)]
    except ValidationError as error:
        raise problem(error, Observations if several else Observation) from None


def problem(
    error: ValidationError, body_type: type[BaseModel] | None = None, prefix: str = ""
) -> BadRequest | Invalid:
    """The problem that tells a client of a validation error.

    Where a field is unknown it names those of `body_type`; `prefix` goes before each pointer.
    """
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return BadRequest(f"not JSON: {errors[0]['msg']}")
    # A list of which every item is bad counts as too short.
    within = {item["loc"][:size] for item in errors for size in range(len(item["loc"]))}
    errors = [item for item in errors if item["type"] != "too_short" or item["loc"] not in within]
    # A wrong name also leaves the right one out.
    errors.sort(key=lambda item: item["type"] != "extra_forbidden")
    fields = [(prefix + pointer(*item["loc"]), _message(item, body_type)) for item in errors[:100]]
    where, what = fields[0]
    return Invalid(f"{where or 'the body'}: {what}", fields)


def _message(item: ErrorDetails, body_type: type[BaseModel] | None) -> str:
    if item["type"] != "extra_forbidden":
        return item["msg"]
    known = _fields_around(item["loc"], body_type)
    return f"unknown field; known are {', '.join(known)}" if known else "unknown field"


def _fields_around(path: tuple[str | int, ...], body_type: Any) -> list[str]:
    """The fields that a model has where `path` names one that it hasn't; none if that cannot be told."""
    for part in path[:-1]:
        if isinstance(part, str):
            field = body_type.model_fields.get(part) if body_type else None
            body_type = _model_in(field.annotation) if field else None
    return list(body_type.model_fields) if body_type else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model in an annotation such as `list[Model] | None`; None if there are several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = {_model_in(part) for part in get_args(annotation)} - {None}
    return found.pop() if len(found) == 1 else None


def pointer(*path: str | int) -> str:
    """The JSON pointer (RFC 6901) of a path of names and indices."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
