"""A model's weights and biases as safetensors, out and in."""

from http import HTTPStatus

from flask import Blueprint, Response, request

from service.errors import WrongMediaType
from service.web import loop
from service.web.commands import order
from service.web.context import answer, idempotency_key, raw_body, web
from service.web.routes.predict import replica_at
from service.web.weights import checked, most_bytes, written

routes = Blueprint("weights", __name__)
MEDIA_TYPE = "application/vnd.safetensors"
READ = {MEDIA_TYPE, "application/octet-stream", "application/x-safetensors"}


@routes.get("/v1/models/<name>/weights")
def get_weights(name: str) -> Response:
    """The parameters under PyTorch's names, from a step not before `?min_step`; the header Freshet-Step says which."""
    context = web()
    served = context.served(name)
    least = request.args.get("min_step", type=int)
    replica = replica_at(served, least, context)
    raw = loop.run(written, replica.predictor.spec, replica.state, pool="long")
    return Response(raw, headers={"Freshet-Step": str(replica.step)}, mimetype=MEDIA_TYPE)


@routes.put("/v1/models/<name>/weights")
def put_weights(name: str) -> Response:
    """Go on with these parameters. The state before it is a checkpoint: `undo` names it."""
    context = web()
    served = context.served(name)
    if request.mimetype not in READ:
        raise WrongMediaType(f"send {MEDIA_TYPE}, not {request.mimetype or 'nothing'}")
    raw = raw_body(most_bytes(served.spec), "the size of this model's weights")
    blob = loop.run(checked, served.spec, raw, pool="long")
    ordered = order(context, served, {"do": "weights", "version": 2}, idempotency_key(), blob=blob)
    body = {**ordered.to_response(served), "undo": str(ordered.log_id)}
    return answer(body, HTTPStatus.OK if ordered.done else HTTPStatus.ACCEPTED)
