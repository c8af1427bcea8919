"""The newest snapshot of a model: its whole state and the log id it stands at."""

from dataclasses import dataclass

from service import failpoints
from service.errors import TermLost
from service.store import keys, scripts
from service.store.connection import Link
from service.store.log import LogId


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state, and where in the log it stands."""

    log_id: LogId
    timeline: int
    state: bytes
    loss: float | None = None  # in the fading window


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept beside a snapshot: the log from a position on, bytes a job may hold beyond that, and blobs."""

    trim_below: int
    keep_bytes: int
    blobs: int


def save(link: Link, name: str, generation: bytes, term: int, snapshot: Snapshot, keep: Keep) -> None:
    """Keep the snapshot, trim the log and let go of blobs that no replay needs. Raises TermLost."""
    position = snapshot.log_id.position
    failpoints.reach("before-snapshot")
    saved = link.run(
        scripts.SNAPSHOT,
        [keys.meta(name), keys.lease(name), keys.snapshot(name), keys.log(name), keys.blobs(name)],
        [
            *(generation, term, str(snapshot.log_id), position),
            *(snapshot.timeline, snapshot.state, max(0, min(keep.trim_below, position))),
            *(keep.keep_bytes, keep.blobs, "" if snapshot.loss is None else repr(snapshot.loss)),
        ],
    )
    failpoints.reach("after-snapshot")
    if not saved:
        raise TermLost(name)


def load(link: Link, name: str, generation: bytes) -> Snapshot | None:
    """The newest snapshot of this generation; None if there is none yet."""
    found, log_id, timeline, state = link.call(
        "HMGET", keys.snapshot(name), "generation", "log_id", "timeline", "state"
    )
    if found != generation:
        return None
    return Snapshot(LogId.parse(log_id), int(timeline), state)


def place(link: Link, name: str, generation: bytes) -> LogId | None:
    """Where in the log the newest snapshot of this generation stands; None if there is none yet."""
    found, log_id = link.call("HMGET", keys.snapshot(name), "generation", "log_id")
    return LogId.parse(log_id) if found == generation else None
