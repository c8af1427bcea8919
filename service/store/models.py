"""Which models there are, and what each is."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import NoRoom
from service.store import keys, scripts
from service.store.connection import Link
from service.store.entries import LogId

DELETED_REMEMBERED = 10_000  # generations of deleted models
_META = (
    *("generation", "spec", "created", "timeline", "position", "commands"),
    *("rebuilt", "job"),
)


@dataclass(frozen=True, slots=True)
class Meta:
    """What is fixed about a model (generation, spec, created), and its log's head."""

    generation: bytes
    spec: bytes
    created: float
    timeline: int
    head: LogId
    rebuilt: bytes | None = None  # its spec after a rebuild
    job: bytes | None = None  # the id of its queued or running job

    @property
    def current_spec(self) -> bytes:
        """The spec that the model is of now, without what was changed live."""
        return self.rebuilt or self.spec


@dataclass(frozen=True, slots=True)
class Lead:
    """Who leads a model: the term, its heartbeat counter, and the log id that was published last.

    `holder` is the process that leads, see service.processes; `failure` why no learner can lead the model, or "".
    `caught_up` says that nobody has ever published more than `published` tells.
    """

    term: int
    counter: int
    published: LogId
    holder: str = ""
    failure: str = ""
    caught_up: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """How many models there may be, and how many weights and biases they may have together."""

    models: int = 1_000_000
    parameters: int = 2**53


def create(
    link: Link,
    name: str,
    spec: bytes,
    retrain: str = "",
    due: float | None = None,
    is_same: Callable[[bytes, bytes], bool] | None = None,
    parameters: int = 0,
    room: Room = Room(),
) -> tuple[str, bytes]:
    """Create a model, if the name is free. Returns "created", "same" or "different", and the generation.

    `retrain` is the schedule of its retraining (JSON) and `due` when that is due first. `is_same` tells whether a model
    that is there, of a spec and a schedule as they are stored, is what is asked for; else they are compared as bytes.
    `parameters` are the model's own. Raises NoRoom.
    """
    while True:
        outcome, *known = link.run(
            scripts.CREATE,
            [keys.meta(name), keys.schedule(name), keys.MODELS, keys.DELETIONS, keys.SIZES],
            [
                *(name, secrets.token_hex(8), spec, repr(time.time())),
                *(retrain, "" if due is None else repr(due), deletions(link)),
                *(parameters, room.models, room.parameters),
            ],
        )
        if outcome == b"created":
            return "created", known[0]
        if outcome == b"exists":
            generation, *stored = known
            same = is_same(*stored) if is_same else stored == [spec, retrain.encode()]
            return "same" if same else "different", generation
        _check_room(outcome, known, room)


def resize(link: Link, name: str, parameters: int, room: Room) -> None:
    """Take room for a rebuild. Raises NoRoom."""
    outcome, *known = link.run(scripts.RESIZE, [keys.MODELS, keys.SIZES], [name, parameters, room.parameters])
    _check_room(outcome, known, room)


def _check_room(outcome: bytes, known: list[int], room: Room) -> None:
    if outcome == b"models":
        raise NoRoom(f"there are {known[0]} models; at most {room.models} are allowed (FRESHET_MAX_MODELS)")
    if outcome == b"parameters":
        raise NoRoom(
            f"all models have {known[0]} parameters together; at most {room.parameters} are allowed "
            "(FRESHET_MAX_TOTAL_PARAMETERS)"
        )


def deletions(link: Link) -> int:
    """How many models were deleted so far."""
    return int(link.call("GET", keys.DELETIONS) or 0)


def delete(link: Link, name: str, lost: bytes | None = None) -> bool:
    """Delete a model with all its keys; False if there is none.

    `lost` is the generation of one that Redis has lost: it is remembered as deleted.
    """
    generation = (
        link.call("HGET", keys.meta(name), "generation") or link.call("HGET", keys.MODELS, name) or lost
    )
    if generation is None:
        return False
    return delete_generation(link, name, generation) or lost is not None


def delete_generation(link: Link, name: str, generation: bytes) -> bool:
    """Delete a model, if it is of this generation; False if it is not there, nor listed."""
    named = [keys.MODELS, keys.DELETIONS, keys.DELETED, *keys.all_of(name)]
    arguments = [name, generation, repr(time.time()), DELETED_REMEMBERED, keys.job(name, "")]
    return bool(link.run(scripts.DELETE, named, arguments))


def relist(link: Link, name: str) -> None:
    """Make the list of models say of a name what is there."""
    link.run(scripts.LIST, [keys.meta(name), keys.MODELS], [name])


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
        commands.append(
            ("HMGET", keys.lease(name), "term", "counter", "published", "holder", "failure", "caught_up")
        )
    answers = link.call_many(commands) if commands else []
    return {
        name: None if meta[0] is None else (_meta(meta), _lead(lead))
        for name, meta, lead in zip(wanted, answers[::2], answers[1::2], strict=True)
    }


def _meta(values: list[bytes]) -> Meta:
    generation, spec, created, timeline, position, commands, *later = values
    return Meta(generation, spec, float(created), int(timeline), LogId(int(position), int(commands)), *later)


def _lead(values: list[bytes | None]) -> Lead:
    term, counter, published, holder, failure, caught_up = values
    return Lead(
        int(term or 0),
        int(counter or 0),
        LogId.parse(published or b"0-0"),
        (holder or b"").decode(),
        (failure or b"").decode(),
        caught_up is not None and caught_up == term,
    )
