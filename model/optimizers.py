"""Optimizers, for the batch path: steps on whole flat vectors, in place. `kernels.py` has the same for one row.

Formulas, names and defaults are PyTorch's (torch.optim). Each slot is a vector as long as the parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.optimizer_spec import OptimizerSpec

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Optimizer:
    """`slots` names the vectors that it keeps; `step(spec, w, slots, g, rate, t)` is step t = 1, 2, …

    `step` changes the parameters w and the slots, and may use up the gradient g.
    """

    code: int
    slots: Callable[[OptimizerSpec], tuple[str, ...]]
    step: Callable[[OptimizerSpec, Vector, Vector, Vector, float, int], None]


def _sgd_slots(spec: OptimizerSpec) -> tuple[str, ...]:
    return ("momentum_buffer",) if spec.momentum else ()


def _sgd(spec: OptimizerSpec, w: Vector, slots: Vector, g: Vector, rate: float, t: int) -> None:
    if not spec.momentum:
        w -= np.float32(rate) * g
        return
    buffer = slots[0]
    buffer *= np.float32(spec.momentum)
    # The first gradient is taken whole.
    buffer += g if t == 1 else np.float32(1.0 - (spec.dampening or 0.0)) * g
    w -= np.float32(rate) * (g + np.float32(spec.momentum) * buffer if spec.nesterov else buffer)


def _rmsprop_slots(spec: OptimizerSpec) -> tuple[str, ...]:
    """Tieleman and Hinton 2012; centred as in Graves 2013 (arXiv:1308.0850)."""
    optional = (("grad_avg", spec.centered), ("momentum_buffer", spec.momentum))
    return ("square_avg", *(name for name, wanted in optional if wanted))


def _rmsprop(spec: OptimizerSpec, w: Vector, slots: Vector, g: Vector, rate: float, t: int) -> None:
    alpha = np.float32(spec.alpha)
    square = slots[0]
    square *= alpha
    square += (1 - alpha) * g * g
    variance = square
    if spec.centered:
        mean = slots[1]
        mean *= alpha
        mean += (1 - alpha) * g
        variance = np.maximum(square - mean * mean, 0)
    g /= np.sqrt(variance) + np.float32(spec.eps)
    if spec.momentum:
        buffer = slots[-1]
        buffer *= np.float32(spec.momentum)
        buffer += g
        g = buffer
    w -= np.float32(rate) * g


def _adam_slots(spec: OptimizerSpec) -> tuple[str, ...]:
    """Without momentum the average of the gradients is the gradient, and is not kept."""
    return ("exp_avg", "exp_avg_sq") if spec.betas is None or spec.betas[0] else ("exp_avg_sq",)


def _adam(spec: OptimizerSpec, w: Vector, slots: Vector, g: Vector, rate: float, t: int) -> None:
    """Kingma and Ba 2014 (arXiv:1412.6980); AdamW's decay as in Loshchilov and Hutter 2017 (1711.05101)."""
    beta1, beta2 = spec.betas or (0.9, 0.999)
    if spec.name == "adamw":
        w *= np.float32(1.0 - rate * (spec.weight_decay or 0.0))
    square, mean = slots[-1], g.copy()
    if beta1:
        mean = slots[0]
        mean *= np.float32(beta1)
        mean += np.float32(1.0 - beta1) * g
    square *= np.float32(beta2)
    g *= g
    square += np.float32(1.0 - beta2) * g
    np.sqrt(square, out=g)
    # m̂ / (√v̂ + ε), with the correction of √v̂ taken out of the bracket.
    correction = math.sqrt(1.0 - beta2**t)
    g += np.float32((spec.eps or 0.0) * correction)
    np.divide(mean, g, out=g)
    g *= np.float32(rate * correction / (1.0 - beta1**t))
    w -= g


def _adagrad(spec: OptimizerSpec, w: Vector, slots: Vector, g: Vector, rate: float, t: int) -> None:
    """Duchi, Hazan and Singer 2011."""
    total = slots[0]
    total += g * g
    rate /= 1.0 + (t - 1) * (spec.lr_decay or 0.0)
    w -= np.float32(rate) * (g / (np.sqrt(total) + np.float32(spec.eps)))


OPTIMIZERS = {
    "sgd": Optimizer(0, _sgd_slots, _sgd),
    "rmsprop": Optimizer(1, _rmsprop_slots, _rmsprop),
    "adam": Optimizer(2, _adam_slots, _adam),
    "adamw": Optimizer(3, _adam_slots, _adam),
    "adagrad": Optimizer(4, lambda _: ("sum",), _adagrad),
}


def new_slots(spec: OptimizerSpec, size: int) -> NDArray[np.float32]:
    """Slots (number of slots, size) as they are before the first step."""
    slots = np.zeros((slots_of(spec), size), np.float32)
    slots += np.float32(spec.initial_accumulator_value or 0.0)
    return slots


def slots_of(spec: OptimizerSpec) -> int:
    """The number of vectors that the optimizer keeps."""
    return len(OPTIMIZERS[spec.name].slots(spec))


def add_penalties(spec: OptimizerSpec, g: Vector, w: Vector, weights: int) -> None:
    """Add the gradients of l1 and l2 over the first `weights` parameters, and of weight decay over all, to g."""
    if spec.l1:
        g[:weights] += np.float32(spec.l1) * np.sign(w[:weights])
    if spec.l2:
        g[:weights] += np.float32(spec.l2) * w[:weights]
    if spec.weight_decay and spec.name != "adamw":
        g += np.float32(spec.weight_decay) * w


def clip_factor(norm: float, clip_norm: float | None) -> float:
    """What a gradient of this norm is multiplied by (torch.nn.utils.clip_grad_norm_)."""
    return 1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6))
