"""Models: create, list, describe, delete; their prequential metrics and diagnostics."""

import json
import re
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from flask import Blueprint, Response, request, url_for
from pydantic import Field, ValidationError
from pydantic_core import from_json

from model import ModelSpec, OnlineModel
from service.errors import BadRequest, Conflict, Invalid, NotFound, StoreUnavailable
from service.jobs import schedules
from service.jobs.retraining import Retraining
from service.jobs.schedules import Schedule
from service.logs import log
from service.replay.states import State, newest_state
from service.schemas import Strict, parse, problem
from service.store import models
from service.store.appending import NewSchedule
from service.store.entries import LogId
from service.store.jobs import ENDED, Job
from service.store.models import Room
from service.web import loop
from service.web.commands import order
from service.web.context import Web, answer, caught_up, idempotency_key, json_body, web
from service.web.current import may_see
from service.web.protocols.tensorflow_serving import version_status
from service.web.replicas.replica import ServedModel, missing
from service.web.routes import retrain
from service.web.routes.predict import position

routes = Blueprint("models", __name__)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(name: str) -> bool:
    """Whether a model may have this name."""
    return NAME.fullmatch(name) is not None


class Patch(Strict):
    """Body of `PATCH /v1/models/{name}`: what is left out stays as it is."""

    learning_rate: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | None = None
    retrain: Schedule | None = None


@routes.put("/v1/models/<name>")
def create(name: str) -> Response:
    """Create a model: 201; 200 if it was created by the same spec, 409 if by another.

    With `?rebuild=true` a model of another spec is trained anew from the log, by a job: 202 with its address.
    """
    context = web()
    idempotency_key()  # a bad one is refused also where no key is needed
    raw = json_body()
    spec, schedule = _spec_and_schedule(raw, context)
    link = context.link
    retrains = "" if schedule is None else schedule.model_dump_json()
    due = schedules.first_due(link, schedule)
    _check_buildable(context, name, spec)
    room = Room(context.settings.max_models, context.settings.max_total_parameters)
    outcome, _ = models.create(
        link,
        name,
        spec.model_dump_json().encode(),
        retrains,
        due,
        partial(_is_same, spec, schedule),
        spec.parameter_count,
        room,
    )
    served = context.replicas.add(name)
    is_rebuild = request.args.get("rebuild") == "true"
    if outcome != "created":
        caught_up(served)
        if is_rebuild and (key := idempotency_key()) and retrain.is_started(served, key):
            return retrain.start(served, {}, key, raw)
    if outcome == "different":
        if is_rebuild:
            models.resize(link, name, spec.parameter_count, room)
            return _rebuild(context, served, spec, schedule, raw)
        raise Conflict(
            f"there is a model {name!r}, created by another spec; DELETE it first, or train it anew with ?rebuild=true"
        )
    return answer(_described(context, served), HTTPStatus.CREATED if outcome == "created" else HTTPStatus.OK)


def _is_same(spec: ModelSpec, schedule: Schedule | None, stored: bytes, stored_schedule: bytes) -> bool:
    """Whether a stored spec and schedule, which may lack fields that came later, are these."""
    try:
        known = Schedule.model_validate_json(stored_schedule) if stored_schedule else None
        return spec.is_met_by(ModelSpec.model_validate_json(stored)) and known == schedule
    except ValidationError:
        return False


@routes.patch("/v1/models/<name>")
def patch(name: str) -> Response:
    """Change what can change while the model runs: learning rate, clip norm, the schedule of its retraining."""
    context = web()
    served = context.served(name)
    body = parse(Patch, json_body())
    given = body.model_fields_set
    if not given:
        raise Invalid.at("", "nothing to change: give learning_rate, clip_norm or retrain")
    if body.retrain is not None:
        retrain.check_limits(context, body.retrain.job, "/retrain/job")
    changes = {field: getattr(body, field) for field in sorted(given - {"retrain"})}
    ordered = order(
        context,
        served,
        {"do": "set", **changes} if changes else None,
        idempotency_key(),
        schedule=_schedule(context, body.retrain) if "retrain" in given else None,
    )
    return answer(_described(context, served), HTTPStatus.OK if ordered.done else HTTPStatus.ACCEPTED)


