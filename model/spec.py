"""ModelSpec: what a user asks for, checked."""

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)

from model.drift_spec import DriftSpec
from model.feature_spec import Features, FeatureSpec, count_columns, count_inputs
from model.members import auto_members
from model.optimizer_spec import MAX_MEMBERS, OptimizerSpec, read_optimizer
from model.strict import Integer, Positive, PositiveInt, Share, StrictModel, check_names, refuse

MAX_UNITS = 1_000_000
MAX_LAYERS = 64
MAX_CLASSES = 10_000
MAX_CLASS_BYTES = 256
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

# From so many inputs on, and so many for each that is not 0, the first layer is sparse; not for long texts.
SPARSE_INPUTS, SPARSE_RATIO, SPARSE_TOKENS = 64, 4, 512

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


class LayerSpec(StrictModel):
    """A dense layer: weights, then a normalisation (if any), then the activation, then dropout.

    `batch_norm` normalises each unit over the rows, with a gain and a shift to learn; `layer_norm` each row over
    the units, without parameters (Ba, Kiros and Hinton 2016). A layer has one of them at most.
    """

    units: Annotated[int, Field(ge=1, le=MAX_UNITS)]
    activation: Activation = "relu"
    dropout: Share = 0.0
    batch_norm: bool = False
    layer_norm: bool = False

    @field_validator("layer_norm")
    @classmethod
    def _check_layer_norm(cls, layer_norm: bool, info: ValidationInfo) -> bool:
        if layer_norm and info.data.get("batch_norm"):
            raise refuse("layer_norm", "a layer has batch_norm or layer_norm, not both")
        if layer_norm and info.data.get("units") == 1:
            raise refuse("layer_norm", "layer_norm needs two units or more")
        return layer_norm

    @model_serializer(mode="wrap")
    def _leave_out_what_does_not_apply(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        # Specs from before layer_norm existed stay equal, word for word.
        return {name: value for name, value in fields.items() if name != "layer_norm" or value}


def _read_classes(value: Any) -> tuple[bool | int | str, ...] | None:
    """A list of different classes of one type, or their number n for 0 … n − 1."""
    if value is None:
        return None
    if type(value) is int:
        value = list(range(value)) if 2 <= value <= MAX_CLASSES else []
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= MAX_CLASSES:
        raise refuse("classes", f"classes is a list of 2 to {MAX_CLASSES:,} classes, or their number")
    kinds = {type(label) for label in value}
    if len(kinds) != 1 or not kinds <= {bool, int, str}:
        raise refuse("classes", "classes are all integers, all strings or all booleans")
    if len(set(value)) < len(value):
        raise refuse("classes", "the classes must all be different")
    check_names(value, "classes", MAX_CLASS_BYTES)
    return tuple(value)


def _count_weights(widths: tuple[int, ...]) -> int:
    return sum(math.prod(pair) for pair in pairwise(widths))


ClassName = bool | Integer | Annotated[str, Field(max_length=MAX_CLASS_BYTES)]
ClassesInput = (
    Annotated[int, Field(ge=2, le=MAX_CLASSES)]
    | Annotated[list[ClassName], Field(min_length=2, max_length=MAX_CLASSES)]
)
Classes = Annotated[
    tuple[bool | int | str, ...] | None,
    WrapValidator(lambda value, _: _read_classes(value), json_schema_input_type=ClassesInput | None),
]

Optimizer = Annotated[
    OptimizerSpec | tuple[OptimizerSpec, ...] | Literal["auto"],
    WrapValidator(
        lambda value, _: read_optimizer(value),
        json_schema_input_type=OptimizerSpec
        | Annotated[list[OptimizerSpec], Field(min_length=1, max_length=MAX_MEMBERS)]
        | Literal["auto"],
    ),
]


class ModelSpec(StrictModel):
    """A model as its user asks for it. Only `task` and `features` are required.

    `optimizer` is one optimizer, a list of members that form a committee, or "auto", the default: a committee chosen
    by the network's size (`members.py`).

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
    class_weights: Annotated[tuple[Positive, ...], Strict(False), Field(max_length=MAX_CLASSES)] | None = None
    optimizer: Optimizer = "auto"
    drift: DriftSpec = DriftSpec()
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
    def _check_classes(cls, classes: tuple[bool | int | str, ...] | None, info: ValidationInfo) -> Any:
        task = info.data.get("task")
        if task == "regression" and classes is not None:
            raise refuse("classes", "a regression has no classes")
        if task == "multiclass" and classes is None:
            raise refuse("classes", "a multiclass task needs classes: a list of two or more, or their number")
        if task == "binary" and classes is None:
            return (0, 1)
        if task == "binary" and classes is not None and len(classes) != 2:
            raise refuse("classes", "a binary task has exactly two classes")
        return classes

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: int, info: ValidationInfo) -> int:
        if targets != 1 and info.data.get("task") != "regression":
            raise refuse("targets", "only a regression has more than one target")
        return targets

    @field_validator("layers")
    @classmethod
    def _check_size(cls, layers: tuple[LayerSpec, ...], info: ValidationInfo) -> tuple[LayerSpec, ...]:
        if sum(layer.units for layer in layers) > MAX_UNITS:
            raise refuse("layers", f"the layers have at most {MAX_UNITS:,} units in total")
        if {"features", "classes", "targets"} <= info.data.keys():
            ends = count_inputs(info.data["features"]), len(info.data["classes"] or ()), info.data["targets"]
            weights = _count_weights((ends[0], *(layer.units for layer in layers), max(ends[1:])))
            if weights > MAX_PARAMETERS:
                raise refuse(
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
                raise refuse("loss", f"the losses of a {task} task are {', '.join(allowed)}; not {loss}")
        return loss

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: str, info: ValidationInfo) -> str:
        task, loss = info.data.get("task"), info.data.get("loss")
        if task is not None and loss is not None and (loss, output) not in COMBINATIONS[task]:
            allowed = ", ".join(pair[1] for pair in COMBINATIONS[task] if pair[0] == loss)
            raise refuse("output", f"the output of a {task} task with loss {loss} is {allowed}; not {output}")
        return output

    @field_validator("class_weights")
    @classmethod
    def _check_class_weights(cls, weights: tuple[float, ...] | None, info: ValidationInfo) -> Any:
        classes = info.data.get("classes")
        if weights is not None and info.data.get("task") == "regression":
            raise refuse("class_weights", "a regression has no class_weights")
        if weights is not None and classes is not None and len(weights) != len(classes):
            raise refuse("class_weights", "class_weights has one number for each of classes, in their order")
        return weights

    @model_serializer(mode="wrap")
    def _leave_out_default_drift(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        # Specs from before `drift` existed stay equal, word for word.
        return {name: value for name, value in fields.items() if name != "drift" or self.drift != DriftSpec()}

    def is_met_by(self, other: "ModelSpec") -> bool:
        """Whether a model of the other spec is what this one asks for.

        A spec that names no optimizer is met by what was the default in version 0.1 as well: one network.
        """
        wanted = [self.optimizer]
        if "optimizer" not in self.model_fields_set:
            wanted.append(OptimizerSpec.model_validate({}))
        # As JSON: to Python [0, 1] and [false, true] are equal.
        found = other.model_dump_json()
        return any(
            self.model_copy(update={"optimizer": optimizer}).model_dump_json() == found
            for optimizer in wanted
        )

    @property
    def members(self) -> tuple[OptimizerSpec, ...]:
        """The optimizers of the committee: one network each, all of one shape."""
        if self.optimizer == "auto":
            return auto_members(self.step_size, _count_weights(self.widths))
        return self.optimizer if isinstance(self.optimizer, tuple) else (self.optimizer,)

    def with_optimizer(self, optimizer: OptimizerSpec) -> "ModelSpec":
        """The same networks, all trained by this optimizer; what else the members are stays."""
        kept = ("layer_norm", "rehearse", "average")
        members = tuple(
            optimizer.model_copy(update={name: getattr(member, name) for name in kept})
            for member in self.members
        )
        return self.model_copy(update={"optimizer": members})

    @property
    def networks(self) -> int:
        """The networks that predict: one for each member, and its twin if it has one."""
        return len(self.members) + sum(member.average for member in self.members)

    @cached_property
    def most_active(self) -> int:
        """The most inputs of a row that are not 0: one for each column, and one for each missing-indicator."""
        return self.width + sum(feature.indicator for feature in self.feature_list)

    @property
    def sparse(self) -> bool:
        """Whether most inputs of every row are 0, so that the first layer takes only the others.

        Only optimizers that leave a weight without gradient as it is allow that.
        """
        wide = self.inputs >= SPARSE_INPUTS and self.inputs >= SPARSE_RATIO * self.most_active
        return wide and not self._has_long_texts and all(member.is_lazy for member in self._given_members)

    @cached_property
    def _has_long_texts(self) -> bool:
        return any((feature.tokens or 1) > SPARSE_TOKENS for feature in self.feature_list)

    @property
    def _given_members(self) -> tuple[OptimizerSpec, ...]:
        """The members, without those that "auto" chooses: all of these are lazy."""
        if self.optimizer == "auto":
            return ()
        return self.optimizer if isinstance(self.optimizer, tuple) else (self.optimizer,)

    @property
    def step_size(self) -> int:
        """The weights that a step on one row works with."""
        inputs = self.most_active if self.sparse else self.inputs
        return _count_weights((inputs, *self.widths[1:]))

    @cached_property
    def feature_list(self) -> tuple[FeatureSpec, ...]:
        """The features; those of a plain number are numbers named x0, x1, …"""
        if isinstance(self.features, int):
            return tuple(FeatureSpec(name=f"x{place}") for place in range(self.features))
        return self.features

    @cached_property
    def width(self) -> int:
        """Columns of a raw row: one for each feature, or for each token of a feature that has them."""
        return count_columns(self.features)

    @cached_property
    def inputs(self) -> int:
        """Inputs of the network: raw columns after one-hot, hash and indicator expansion."""
        return count_inputs(self.features)

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

    @cached_property
    def cells(self) -> int:
        """Numbers that one row takes on its way through the network: what many rows at once cost in memory."""
        return self.width + sum(self.widths)

    @property
    def parameter_count(self) -> int:
        """Weights, biases and batch normalisation's gains and shifts; costs no memory."""
        gains = sum(layer.units for layer in self.layers if layer.batch_norm)
        biases = sum(self.widths[1:]) if self.bias else 0
        return _count_weights(self.widths) + gains + biases
