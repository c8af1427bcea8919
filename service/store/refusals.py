"""Commands in the log that could not be carried out: which, and why."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from service.store import keys, scripts
from service.store.connection import Link
from service.store.leadership import Fence
from service.store.log import LogId

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
        """What a client is told."""
        return {field: value for field, value in asdict(self).items() if field != "token"}


def record(link: Link, fence: Fence, refusal: Refusal) -> None:
    """Record that a command was refused: every replay refuses it too. Raises TermLost, StaleWrite."""
    name = fence.name
    outcome = link.run(
        scripts.REFUSE,
        [keys.meta(name), keys.lease(name), keys.log(name), keys.refusals(name)],
        [*fence.arguments, json.dumps(asdict(refusal)), MOST],
    )
    fence.check(outcome)


def at(link: Link, name: str, log_id: LogId, token: bytes) -> Refusal | None:
    """Why the command at a log id was refused; None if it was not."""
    found = link.call("HGET", keys.refusals(name), str(log_id))
    refusal = None if found is None else Refusal(**json.loads(found))
    return refusal if refusal is not None and refusal.token == token.decode() else None


def list_all(link: Link, name: str) -> list[Refusal]:
    """The model's refused commands, oldest first."""
    found = [Refusal(**json.loads(value)) for value in link.call("HVALS", keys.refusals(name))]
    return sorted(found, key=lambda refusal: LogId.parse(refusal.log_id.encode()))
