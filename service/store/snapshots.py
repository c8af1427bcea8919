"""The newest snapshot of a model: its whole state and the log id it stands at."""

from dataclasses import dataclass

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


def save(link: Link, name: str, generation: bytes, term: int, snapshot: Snapshot, trim_below: int) -> None:
    """Keep the snapshot, and trim the log's entries below the position `trim_below`. Raises TermLost."""
    position = snapshot.log_id.position
    saved = link.run(
        scripts.SNAPSHOT,
        [keys.meta(name), keys.lease(name), keys.snapshot(name), keys.log(name)],
        [
            *(generation, term, str(snapshot.log_id), position),
            *(snapshot.timeline, snapshot.state, max(0, min(trim_below, position))),
        ],
    )
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
