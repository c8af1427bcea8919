"""The newest snapshot of a model: its whole state, and the log id of the last entry in it."""

from dataclasses import dataclass

from service import failpoints
from service.store import keys, scripts
from service.store.entries import LogId
from service.store.model_part import Fence, ModelPart


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored state: the last entry of the log in it, by log id and token, and its timeline."""

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


class Snapshots(ModelPart):
    """A model's newest snapshot."""

    def save(self, fence: Fence, state: bytes, loss: float | None, keep: Keep) -> None:
        """Store a state, trim the log and drop the blobs that no replay needs. `loss` is that in the fading window.

        Raises TermLost; StaleWrite if a newer snapshot is stored.
        """
        name, position = self.name, fence.log_id.position
        failpoints.reach("before-snapshot")
        self.write(
            scripts.SNAPSHOT,
            fence,
            [keys.snapshot(name), keys.log(name), keys.blobs(name)],
            *(position, state, max(0, min(keep.trim_below, position))),
            *(keep.keep_bytes, keep.blobs, "" if loss is None else repr(loss)),
        )
        failpoints.reach("after-snapshot")

    def load(self) -> Snapshot | None:
        """The newest snapshot of this generation; None if there is none yet."""
        found, log_id, timeline, state, token = self.link.call(
            "HMGET", keys.snapshot(self.name), "generation", "log_id", "timeline", "state", "token"
        )
        if found != self.generation:
            return None
        return Snapshot(LogId.parse(log_id), int(timeline), state, token or None)

    def log_id(self) -> LogId | None:
        """The log id of the newest snapshot of this generation; None if there is none yet."""
        found, log_id = self.link.call("HMGET", keys.snapshot(self.name), "generation", "log_id")
        return LogId.parse(log_id) if found == self.generation else None