def _schedule(context: Web, schedule: Schedule | None) -> NewSchedule:
    if schedule is None:
        return NewSchedule("")
    return NewSchedule(schedule.model_dump_json(), schedules.first_due(context.link, schedule))


def _rebuild(
    context: Web, served: ServedModel, spec: ModelSpec, schedule: Schedule | None, raw: bytes
) -> Response:
    """Start a job that trains a model of another spec from the log and swaps it in.

    The schedule of its retraining is set at once if it is another one. Without one in the request, or with the one in
    force, schedules go on as they are.
    """
    for field in ("task", "features", "classes", "targets"):
        # As JSON: to Python [0, 1] and [false, true] are equal.
        if spec.model_dump_json(include={field}) != served.spec.model_dump_json(include={field}):
            detail = "a rebuild keeps task, features, classes and targets as they are"
            raise Invalid.at(f"/{field}", detail)
    scheduled = schedules.load(served.store)
    is_new = schedule is not None and (scheduled is None or scheduled.schedule != schedule)
    wanted = _schedule(context, schedule) if is_new else None
    put = "" if schedule is None else schedule.model_dump_json()
    job = _rebuild_under_way(served, spec)
    if job is not None:
        if put != served.store.schedule.last_put():  # no repetition: only the schedule is another one
            _set_schedule(context, served, wanted, put)
        return retrain.accepted(job)
    if _spec_in_force(served) == spec:  # only the schedule is another one, or the rebuild has just been done
        _set_schedule(context, served, wanted, put)
        return answer(_described(context, served))
    body = Retraining(start="scratch", promote="always")
    retrain.check_rows(served, body)
    asked = {"retrain": body.model_dump(mode="json"), "spec": spec.model_dump(mode="json"), "by": "rebuild"}
    return retrain.start(served, asked, idempotency_key(), raw, wanted, put)


def _set_schedule(context: Web, served: ServedModel, wanted: NewSchedule | None, put: str) -> None:
    """Set the schedule of a PUT, if it is another one, and note it."""
    if wanted is not None:
        order(context, served, None, idempotency_key(), schedule=wanted)
    served.store.schedule.note_put(put)


def _spec_in_force(served: ServedModel) -> ModelSpec:
    """The spec that a model is of now, as Redis has it."""
    found = served.store.describe()
    if found is None:
        raise missing(served)
    return ModelSpec.model_validate_json(found[0].current_spec)


def _rebuild_under_way(served: ServedModel, spec: ModelSpec) -> Job | None:
    """The model's newest job if it is a rebuild to this spec, and the learner has not carried it out yet."""
    newest = next(iter(served.store.jobs.history()), None)
    if newest is None or newest.request.get("spec") != spec.model_dump(mode="json"):
        return None
    if newest.log_id is None:
        return None if newest.state in ENDED else newest
    kept = served.store.snapshots.log_id()
    is_done = kept is not None and kept >= LogId.parse(newest.log_id.encode())
    return None if is_done else newest


@routes.get("/v1/models")
def list_models() -> Response:
    """All models."""
    context = web()
    context.check_ready()
    return answer(
        {"models": [_summary(context, served) for served in context.replicas.all() if may_see(served.name)]}
    )


@routes.get("/v1/models/<name>")
def describe(name: str) -> Response:
    """One model's spec, step, metrics and lag."""
    context = web()
    return answer(_described(context, context.served(name)))


@routes.delete("/v1/models/<name>")
def delete(name: str) -> Response:
    """Delete a model with everything that belongs to it."""
    context = web()
    link = context.link
    served, lost = context.replicas.get(name), context.replicas.lost(name)
    deleted = models.delete(link, name, None if lost is None else lost.generation)
    context.replicas.forget(name, served)
    if not deleted:
        raise NotFound(f"there is no model {name!r}")
    return Response(status=HTTPStatus.NO_CONTENT)


@routes.get("/v1/models/<name>/metrics")
def metrics(name: str) -> Response:
    """Prequential scores: each observation was predicted before it was learned; and how late labels come."""
    context = web()
    served = context.served(name)
    replica = served.version
    late_labels = _late_labels(context, served)
    return answer(
        {"model": name, **position(context, replica), "metrics": replica.metrics, "late_labels": late_labels}
    )


