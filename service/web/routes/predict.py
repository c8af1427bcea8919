"""Predictions, from this process's replica."""

from typing import Any

from flask import Blueprint, Response, request

from model.errors import RowError
from service.errors import Invalid, Unavailable
from service.schemas import PredictRequest, parse
from service.web.context import Web, answer, json_body, request_body, web
from service.web.lines import line_blocks
from service.web.predict_stream import predict_stream
from service.web.replicas.replica import Replica, ServedModel
from service.web.streaming import LINES, choice, lines_at_once, stream_answer

routes = Blueprint("predict", __name__)


@routes.post("/v1/models/<name>/predict")
def predict(name: str) -> Response:
    """Predict each row of `instances`, from a step not before `min_step`; with `ids`, to be joined by labels later."""
    here = web()
    served = here.served(name)
    if request.mimetype == LINES:
        return _stream(here, served)
    body = parse(PredictRequest, json_body())
    check_rows(len(body.instances), here, "/instances")
    if body.ids is not None:
        check_ids(body.ids, len(body.instances))
    replica = replica_at(served, body.min_step, here)
    try:
        features = replica.features.encode(body.instances)
    except RowError as error:
        raise Invalid.at(f"/instances/{error.row}{error.pointer}", error.detail) from None
    made = replica.predictor.predict(features)
    predictions = replica.labels.decode(made)
    if body.ids is not None:
        here.feedback.remember(served, body.ids, replica.step, features, made)
        predictions = [{"id": known, **made} for known, made in zip(body.ids, predictions, strict=True)]
    return answer({"model": name, **position(here, replica), "predictions": predictions})


def _stream(context: Web, served: ServedModel) -> Response:
    """Predict each line of the body while it arrives."""
    body = request_body()
    blocks = line_blocks(body.pieces(), context.settings.max_line_bytes, lines_at_once(served.spec))
    named = choice("ids", ("false", "true")) == "true"
    stop_on_error = choice("on_error", ("skip", "stop")) == "stop"
    return stream_answer(predict_stream(context, served, blocks, named, stop_on_error), body)


def check_rows(rows: int, here: Web, place: str) -> None:
    """Refuse more rows than the setting allows. Raises Invalid."""
    if rows > here.settings.max_rows:
        detail = f"{rows} rows; at most {here.settings.max_rows} in one request (FRESHET_MAX_ROWS)"
        raise Invalid.at(place, detail)


def check_ids(ids: list[str], rows: int) -> None:
    """Refuse ids that are not one for each row, each another. Raises Invalid."""
    if len(ids) != rows:
        raise Invalid.at("/ids", f"{len(ids)} ids for {rows} instances")
    first: dict[str, int] = {}
    for place, known in enumerate(ids):
        if first.setdefault(known, place) != place:
            raise Invalid.at(f"/ids/{place}", f"the same id as /ids/{first[known]}")


def replica_at(served: ServedModel, min_step: int | None, here: Web) -> Replica:
    """The newest replica, which is waited for if a least step is asked for. Raises Unavailable."""
    if min_step is None or served.version.step >= min_step:
        return served.version
    with here.waiting.turn():
        if served.wait_for(min_step, here.settings.apply_timeout):
            return served.version
    raise Unavailable(f"the model is at step {served.version.step}, not yet at {min_step}", retry_after=1)


def position(here: Web, replica: Replica) -> dict[str, Any]:
    """What every answer says of the model's position."""
    if not here.replicas.stale:
        return {"step": replica.step, "stale": False}
    return {"step": replica.step, "stale": True, "age": round(here.replicas.age, 3)}
