"""Checkpoints of a model: whole states at exact log ids, bounded in number. And the blobs that commands name."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from service.errors import BlobGone
from service.store import keys, scripts
from service.store.entries import LogId
from service.store.model_part import Fence, ModelPart
from service.store.pieces import Pieces

Reason = Literal["requested", "periodic", "promotion", "rollback", "weights"]
"""Why a checkpoint was made: on request, by the clock, or before a command that replaces the weights."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint. `id` is the log id of the entry at which it was made, `log_id` that of the last entry in it."""

    id: str
    log_id: str
    step: int
    created: float  # seconds since the epoch
    reason: Reason
    note: str
    bytes: int

    @property
    def state_id(self) -> LogId:
        """The log id of the last entry in its state."""
        return LogId.parse(self.log_id.encode())


class Checkpoints(ModelPart):
    """A model's checkpoints and blobs."""

    def save(self, fence: Fence, made: Checkpoint, state: bytes, most: int) -> None:
        """Store a checkpoint, of which the newest `most` are kept. Raises TermLost, StaleWrite, StoreFull."""
        name = self.name
        parts = [keys.log(name), keys.checkpoints(name), keys.checkpoint_states(name)]
        parts += [keys.snapshot(name), keys.blobs(name), keys.pieces(name)]
        with Pieces(self.link, name, self.generation).written(state) as stored:
            self.write(scripts.CHECKPOINT, fence, parts, made.id, json.dumps(asdict(made)), stored, most)

    def list_all(self) -> list[Checkpoint]:
        """The model's checkpoints, oldest first."""
        values = self.link.call("HVALS", keys.checkpoints(self.name))
        found = [Checkpoint(**json.loads(value)) for value in values]
        return sorted(found, key=lambda made: LogId.parse(made.id.encode()))

    def state(self, checkpoint: str) -> bytes | None:
        """A checkpoint's state; None if there is no such checkpoint any more."""
        return self._whole(keys.checkpoint_states(self.name), checkpoint)

    def blob(self, command: LogId, position: int | None = None) -> bytes:
        """What a command names, stored under `position`; None: the command's own. Raises BlobGone."""
        at = command.position if position is None else position
        blob = self._whole(keys.blobs(self.name), f"{command}:{at}")
        if blob is None:
            raise BlobGone(f"model {self.name}: what the command {command} names is gone")
        return blob

    def _whole(self, key: bytes, field: str) -> bytes | None:
        stored: bytes | None = self.link.call("HGET", key, field)
        return None if stored is None else Pieces(self.link, self.name).read(stored)
