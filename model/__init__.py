"""A small neural network that learns online: one step per observation, in order, or in mini-batches."""

from model.comparing import Comparison, compare_states
from model.errors import ModelError, RowError, StateError
from model.features import FeatureEncoder
from model.labels import LabelEncoder
from model.online import Learned, OnlineModel
from model.optimizer_spec import OptimizerSpec
from model.predictor import Predictor
from model.scoring import row_losses
from model.spec import ModelSpec

__all__ = [
    "Comparison",
    "FeatureEncoder",
    "LabelEncoder",
    "Learned",
    "ModelError",
    "ModelSpec",
    "OnlineModel",
    "OptimizerSpec",
    "Predictor",
    "RowError",
    "StateError",
    "compare_states",
    "row_losses",
]
