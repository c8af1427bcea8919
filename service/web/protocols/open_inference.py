"""Open Inference Protocol V2 over REST: health, metadata and inference, with binary tensors.

A model of numbers takes one tensor `features` of shape (rows, features). Any model takes one tensor for each
feature, by its name, of shape (rows) or (rows, 1); one that is left out is missing.
"""

from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Any, Literal

import numpy as np
from flask import Blueprint, Response, request
from pydantic import ConfigDict, Field
from pydantic_core import to_json

from model import FeatureSpec, ModelSpec, RowError
from service.errors import BadRequest, Invalid, NotFound, Problem, WrongMediaType
from service.schemas import Strict, parse
from service.web import problems
from service.web.bounds import check_rows, columns_of_answer
from service.web.context import answer, raw_body, web
from service.web.protocols.tensors import DATATYPES, Tensor, read_binary, read_json, written
from service.web.replicas.replica import ServedModel
from service.web.routes.predict import position, replica_at
from service.web.slicing import encode_rows, predict_rows

Array = np.ndarray

routes = Blueprint("open_inference", __name__, url_prefix="/v2")
HEADER = "Inference-Header-Content-Length"
FEATURES = "features"
"""Name of the tensor that holds whole rows."""
VERSION = "1"
"""The only version: a model that learns has steps, not versions."""


class InputTensor(Strict):
    """One input of an inference request."""

    name: Annotated[str, Field(max_length=256)]
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(max_length=8)]
    datatype: Literal[DATATYPES]  # type: ignore[valid-type]
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: Any = None


class OutputTensor(Strict):
    """One output that is asked for."""

    name: Annotated[str, Field(max_length=256)]
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferenceRequest(Strict):
    """Body of `POST /v2/models/{name}/infer`."""

    model_config = ConfigDict(**{**Strict.model_config, "extra": "ignore"})

    id: Annotated[str, Field(max_length=256)] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: Annotated[list[InputTensor], Field(min_length=1)]
    outputs: list[OutputTensor] = Field(default_factory=list)


@routes.errorhandler(Problem)
def tell(problem: Problem) -> Response:
    """An error in the protocol's form."""
    return answer({"error": problem.detail}, problems.status_of(problem), problems.headers_of(problem))


@routes.get("/")
def server_metadata() -> Response:
    """The server's name, version and extensions."""
    return answer({"name": "freshet", "version": version("freshet"), "extensions": ["binary_tensor_data"]})


@routes.get("/health/live")
def live() -> Response:
    """This process answers."""
    return answer({"live": True})


@routes.get("/health/ready")
def ready() -> Response:
    """This process has read the models. 503 until it has."""
    is_ready = web().replicas.ready
    return answer({"ready": is_ready}, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)


@routes.get("/models/<name>")
@routes.get("/models/<name>/versions/<number>")
def model_metadata(name: str, number: str = VERSION) -> Response:
    """A model's inputs and outputs."""
    served = _model(name, number)
    return answer(
        {
            "name": name,
            "versions": [VERSION],
            "platform": "freshet",
            "inputs": _inputs(served.spec),
            "outputs": [
                {"name": output, "datatype": datatype, "shape": shape}
                for output, (datatype, shape) in _outputs(served.spec).items()
            ],
        }
    )


@routes.get("/models/<name>/ready")
@routes.get("/models/<name>/versions/<number>/ready")
def model_ready(name: str, number: str = VERSION) -> Response:
    """The model answers predictions."""
    _model(name, number)
    return answer({"name": name, "ready": True})


