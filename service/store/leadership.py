"""Leadership of a model: a term that never expires, and a heartbeat counter that moves while the learner lives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import StaleWrite, StoreError, TermLost
from service.store import keys, scripts
from service.store.connection import Link
from service.store.log import LogId
from service.store.models import Lead


def acquire(link: Link, name: str, generation: bytes, seen: Lead, holder: str, least: int = 1) -> int | None:
    """Take the lead for the process `holder` if it has not moved since `seen`. Returns the new term; None if it has.

    The new term is at least `least`.
    """
    term = link.run(
        scripts.ACQUIRE,
        [keys.meta(name), keys.lease(name)],
        [generation, seen.term, seen.counter, holder, least],
    )
    return int(term) or None


@dataclass(frozen=True, slots=True)
class Fence:
    """What a learner shows with every write: whose model, by which term, and the last entry that what it writes took.

    A write is refused by a script if another learner leads, or if the entry is not of the log as it is.
    """

    name: str
    generation: bytes
    term: int
    timeline: int
    log_id: LogId
    token: bytes | None = None  # of the entry; None: not known

    @property
    def arguments(self) -> list[Any]:
        """The first arguments of each such script."""
        return [self.generation, self.term, self.timeline, str(self.log_id), self.token or b""]

    def check(self, outcome: bytes) -> None:
        """Raise TermLost or StaleWrite if the script has refused the write."""
        if outcome == b"lost":
            raise TermLost(self.name)
        if outcome == b"stale":
            raise StaleWrite(
                f"model {self.name}: {self.log_id} of timeline {self.timeline} is not of this log, or old"
            )


@dataclass(frozen=True, slots=True)
class Held:
    """A lead that is held: by whom with which term, and what was published of the model last."""

    name: str
    generation: bytes
    term: int
    timeline: int
    published: LogId
    size: int = 0  # bytes that the log took up to what is applied


def beat(link: Link, held: Sequence[Held]) -> list[tuple[bool, int] | StoreError]:
    """Move heartbeats, in one go: one sync of the disk does for all.

    Returns for each whether a republication is asked for, and the least number of the new timeline that is asked for, 0
    if none is. In its place TermLost if another learner leads or the model is gone, or what else went wrong with it.
    """
    answers = link.run_many(
        scripts.BEAT,
        [
            (
                [keys.meta(lead.name), keys.lease(lead.name)],
                [lead.generation, lead.term, lead.timeline, str(lead.published), lead.size],
            )
            for lead in held
        ],
    )
    return [
        answer
        if isinstance(answer, StoreError)
        else TermLost(lead.name)
        if answer is None
        else (bool(answer[0]), int(answer[1]))
        for lead, answer in zip(held, answers, strict=True)
    ]


def release(link: Link, name: str, generation: bytes, term: int, failure: str = "") -> None:
    """Give up the lead, so that the next learner need not wait for the lease to run out.

    `failure` is why the model cannot be led; it is told until a learner leads it again.
    """
    link.run(scripts.RELEASE, [keys.meta(name), keys.lease(name)], [generation, term, failure])


def ask_republication(link: Link, name: str, generation: bytes) -> None:
    """Ask the leading learner to publish its weights again."""
    link.run(scripts.REPUBLISH, [keys.meta(name), keys.lease(name)], [generation])


def new_timeline(link: Link, name: str, generation: bytes, term: int, least: int) -> int:
    """Start a new timeline of number `least` or higher, and return its number. Raises TermLost."""
    timeline = int(
        link.run(scripts.NEW_TIMELINE, [keys.meta(name), keys.lease(name)], [generation, term, least])
    )
    if not timeline:
        raise TermLost(name)
    return timeline


@dataclass(frozen=True, slots=True)
class Sight:
    """Up to where a web process has seen a model, and by which term. `is_gone`: the log is known to be another one."""

    timeline: int
    log_id: LogId
    term: int
    is_gone: bool = False


def ask_new_timeline(link: Link, name: str, generation: bytes, seen: Sight) -> bool:
    """Ask for a timeline after the one that was seen, if the log does not hold what was. Returns whether that is so."""
    arguments = [generation, seen.timeline, *seen.log_id, seen.term, int(seen.is_gone)]
    return bool(link.run(scripts.RENEW, [keys.meta(name), keys.lease(name)], arguments))


def note_rebuild(link: Link, fence: Fence, spec: str) -> None:
    """Note that the model is of another spec than it was created by. Raises TermLost, StaleWrite."""
    name = fence.name
    outcome = link.run(
        scripts.REBUILT, [keys.meta(name), keys.lease(name), keys.log(name)], [*fence.arguments, spec]
    )
    fence.check(outcome)
