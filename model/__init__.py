"""A small neural network that learns online: one step per observation, in order, or in mini-batches.

These names are the whole interface: what imports this package imports nothing from its modules.
"""

from model.comparing import Comparison, compare_states
from model.errors import ModelError, RowError, StateError
from model.feature_spec import FeatureSpec
from model.features import FeatureEncoder
from model.labels import LabelEncoder
from model.online import Learned, OnlineModel
from model.optimizer_spec import OptimizerSpec
from model.parameters import parameter_shapes
from model.predictor import Predictor
from model.scoring import row_losses
from model.spec import ModelSpec
from model.state import LARGEST_PARAMETER
from model.warming import is_compiled, load_predictions, warm_up

__all__ = [
    "LARGEST_PARAMETER",
    "Comparison",
    "FeatureEncoder",
    "FeatureSpec",
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
    "is_compiled",
    "load_predictions",
    "parameter_shapes",
    "row_losses",
    "warm_up",
]