@routes.get("/v1/models/<name>/diagnostics")
def diagnostics(name: str) -> Response:
    """How the network is doing inside, with advice; as of the newest snapshot, whose step is told, too."""
    context = web()
    served = context.served(name)
    state = newest_state(served.store, served.created_by.spec_json.encode())
    diagnosed = loop.run(_diagnosed, state, pool="long")
    return answer({"model": name, **position(context, served.version), **diagnosed})


def _diagnosed(state: State) -> dict[str, Any]:
    model = state.model()
    return {"snapshot_step": model.step, "diagnostics": model.diagnostics()}


def _late_labels(context: Web, served: ServedModel) -> dict[str, Any] | None:
    """How predictions and their late labels find each other; None without any, and while Redis is away."""
    try:
        return served.store.awaiting.counts(round(context.settings.label_ttl * 1000))
    except StoreUnavailable:
        return None


class SpecAndSchedule(ModelSpec):
    """What a PUT takes, as errors tell it: a spec, and a schedule beside it."""

    retrain: Schedule | None = None


def _spec_and_schedule(raw: bytes, context: Web) -> tuple[ModelSpec, Schedule | None]:
    """A model's spec, and the schedule of its retraining that may be in it as `retrain`."""
    try:
        value = from_json(raw)
    except ValueError as error:
        raise BadRequest(f"not JSON: {error}") from None
    schedule = None
    if isinstance(value, dict) and "retrain" in value:
        asked = value.pop("retrain")
        raw = json.dumps(value).encode()
        try:
            schedule = None if asked is None else Schedule.model_validate_json(json.dumps(asked))
        except ValidationError as error:
            raise problem(error, Schedule, "/retrain") from None
    if schedule is not None:
        retrain.check_limits(context, schedule.job, "/retrain/job")
    return _spec(raw, context), schedule


def _spec(raw: bytes, context: Web) -> ModelSpec:
    try:
        spec = ModelSpec.model_validate_json(raw)
    except ValidationError as error:
        raise problem(error, SpecAndSchedule) from None
    limit = context.settings.max_parameters
    if spec.parameter_count > limit:
        detail = f"{spec.parameter_count} parameters; at most {limit} are allowed (FRESHET_MAX_PARAMETERS)"
        raise Invalid.at("/layers", detail)
    return spec


def _check_buildable(context: Web, name: str, spec: ModelSpec) -> None:
    """Refuse a spec of which no model can be made, or none that can be stored. Raises Invalid."""
    served = context.replicas.get(name)
    if served is not None and served.created_by.spec == spec:
        return
    try:
        loop.run(_build, spec, pool="long")
    except Exception as error:  # whatever it is, nothing of it is stored
        log.warning("a spec that cannot be built", model=name, error=repr(error))
        raise Invalid.at("", f"no model can be made of this spec: {error}") from error


def _build(spec: ModelSpec) -> None:
    OnlineModel.from_bytes(OnlineModel(spec).to_bytes())


def _summary(context: Web, served: ServedModel) -> dict[str, Any]:
    replica = served.version
    return {
        "model": served.name,
        "task": served.spec.task,
        **position(context, replica),
        "lag": max(0, served.head.position - replica.step),
        "created": served.created,
    }


def _described(context: Web, served: ServedModel) -> dict[str, Any]:
    replica = served.version
    return {
        **_summary(context, served),
        "generation": served.generation.decode(),
        "timeline": replica.timeline,
        "term": served.lead.term,
        "has_learner": served.has_learner,
        "trouble": context.replicas.troubles.get(served.name),
        "parameters": served.spec.parameter_count,
        "spec": served.spec.model_dump(mode="json"),
        "metrics": replica.metrics,
        **_live(context, served),
        "model_version_status": version_status(),
    }


def _live(context: Web, served: ServedModel) -> dict[str, Any]:
    """What may have changed since the model was created; nothing of it while Redis is away."""
    job = scheduled = None
    try:
        found = served.store.describe()
        scheduled = schedules.load(served.store)
        refused = served.store.refusals.list_all()
    except StoreUnavailable:
        return {"hyperparameters": None, "retrain": None, "job": None, "refusals": None}
    if found is not None:
        job = found[0].job
    return {
        "hyperparameters": served.version.hyperparameters,
        "retrain": scheduled and scheduled.to_response(),
        "job": job and url_for("jobs.describe", job_id=job.decode()),
        "refusals": [refusal.to_response() for refusal in refused],
    }
