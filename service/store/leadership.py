"""Leadership of a model: a term that never expires, and a heartbeat counter that moves while the learner lives."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import StoreError, TermLost
from service.store import keys, scripts
from service.store.connection import Link
from service.store.entries import LogId
from service.store.model_part import Fence, ModelPart
from service.store.models import Lead


@dataclass(frozen=True, slots=True)
class Sight:
    """Up to where a process has seen a model, and by which term. `is_gone`: the log is known to be another one."""

    timeline: int
    log_id: LogId
    term: int
    is_gone: bool = False


class Leadership(ModelPart):
    """Who leads a model."""

    @property
    def _keys(self) -> list[bytes]:
        return [keys.meta(self.name), keys.lease(self.name)]

    def acquire(self, seen: Lead, holder: str, least: int = 1) -> int | None:
        """Take the lead for the process `holder`, if it has not moved since `seen`.

        Returns the new term, at least `least`; None if the lead has moved.
        """
        arguments = [self.generation, seen.term, seen.counter, holder, least]
        return int(self.link.run(scripts.ACQUIRE, self._keys, arguments)) or None

    def release(self, term: int, failure: str = "") -> None:
        """Give up the lead, so that the next learner need not wait for the lease to run out.

        `failure` is why the model cannot be led; it is reported until a learner leads it again.
        """
        self.link.run(scripts.RELEASE, self._keys, [self.generation, term, failure])

    def ask_republication(self) -> None:
        """Ask the leading learner to publish its weights again."""
        self.link.run(scripts.REPUBLISH, self._keys, [self.generation])

    def new_timeline(self, term: int, least: int) -> int:
        """Start a new timeline of number `least` or higher, and return its number. Raises TermLost."""
        timeline = int(self.link.run(scripts.NEW_TIMELINE, self._keys, [self.generation, term, least]))
        if not timeline:
            raise TermLost(self.name)
        return timeline

    def ask_new_timeline(self, seen: Sight) -> bool:
        """Ask for a timeline after the one that was seen, if the log lacks what was seen. Returns whether it does."""
        arguments = [self.generation, seen.timeline, *seen.log_id, seen.term, int(seen.is_gone)]
        return bool(self.link.run(scripts.RENEW, self._keys, arguments))

    def note_rebuild(self, fence: Fence, spec: str) -> None:
        """Note that the model has another spec than it was created by. Raises TermLost, StaleWrite."""
        self.write(scripts.REBUILT, fence, [keys.log(self.name)], spec)


@dataclass(frozen=True, slots=True)
class Held:
    """A lead that is held: by whom with which term, and what was published of the model last."""

    name: str
    generation: bytes
    term: int
    timeline: int
    published: LogId
    size: int = 0  # bytes that the log took up to what is applied
    caught_up: bool = True  # it has applied all that others can have published before it led


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
                [
                    lead.generation,
                    lead.term,
                    lead.timeline,
                    str(lead.published),
                    lead.size,
                    int(lead.caught_up),
                ],
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
