"""Checkpoints of a model: whole states at exact places in the log, bounded in number. And the blobs commands name."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from service.errors import BlobGone
from service.store import keys, scripts
from service.store.connection import Link
from service.store.leadership import Fence
from service.store.log import LogId

Reason = Literal["requested", "periodic", "promotion", "rollback", "weights"]
"""Why a checkpoint was made: on request, by the clock, or before a command that replaces the weights."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint is. `id` is the log id of the entry at which it was made, `log_id` where its state stands."""

    id: str
    log_id: str
    step: int
    created: float  # seconds since the epoch
    reason: Reason
    note: str
    bytes: int

    @property
    def stands_at(self) -> LogId:
        """The log id of the last entry that its state has taken."""
        return LogId.parse(self.log_id.encode())


def save(link: Link, fence: Fence, made: Checkpoint, state: bytes, most: int) -> None:
    """Keep a checkpoint; `most` are kept in all. Raises TermLost, StaleWrite, StoreFull."""
    name = fence.name
    outcome = link.run(
        scripts.CHECKPOINT,
        [
            *(keys.meta(name), keys.lease(name), keys.log(name)),
            *(keys.checkpoints(name), keys.checkpoint_states(name)),
        ],
        [*fence.arguments, made.id, json.dumps(asdict(made)), state, most],
    )
    fence.check(outcome)


def list_all(link: Link, name: str) -> list[Checkpoint]:
    """The model's checkpoints, oldest first."""
    found = [Checkpoint(**json.loads(value)) for value in link.call("HVALS", keys.checkpoints(name))]
    return sorted(found, key=lambda made: LogId.parse(made.id.encode()))


def state(link: Link, name: str, checkpoint: str) -> bytes | None:
    """A checkpoint's state; None if there is no such checkpoint any more."""
    found: bytes | None = link.call("HGET", keys.checkpoint_states(name), checkpoint)
    return found


def command_blob(link: Link, name: str, log_id: LogId, position: int) -> bytes:
    """What the command at `log_id` names; `position` is where that stands in the log. Raises BlobGone."""
    blob: bytes | None = link.call("HGET", keys.blobs(name), f"{log_id}:{position}")
    if blob is None:
        raise BlobGone(f"model {name}: what the command {log_id} names is gone")
    return blob
