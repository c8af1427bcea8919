"""ModelSpec: what a user asks for, checked."""

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

MAX_UNITS = 1_000_000
MAX_LAYERS = 64
MAX_FEATURES = 100_000
MAX_CATEGORIES = 1_000_000
MAX_CLASSES = 10_000
MAX_PARAMETERS = 100_000_000
"""Absolute limits of a spec. A server sets its own, lower ones by `ModelSpec.parameter_count`."""

Task = Literal["binary", "multiclass", "regression"]
Activation = Literal[
    "linear", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus"
]  # fmt: skip
Output = Literal["linear", "sigmoid", "softmax", "threshold"]
Loss = Literal["cross_entropy", "mean_squared", "mean_absolute", "huber", "hinge", "perceptron"]
Initializer = Literal["he", "glorot", "lecun", "uniform", "zeros"]
Scaling = Literal["standard", "minmax", "none"]
OptimizerName = Literal["sgd", "rmsprop", "adam", "adamw", "adagrad"]
ScheduleName = Literal["constant", "inverse_time", "exponential", "cosine"]
Kind = Literal["number", "boolean", "category", "hash"]
ClassName = bool | int | str

# Which loss goes with which output, by task; the first of each task is its default.
COMBINATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "binary": (
        ("cross_entropy", "sigmoid"),
        ("mean_squared", "sigmoid"),
        ("hinge", "linear"),
        ("perceptron", "threshold"),
    ),
    "multiclass": (
        ("cross_entropy", "softmax"),
        ("mean_squared", "softmax"),
        ("hinge", "linear"),
        ("perceptron", "threshold"),
    ),
    "regression": (("mean_squared", "linear"), ("mean_absolute", "linear"), ("huber", "linear")),
}

Name = Annotated[str, Field(min_length=1, max_length=128)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
NotNegative = Annotated[float, Field(ge=0.0, le=1e6)]
Positive = Annotated[float, Field(gt=0.0, le=1e6)]
PositiveInt = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )


