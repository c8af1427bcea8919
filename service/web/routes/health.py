"""Health: alive, and ready for traffic."""

from http import HTTPStatus

from flask import Blueprint, Response

from service.web.context import answer, web

routes = Blueprint("health", __name__)


@routes.get("/livez")
def livez() -> Response:
    """This process answers."""
    return answer({"status": "ok"})


@routes.get("/readyz")
def readyz() -> Response:
    """This process has read the models; what is not well is named. 503 until it has."""
    context = web()
    replicas = context.replicas
    if not replicas.ready:
        return answer({"status": "starting"}, HTTPStatus.SERVICE_UNAVAILABLE)
    without = [served.name for served in replicas.all() if not served.has_learner]
    return answer(
        {
            "status": "degraded" if replicas.stale or without or replicas.troubles else "ok",
            "redis": "away" if replicas.stale else "ok",
            "without_learner": [name for name in without if context.access.sees(name)],
            "troubles": {name: why for name, why in replicas.troubles.items() if context.access.sees(name)},
        }
    )
