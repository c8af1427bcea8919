"""The newest snapshot of a model: its whole state and the log id it stands at."""

from dataclasses import dataclass

from service import failpoints
from service.store import keys, scripts
from service.store.connection import Link
from service.store.leadership import Fence
from service.store.log import LogId


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored state: the last entry of the log that it took, by log id and token, and in which timeline."""

    log_id: LogId
    timeline: int
    state: bytes
    token: bytes | None = None  # None: not known


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept beside a snapshot: the log from a position on, bytes a job may hold beyond that, and blobs."""

    trim_below: int
    keep_bytes: int
    blobs: int


def save(link: Link, fence: Fence, state: bytes, loss: float | None, keep: Keep) -> None:
    """Keep a state, trim the log and let go of blobs that no replay needs. `loss` is that in the fading window.

    Raises TermLost; StaleWrite if a newer snapshot is stored.
    """
    name, position = fence.name, fence.log_id.position
    failpoints.reach("before-snapshot")
    outcome = link.run(
        scripts.SNAPSHOT,
        [keys.meta(name), keys.lease(name), keys.snapshot(name), keys.log(name), keys.blobs(name)],
        [
            *(*fence.arguments, position, state, max(0, min(keep.trim_below, position))),
            *(keep.keep_bytes, keep.blobs, "" if loss is None else repr(loss)),
        ],
    )
    failpoints.reach("after-snapshot")
    fence.check(outcome)


def load(link: Link, name: str, generation: bytes) -> Snapshot | None:
    """The newest snapshot of this generation; None if there is none yet."""
    found, log_id, timeline, state, token = link.call(
        "HMGET", keys.snapshot(name), "generation", "log_id", "timeline", "state", "token"
    )
    if found != generation:
        return None
    return Snapshot(LogId.parse(log_id), int(timeline), state, token or None)


def place(link: Link, name: str, generation: bytes) -> LogId | None:
    """Where in the log the newest snapshot of this generation stands; None if there is none yet."""
    found, log_id = link.call("HMGET", keys.snapshot(name), "generation", "log_id")
    return LogId.parse(log_id) if found == generation else None
