"""What a web process counts of its requests, and `GET /metrics`."""

import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from flask import Blueprint, Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import REGISTRY as OWN
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service import logs
from service.counters import OTHERS, REQUESTS
from service.errors import StoreError
from service.store.memory import memory
from service.telemetry import FOLDER
from service.web import current, loop
from service.web.context import Web, web
from service.web.current import Current, may_see
from service.web.names import LOG_FIELDS, REQUEST_ID
from service.web.replicas.replica import ServedModel

routes = Blueprint("metrics", __name__)
MOST_MODELS = 100  # by name; the others are summed
LONGEST_ID = 128  # characters of an X-Request-Id that is taken over
TRACE = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_children: dict[tuple[str, int], Any] = {}
_ids = random.Random()  # unlike `secrets` without a system call; an id is no secret
os.register_at_fork(after_in_child=_ids.seed)  # or the processes of a server would draw the same


def install(app: Flask) -> None:
    """Count every request of an application, and give each an id."""
    app.before_request(_begin)
    app.after_request(_count)
    logs.tell_context(log_context)


def _begin() -> None:
    current.of_flask()


def _count(response: Response) -> Response:
    rule = request.url_rule
    handled = current.of_flask()  # a bad name is refused before anything else
    count("(none)" if rule is None else rule.rule, response.status_code, time.perf_counter() - handled.began)
    response.headers[REQUEST_ID] = request_id(handled)
    note_log_fields(web(), handled)
    return response


def count(rule: str, status: int, seconds: float) -> None:
    """Count a request that was answered, by the route's rule."""
    child = _children.get((rule, status))
    if child is None:
        child = _children[rule, status] = REQUESTS.labels(rule, str(int(status)))
    child.observe(seconds)


def note_log_fields(context: Web, handled: Current) -> None:
    """Keep what the access log is to tell of a request."""
    if context.settings.access_log:
        handled.environ[LOG_FIELDS] = log_context()


def request_id(handled: Current) -> str:
    """The id of a request: the client's, if it gave a printable one, or a new one."""
    if not handled.id:
        given = handled.environ.get("HTTP_X_REQUEST_ID", "")
        is_fine = given and len(given) <= LONGEST_ID and given.isascii() and given.isprintable()
        handled.id = given if is_fine else f"{_ids.getrandbits(64):016x}"
    return handled.id


def log_context() -> dict[str, str]:
    """What a log line says of the current request: its id, trace (W3C Trace Context), model and API key."""
    handled = current.get()
    if handled is None:
        return {}
    fields = {"request_id": request_id(handled)}
    trace = TRACE.fullmatch(handled.environ.get("HTTP_TRACEPARENT", ""))
    if trace is not None:
        fields |= {"trace_id": trace[1], "span_id": trace[2]}
    if handled.model:
        fields["model"] = handled.model
    if handled.api_key is not None:
        fields["api_key"] = handled.api_key.name
    return fields


@routes.get("/metrics")
def metrics() -> Response:
    """All processes' counters and the models' state, for Prometheus."""
    registry = CollectorRegistry()
    registry.register(Models(web()))
    counted = loop.run(_shared, pool="long") if FOLDER in os.environ else OWN.collect()
    text = generate_latest(Bounded(counted)) + generate_latest(registry)
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def _shared() -> list[Metric]:
    """The counters of all processes, from their files: no lock of this process is taken."""
    return list(MultiProcessCollector(CollectorRegistry()).collect())  # type: ignore[no-untyped-call]


