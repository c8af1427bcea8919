"""The committee that "auto" means."""

from functools import cache
from typing import Any

from model.optimizer_spec import OptimizerSpec

FULL_UP_TO = 4_000
"""Weights that a step works with, up to which every rehearsed row is a step of its own."""
THREE_UP_TO = 100_000
"""Weights of a network up to which there are three members."""
TWO_UP_TO = 1_000_000
"""Weights of a network up to which there are two; beyond, the copies would take hundreds of megabytes."""

# All are the default optimizer at another rate. The first learns fast and forgets fast; the others rehearse.
FAST: dict[str, Any] = {"learning_rate": 0.02, "layer_norm": True}
NORMED: dict[str, Any] = {"learning_rate": 0.01, "layer_norm": True, "average": True}
PLAIN: dict[str, Any] = {"learning_rate": 0.005, "average": True}

FULL = (
    FAST,
    {**NORMED, "rehearse": {"rows": 8, "rate": 0.2, "early": 3}},
    {**PLAIN, "rehearse": {"rows": 4, "rate": 1.0, "early": 3}},
)
# One step on the mean gradient of the rehearsed rows costs less than one for each.
BATCHED = (
    FAST,
    {**NORMED, "rehearse": {"rows": 8, "rate": 1.0, "batched": True, "early": 3}},
    {**PLAIN, "rehearse": {"rows": 8, "rate": 2.0, "batched": True, "early": 3}},
)
TWO = (BATCHED[0], BATCHED[2])
ONE: tuple[dict[str, Any], ...] = ({},)


@cache
def _read(members: int, full: bool) -> tuple[OptimizerSpec, ...]:
    chosen = FULL if full else {3: BATCHED, 2: TWO, 1: ONE}[members]
    return tuple(OptimizerSpec.model_validate(member) for member in chosen)


def auto_members(step_size: int, weights: int) -> tuple[OptimizerSpec, ...]:
    """The committee for networks of so many weights, so many of which a step works with."""
    members = 3 if weights <= THREE_UP_TO else (2 if weights <= TWO_UP_TO else 1)
    return _read(members, members == 3 and step_size <= FULL_UP_TO)
