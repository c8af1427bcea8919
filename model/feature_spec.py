"""What a user says of the features: how many, or what each is."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_serializer,
)
from pydantic_core import InitErrorDetails

from model.strict import Integer, Name, StrictModel, check_names, refuse

MAX_FEATURES = 100_000
MAX_CATEGORIES = 1_000_000
MAX_TOKENS = 10_000
MAX_TEXT_BYTES = 8192
"""Of a feature's value."""

_VALUES_SCHEMA = TypeAdapter(
    Annotated[
        list[Integer | Annotated[str, Field(max_length=MAX_TEXT_BYTES)]],
        Field(min_length=1, max_length=MAX_CATEGORIES),
    ]
).json_schema()

Kind = Literal["number", "boolean", "category", "hash"]
Combine = Literal["sum", "mean", "norm"]


class FeatureSpec(StrictModel):
    """One value of a row.

    `number` and `boolean` are one input of the network. `category` is one input for each of `values` and one for
    every other value. `hash` is one input for each of `buckets`: 1 for the value's bucket. With `tokens`, the value
    of a `hash` is a list of at most so many strings, or an object of weights by string; the weights of each bucket
    are added up (`combine`: sum), then divided by their number (mean) or scaled to length 1 (norm, the default).
    With `indicator`, one more input is 1 where the value is missing.
    """

    name: Name
    kind: Kind = "number"
    values: Annotated[tuple[int | str, ...], Strict(False), WithJsonSchema(_VALUES_SCHEMA)] | None = None
    buckets: Annotated[int, Field(ge=1, le=MAX_CATEGORIES)] | None = None
    tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    combine: Combine | None = None
    indicator: bool = False

    @field_validator("values", mode="before")
    @classmethod
    def _read_values(cls, values: Any, info: ValidationInfo) -> Any:
        """Read the list here, so that an error's place is not burdened with the names of union members."""
        if "kind" not in info.data:
            return None
        return _read_values(values, info.data["kind"] == "category")

    @field_validator("buckets")
    @classmethod
    def _check_buckets(cls, buckets: int | None, info: ValidationInfo) -> int | None:
        kind = info.data.get("kind")
        if kind == "hash" and buckets is None:
            raise refuse(
                "buckets", "a hash feature needs buckets: the number of inputs its values are spread over"
            )
        if kind not in (None, "hash") and buckets is not None:
            raise refuse("buckets", "only a feature of kind hash has buckets")
        return buckets

    @field_validator("tokens")
    @classmethod
    def _check_tokens(cls, tokens: int | None, info: ValidationInfo) -> int | None:
        if tokens is not None and info.data.get("kind", "hash") != "hash":
            raise refuse("tokens", "only a feature of kind hash has tokens")
        return tokens

    @field_validator("combine")
    @classmethod
    def _check_combine(cls, combine: Combine | None, info: ValidationInfo) -> Combine | None:
        if "tokens" not in info.data:
            return combine
        if info.data["tokens"] is None:
            if combine is not None:
                raise refuse("combine", "only a feature with tokens combines them")
            return None
        return combine or "norm"

    @property
    def columns(self) -> int:
        """Columns of a raw row: one, or one for each token."""
        return self.tokens or 1

    @property
    def slots(self) -> int:
        """Inputs of the network for the value itself, without the indicator."""
        if self.kind == "category":
            return len(self.values or ()) + 1
        return self.buckets or 1

    @property
    def inputs(self) -> int:
        return self.slots + self.indicator

    @property
    def one_hot(self) -> bool:
        return self.kind in ("category", "hash")

    @model_serializer(mode="wrap")
    def _leave_out_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value is not None}


def _read_values(values: Any, wanted: bool) -> tuple[int | str, ...] | None:
    if not wanted:
        if values is not None:
            raise refuse("values", "only a feature of kind category has values")
        return None
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= MAX_CATEGORIES:
        raise refuse("values", "a category needs values: a list of one or more different strings or integers")
    if any(type(value) not in (int, str) for value in values):
        raise refuse("values", "the values of a category are strings or integers")
    if len(set(values)) < len(values):
        raise refuse("values", "the values of a category must all be different")
    check_names(values, "values", MAX_TEXT_BYTES)
    return tuple(values)


_FEATURE_LIST: TypeAdapter[tuple[FeatureSpec, ...]] = TypeAdapter(tuple[FeatureSpec, ...])


def _read_features(value: Any) -> int | tuple[FeatureSpec, ...]:
    """A number of inputs, or a list of features.

    Dispatched by hand: the place of an error inside a union would carry the names of the union's members.
    """
    if type(value) is int:
        if not 1 <= value <= MAX_FEATURES:
            raise refuse("features", f"the number of features is from 1 to {MAX_FEATURES:,}")
        return value
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_FEATURES:
        raise refuse("features", f"features is a number, or a list of 1 to {MAX_FEATURES:,} features")
    features = _FEATURE_LIST.validate_python(value)
    first: dict[str, int] = {}
    for index, feature in enumerate(features):
        if first.setdefault(feature.name, index) != index:
            raise _repeated_name(index, feature.name)
    if count_columns(features) > MAX_FEATURES:
        raise refuse("features", f"the features have at most {MAX_FEATURES:,} values and tokens in a row")
    return features


def _repeated_name(index: int, name: str) -> ValidationError:
    error = refuse("features", "each feature has a name of its own; this one is used earlier in the list")
    return ValidationError.from_exception_data(
        "features", [InitErrorDetails(type=error, loc=(index, "name"), input=name)]
    )


def count_columns(features: int | tuple[FeatureSpec, ...]) -> int:
    """Columns of a raw row."""
    return features if isinstance(features, int) else sum(feature.columns for feature in features)


def count_inputs(features: int | tuple[FeatureSpec, ...]) -> int:
    """Inputs of the network that the features take."""
    return features if isinstance(features, int) else sum(feature.inputs for feature in features)


Features = Annotated[
    int | tuple[FeatureSpec, ...],
    WrapValidator(
        lambda value, _: _read_features(value),
        json_schema_input_type=Annotated[int, Field(ge=1, le=MAX_FEATURES)]
        | Annotated[list[FeatureSpec], Field(min_length=1, max_length=MAX_FEATURES)],
    ),
]