@routes.post("/models/<name>/infer")
@routes.post("/models/<name>/versions/<number>/infer")
def infer(name: str, number: str = VERSION) -> Response:
    """Predict. The answer's `parameters` tell `step`; the parameter `min_step` asks for one that is not before it."""
    context = web()
    served = _model(name, number)
    asked, raw = _read_request()
    wanted = _wanted(asked, served.spec)
    tensors = _read_tensors(asked, raw)
    rows = _rows(tensors, served.spec)
    check_rows(len(rows), served.spec, context.settings, "/inputs/0/shape")
    columns_of_answer(len(rows), served.spec, served.spec.outputs, "/inputs/0/shape")
    replica = replica_at(served, _min_step(asked), context)
    try:
        features = encode_rows(served.features, rows)
    except RowError as error:
        raise _bad_value(error, asked) from None
    made = _made(served.spec, predict_rows(replica, features))
    parts = [written(output, *made[output], binary) for output, binary in wanted.items()]
    body = {
        "model_name": name,
        "model_version": VERSION,
        **({} if asked.id is None else {"id": asked.id}),
        "parameters": position(context, replica),
        "outputs": [tensor for tensor, _ in parts],
    }
    return _respond(to_json(body), b"".join(raw for _, raw in parts), any(wanted.values()))


def _model(name: str, number: str) -> ServedModel:
    if number != VERSION:
        raise NotFound(f"model {name!r} has no version {number!r}; the only one is {VERSION!r}")
    return web().served(name)


def _read_request() -> tuple[InferenceRequest, bytes]:
    """The request's JSON and the raw tensors behind it."""
    header = request.headers.get(HEADER)
    body = raw_body()
    if header is None:
        if request.mimetype not in ("application/json", "", "application/octet-stream"):
            raise WrongMediaType(f"send application/json, not {request.mimetype}")
        return parse(InferenceRequest, body), b""
    if not header.isascii() or not header.isdigit() or len(header) > 12 or int(header) > len(body):
        raise BadRequest(
            f"{HEADER}: {header[:40]!r} is not the length of the JSON in a body of {len(body)} bytes"
        )
    return parse(InferenceRequest, body[: int(header)]), body[int(header) :]


def _read_tensors(asked: InferenceRequest, raw: bytes) -> list[Tensor]:
    tensors, offset = [], 0
    for index, given in enumerate(asked.inputs):
        pointer = f"/inputs/{index}"
        size = given.parameters.get("binary_data_size")
        if size is None:
            tensors.append(read_json(given.name, given.datatype, given.shape, given.data, pointer))
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - offset or given.data is not None:
            left = len(raw) - offset
            detail = f"binary_data_size counts the tensor's bytes behind the JSON, of which {left} are left; no data"
            raise Invalid(f"{pointer}/parameters: {detail}", [(f"{pointer}/parameters", detail)])
        part = raw[offset : offset + size]
        tensors.append(read_binary(given.name, given.datatype, given.shape, part, pointer))
        offset += size
    if offset != len(raw):
        raise BadRequest(f"{len(raw) - offset} bytes follow that belong to no tensor")
    return tensors


def _rows(tensors: list[Tensor], spec: ModelSpec) -> list[Any]:
    """Rows for the encoder: lists from one tensor of whole rows, else objects from one tensor for each feature."""
    names = {feature.name for feature in spec.feature_list}
    first = tensors[0]
    if len(tensors) == 1 and (first.name not in names or first.width > 1):
        rows: list[Any] = first.as_rows()
        _check_rows_alike(tensors)
        return rows
    _check_rows_alike(tensors)
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise Invalid("/inputs: two inputs have one name", [("/inputs", "two inputs have one name")])
    for index, tensor in enumerate(tensors):
        detail = ""
        if tensor.name not in names:
            detail = f"the model has no feature {tensor.name!r}"
        elif tensor.width != 1 and tensor.rows:
            detail = f"a feature's tensor has the shape [{tensor.rows}] or [{tensor.rows}, 1]"
        if detail:
            raise Invalid(f"/inputs/{index}: {detail}", [(f"/inputs/{index}", detail)])
    keys = [tensor.name for tensor in tensors]
    columns = (tensor.values for tensor in tensors)
    return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]


