"""Feedback as a stream of lines or tables: read and appended in parts as they arrive.

How far a stream has come is kept with its key, by the script that appends, in one step with each block: the number of
the last line and a hash of all lines up to it. A retry with the same key goes on after that line, whatever became of
the first try, and several tries at once share the work: no line is appended twice.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from operator import itemgetter
from typing import Any, TypeVar

from service.errors import (
    Conflict,
    Invalid,
    Problem,
    StoreError,
    StoreUnavailable,
    TooManyRequests,
    Unavailable,
)
from service.store.kept import Kept, StreamRecord
from service.store.memory import run_id
from service.web import loop, problems
from service.web.context import Web
from service.web.feedback.counting import count_rows
from service.web.feedback.drafts import Draft, PredictionGone
from service.web.feedback.reading import Part, Reading
from service.web.feedback.results import summary
from service.web.feedback.stream_results import Sent, StreamOptions, StreamResults
from service.web.feedback.submit import Outcome
from service.web.idempotency import Request, another_body, new_key
from service.web.replicas.replica import ServedModel
from service.web.waiting import Waiter

Done = TypeVar("Done")
ERRORS_TOLD = 100
LONGEST_NAP = 0.5  # seconds that a stream over its key's rate sleeps at a time
PATIENCE = 10  # times the timeout of Redis that a stream waits for one that does not answer
PAUSE = 0.1  # seconds between two looks for it


def upload_stream(
    context: Web,
    served: ServedModel,
    parts: Iterable[Part],
    options: StreamOptions,
    is_idle: Callable[[], bool] = lambda: False,
) -> Iterator[list[dict[str, Any]]]:
    """Append a stream part by part, in order. Yields the records of each, if any are asked for, and the summary last.

    Where the client sends nothing more for now (`is_idle`), what it sent is answered before more is read.

    A line that is refused is reported with its number and the stream goes on, or it stops there. Where the stream ends
    early the problem carries the counts so far, and the `token` to go on with. What was appended until then stays.
    """
    upload = StreamUpload(context, served, options)
    try:
        with context.waiting.turn():
            upload.resume()
            for part in parts:
                context.access.check_still()
                upload.add(part)
                yield from upload.results.records(wait=options.results != "none" and is_idle())
                upload.check()
                loop.breathe()  # the next part may be there already
            yield from upload.results.records(wait=True)
            yield [upload.end()]
    except Exception as error:  # whatever it is, the client is to go on from where it has come to
        problem = problems.of(error)
        problem.extra = upload.counts() | problem.extra
        raise problem from error
    finally:
        upload.results.close()


class StreamUpload:
    """One try at a stream."""

    def __init__(self, context: Web, served: ServedModel, options: StreamOptions) -> None:
        self._context = context
        self._served = served
        self._options = options
        self._key = options.key or new_key()
        self._hash = hashlib.blake2b(digest_size=12)  # of the lines so far
        self._newest: Kept | None = None  # what is kept with the key, as far as this try knows
        self._ahead: StreamRecord | None = None  # of another try: this one has not read that far yet
        self._progress = StreamRecord()
        self._position, self._timeline = 0, 0  # of the newest block
        self._errors: list[dict[str, Any]] = []
        self._redis = ""  # the run of Redis that has all that was appended
        self._is_unknown = False  # the newest block was sent and not answered: it may be appended yet
        self.results = StreamResults(context, served, options)
        self._bad: tuple[int, str] | None = None  # the line that stops the stream, and why

    # -- lines -----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Find out how far earlier tries have come. Raises Invalid, Unavailable."""
        if self._options.key is None:
            return
        kept = self._patiently(self._find)
        if kept is not None:
            self._follow(kept)

    def _find(self) -> Kept | None:
        try:
            return self._served.store.kept.find(self._key.encode())
        except StoreError as error:
            problems.refuse(error, self._served, "nothing was appended")

    def add(self, part: Part) -> None:
        """Append some lines."""
        part = self._skip(part)
        while len(part):
            reading = self._patiently(partial(part.read, self._context.feedback, self._served))
            if reading.refused and self._options.stop_on_error:
                self._bad = reading.refused[0]
                part = part.slice(0, self._bad[0] - part.number)
                continue
            hashed = self._hash.copy()
            hashed.update(part.to_bytes())
            after = self._after(reading, part.number + len(part) - 1, hashed.hexdigest())
            try:
                sent = self._append(part, reading, after)
            except PredictionGone:
                continue  # the lines are read again, and refused now
            if isinstance(sent, Kept):
                self._follow(sent)
                part = self._skip(part)
                continue
            self._hash = hashed
            self._progress = after(len(sent.outcome.rows), len(sent.outcome.duplicates))
            self._position = max(self._position, sent.outcome.position)
            self._note_errors(reading.refused)
            appended, duplicates = len(sent.outcome.rows), len(sent.outcome.duplicates)
            count_rows(
                self._served.name, appended=appended, duplicate=duplicates, rejected=len(reading.refused)
            )
            self.results.add(sent)
            return

    def check(self) -> None:
        """Raise Invalid if a bad line stops the stream."""
        if self._bad is not None:
            number, detail = self._bad
            raise Invalid(f"line {number}: {detail}", [(f"line {number}", detail)], line=number)

    def _skip(self, part: Part) -> Part:
        """The lines that no other try has appended. Raises Invalid if the others were not these."""
        ahead = self._ahead
        if ahead is None:
            return part
        if ahead.lines >= part.number:
            known = part.slice(0, ahead.lines - part.number + 1)
            self._hash.update(known.to_bytes())
            part = part.slice(len(known), len(part))
        if part.number <= ahead.lines:
            return part
        if self._hash.hexdigest() != ahead.digest or (ahead.done and len(part)):
            raise another_body()
        if not ahead.done:
            self._ahead = None
        return part

    def _follow(self, kept: Kept) -> None:
        """Go on from where another try has come to. Raises Invalid, Conflict."""
        ahead = StreamRecord.parse(kept.record)
        if ahead.lines <= self._progress.lines and self._progress.lines:
            raise Conflict("another request with this Idempotency-Key goes on with the stream", retry_after=1)
        self._newest, self._ahead, self._progress = kept, ahead, ahead
        self._position = max(self._position, kept.position)
        self.results.learned, self.results.loss = ahead.learned, ahead.loss

    # -- appending -------------------------------------------------------------------------------------------

    def _append(self, part: Part, reading: Reading, after: Callable[[int, int], StreamRecord]) -> Sent | Kept:
        """Append what was read. `after` is given how many were appended and how many were duplicates."""
        if reading.draft is None:
            return Sent(part, reading, Outcome(self._position, []))
        token = f"{self._key}\0{after(0, 0).lines}".encode()
        request = Request(
            self._key.encode(),
            token,
            lambda appended, duplicates: after(appended, duplicates).to_bytes(),
            self._newest,
            is_unknown=self._is_unknown,
        )
        self._wait_for_allowance(len(reading.draft.block))
        waiter = None if self._served.is_late else Waiter()
        if waiter is not None:
            self._context.waiting.expect(self._served.generation, token, waiter)
        outcome = None
        try:
            outcome = self._append_when_there_is_room(
                reading.draft, request, None if waiter is None else self._options.columns
            )
        except Problem as error:
            raise request.refusal(error) from error
        finally:
            self._is_unknown = request.is_unknown
            if not isinstance(outcome, Outcome) or not outcome.rows:
                self.results.forget(token, waiter)
                waiter = None
        if isinstance(outcome, Kept):
            return outcome
        self._newest = Kept(outcome.position, request.record(len(outcome.rows), len(outcome.duplicates)))
        self._timeline = max(self._timeline, outcome.timeline)
        return Sent(part, reading, outcome, token, waiter)

    def _wait_for_allowance(self, rows: int) -> None:
        """Read a stream no faster than its API key may teach."""
        while True:
            try:
                return self._context.access.take_observations(rows)
            except TooManyRequests as error:
                time.sleep(min(error.retry_after or 0.0, LONGEST_NAP))

    def _append_when_there_is_room(
        self, draft: Draft, request: Request, columns: int | None
    ) -> Outcome | Kept:
        """Append; where the learner is far behind, wait as long as it gets on."""
        while True:
            step = self._served.version.step
            try:
                return self._patiently(
                    lambda: self._context.feedback.append(self._served, draft, request, columns)
                )
            except TooManyRequests as error:
                lag: int = error.extra["lag"]
                enough = max(lag - self._context.settings.max_lag + 1, min(lag, len(draft.block)))
                timeout = self._context.settings.apply_timeout
                if not self._served.wait_for(step + enough, timeout) and self._served.version.step == step:
                    raise

    def _patiently(self, work: Callable[[], Done]) -> Done:
        """Do something with Redis; while that stands still, wait for it and do it again."""
        until = math.inf
        while True:
            try:
                self._redis = self._redis or self._run_id()
                return work()
            except Unavailable as error:
                until = min(until, time.monotonic() + PATIENCE * self._context.settings.redis_timeout)
                if not (isinstance(error.__cause__, StoreUnavailable) and self._is_back(until)):
                    raise

    def _run_id(self) -> str:
        try:
            return run_id(self._context.link)
        except StoreError as error:
            problems.refuse(error, self._served, "nothing was appended")

    def _is_back(self, until: float) -> bool:
        """Wait for Redis; whether it is back in time, and the one that it was: another may not have all blocks."""
        while time.monotonic() < until:
            time.sleep(PAUSE)
            with suppress(StoreError):
                found = run_id(self._context.link)
                return found == (self._redis or found)
        return False

    def _after(self, reading: Reading, last: int, digest: str) -> Callable[[int, int], StreamRecord]:
        """What is kept with the key once the lines up to `last` are appended."""
        before = replace(self._progress, learned=self.results.learned, loss=self.results.loss)

        def after(appended: int, duplicates: int) -> StreamRecord:
            return replace(
                before,
                lines=last,
                digest=digest,
                appended=before.appended + appended,
                duplicates=before.duplicates + duplicates,
                rejected=before.rejected + len(reading.refused),
            )

        return after

    def _note_errors(self, refused: list[tuple[int, str]]) -> None:
        for number, detail in refused[: ERRORS_TOLD - len(self._errors)]:
            self._errors.append({"line": number, "detail": detail})

    # -- answering -------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, Any]:
        """How many lines were appended, were duplicates and were refused, and the key to go on with."""
        return {
            "position": self._position,
            "lines": self._progress.lines,
            "appended": self._progress.appended,
            "duplicates": self._progress.duplicates,
            "rejected": self._progress.rejected,
            "token": self._key,
        }

    def end(self) -> dict[str, Any]:
        """The summary at the end; waits until all is applied. Raises Invalid if no line was good."""
        if self._ahead is not None and not self._ahead.done:
            raise another_body()  # a shorter one
        if self._ahead is not None and self._hash.hexdigest() != self._ahead.digest:
            raise another_body()
        done = self._progress
        if done.rejected and not done.appended + done.duplicates:
            errors = [(f"line {error['line']}", error["detail"]) for error in self._errors]
            raise Invalid("every line was refused", errors, rejected=done.rejected)
        if not done.appended + done.duplicates:
            raise Invalid.at("", "the stream is empty")
        timeout = 0 if self._served.is_late else self._context.settings.apply_timeout
        applied = self.results.are_applied(self._position, timeout, self._timeline)
        self._keep_done()
        learned = self.results.learned
        body = summary(
            self._served,
            self._position,
            done.appended,
            applied,
            done.duplicates,
            done.rejected,
            self.results.loss / learned if learned else None,
        )
        if self._options.results != "none":
            body |= {"status": HTTPStatus.OK if applied else HTTPStatus.ACCEPTED, "token": self._key}
        if self._errors:
            body["errors"] = sorted(self._errors, key=itemgetter("line"))
        return body

    def _keep_done(self) -> None:
        """Keep with a client's key that the stream ends here, and its loss. Best effort."""
        if self._options.key is None or self._newest is None or self._ahead is not None:
            return
        done = replace(
            self._progress,
            digest=self._hash.hexdigest(),
            learned=self.results.learned,
            loss=self.results.loss,
            done=True,
        )
        kept = Kept(self._newest.position, done.to_bytes())
        with suppress(StoreError):
            self._served.store.kept.keep(
                self._key.encode(), self._newest, kept, self._context.settings.answer_bytes
            )
