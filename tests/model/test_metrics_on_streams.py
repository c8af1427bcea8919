"""With only task and features given, the model beats River's linear models on real streams.

tests/benchmarks/quality.py measures the same on more streams, and River's scores below.
"""

import pytest
from river import datasets

from model import FeatureEncoder, LabelEncoder, ModelSpec, OnlineModel

# Of StandardScaler | LogisticRegression, SoftmaxRegression or LinearRegression, River 0.26: log loss (MAE for a
# regression) and accuracy.
RIVER = {
    "Phishing": ("binary", 0.330, 0.893),
    "Bananas": ("binary", 0.686, 0.537),
    "ImageSegments": ("multiclass", 0.682, 0.825),
    "TrumpApproval": ("regression", 1.315, None),
    "ChickWeights": ("regression", 23.759, None),
}


def total_scores(task, stream, seed):
    rows, labels = zip(*((list(x.values()), y) for x, y in stream), strict=True)
    spec = {"task": task, "features": len(rows[0]), "seed": seed}
    if task == "binary":
        labels = [int(label) for label in labels]
    elif task == "multiclass":
        spec["classes"] = sorted(set(labels))
    spec = ModelSpec.model_validate(spec)
    model = OnlineModel(spec)
    model.learn(FeatureEncoder(spec).encode(rows), LabelEncoder(spec).encode(labels))
    return model.metrics()["total"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RIVER)
def test_defaults_beat_a_linear_model(name, seed):
    task, loss, accuracy = RIVER[name]
    total = total_scores(task, getattr(datasets, name)(), seed)
    assert total["mae" if task == "regression" else "log_loss"] < loss
    assert accuracy is None or total["accuracy"] >= accuracy - 0.01
