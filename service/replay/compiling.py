"""Compiling what learning needs, once a machine."""

from model import ModelSpec, OnlineModel


def compile_loop() -> None:
    """Compile the loop that learns, or load it from its cache."""
    OnlineModel(ModelSpec.model_validate({"task": "binary", "features": 1})).warm_up()
