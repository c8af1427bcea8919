"""The results of a stream: awaited block by block while it is read, and sent as far as the client asks."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from service.web.context import Web
from service.web.feedback.counting import count_losses
from service.web.feedback.reading import Part, Reading
from service.web.feedback.results import mean_loss, row_results
from service.web.feedback.submit import Outcome
from service.web.replicas.replica import ServedModel
from service.web.waiting import Waiter

AHEAD = {"each": 8, "blocks": 8, "none": 1000}
"""Blocks whose result has not come, at most, by the results that the client asks for."""

Results = Literal["each", "blocks", "none"]


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream is taken: whether a bad line stops it, and which results are sent while it is read."""

    stop_on_error: bool = False
    results: Results = "none"
    key: str | None = None  # the client's Idempotency-Key
    columns: int = 0  # numbers of each prediction that results tell


@dataclass(slots=True)
class Sent:
    """A part of the stream that was appended or refused, and the wait for its result, if there is one."""

    part: Part
    reading: Reading
    outcome: Outcome
    token: bytes = b""
    waiter: Waiter | None = None


class StreamResults:
    """The blocks of a stream whose results are awaited, and the losses of the others."""

    def __init__(self, context: Web, served: ServedModel, options: StreamOptions) -> None:
        self._context = context
        self._served = served
        self._options = options
        self._sent: deque[Sent] = deque()  # in order
        self._proven = 0  # a position up to which all is applied, as a result tells
        self.learned, self.loss = 0, 0.0  # observations whose result is known, and the sum of their losses

    def add(self, sent: Sent) -> None:
        """Await the results of another part."""
        self._sent.append(sent)

    def records(self, wait: bool) -> Iterator[list[dict[str, Any]]]:
        """The records of each part whose result has come, in order; with `wait`, of all that were sent."""
        deadline = time.monotonic() + self._context.settings.apply_timeout
        while self._sent:
            sent = self._sent[0]
            if sent.waiter is None:
                sent.outcome.applied = self.are_applied(sent.outcome.position, 0.0, sent.outcome.timeline)
            else:
                must_wait = wait or len(self._sent) > AHEAD[self._options.results]
                timeout = max(0.0, deadline - time.monotonic()) if must_wait else 0.0
                self._context.feedback.await_result(self._served, sent.outcome, sent.waiter, timeout)
                if not sent.outcome.applied and not must_wait:
                    return
                self.forget(sent.token, sent.waiter)
            self._sent.popleft()
            self._count(sent.outcome)
            if self._options.results == "each":
                yield self._of_lines(sent)
            elif self._options.results == "blocks":
                yield [self._of_block(sent)]

    def are_applied(self, position: int, timeout: float, timeline: int) -> bool:
        """Whether a learner has applied the log up to a position, in a timeline or a later one; waits for it."""
        deadline = time.monotonic() + timeout
        if not self._served.wait_for(position, timeout, timeline):
            return False
        return self._proven >= position or self._context.feedback.is_of_this_log(
            self._served, position, deadline
        )

    def _count(self, outcome: Outcome) -> None:
        """Count a part whose result has come, or is waited for no longer."""
        count_losses(outcome.result)
        if outcome.result is not None:
            self._proven = outcome.position
            learned = ~outcome.result.skipped
            self.learned += int(learned.sum())
            self.loss += float(outcome.result.losses[learned].sum())

    def _of_lines(self, sent: Sent) -> list[dict[str, Any]]:
        records = {number: {"line": number, "error": detail} for number, detail in sent.reading.refused}
        results = row_results(
            self._served.labels_at(sent.outcome.position), sent.outcome, len(sent.reading.numbers)
        )
        for number, result in zip(sent.reading.numbers, results, strict=True):
            records[number] = {"line": number, **result}
        return [records[number] for number in sorted(records)]

    def _of_block(self, sent: Sent) -> dict[str, Any]:
        outcome = sent.outcome
        return {
            "lines": sent.part.number + len(sent.part) - 1,
            "position": outcome.position,
            "applied": len(outcome.rows) if outcome.applied else 0,
            "pending": 0 if outcome.applied else len(outcome.rows),
            "duplicates": len(outcome.duplicates),
            "rejected": len(sent.reading.refused),
            "loss": mean_loss(outcome.result),
        }

    def forget(self, token: bytes, waiter: Waiter | None) -> None:
        if waiter is not None:
            self._context.waiting.forget(self._served.generation, token, waiter)

    def close(self) -> None:
        """Expect no results any more."""
        for sent in self._sent:
            self.forget(sent.token, sent.waiter)
