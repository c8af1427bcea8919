"""What the parts of a model's store have in common, and the fence that guards a learner's writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import StaleWrite, StoreUnavailable, TermLost
from service.store import keys
from service.store.connection import Link
from service.store.entries import LogId
from service.store.scripts import Script


@dataclass(frozen=True, slots=True)
class Fence:
    """What a learner shows with every write: its term, and the last entry that the written state has taken.

    A script refuses the write if another learner leads, or if the entry is not of the log as it is.
    """

    term: int
    timeline: int
    log_id: LogId
    token: bytes | None = None  # of the entry; None: not known


class ModelPart:
    """One part of what Redis holds of a model. Reads need no generation; a write to another generation is refused."""

    def __init__(self, link: Link, name: str, generation: bytes = b"") -> None:
        self.link = link
        self.name = name
        self.generation = generation

    def write(self, script: Script, fence: Fence, more_keys: Sequence[bytes], *arguments: Any) -> None:
        """Run a script that a fence guards, on meta, lease and `more_keys`. Raises TermLost, StaleWrite."""
        term, timeline, log_id, token = fence.term, fence.timeline, fence.log_id, fence.token
        outcome = self.link.run(
            script,
            [keys.meta(self.name), keys.lease(self.name), *more_keys],
            [self.generation, term, timeline, str(log_id), token or b"", *arguments],
        )
        if outcome == b"lost":
            raise TermLost(self.name)
        check_complete(outcome, self.name)
        if outcome == b"stale":
            raise StaleWrite(f"model {self.name}: {log_id} of timeline {timeline} is not of this log, or old")


def check_complete(outcome: bytes, name: str) -> None:
    """Raise StoreUnavailable if a script has found that not all pieces are there: Redis came back without them."""
    if outcome == b"incomplete":
        raise StoreUnavailable(f"model {name}: Redis has lost a part of what was to be stored")
