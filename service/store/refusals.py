"""Commands in the log that were refused: which, and why."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from service.store import keys, scripts
from service.store.entries import LogId
from service.store.model_part import Fence, ModelPart

MOST = 100
"""Refusals of a model that are kept, the newest."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the command at `log_id` changed nothing. `token` is that of its entry."""

    log_id: str
    command: str
    detail: str
    refused: float  # seconds since the epoch
    token: str = ""

    def to_response(self) -> dict[str, Any]:
        """The refusal in a response."""
        return {field: value for field, value in asdict(self).items() if field != "token"}


class Refusals(ModelPart):
    """A model's refused commands."""

    def record(self, fence: Fence, refusal: Refusal) -> None:
        """Record that a command was refused: every replay refuses it too. Raises TermLost, StaleWrite."""
        parts = [keys.log(self.name), keys.refusals(self.name)]
        self.write(scripts.REFUSE, fence, parts, json.dumps(asdict(refusal)), MOST)

    def at(self, log_id: LogId, token: bytes) -> Refusal | None:
        """Why the command at a log id was refused; None if it was not."""
        found = self.link.call("HGET", keys.refusals(self.name), str(log_id))
        refusal = None if found is None else Refusal(**json.loads(found))
        return refusal if refusal is not None and refusal.token == token.decode() else None

    def list_all(self) -> list[Refusal]:
        """The model's refused commands, oldest first."""
        values = self.link.call("HVALS", keys.refusals(self.name))
        found = [Refusal(**json.loads(value)) for value in values]
        return sorted(found, key=lambda refusal: LogId.parse(refusal.log_id.encode()))
