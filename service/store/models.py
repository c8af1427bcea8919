"""Which models there are, and what each is."""

import secrets
import time
from dataclasses import dataclass

from service.store import keys, scripts
from service.store.connection import Link
from service.store.log import LogId

DELETED_REMEMBERED = 10_000  # generations of deleted models
_META = (
    *("generation", "spec", "created", "timeline", "position", "commands"),
    *("rebuilt", "hyperparameters", "job"),
)


@dataclass(frozen=True, slots=True)
class Meta:
    """What is fixed about a model (generation, spec, created), and where its log stands."""

    generation: bytes
    spec: bytes
    created: float
    timeline: int
    head: LogId
    rebuilt: bytes | None = None  # its spec after a rebuild
    hyperparameters: bytes | None = None  # that were changed since, JSON
    job: bytes | None = None  # the id of its queued or running job

    @property
    def current_spec(self) -> bytes:
        """The spec that the model is of now, without what was changed live."""
        return self.rebuilt or self.spec


@dataclass(frozen=True, slots=True)
class Lead:
    """Who leads a model: the term, its heartbeat counter, and the log id that was published last.

    `holder` is the process that leads, see service.processes; `failure` why no learner can lead the model, or "".
    """

    term: int
    counter: int
    published: LogId
    holder: str = ""
    failure: str = ""


def create(
    link: Link, name: str, spec: bytes, retrain: str = "", due: float | None = None
) -> tuple[str, bytes]:
    """Create a model, if the name is free. Returns "created", "same" or "different", and the generation.

    `retrain` is the schedule of its retraining (JSON) and `due` when that is due first.
    """
    generation = secrets.token_hex(8)
    outcome, known = link.run(
        scripts.CREATE,
        [keys.meta(name), keys.schedule(name)],
        [generation, spec, repr(time.time()), retrain, "" if due is None else repr(due)],
    )
    if outcome != b"different":  # also on a retry, should the first try have died before this line
        link.call_many([("HSET", keys.MODELS, name, known), ("PUBLISH", keys.EVENTS, name)])
    return outcome.decode(), known


def delete(link: Link, name: str) -> bool:
    """Delete a model with all its keys; False if there is none."""
    generation = link.call("HGET", keys.meta(name), "generation")
    if generation is None:
        link.call("HDEL", keys.MODELS, name)
        return False
    mark_deleted(link, generation)  # first: a model that is gone without the mark was lost, not deleted
    jobs = [keys.job(name, job.decode()) for job in link.call("LRANGE", keys.jobs(name), 0, -1)]
    deleted = link.run(scripts.DELETE, keys.all_of(name) + jobs, [generation])
    link.call_many([("HDEL", keys.MODELS, name), ("PUBLISH", keys.EVENTS, name)])
    return bool(deleted)


def mark_deleted(link: Link, generation: bytes) -> None:
    """Remember that the model of this generation was deleted on purpose."""
    link.run(scripts.MARK_DELETED, [keys.DELETED], [repr(time.time()), generation, DELETED_REMEMBERED])


def was_deleted(link: Link, generation: bytes) -> bool:
    """Whether a model that is gone was deleted; if not, Redis has lost it."""
    return link.call("ZSCORE", keys.DELETED, generation) is not None


def names(link: Link) -> dict[str, bytes]:
    """All models: name -> generation."""
    answer = link.call("HGETALL", keys.MODELS)
    return {name.decode(): generation for name, generation in zip(answer[::2], answer[1::2], strict=True)}


def describe(link: Link, wanted: list[str]) -> dict[str, tuple[Meta, Lead] | None]:
    """Each model's description and lead; None for a name without a model."""
    commands: list[tuple[object, ...]] = []
    for name in wanted:
        commands.append(("HMGET", keys.meta(name), *_META))
        commands.append(("HMGET", keys.lease(name), "term", "counter", "published", "holder", "failure"))
    answers = link.call_many(commands) if commands else []
    return {
        name: None if meta[0] is None else (_meta(meta), _lead(lead))
        for name, meta, lead in zip(wanted, answers[::2], answers[1::2], strict=True)
    }


def _meta(values: list[bytes]) -> Meta:
    generation, spec, created, timeline, position, commands, *later = values
    return Meta(generation, spec, float(created), int(timeline), LogId(int(position), int(commands)), *later)


def _lead(values: list[bytes | None]) -> Lead:
    term, counter, published, holder, failure = values
    return Lead(
        int(term or 0),
        int(counter or 0),
        LogId.parse(published or b"0-0"),
        (holder or b"").decode(),
        (failure or b"").decode(),
    )
