"""Feedback as a stream of NDJSON lines: read and appended in blocks as they arrive."""

import time
from collections.abc import Iterator
from http import HTTPStatus
from operator import itemgetter
from typing import IO, Any

from pydantic import ValidationError

from service.blocks import Block
from service.errors import Invalid, Problem, TooLarge, Unavailable
from service.feedback import Outcome, encode
from service.replica import Served
from service.schemas import Observation, problem
from service.web import Web

LINES_AT_ONCE = 1000
SMALLEST_READ, LARGEST_READ = 2**10, 2**16  # bytes
ERRORS_TOLD = 100


def feed_stream(
    here: Web, served: Served, stream: IO[bytes], key: str | None
) -> tuple[dict[str, Any], HTTPStatus]:
    """Append the lines of a stream in blocks, in order, and answer what became of them.

    A line that is refused is reported with its number and the stream goes on; the others are learned.
    """
    if key is not None:
        raise Invalid(
            "Idempotency-Key is not for streams: give the observations ids",
            [("Idempotency-Key", "not for streams")],
        )
    with here.waiting.place() as may_wait:
        if not may_wait:
            raise Unavailable("too many streams and waiting requests; nothing was appended", retry_after=1)
        tally = Tally(served)
        for number, lines in line_blocks(stream, here.settings.max_line_bytes):
            try:
                tally.add_block(here, number, lines)
            except Problem as error:
                error.extra |= tally.counts()
                raise
        return tally.told(here.settings.apply_timeout)


class Tally:
    """Counts what became of the lines of one stream."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._position = 0
        self._appended = self._duplicates = self._rejected = 0
        self._loss = 0.0
        self._learned = 0
        self._errors: list[dict[str, Any]] = []

    def add_block(self, here: Web, number: int, lines: list[bytes]) -> None:
        """Append some lines, of which the first has this number."""
        block = self._encoded(number, lines)
        if block is None:
            return
        outcome: Outcome = here.feedback.submit(self._served, block)
        self._position = max(self._position, outcome.position)
        self._appended += len(outcome.rows)
        self._duplicates += len(outcome.duplicates)
        if outcome.result is not None:
            learned = ~outcome.result.skipped
            self._loss += float(outcome.result.losses[learned].sum())
            self._learned += int(learned.sum())

    def _encoded(self, number: int, lines: list[bytes]) -> Block | None:
        observations = []
        numbers = []
        for offset, line in enumerate(lines):
            if line.strip():
                try:
                    observations.append(Observation.model_validate_json(line))
                    numbers.append(number + offset)
                except ValidationError as error:
                    self._reject(number + offset, problem(error).detail)
        while observations:
            try:
                return encode(self._served, observations)
            except Invalid as error:
                _, row, place = error.errors[0][0].removeprefix("/").split("/", 2)
                self._reject(numbers[int(row)], f"/{place}: {error.errors[0][1]}")
                del observations[int(row)], numbers[int(row)]
        return None

    def _reject(self, number: int, detail: str) -> None:
        self._rejected += 1
        if len(self._errors) < ERRORS_TOLD:
            self._errors.append({"line": number, "detail": detail})

    def counts(self) -> dict[str, Any]:
        """How many lines were appended, were duplicates and were refused."""
        return {
            "position": self._position,
            "appended": self._appended,
            "duplicates": self._duplicates,
            "rejected": self._rejected,
        }

    def told(self, timeout: float) -> tuple[dict[str, Any], HTTPStatus]:
        """What the client is told at the end; waits until all is applied. Raises Invalid if no line was good."""
        if self._rejected and not self._appended + self._duplicates:
            errors = [(f"line {error['line']}", error["detail"]) for error in self._errors]
            raise Invalid("every line was refused", errors, rejected=self._rejected)
        if not self._appended + self._duplicates:
            raise Invalid("the stream is empty")
        applied = self._served.wait_for(self._position, timeout)
        body = {
            "model": self._served.name,
            "step": self._served.replica.step,
            "position": self._position,
            "applied": self._appended if applied else 0,
            "pending": 0 if applied else self._appended,
            "duplicates": self._duplicates,
            "rejected": self._rejected,
            "loss": self._loss / self._learned if self._learned else None,
        }
        if self._errors:
            body["errors"] = sorted(self._errors, key=itemgetter("line"))
        return body, HTTPStatus.OK if applied else HTTPStatus.ACCEPTED


def line_blocks(stream: IO[bytes], longest: int) -> Iterator[tuple[int, list[bytes]]]:
    """The lines of a stream in blocks, each with the number of its first line, from 1. Raises TooLarge.

    The server hands bytes over only when as many are there as were asked for. So a read asks for twice as much as
    the one before where that came at once, and for little where the stream is slow.
    """
    number, rest, size = 1, b"", SMALLEST_READ
    while True:
        started = time.monotonic()
        chunk = stream.read(size)
        size = min(2 * size, LARGEST_READ) if time.monotonic() - started < 0.005 else SMALLEST_READ
        *lines, rest = (rest + chunk).split(b"\n")
        if not chunk and rest:
            lines, rest = [*lines, rest], b""
        if len(rest) > longest or any(len(line) > longest for line in lines):
            raise TooLarge(f"a line of more than {longest} bytes (FRESHET_MAX_LINE_BYTES)")
        for start in range(0, len(lines), LINES_AT_ONCE):
            yield number + start, lines[start : start + LINES_AT_ONCE]
        number += len(lines)
        if not chunk:
            return
