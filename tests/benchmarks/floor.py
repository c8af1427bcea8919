"""The floor: what gunicorn, Flask and pydantic cost when a handler only parses one row and answers.

Served by the same gunicorn with the same settings as the real thing. The bodies are checked as strictly, and
the answers are about as long.
"""

import json

from flask import Flask, Response, request
from pydantic import BaseModel, ConfigDict

Value = float | bool | str | None
Row = list[Value] | dict[str, Value]


class Strict(BaseModel):
    """No coercion, no unknown fields, finite numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Predict(Strict):
    """The body of a prediction."""

    instances: list[Row]
    ids: list[str] | None = None
    min_step: int | None = None


class Observation(Strict):
    """The body of one observation."""

    features: Row
    label: float | str | bool
    id: str | None = None
    weight: float = 1.0


app = Flask(__name__)


def answer(body: dict[str, object]) -> Response:
    """A JSON response."""
    return Response(json.dumps(body), mimetype="application/json")


@app.post("/v1/models/<name>/predict")
def predict(name: str) -> Response:
    """Parse a row; answer with a fixed prediction."""
    body = Predict.model_validate_json(request.get_data(cache=False))
    predictions = [
        {"label": 1, "probabilities": {"0": 0.2471923828125, "1": 0.7528076171875}} for _ in body.instances
    ]
    return answer({"model": name, "step": 123456, "stale": False, "predictions": predictions})


@app.post("/v1/models/<name>/feedback")
def feedback(name: str) -> Response:
    """Parse an observation; answer with a fixed result."""
    Observation.model_validate_json(request.get_data(cache=False))
    prediction = {"label": 1, "probabilities": {"0": 0.2471923828125, "1": 0.7528076171875}}
    results = [{"step": 123456, "loss": 0.2839459776878357, "prediction": prediction}]
    counts = {"applied": 1, "duplicates": 0, "rejected": 0}
    return answer({"model": name, "step": 123456, **counts, "loss": 0.2839459776878357, "results": results})
