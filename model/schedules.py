"""How the learning rate changes with the number of steps."""

import math
from dataclasses import dataclass

from model.optimizer_spec import ScheduleSpec

CONSTANT, INVERSE_TIME, EXPONENTIAL, COSINE = range(4)
SCHEDULES = {
    "constant": CONSTANT,
    "inverse_time": INVERSE_TIME,
    "exponential": EXPONENTIAL,
    "cosine": COSINE,
}


def factor(code: int, first: float, second: float, warm_up: float, t: float) -> float:
    """What the learning rate is multiplied by at step t = 0, 1, 2, …; also compiled, by `kernels.py`.

    `first` is decay, gamma or steps, `second` the cosine's minimum. The exponential and the cosine are PyTorch's
    `ExponentialLR` and `CosineAnnealingLR` with one epoch a step; the cosine stays at its minimum at the end.
    """
    value = 1.0
    if code == INVERSE_TIME:
        value = 1.0 / (1.0 + first * t)
    elif code == EXPONENTIAL:
        value = first**t
    elif code == COSINE:
        value = second + (1.0 - second) * 0.5 * (1.0 + math.cos(math.pi * min(t / first, 1.0)))
    if t < warm_up:
        value *= (t + 1.0) / warm_up
    return value


@dataclass(frozen=True)
class Schedule:
    """A schedule's numbers, in the order that `factor` takes them."""

    code: int
    first: float
    second: float
    warm_up: float

    def __call__(self, t: int) -> float:
        return factor(self.code, self.first, self.second, self.warm_up, float(t))


def schedule_of(spec: ScheduleSpec) -> Schedule:
    first = {"inverse_time": spec.decay, "exponential": spec.gamma, "cosine": spec.steps}.get(spec.name)
    return Schedule(SCHEDULES[spec.name], float(first or 0.0), spec.minimum or 0.0, float(spec.warm_up))
