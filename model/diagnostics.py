"""What the online path noted, and what follows from it: findings, each with advice on what to change."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import monitor
from model.committee import Committee, drift_report
from model.parameters import layout_of, named_views
from model.program import SKIPPED, STEP
from model.spec import ModelSpec
from model.state import LIVE_CLIP_NORM, LIVE_LEARNING_RATE, Arrays

ENOUGH_STEPS = 500  # since the notes were last cleared; before that nothing is found
DEAD_AFTER = 1000  # steps without activity
RESET_LATELY = 1000  # steps for which a reset of the notes is reported
DEAD_SHARE = 0.5
VANISHING = 1e-3  # gradient norm of the first layer relative to the last
EXPLODING = 1e3
LARGE_GRADIENT = 1e4
DIVERGING = 3.0  # recent loss relative to its best and to its first
OVERSHOOT_SHARE = 0.5
SLOW_IMPROVEMENT = 1e-3
LARGE_IMPROVEMENT = 0.5
STILL_NEAR_FIRST = 0.9
"""Where a finding starts. Improvement is the share of a row's own loss that its step takes away."""

CLIP_ADVICE = (
    "set clip_norm (20 is the default), without which one observation of a large weight ruins a model"
)


@dataclass(frozen=True)
class Layer:
    """What is known of one layer; `dead_share` is None where units cannot die."""

    name: str
    weight_norm: float
    gradient_norm: float
    activation_mean: float
    activation_deviation: float
    dead_share: float | None


@dataclass(frozen=True)
class Signs:
    """Everything that findings are drawn from."""

    seen: int  # steps since the notes were last cleared
    resets: int
    skipped: int
    learning_rate: float
    is_clipped: bool  # there is a clip_norm
    recent: float
    first: float
    best: float
    improvement: float
    overshoot: float
    clipped: float
    layers: tuple[Layer, ...]


def signs_of(spec: ModelSpec, arrays: Arrays) -> Signs:
    """What is known of the leading member's steps and layers, and of the loss of what is served."""
    number = Committee(spec).leading(arrays)
    notes, counters, served = arrays["monitor"][number], arrays["counters"][0], arrays["monitor"][-1]
    return Signs(
        seen=int(counters[STEP] - notes[monitor.BEGAN]),
        resets=int(notes[monitor.RESETS] + notes[monitor.OVERFLOW]),
        skipped=int(counters[SKIPPED]),
        learning_rate=float(arrays["live"][0, LIVE_LEARNING_RATE]),
        is_clipped=bool(arrays["live"][0, LIVE_CLIP_NORM] > 0.0),
        recent=float(served[monitor.RECENT]),
        first=float(served[monitor.FIRST]),
        best=float(served[monitor.BEST]),
        improvement=float(notes[monitor.IMPROVEMENT]),
        overshoot=float(notes[monitor.OVERSHOOT]),
        clipped=float(notes[monitor.CLIPPED]),
        layers=tuple(_layers_of(spec, arrays, number)),
    )


def _layers_of(spec: ModelSpec, arrays: Arrays, member: int) -> Iterator[Layer]:
    layout, notes = layout_of(spec), arrays["monitor"][member]
    views = named_views(layout, arrays["parameters"][member])
    unit = monitor.TOTALS + monitor.LAYER_COLUMNS * len(layout.layers)
    for number, layer in enumerate(layout.layers):
        offset = monitor.TOTALS + monitor.LAYER_COLUMNS * number
        gradient, mean, squares = notes[offset : offset + monitor.LAYER_COLUMNS].tolist()
        active, unit = notes[unit : unit + layer.units], unit + layer.units
        yield Layer(
            name=f"layers.{number}",
            weight_norm=float(np.linalg.norm(views[f"layers.{number}.weight"].astype(np.float64))),
            gradient_norm=gradient,
            activation_mean=mean,
            activation_deviation=math.sqrt(max(squares - mean * mean, 0.0)),
            dead_share=_dead_share(active, arrays, member) if layer.activation == "relu" else None,
        )


def _dead_share(active: NDArray[np.float64], arrays: Arrays, member: int) -> float:
    """The share of units that have not been active for DEAD_AFTER steps of those seen."""
    earliest = int(arrays["counters"][0, STEP]) - DEAD_AFTER
    return float((active < earliest).mean()) if arrays["monitor"][member, monitor.BEGAN] < earliest else 0.0


@dataclass(frozen=True)
class Finding:
    kind: str
    detail: str
    advice: str
    layer: str | None = None


def _dead_units(signs: Signs) -> Iterator[Finding]:
    for layer in signs.layers:
        if layer.dead_share is not None and layer.dead_share > DEAD_SHARE:
            yield Finding(
                "dead_units",
                f"{layer.dead_share:.0%} of the ReLU units have not been active for {DEAD_AFTER} observations",
                "use leaky_relu or elu, or lower the learning rate; a retraining from scratch revives them",
                layer.name,
            )


def _gradient_ratio(signs: Signs) -> float | None:
    """The gradient norm of the first hidden layer relative to the last one's."""
    if len(signs.layers) < 3 or not signs.layers[-2].gradient_norm > 0.0:
        return None
    return signs.layers[0].gradient_norm / signs.layers[-2].gradient_norm