class Bounded(Collector):
    """Metrics with only the busiest models by name."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """The metrics, those of the other models summed."""
        for metric in self._metrics:
            if any("model" in sample.labels for sample in metric.samples):
                _sum_others(metric)
            yield metric


def _sum_others(metric: Metric) -> None:
    sizes: dict[str, float] = {}
    for sample in metric.samples:
        sizes[sample.labels["model"]] = sizes.get(sample.labels["model"], 0.0) + sample.value
    named = set(sorted(sizes, key=lambda model: -sizes[model])[:MOST_MODELS])
    sums: dict[tuple[Any, ...], Any] = {}
    for sample in metric.samples:
        model = sample.labels["model"]
        if not (model == OTHERS or may_see(model)):
            continue
        model = model if model in named else OTHERS
        labels = {**sample.labels, "model": model}
        key = (sample.name, *sorted(labels.items()))
        value = sample.value + (sums[key].value if key in sums else 0.0)
        sums[key] = sample._replace(labels=labels, value=value)
    metric.samples = list(sums.values())


GAUGES = {
    "step": "Position: observations that the model has taken.",
    "lag": "Observations in the log that this process has not seen applied.",
    "loss": "Prequential loss in the fading window.",
    "score": "Prequential accuracy (classes) or R² (values) in the fading window.",
    "has_learner": "Whether a learner's heartbeat moves.",
    "term": "The learner's term: it goes up at each takeover.",
    "timeline": "Goes up when Redis came back older.",
}


class Models(Collector):
    """The models as this web process has them, and Redis."""

    def __init__(self, context: Web) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        """Gauges of the busiest models by name, of the others summed where a sum makes sense; Redis's memory."""
        visible = [model for model in self._context.replicas.all() if may_see(model.name)]
        served = sorted(visible, key=lambda model: -model.version.step)
        named, others = served[:MOST_MODELS], served[MOST_MODELS:]
        yield GaugeMetricFamily("freshet_models", "Models that are served.", len(served))
        yield GaugeMetricFamily(
            "freshet_models_troubled",
            "Models with which something is wrong.",
            len(self._context.replicas.troubles),
        )
        yield GaugeMetricFamily(
            "freshet_models_without_learner",
            "Models that nobody leads.",
            sum(not s.has_learner for s in served),
        )
        yield GaugeMetricFamily(
            "freshet_replica_age_seconds",
            "Seconds since Redis answered this process.",
            self._context.replicas.age,
        )
        values = {model.name: _values(model) for model in named}
        for gauge, meaning in GAUGES.items():
            family = GaugeMetricFamily(f"freshet_model_{gauge}", meaning, labels=["model"])
            for name, found in values.items():
                if found[gauge] is not None:
                    family.add_metric([name], found[gauge])
            if others and gauge in ("step", "lag"):
                family.add_metric([OTHERS], sum(_values(model)[gauge] for model in others))
            yield family
        yield from _observations(named, others)
        yield from _committees(named)
        yield from self._redis()

    def _redis(self) -> Iterator[Metric]:
        try:
            used, limit = memory(self._context.link)
        except StoreError:
            yield GaugeMetricFamily("freshet_redis_up", "Whether Redis answers.", 0)
            return
        yield GaugeMetricFamily("freshet_redis_up", "Whether Redis answers.", 1)
        yield GaugeMetricFamily("freshet_redis_memory_bytes", "Memory that Redis uses.", used)
        yield GaugeMetricFamily("freshet_redis_maxmemory_bytes", "Redis's maxmemory; 0: none.", limit)


def _observations(named: list[ServedModel], others: list[ServedModel]) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "freshet_observations", "Observations taken, applied or skipped.", labels=["model", "outcome"]
    )
    groups = [([model], model.name) for model in named] + ([(others, OTHERS)] if others else [])
    for group, label in groups:
        skipped = sum(model.version.metrics.get("skipped", 0) for model in group)
        family.add_metric([label, "applied"], sum(model.version.step for model in group) - skipped)
        family.add_metric([label, "skipped"], skipped)
    yield family


def _committees(named: list[ServedModel]) -> Iterator[Metric]:
    """The members' weights and losses, and how many drifts and restarts there were, of the models told by name."""
    weights = GaugeMetricFamily(
        "freshet_member_weight", "A member's weight in its committee.", labels=["model", "member"]
    )
    losses = GaugeMetricFamily("freshet_member_loss", "A member's fading loss.", labels=["model", "member"])
    events = CounterMetricFamily(
        "freshet_model_events", "Drifts, and restarts of members, of a model.", labels=["model"]
    )
    for model in named:
        metrics = model.version.metrics
        events.add_metric([model.name], metrics.get("events", 0))
        for member in metrics.get("members", []):
            weights.add_metric([model.name, str(member["member"])], member["weight"])
            losses.add_metric([model.name, str(member["member"])], member["loss"])
    yield from (weights, losses, events)


def _values(served: ServedModel) -> dict[str, Any]:
    replica = served.version
    window = replica.metrics.get("window") or {}
    return {
        "step": replica.step,
        "lag": max(0, served.head.position - replica.step),
        "loss": window.get("loss"),
        "score": window.get("accuracy", window.get("r2")),
        "has_learner": int(served.has_learner),
        "term": served.lead.term,
        "timeline": replica.timeline,
    }
