"""TensorFlow Serving's REST predict call: rows or columns in, raw numbers out."""

from typing import Any

from flask import Blueprint, Response
from pydantic import ConfigDict

from model import RowError
from service.errors import Invalid, NotFound, Problem
from service.schemas import Strict, parse
from service.web import problems
from service.web.bounds import check_rows, columns_of_answer
from service.web.context import answer, json_body, web
from service.web.slicing import encode_rows, predict_rows

routes = Blueprint("tensorflow_serving", __name__, url_prefix="/v1")
VERSION = "1"
SIGNATURE = "serving_default"


class PredictBody(Strict):
    """Body of `POST /v1/models/{name}:predict`: rows as `instances`, or columns as `inputs`."""

    model_config = ConfigDict(**{**Strict.model_config, "extra": "forbid"})

    signature_name: str = SIGNATURE
    instances: list[Any] | None = None
    inputs: Any = None


@routes.errorhandler(Problem)
def tell(problem: Problem) -> Response:
    """An error in TensorFlow Serving's form."""
    return answer({"error": problem.detail}, problems.status_of(problem), problems.headers_of(problem))


@routes.post("/models/<name>:predict")
@routes.post("/models/<name>/versions/<number>:predict")
def predict(name: str, number: str = VERSION) -> Response:
    """Predict each row: `predictions` for `instances`, `outputs` for `inputs`."""
    context = web()
    _check_version(name, number)
    served = context.served(name)
    body = parse(PredictBody, json_body())
    rows, by_column = _rows(body)
    check_rows(len(rows), served.spec, context.settings, "/instances")
    columns_of_answer(len(rows), served.spec, served.spec.outputs, "/instances")
    try:
        features = encode_rows(served.features, rows)
    except RowError as error:
        where = f"/{'inputs' if by_column else 'instances'}/{error.row}{error.pointer}"
        raise Invalid(f"{where}: {error.detail}", [(where, error.detail)]) from None
    made = predict_rows(served.version, features).tolist()
    return answer({"outputs" if by_column else "predictions": made})


@routes.get("/models/<name>/versions/<number>")
def status(name: str, number: str = VERSION) -> Response:
    """The state of a model's only version."""
    _check_version(name, number)
    web().served(name)
    return answer({"model_version_status": version_status()})


def version_status() -> list[dict[str, Any]]:
    """What TensorFlow Serving tells of a model that is served."""
    return [{"version": VERSION, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]


def _check_version(name: str, number: str) -> None:
    if number != VERSION:
        raise NotFound(f"model {name!r} has no version {number!r}; the only one is {VERSION!r}")


def _rows(body: PredictBody) -> tuple[list[Any], bool]:
    """The rows, and whether they came as columns."""
    if body.signature_name != SIGNATURE:
        detail = f"the only signature is {SIGNATURE!r}"
        raise Invalid(f"/signature_name: {detail}", [("/signature_name", detail)])
    if (body.instances is None) == (body.inputs is None):
        raise Invalid("give instances (rows) or inputs (columns)", [("", "give instances or inputs")])
    rows = _transposed(body.inputs) if body.instances is None else [_plain(row) for row in body.instances]
    if not rows:
        raise Invalid("no rows", [("/instances" if body.inputs is None else "/inputs", "no rows")])
    return rows, body.inputs is not None


def _plain(row: Any) -> Any:
    """A row; an object of one-element lists is an object of values."""
    if isinstance(row, dict):
        return {name: _single(value) for name, value in row.items()}
    return row


def _transposed(inputs: Any) -> list[Any]:
    """Rows of columns by feature name, or of a batch of whole rows."""
    if isinstance(inputs, list):
        return inputs
    if not isinstance(inputs, dict) or not all(isinstance(column, list) for column in inputs.values()):
        detail = "a list of rows, or an object of columns by feature name"
        raise Invalid(f"/inputs: {detail}", [("/inputs", detail)])
    if len({len(column) for column in inputs.values()}) > 1:
        raise Invalid("/inputs: the columns differ in length", [("/inputs", "the columns differ in length")])
    names = list(inputs)
    return [
        {name: _single(value) for name, value in zip(names, values, strict=True)}
        for values in zip(*inputs.values(), strict=True)
    ]


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