def _vanishing(signs: Signs) -> Iterator[Finding]:
    ratio = _gradient_ratio(signs)
    if ratio is not None and ratio < VANISHING:
        yield Finding(
            "vanishing_gradients",
            f"the first layer's gradient is {ratio:.1e} of the last hidden layer's: it hardly learns",
            "use fewer layers, relu in place of sigmoid or tanh, or batch_norm",
            signs.layers[0].name,
        )


def _exploding(signs: Signs) -> Iterator[Finding]:
    ratio = _gradient_ratio(signs)
    largest = max(signs.layers, key=lambda layer: layer.gradient_norm)
    if (ratio is not None and ratio > EXPLODING) or largest.gradient_norm > LARGE_GRADIENT:
        yield Finding(
            "exploding_gradients",
            f"gradients have a norm of {largest.gradient_norm:.1e} in {largest.name}",
            f"{CLIP_ADVICE}, lower the learning rate, scale the inputs (scaling: standard), use "
            "batch_norm or fewer layers",
            largest.name,
        )


def _rate_too_large(signs: Signs) -> Iterator[Finding]:
    reference = max(signs.best, 0.1 * signs.first, monitor.SMALLEST_LOSS)
    diverging = signs.recent > DIVERGING * reference and signs.recent > signs.first
    futile = signs.improvement > LARGE_IMPROVEMENT and signs.recent > STILL_NEAR_FIRST * signs.first
    advice = f"lower the learning rate: try {signs.learning_rate / 10.0:g}"
    if diverging:
        detail = (
            f"the loss of the last 100 observations is {signs.recent:.3g}, it was {signs.best:.3g} at best"
        )
        yield Finding("loss_diverges", detail, advice if signs.is_clipped else f"{advice}; {CLIP_ADVICE}")
    elif signs.overshoot > OVERSHOOT_SHARE:
        detail = f"{signs.overshoot:.0%} of the steps raise the loss of the very observation they learn"
        yield Finding("loss_oscillates", detail, advice)
    elif futile:
        detail = (
            f"a step takes away {signs.improvement:.0%} of its observation's loss, yet the loss is where it began: "
            "each undoes what the last one did"
        )
        yield Finding("loss_oscillates", detail, advice)


def _rate_too_small(signs: Signs) -> Iterator[Finding]:
    slow = signs.improvement < SLOW_IMPROVEMENT and signs.overshoot < OVERSHOOT_SHARE
    if slow and signs.recent > STILL_NEAR_FIRST * signs.first and signs.first > monitor.SMALLEST_LOSS:
        yield Finding(
            "loss_hardly_moves",
            f"a step takes away {max(signs.improvement, 0.0):.1e} of its observation's loss, and the loss is where "
            "it began",
            f"raise the learning rate: try {signs.learning_rate * 10.0:g}; look at the schedule if there is one",
        )


def _skipped(signs: Signs) -> Iterator[Finding]:
    if signs.skipped:
        yield Finding(
            "skipped_observations",
            f"{signs.skipped} observations were skipped: learning them would have made numbers infinite",
            f"{CLIP_ADVICE}, look for extreme values in features and labels, scale the inputs, lower the learning rate",
        )


def _reset(signs: Signs) -> Iterator[Finding]:
    if signs.resets and signs.seen <= RESET_LATELY:
        yield Finding(
            "diagnostics_reset",
            f"activations, gradients or losses were too large to average: the diagnostics were reset, {signs.resets} "
            "times so far",
            f"{CLIP_ADVICE}, lower the learning rate, scale the inputs (scaling: standard)",
        )


FINDINGS: tuple[Callable[[Signs], Iterator[Finding]], ...] = (
    _dead_units,
    _vanishing,
    _exploding,
    _rate_too_large,
    _rate_too_small,
)


def findings_of(signs: Signs) -> list[Finding]:
    """Skipped observations and resets always; the others once there is enough to judge by."""
    found = [*_skipped(signs), *_reset(signs)]
    if signs.seen >= ENOUGH_STEPS:
        for look in FINDINGS:
            found.extend(look(signs))
    return found


def report(spec: ModelSpec, arrays: Arrays) -> dict[str, Any]:
    """Layers, loss, steps and findings, JSON-ready. What no step has shown yet is None."""
    signs, committee = signs_of(spec, arrays), Committee(spec)

    def noted(values: dict[str, Any]) -> dict[str, Any]:
        """The values, each None before the first step since the notes were cleared, as by a promotion."""
        return values if signs.seen else dict.fromkeys(values)

    return {
        "step": int(arrays["counters"][0, STEP]),
        "skipped": signs.skipped,
        "learning_rate": signs.learning_rate,
        "loss": noted({"recent": signs.recent, "first": signs.first, "best": signs.best}),
        "steps": noted(
            {
                "improvement": signs.improvement,
                "overshoot_share": signs.overshoot,
                "clipped_share": signs.clipped,
            }
        ),
        "leader": committee.leader(arrays),
        "members": committee.members(arrays),
        "drift": drift_report(spec, arrays),
        "layers": [
            {"name": layer.name, "weight_norm": layer.weight_norm}
            | noted(
                {
                    "gradient_norm": layer.gradient_norm,
                    "activation_mean": layer.activation_mean,
                    "activation_deviation": layer.activation_deviation,
                }
            )
            | {"dead_share": layer.dead_share}
            for layer in signs.layers
        ],
        "findings": [
            {key: value for key, value in vars(found).items() if value is not None}
            for found in findings_of(signs)
        ],
    }
