"""A small neural network that learns online: one step per observation, in order, or in mini-batches."""

from model.errors import ModelError, RowError, StateError
from model.spec import ModelSpec

__all__ = ["ModelError", "ModelSpec", "RowError", "StateError"]
