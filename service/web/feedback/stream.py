"""Feedback as a stream of NDJSON lines: read and appended in blocks as they arrive, without waiting for results.

How far a stream has come is kept with its key, by the script that appends, in one step with each block: the number of
the last line and a hash of all lines up to it. A retry with the same key goes on after that line, whatever became of
the first try, and several tries at once share the work: no line is appended twice.
"""

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from operator import itemgetter
from typing import IO, Any

from service.errors import Conflict, Invalid, Problem, StoreError, TooManyRequests, Unavailable
from service.store.appending import keep, kept
from service.store.messages import Result
from service.web.context import Web
from service.web.feedback.drafts import Draft, PredictionGone
from service.web.feedback.lines import line_blocks
from service.web.feedback.reading import Reading, read
from service.web.feedback.submit import Outcome
from service.web.idempotency import Request, Seen, another_body, new_key
from service.web.replicas.replica import ServedModel

ERRORS_TOLD = 100


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream has come: what became of its first `lines` lines, whose hash is `digest`.

    `loss` is the sum over the `learned` observations whose result is known.
    """

    lines: int = 0
    digest: str = ""
    appended: int = 0
    duplicates: int = 0
    rejected: int = 0
    learned: int = 0
    loss: float = 0.0
    done: bool = False

    def to_bytes(self) -> bytes:
        """The record that is kept with the stream's key."""
        counts = f"{self.lines} {self.digest} {self.appended} {self.duplicates} {self.rejected}"
        return f"s{counts} {self.learned} {self.loss!r} {self.done:d}".encode()

    @classmethod
    def parse(cls, record: bytes) -> "Progress":
        """From what `to_bytes` wrote. Raises Invalid if the key is that of a request of another kind."""
        if not record.startswith(b"s"):
            raise another_body()
        lines, digest, appended, duplicates, rejected, learned, loss, done = record[1:].decode().split(" ")
        return cls(
            *(int(lines), digest, int(appended), int(duplicates), int(rejected)),
            *(int(learned), float(loss), done == "1"),
        )


def feed_stream(
    here: Web, served: ServedModel, stream: IO[bytes], length: int | None, key: str | None
) -> tuple[dict[str, Any], HTTPStatus]:
    """Append the lines of a stream in blocks, in order, and answer what became of them.

    A line that is refused is reported with its number and the stream goes on; the others are learned. Where the stream
    ends early the problem carries the counts so far, and the `token` to go on with.
    """
    with here.waiting.turn():
        lesson = Lesson(here, served, key)
        try:
            lesson.resume()
            for number, lines in line_blocks(stream, length, here.settings.max_line_bytes):
                lesson.add(number, lines)
            return lesson.told()
        except Problem as error:
            error.extra = lesson.counts() | error.extra
            raise
        finally:
            lesson.close()


