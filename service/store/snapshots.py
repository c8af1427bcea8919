"""The newest snapshot of a model: its whole state, and the log id of the last entry in it."""

from dataclasses import dataclass

from service import failpoints
from service.errors import StoreUnavailable
from service.store import keys, scripts
from service.store.entries import LogId
from service.store.model_part import Fence, ModelPart
from service.store.pieces import Pieces

TRIES = 5  # at reading a large state that is replaced meanwhile


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
        parts = [keys.snapshot(name), keys.log(name), keys.blobs(name)]
        parts += [keys.checkpoint_states(name), keys.pieces(name)]
        with Pieces(self.link, name, self.generation).written(state, scripts.SNAPSHOT_PIECE) as stored:
            self.write(
                scripts.SNAPSHOT,
                fence,
                parts,
                *(position, stored, max(0, min(keep.trim_below, position))),
                *(keep.keep_bytes, keep.blobs, "" if loss is None else repr(loss)),
            )
        failpoints.reach("after-snapshot")

    def load(self) -> Snapshot | None:
        """The newest snapshot of this generation; None if there is none yet."""
        for number in range(TRIES):
            found, log_id, timeline, stored, token = self.link.call(
                "HMGET", keys.snapshot(self.name), "generation", "log_id", "timeline", "state", "token"
            )
            if found != self.generation:
                return None
            state = Pieces(self.link, self.name).read(stored, at_once=number > 0)
            if state is not None:
                return Snapshot(LogId.parse(log_id), int(timeline), state, token or None)
        raise StoreUnavailable(f"model {self.name}: its snapshot is replaced faster than it can be read")

    def log_id(self) -> LogId | None:
        """The log id of the newest snapshot of this generation; None if there is none yet."""
        found, log_id = self.link.call("HMGET", keys.snapshot(self.name), "generation", "log_id")
        return LogId.parse(log_id) if found == self.generation else None
