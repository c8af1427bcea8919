"""Compiling ahead: nothing is compiled while a request waits."""

import importlib

from model import lines, predictor
from model.online import OnlineModel
from model.spec import ModelSpec

KERNELS = ("predict_kernels", "line_kernels", "metrics_kernels", "served_kernels", "kernels")


def warm_up() -> None:
    """Compile all that predicting, learning and scoring need, or load it: some 30 seconds once a machine, then one."""
    load_predictions()
    for name in KERNELS:
        importlib.import_module(f"model.{name}")
    OnlineModel(ModelSpec.model_validate({"task": "binary", "features": 1})).warm_up()


def is_compiled() -> bool:
    """Whether all is compiled for this build and processor, so that `warm_up` only loads it. Imports the compiler."""
    from model.compiled import is_stored

    return all(is_stored(name) for name in KERNELS)


def load_predictions(compile_now: bool = True) -> bool:
    """Let predictions of a few rows, and plain lines, take their fast way from now on; False if that is not compiled.

    Imports the compiler, which takes most of a second; without `compile_now` it compiles nothing.
    """
    from model.compiled import is_stored

    if not compile_now and not (is_stored("predict_kernels") and is_stored("line_kernels")):
        return False
    from model.line_kernels import read_lines
    from model.predict_kernels import predict_rows

    predictor.predict_rows = predict_rows
    lines.read_lines = read_lines
    return True