class Lesson:
    """One try at a stream."""

    def __init__(self, here: Web, served: ServedModel, key: str | None) -> None:
        self._here = here
        self._served = served
        self._named = key is not None
        self._key = key or new_key()
        self._hash = hashlib.blake2b(digest_size=12)  # of the lines so far
        self._newest: Seen | None = None  # what is kept with the key, as far as this try knows
        self._ahead: Progress | None = None  # of another try: this one has not read that far yet
        self._progress = Progress()
        self._position, self._timeline = 0, 0  # of the newest block
        self._learned, self._loss = 0, 0.0
        self._errors: list[dict[str, Any]] = []
        self._expected: set[bytes] = set()  # tokens of blocks whose result has not come
        self._is_unknown = False  # the newest block was sent and not answered: it may be appended yet
        self._scores = threading.Lock()  # over what the listener's thread changes

    # -- lines -----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Find out how far earlier tries have come. Raises Invalid, Unavailable."""
        if not self._named:
            return
        try:
            value = kept(self._here.links.mine(), self._served.name, self._key.encode())
        except StoreError as error:
            raise Unavailable(f"{error}; nothing was appended", retry_after=1) from error
        if value is not None:
            self._follow(Seen.parse(value))

    def add(self, number: int, lines: list[bytes]) -> None:
        """Append some lines, of which the first has this number."""
        number, lines = self._skip(number, lines)
        while lines:
            hashed = self._hash.copy()
            hashed.update(b"\n".join(lines) + b"\n")
            reading = read(self._here.feedback, self._served, number, lines)
            after = self._after(reading, number + len(lines) - 1, hashed.hexdigest())
            try:
                outcome = self._append(reading, after)
            except PredictionGone:
                continue  # the lines are read again, and refused now
            if isinstance(outcome, Seen):
                self._follow(outcome)
                number, lines = self._skip(number, lines)
                continue
            self._hash = hashed
            self._progress = after(len(outcome.rows), len(outcome.duplicates))
            self._position = max(self._position, outcome.position)
            self._tell_of(reading.refused)
            return

    def _skip(self, number: int, lines: list[bytes]) -> tuple[int, list[bytes]]:
        """The lines that no other try has appended. Raises Invalid if the others were not these."""
        ahead = self._ahead
        if ahead is None:
            return number, lines
        if ahead.lines >= number:
            known = lines[: ahead.lines - number + 1]
            self._hash.update(b"\n".join(known) + b"\n")
            number, lines = number + len(known), lines[len(known) :]
        if number <= ahead.lines:
            return number, lines
        if self._hash.hexdigest() != ahead.digest or (ahead.done and lines):
            raise another_body()
        if not ahead.done:
            self._ahead = None
        return number, lines

    def _follow(self, seen: Seen) -> None:
        """Go on from where another try has come to. Raises Invalid, Conflict."""
        ahead = Progress.parse(seen.record)
        if ahead.lines <= self._progress.lines and self._progress.lines:
            raise Conflict("another request with this Idempotency-Key goes on with the stream", retry_after=1)
        self._newest, self._ahead, self._progress = seen, ahead, ahead
        self._position = max(self._position, seen.position)
        with self._scores:
            self._learned, self._loss = ahead.learned, ahead.loss

    # -- appending -------------------------------------------------------------------------------------------

    def _append(self, reading: Reading, after: Callable[[int, int], Progress]) -> Outcome | Seen:
        """Append what was read. `after` is given how many were appended and how many were duplicates."""
        draft = reading.draft
        if draft is None:
            return Outcome(self._position, [])
        token = f"{self._key}\0{after(0, 0).lines}".encode()
        request = Request(
            self._key.encode(),
            token,
            lambda appended, duplicates: after(appended, duplicates).to_bytes(),
            self._newest,
            is_unknown=self._is_unknown,
        )
        wants_result = not self._served.is_late
        if wants_result:
            self._expected.add(token)
            self._here.waiting.expect(self._served.generation, token, self)
        try:
            outcome = self._append_when_there_is_room(draft, request, wants_result)
        except Problem as error:
            raise request.refusal(error) from error
        finally:
            self._is_unknown = request.is_unknown
        if isinstance(outcome, Outcome):
            self._newest = Seen(outcome.position, request.record(len(outcome.rows), len(outcome.duplicates)))
            self._timeline = max(self._timeline, outcome.timeline)
        if isinstance(outcome, Seen) or not outcome.rows:
            self._forget(token)
        return outcome

    def _append_when_there_is_room(
        self, draft: Draft, request: Request, wants_result: bool
    ) -> Outcome | Seen:
        """Append; where the learner is far behind, wait as long as it gets on."""
        while True:
            step = self._served.version.step
            try:
                return self._here.feedback.append(self._served, draft, request, wants_result)
            except TooManyRequests as error:
                lag: int = error.extra["lag"]
                enough = max(lag - self._here.settings.max_lag + 1, min(lag, len(draft.block)))
                timeout = self._here.settings.apply_timeout
                if not self._served.wait_for(step + enough, timeout) and self._served.version.step == step:
                    raise

    def _after(self, reading: Reading, last: int, digest: str) -> Callable[[int, int], Progress]:
        """What is kept with the key once the lines up to `last` are appended."""
        with self._scores:
            before = replace(self._progress, learned=self._learned, loss=self._loss)

        def after(appended: int, duplicates: int) -> Progress:
            return replace(
                before,
                lines=last,
                digest=digest,
                appended=before.appended + appended,
                duplicates=before.duplicates + duplicates,
                rejected=before.rejected + len(reading.refused),
            )

        return after

    def _tell_of(self, refused: list[tuple[int, str]]) -> None:
        for number, detail in sorted(refused)[: ERRORS_TOLD - len(self._errors)]:
            self._errors.append({"line": number, "detail": detail})

    # -- results ---------------------------------------------------------------------------------------------

    def deliver(self, result: Result) -> None:
        """Take the result of a block. Called in the listener's thread."""
        learned = ~result.skipped
        with self._scores:
            self._expected.discard(result.token)
            self._learned += int(learned.sum())
            self._loss += float(result.losses[learned].sum())

    def _forget(self, token: bytes) -> None:
        self._here.waiting.forget(self._served.generation, token, self)
        with self._scores:
            self._expected.discard(token)

    def close(self) -> None:
        """Expect no results any more."""
        for token in list(self._expected):
            self._forget(token)

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

    def told(self) -> tuple[dict[str, Any], HTTPStatus]:
        """What the client is told at the end; waits until all is applied. Raises Invalid if no line was good."""
        if self._ahead is not None and not self._ahead.done:
            raise another_body()  # a shorter one
        if self._ahead is not None and self._hash.hexdigest() != self._ahead.digest:
            raise another_body()
        done = self._progress
        if done.rejected and not done.appended + done.duplicates:
            errors = [(f"line {error['line']}", error["detail"]) for error in self._errors]
            raise Invalid("every line was refused", errors, rejected=done.rejected)
        if not done.appended + done.duplicates:
            raise Invalid("the stream is empty")
        timeout = 0 if self._served.is_late else self._here.settings.apply_timeout
        applied = self._served.wait_for(self._position, timeout, self._timeline)
        self._keep_done()
        body = {
            "model": self._served.name,
            "step": self._served.version.step,
            "position": self._position,
            "applied": done.appended if applied else 0,
            "pending": 0 if applied else done.appended,
            "duplicates": done.duplicates,
            "rejected": done.rejected,
            "loss": self._loss / self._learned if self._learned else None,
        }
        if self._errors:
            body["errors"] = sorted(self._errors, key=itemgetter("line"))
        return body, HTTPStatus.OK if applied else HTTPStatus.ACCEPTED

    def _keep_done(self) -> None:
        """Keep with a client's key that the stream ends here, and its loss. Best effort."""
        if not self._named or self._newest is None or self._ahead is not None:
            return
        with self._scores:
            done = replace(
                self._progress,
                digest=self._hash.hexdigest(),
                learned=self._learned,
                loss=self._loss,
                done=True,
            )
        value = Seen(self._newest.position, done.to_bytes())
        with suppress(StoreError):
            keep(
                *(self._here.links.mine(), self._served.name, self._served.generation, self._key.encode()),
                *(self._newest.to_bytes(), value.to_bytes(), self._here.settings.answer_bytes),
            )
