"""What clients were told, and the models that they speak of."""

from dataclasses import dataclass, field
from typing import Any

from parts import Exchange

SPECS: dict[str, dict[str, Any]] = {
    "line": {
        "task": "regression",
        "features": 2,
        "layers": [],
        "scaling": "none",
        "optimizer": {"name": "sgd", "learning_rate": 0.125},
    },
    "yes": {"task": "binary", "features": 2, "classes": ["no", "yes"], "layers": [{"units": 3}], "seed": 3},
    "three": {"task": "multiclass", "features": 2, "classes": ["a", "b", "c"], "layers": [], "seed": 4},
}
LABELS: dict[str, list[Any]] = {"line": [1.0, -2.0, 0.5], "yes": ["no", "yes"], "three": ["a", "b", "c"]}
KINDS = tuple(SPECS)


def kind_of(name: str) -> str:
    """The kind of model that a name stands for."""
    return name.partition("-")[0]


def spec_of(name: str, **more: object) -> dict[str, Any]:
    """The spec of the model of this name."""
    return {**SPECS[kind_of(name)], **more}


@dataclass
class Fate:
    """What a client knows of one observation."""

    number: int
    model: str
    acknowledged: list[tuple[float, int | None, Exchange]] = field(default_factory=list)  # when, position
    refused: int = 0
    gone: int = 0  # refused because the model is deleted: it may have had the observation
    unknown: int = 0
    sent: int = 0
    settled: bool = True  # its client has not given up in the middle
    generations: set[str] = field(default_factory=set)


class Ledger:
    """All that clients were told."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.fates: dict[int, Fate] = {}
        self.commands: list[tuple[str, dict[str, Any], Exchange]] = []
        self._number = 0

    def observe(self, model: str) -> int:
        """A number for a new observation."""
        self._number += 1
        self.fates[self._number] = Fate(self._number, model)
        return self._number
