"""Leadership of a model: a term that never expires, and a heartbeat counter that moves while the learner lives."""

from service.errors import TermLost
from service.store import keys, scripts
from service.store.connection import Link
from service.store.log import LogId
from service.store.models import Lead


def acquire(link: Link, name: str, generation: bytes, seen: Lead) -> int | None:
    """Take the lead if it has not moved since `seen`. Returns the new term, None if it moved."""
    term = link.run(
        scripts.ACQUIRE, [keys.meta(name), keys.lease(name)], [generation, seen.term, seen.counter]
    )
    return int(term) or None


def beat(link: Link, name: str, generation: bytes, term: int, published: LogId) -> tuple[int, bool]:
    """Move the heartbeat. Returns the timeline, and whether a republication is asked for.

    Raises TermLost if another learner leads, or the model is gone.
    """
    answer = link.run(scripts.BEAT, [keys.meta(name), keys.lease(name)], [generation, term, str(published)])
    if answer is None:
        raise TermLost(name)
    return int(answer[0]), bool(answer[1])


def release(link: Link, name: str, term: int) -> None:
    """Give up the lead, so that the next learner need not wait for the lease to run out."""
    link.run(scripts.RELEASE, [keys.lease(name)], [term])


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
