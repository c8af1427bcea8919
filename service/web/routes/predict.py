"""Predictions, from this process's copy of the model."""

from functools import partial
from typing import Any

from flask import Blueprint, Response, request
from pydantic_core import to_json

from model import RowError
from service.errors import Invalid, Unavailable
from service.web import arrow
from service.web.bounds import check_rows, columns_of_answer
from service.web.context import Web, json_body, raw_answer, request_body, web
from service.web.lines import line_blocks
from service.web.predict_stream import PredictOptions, predict_stream
from service.web.predict_table import predict_table
from service.web.replicas.replica import ModelVersion, ServedModel
from service.web.slicing import predict_rows, read_instances, written
from service.web.streaming import LINES, choice, lines_at_once, stream_answer, top

routes = Blueprint("predict", __name__)


@routes.post("/v1/models/<name>/predict")
def predict(name: str) -> Response:
    """Predict each row of `instances`, from a step not before `min_step`; with `ids`, to be joined by labels later."""
    context = web()
    if request.mimetype == LINES:
        return _stream(context, context.served(name))
    if request.mimetype == arrow.MEDIA_TYPE:
        return predict_table(context, context.served(name))
    context.served(name)  # first: no such model, rather than a bad body
    return raw_answer(predict_json(context, name, json_body()))


def predict_json(context: Web, name: str, raw: bytes) -> bytes:
    """The answer to a body of JSON. Raises Problem."""
    served = context.served(name)
    try:
        check = partial(_check, context, served)
        body, features = read_instances(raw, served.features, check)
    except RowError as error:
        raise Invalid.at(f"/instances/{error.row}{error.pointer}", error.detail) from None
    columns = columns_of_answer(len(features), served.spec, body.top, "/top")
    if body.ids is not None:
        check_ids(body.ids, len(features))
    version = replica_at(served, body.min_step, context)
    made = predict_rows(version, features)
    if body.ids is not None:
        context.feedback.remember(served, body.ids, version.step, features, made)
    head = to_json({"model": name, **position(context, version)})
    return head[:-1] + b',"predictions":' + written(version, made, body.ids, columns) + b"}\n"


def _stream(context: Web, served: ServedModel) -> Response:
    """Predict each line of the body while it arrives."""
    body = request_body()
    blocks = line_blocks(body.pieces(), context.settings.max_line_bytes, lines_at_once(served.spec))
    named = choice("ids", ("false", "true")) == "true"
    stop_on_error = choice("on_error", ("skip", "stop")) == "stop"
    options = PredictOptions(named, stop_on_error, top())
    return stream_answer(predict_stream(context, served, blocks, options), body)


def _check(context: Web, served: ServedModel, rows: int) -> None:
    check_rows(rows, served.spec, context.settings, "/instances")


def check_ids(ids: list[str], rows: int) -> None:
    """Refuse ids that are not one for each row, each another. Raises Invalid."""
    if len(ids) != rows:
        raise Invalid.at("/ids", f"{len(ids)} ids for {rows} instances")
    first: dict[str, int] = {}
    for index, known in enumerate(ids):
        if first.setdefault(known, index) != index:
            raise Invalid.at(f"/ids/{index}", f"the same id as /ids/{first[known]}")


def replica_at(served: ServedModel, min_step: int | None, context: Web) -> ModelVersion:
    """The newest version, which is waited for if a least step is asked for. Raises Unavailable."""
    if min_step is None or served.version.step >= min_step:
        return served.version
    with context.waiting.turn():
        if served.wait_for(min_step, context.settings.apply_timeout):
            return served.version
    raise Unavailable(f"the model is at step {served.version.step}, not yet at {min_step}", retry_after=1)


def position(context: Web, version: ModelVersion) -> dict[str, Any]:
    """What every answer says of the model's position."""
    if not context.replicas.stale:
        return {"step": version.step, "stale": False}
    return {"step": version.step, "stale": True, "age": round(context.replicas.age, 3)}
