"""What a user says of the optimizer and of the learning rate's schedule."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from model.strict import Count, NotNegative, Positive, PositiveInt, Share, StrictModel, refuse

MAX_REHEARSED = 64
MAX_MEMBERS = 8

OptimizerName = Literal["sgd", "rmsprop", "adam", "adamw", "adagrad"]
ScheduleName = Literal["constant", "inverse_time", "exponential", "cosine"]


class ScheduleSpec(StrictModel):
    """How the learning rate changes with the number of steps taken, t = 0, 1, 2, …

    constant: 1. inverse_time: 1 / (1 + decay·t). exponential: gamma^t. cosine: from 1 to `minimum` in `steps`
    steps along half a cosine, then `minimum`. Each is a factor of the learning rate, and during the first
    `warm_up` steps is multiplied by (t + 1) / warm_up.
    """

    name: ScheduleName = "constant"
    decay: NotNegative | None = None
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    steps: PositiveInt | None = None
    minimum: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    warm_up: Count = 0

    @field_validator("decay", "gamma", "steps", "minimum")
    @classmethod
    def _check_parameter(cls, value: float | None, info: ValidationInfo) -> float | None:
        name = info.data.get("name")
        if name is None:
            return value
        owner = SCHEDULE_OF[str(info.field_name)]
        if name != owner and value is not None:
            raise refuse("schedule", f"only the schedule {owner} has {info.field_name}")
        if name == owner and value is None:
            if info.field_name == "minimum":
                return 0.0
            raise refuse("schedule", f"the schedule {name} needs {info.field_name}")
        return value

    @model_serializer(mode="wrap")
    def _leave_out_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value is not None}


SCHEDULE_OF = {"decay": "inverse_time", "gamma": "exponential", "steps": "cosine", "minimum": "cosine"}

# What each optimizer takes beside the fields that all have, with PyTorch's defaults.
OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {
        "learning_rate": 0.001,
        "momentum": 0.0,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    },
    "rmsprop": {
        "learning_rate": 0.01,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
    },
    "adam": {"learning_rate": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"learning_rate": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    "adagrad": {
        "learning_rate": 0.01,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
    },
}

# Without a name the optimizer is this one. With a name, what is left out has PyTorch's default. Its numbers were
# chosen on streams (tests/benchmarks/quality.py). Momentum (the first of betas) only delays what single rows say. The
# rate is high until the first rows are learned, then stays where drift is still followed. The clip norm is far above
# the gradients of common rows: a small one holds surprising rows back, and predictions become too sure.
DEFAULT_OPTIMIZER: dict[str, Any] = {
    "name": "adam",
    "learning_rate": 0.005,
    "betas": (0.0, 0.999),
    "clip_norm": 20.0,
    "schedule": {"name": "cosine", "steps": 1000, "minimum": 0.3},
}


class RehearsalSpec(StrictModel):
    """Old rows learned again after each new one.

    `rows` are drawn from the window of recent rows and learned at `rate` times the learning rate: one step for each,
    or, if `batched`, one step on their mean gradient. `early` times as many, for the first rows after a start or a
    drift, when there is most to learn; `batched` ones then make so many steps.
    """

    rows: Annotated[int, Field(ge=1, le=MAX_REHEARSED)]
    rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    batched: bool = False
    early: Annotated[int, Field(ge=1, le=8)] = 1


class OptimizerSpec(StrictModel):
    """The step taken on each gradient: PyTorch's optimizers, under PyTorch's names and with its defaults.

    Without `name` the defaults are Freshet's own (`DEFAULT_OPTIMIZER`), which suit streams. In a list, each optimizer
    is a member of a committee. `layer_norm` normalises the hidden layers of its network, `rehearse` learns old rows
    again, `average` adds a twin that predicts with the exponentially averaged weights.
    `l1` and `l2` add l1·Σ|w| + l2/2·Σw² over the weights (not the biases) to the loss. `clip_norm` is the
    largest norm of the gradient of the loss, before `l1`, `l2` and `weight_decay`; null for no limit.
    """

    name: OptimizerName
    learning_rate: NotNegative
    momentum: Share | None = None
    dampening: Share | None = None
    nesterov: bool | None = None
    alpha: Share | None = None
    centered: bool | None = None
    betas: Annotated[tuple[Share, Share], Strict(False)] | None = None
    eps: Annotated[float, Field(ge=1e-12, le=1.0)] | None = None
    lr_decay: NotNegative | None = None
    initial_accumulator_value: NotNegative | None = None
    weight_decay: NotNegative | None = None
    l1: NotNegative = 0.0
    l2: NotNegative = 0.0
    clip_norm: Positive | None = None
    schedule: ScheduleSpec = ScheduleSpec()
    layer_norm: bool = False
    rehearse: RehearsalSpec | None = None
    average: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if value.get("name") is None:
            value = {**DEFAULT_OPTIMIZER, **{key: given for key, given in value.items() if key != "name"}}
        name = value["name"]
        known = isinstance(name, str) and name in OPTIMIZER_DEFAULTS
        defaults = OPTIMIZER_DEFAULTS[name if known else "adam"]
        return {
            **defaults,
            **{key: given for key, given in value.items() if given is not None or key not in defaults},
        }

    @field_validator(
        *sorted({key for defaults in OPTIMIZER_DEFAULTS.values() for key in defaults} - {"learning_rate"})
    )
    @classmethod
    def _check_applies(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("name")
        if name is not None and value is not None and info.field_name not in OPTIMIZER_DEFAULTS[name]:
            takers = " and ".join(
                key for key, taken in OPTIMIZER_DEFAULTS.items() if info.field_name in taken
            )
            raise refuse("optimizer", f"the optimizer {name} has no {info.field_name}: only {takers}")
        without_momentum = not info.data.get("momentum") or info.data.get("dampening")
        if info.field_name == "nesterov" and value and without_momentum:
            raise refuse("nesterov", "nesterov needs a momentum above 0 and no dampening")
        return value

    @property
    def is_lazy(self) -> bool:
        """Whether a step leaves every weight whose gradient is 0 as it is."""
        if self.weight_decay or self.l1 or self.l2:
            return False
        if self.name in ("adam", "adamw"):
            return self.betas is not None and self.betas[0] == 0.0
        return not self.momentum and not self.centered

    @model_serializer(mode="wrap")
    def _leave_out_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        # False of these two is left out as well: specs from before they existed stay equal, word for word.
        left_out = {name for name in ("layer_norm", "average") if not fields.get(name)}
        return {
            name: value
            for name, value in fields.items()
            if (value is not None or name == "clip_norm") and name not in left_out
        }


_MEMBERS: TypeAdapter[tuple[OptimizerSpec, ...]] = TypeAdapter(
    Annotated[tuple[OptimizerSpec, ...], Strict(False), Field(min_length=1, max_length=MAX_MEMBERS)]
)


def read_optimizer(value: Any) -> Any:
    """One optimizer, a list of members, or "auto".

    Dispatched by hand: the place of an error inside a union would carry the names of the union's members.
    """
    if value == "auto":
        return "auto"
    if isinstance(value, list | tuple):
        members = _MEMBERS.validate_python(value)
        if len(members) > 1 and any(member.learning_rate == 0.0 for member in members):
            raise refuse("optimizer", "the learning rate of a member is above 0")
        return members
    if isinstance(value, Mapping | OptimizerSpec):
        return OptimizerSpec.model_validate(value)
    raise refuse("optimizer", 'the optimizer is an object, a list of such members, or "auto"')