def _check_rows_alike(tensors: list[Tensor]) -> None:
    rows = tensors[0].rows
    for index, tensor in enumerate(tensors):
        detail = "" if tensor.rows == rows else f"{tensor.rows} rows; the first input has {rows}"
        if not tensor.values:
            detail = "no rows"
        if detail:
            raise Invalid(f"/inputs/{index}/shape: {detail}", [(f"/inputs/{index}/shape", detail)])


def _bad_value(error: RowError, asked: InferenceRequest) -> Invalid:
    """Name the input, and where in it."""
    detail = f"row {error.row}{error.pointer}: {error.detail}"
    feature = error.pointer.removeprefix("/")
    index = next((i for i, given in enumerate(asked.inputs) if given.name == feature), 0)
    pointer = f"/inputs/{index}"
    return Invalid(f"{pointer}: {detail}", [(pointer, detail)])


def _min_step(asked: InferenceRequest) -> int | None:
    step = asked.parameters.get("min_step")
    if step is not None and (type(step) is not int or not 0 <= step <= 2**53):
        pointer, detail = "/parameters/min_step", "an integer from 0"
        raise Invalid(f"{pointer}: {detail}", [(pointer, detail)])
    return step


def _inputs(spec: ModelSpec) -> list[dict[str, Any]]:
    if all(feature.kind == "number" for feature in spec.feature_list):
        return [{"name": FEATURES, "datatype": "FP64", "shape": [-1, spec.width]}]
    return [
        {"name": feature.name, "datatype": _datatype(feature), "shape": [-1, 1]}
        for feature in spec.feature_list
    ]


def _datatype(feature: FeatureSpec) -> str:
    if feature.kind in ("number", "boolean"):
        return "FP64" if feature.kind == "number" else "BOOL"
    return "INT64" if feature.values and type(feature.values[0]) is int else "BYTES"


def _outputs(spec: ModelSpec) -> dict[str, tuple[str, list[int]]]:
    """Datatype and shape of each output, by name."""
    if spec.classes is None:
        return {"value": ("FP64", [-1, spec.targets])}
    probabilistic = spec.output in ("sigmoid", "softmax")
    label = {bool: "BOOL", int: "INT64"}.get(type(spec.classes[0]), "BYTES")
    return {
        "label": (label, [-1]),
        "probabilities" if probabilistic else "scores": ("FP64", [-1, len(spec.classes)]),
    }


def _made(spec: ModelSpec, predictions: Array) -> dict[str, tuple[str, Any]]:
    """Datatype and values of each output, by name."""
    outputs = _outputs(spec)
    if spec.classes is None:
        return {"value": ("FP64", predictions)}
    if predictions.shape[1] == 1:  # of two classes the second one's
        first = 1.0 - predictions if spec.output == "sigmoid" else -predictions
        predictions = np.hstack([first, predictions])
    labels = [spec.classes[index] for index in predictions.argmax(axis=1).tolist()]
    (label, (datatype, _)), (scores, _) = outputs.items()
    return {label: (datatype, labels), scores: ("FP64", predictions)}


def _wanted(asked: InferenceRequest, spec: ModelSpec) -> dict[str, bool]:
    """The outputs that are asked for (none: all), and whether each goes behind the JSON."""
    known = _outputs(spec)
    binary = asked.parameters.get("binary_data_output") is True
    if not asked.outputs:
        return dict.fromkeys(known, binary)
    for index, output in enumerate(asked.outputs):
        if output.name not in known:
            detail = f"the model has no output {output.name!r}; it has {', '.join(known)}"
            raise Invalid(f"/outputs/{index}/name: {detail}", [(f"/outputs/{index}/name", detail)])
    return {output.name: output.parameters.get("binary_data", binary) is True for output in asked.outputs}


def _respond(header: bytes, raw: bytes, binary: bool) -> Response:
    if not binary:
        return Response(header + b"\n", mimetype="application/json")
    headers = {HEADER: str(len(header))}
    return Response(header + raw, headers=headers, mimetype="application/octet-stream")
