"""What the tests of `model` share: specs in short, and rows to go with them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from model.spec import ModelSpec

settings.register_profile("patient", deadline=None)  # the first example compiles
settings.load_profile("patient")

Rows = tuple[np.ndarray, np.ndarray]


def build_spec(task: str = "binary", features: int = 5, **fields: Any) -> ModelSpec:
    if task == "multiclass":
        fields.setdefault("classes", 3)
    return ModelSpec.model_validate({"task": task, "features": features, **fields})


def draw_rows(spec: ModelSpec, rows: int, seed: int = 0) -> Rows:
    """Normal inputs, and labels that follow from them by a fixed rule with some noise."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, spec.width))
    signal = np.sin(X[:, :1]) + 0.5 * X[:, 1:2] ** 2 + 0.1 * generator.normal(size=(rows, 1))
    if spec.task == "regression":
        return X, signal + np.arange(spec.targets)
    edges = np.quantile(signal, np.linspace(0, 1, len(spec.classes) + 1)[1:-1])
    return X, np.digitize(signal, edges).astype(np.float64)


@pytest.fixture
def spec_of() -> Callable[..., ModelSpec]:
    return build_spec


@pytest.fixture
def rows_of() -> Callable[..., Rows]:
    return draw_rows