def _refuse(kind: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(kind, message)


class FeatureSpec(_Strict):
    """One column of a row.

    `number` and `boolean` are one input of the network. `category` is one input for each of `values` and one
    for every value outside them. `hash` is one input for each of `buckets`. With `indicator`, one more
    input is 1 where the value is missing.
    """

    name: Name
    kind: Kind = "number"
    values: Annotated[tuple[int | str, ...], Strict(False)] | None = None
    buckets: Annotated[int, Field(ge=1, le=MAX_CATEGORIES)] | None = None
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
            raise _refuse(
                "buckets", "a hash feature needs buckets: the number of inputs its values are spread over"
            )
        if kind not in (None, "hash") and buckets is not None:
            raise _refuse("buckets", "only a feature of kind hash has buckets")
        return buckets

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
            raise _refuse("values", "only a feature of kind category has values")
        return None
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= MAX_CATEGORIES:
        raise _refuse(
            "values", "a category needs values: a list of one or more different strings or integers"
        )
    if any(type(value) not in (int, str) for value in values):
        raise _refuse("values", "the values of a category are strings or integers")
    if len(set(values)) < len(values):
        raise _refuse("values", "the values of a category must all be different")
    return tuple(values)


class LayerSpec(_Strict):
    """A dense layer: weights, then batch normalisation (if any), then the activation, then dropout."""

    units: Annotated[int, Field(ge=1, le=MAX_UNITS)]
    activation: Activation = "relu"
    dropout: Share = 0.0
    batch_norm: bool = False


class ScheduleSpec(_Strict):
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
    warm_up: Annotated[int, Field(ge=0)] = 0

    @field_validator("decay", "gamma", "steps", "minimum")
    @classmethod
    def _check_parameter(cls, value: float | None, info: ValidationInfo) -> float | None:
        name = info.data.get("name")
        if name is None:
            return value
        owner = SCHEDULE_OF[str(info.field_name)]
        if name != owner and value is not None:
            raise _refuse("schedule", f"only the schedule {owner} has {info.field_name}")
        if name == owner and value is None:
            if info.field_name == "minimum":
                return 0.0
            raise _refuse("schedule", f"the schedule {name} needs {info.field_name}")
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
# chosen by tests/benchmarks/defaults.py. Momentum (the first of betas) only delays what single rows say. The rate
# is high until the first rows are learned, then stays where drift is still followed. The clip norm is far above the
# gradients of common rows: a small one holds surprising rows back, and predictions become too sure.
DEFAULT_OPTIMIZER: dict[str, Any] = {
    "name": "adam",
    "learning_rate": 0.005,
    "betas": (0.0, 0.999),
    "clip_norm": 20.0,
    "schedule": {"name": "cosine", "steps": 1000, "minimum": 0.3},
}


class OptimizerSpec(_Strict):
    """The step taken on each gradient: PyTorch's optimizers, under PyTorch's names and with its defaults.

    Without `name` the defaults are Freshet's own (`DEFAULT_OPTIMIZER`), which suit streams.
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
            raise _refuse("optimizer", f"the optimizer {name} has no {info.field_name}: only {takers}")
        without_momentum = not info.data.get("momentum") or info.data.get("dampening")
        if info.field_name == "nesterov" and value and without_momentum:
            raise _refuse("nesterov", "nesterov needs a momentum above 0 and no dampening")
        return value

    @model_serializer(mode="wrap")
    def _leave_out_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if value is not None or name == "clip_norm"}


_FEATURE_LIST: TypeAdapter[tuple[FeatureSpec, ...]] = TypeAdapter(tuple[FeatureSpec, ...])


def _read_features(value: Any) -> int | tuple[FeatureSpec, ...]:
    """A number of inputs, or a list of features.

    Dispatched by hand: the place of an error inside a union would carry the names of the union's members.
    """
    if type(value) is int:
        if not 1 <= value <= MAX_FEATURES:
            raise _refuse("features", f"the number of features is from 1 to {MAX_FEATURES:,}")
        return value
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_FEATURES:
        raise _refuse("features", f"features is a number, or a list of 1 to {MAX_FEATURES:,} features")
    features = _FEATURE_LIST.validate_python(value)
    first: dict[str, int] = {}
    for place, feature in enumerate(features):
        if first.setdefault(feature.name, place) != place:
            raise _repeated_name(place, feature.name)
    return features


def _repeated_name(place: int, name: str) -> ValidationError:
    error = _refuse("features", "each feature has a name of its own; this one stands earlier in the list")
    return ValidationError.from_exception_data(
        "features", [InitErrorDetails(type=error, loc=(place, "name"), input=name)]
    )


def _read_classes(value: Any) -> tuple[ClassName, ...] | None:
    """A list of different classes of one type, or their number n for 0 … n − 1."""
    if value is None:
        return None
    if type(value) is int:
        value = list(range(value)) if 2 <= value <= MAX_CLASSES else []
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= MAX_CLASSES:
        raise _refuse("classes", f"classes is a list of 2 to {MAX_CLASSES:,} classes, or their number")
    kinds = {type(label) for label in value}
    if len(kinds) != 1 or not kinds <= {bool, int, str}:
        raise _refuse("classes", "classes are all integers, all strings or all booleans")
    if len(set(value)) < len(value):
        raise _refuse("classes", "the classes must all be different")
    return tuple(value)


def _count_inputs(features: int | tuple[FeatureSpec, ...]) -> int:
    return features if isinstance(features, int) else sum(feature.inputs for feature in features)


def _count_weights(widths: tuple[int, ...]) -> int:
    return sum(math.prod(pair) for pair in pairwise(widths))


Features = Annotated[
    int | tuple[FeatureSpec, ...],
    WrapValidator(lambda value, _: _read_features(value), json_schema_input_type=int | list[FeatureSpec]),
]
Classes = Annotated[
    tuple[ClassName, ...] | None,
    WrapValidator(lambda value, _: _read_classes(value), json_schema_input_type=int | list[ClassName] | None),
]


class ModelSpec(_Strict):
    """A model as its user asks for it. Only `task` and `features` are required.

    `scaling` is of the inputs; unless it is `none`, the targets of a regression are standardised too.
    `class_weights` multiply the loss of each class, in the order of `classes`. `keep` and `keep_bytes`
    bound the log of observations. Raises pydantic's ValidationError, which names the field.
    """

    task: Task
    features: Features
    classes: Classes = None
    targets: Annotated[int, Field(ge=1, le=MAX_CLASSES)] = 1
    layers: Annotated[tuple[LayerSpec, ...], Strict(False), Field(max_length=MAX_LAYERS)] = (
        LayerSpec(units=64),
        LayerSpec(units=32),
    )
    loss: Loss
    output: Output
    class_weights: Annotated[tuple[Positive, ...], Strict(False)] | None = None
    optimizer: OptimizerSpec = Field(default_factory=lambda: OptimizerSpec.model_validate({}))
    scaling: Scaling = "standard"
    bias: bool = True
    initializer: Initializer | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    keep: PositiveInt = 100_000
    keep_bytes: PositiveInt = 64 * 2**20

    @model_validator(mode="before")
    @classmethod
    def _fill_loss_and_output(cls, value: Any) -> Any:
        """Each of `loss` and `output` follows from the other, and both from the task.

        Where they contradict each other anything is filled in: the checks of the two fields say what is
        allowed.
        """
        if not isinstance(value, Mapping):
            return value
        task = value.get("task")
        pairs = COMBINATIONS[str(task) if task in get_args(Task) else "binary"]
        loss, output = value.get("loss"), value.get("output")
        fitting = [pair for pair in pairs if loss in (None, pair[0]) and output in (None, pair[1])]
        default = (fitting or pairs)[0]
        return {
            **value,
            "loss": default[0] if loss is None else loss,
            "output": default[1] if output is None else output,
        }

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[ClassName, ...] | None, info: ValidationInfo) -> Any:
        task = info.data.get("task")
        if task == "regression" and classes is not None:
            raise _refuse("classes", "a regression has no classes")
        if task == "multiclass" and classes is None:
            raise _refuse(
                "classes", "a multiclass task needs classes: a list of two or more, or their number"
            )
        if task == "binary" and classes is None:
            return (0, 1)
        if task == "binary" and classes is not None and len(classes) != 2:
            raise _refuse("classes", "a binary task has exactly two classes")
        return classes

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: int, info: ValidationInfo) -> int:
        if targets != 1 and info.data.get("task") != "regression":
            raise _refuse("targets", "only a regression has more than one target")
        return targets

    @field_validator("layers")
    @classmethod
    def _check_size(cls, layers: tuple[LayerSpec, ...], info: ValidationInfo) -> tuple[LayerSpec, ...]:
        if sum(layer.units for layer in layers) > MAX_UNITS:
            raise _refuse("layers", f"the layers have at most {MAX_UNITS:,} units in total")
        if {"features", "classes", "targets"} <= info.data.keys():
            ends = _count_inputs(info.data["features"]), len(info.data["classes"] or ()), info.data["targets"]
            weights = _count_weights((ends[0], *(layer.units for layer in layers), max(ends[1:])))
            if weights > MAX_PARAMETERS:
                raise _refuse(
                    "layers",
                    f"layers and features make {weights:,} weights; at most {MAX_PARAMETERS:,} are allowed",
                )
        return layers

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, loss: str, info: ValidationInfo) -> str:
        task = info.data.get("task")
        if task is not None:
            allowed = list(dict.fromkeys(pair[0] for pair in COMBINATIONS[task]))
            if loss not in allowed:
                raise _refuse("loss", f"the losses of a {task} task are {', '.join(allowed)}; not {loss}")
        return loss

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: str, info: ValidationInfo) -> str:
        task, loss = info.data.get("task"), info.data.get("loss")
        if task is not None and loss is not None and (loss, output) not in COMBINATIONS[task]:
            allowed = ", ".join(pair[1] for pair in COMBINATIONS[task] if pair[0] == loss)
            raise _refuse(
                "output", f"the output of a {task} task with loss {loss} is {allowed}; not {output}"
            )
        return output

    @field_validator("class_weights")
    @classmethod
    def _check_class_weights(cls, weights: tuple[float, ...] | None, info: ValidationInfo) -> Any:
        classes = info.data.get("classes")
        if weights is not None and info.data.get("task") == "regression":
            raise _refuse("class_weights", "a regression has no class_weights")
        if weights is not None and classes is not None and len(weights) != len(classes):
            raise _refuse("class_weights", "class_weights has one number for each of classes, in their order")
        return weights

    @cached_property
    def feature_list(self) -> tuple[FeatureSpec, ...]:
        """The features; those of a plain number are numbers named x0, x1, …"""
        if isinstance(self.features, int):
            return tuple(FeatureSpec(name=f"x{place}") for place in range(self.features))
        return self.features

    @property
    def width(self) -> int:
        """Columns of a raw row: one for each feature."""
        return self.features if isinstance(self.features, int) else len(self.features)

    @cached_property
    def inputs(self) -> int:
        """Inputs of the network: raw columns after one-hot, hash and indicator expansion."""
        return _count_inputs(self.features)

    @property
    def outputs(self) -> int:
        """Columns of a prediction: 1 for binary, one for each class, or one for each target."""
        if self.task == "multiclass":
            return len(self.classes or ())
        return self.targets

    @property
    def scales_targets(self) -> bool:
        return self.task == "regression" and self.scaling != "none"

    @property
    def widths(self) -> tuple[int, ...]:
        """Units from the network's input to its output: inputs, each layer's units, outputs."""
        return (self.inputs, *(layer.units for layer in self.layers), self.outputs)

    @property
    def parameter_count(self) -> int:
        """Weights, biases and batch normalisation's gains and shifts; costs no memory."""
        gains = sum(layer.units for layer in self.layers if layer.batch_norm)
        biases = sum(self.widths[1:]) if self.bias else 0
        return _count_weights(self.widths) + gains + biases
