"""Reading a part of a stream as observations: what is to be appended, and which lines are refused, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from pydantic import ValidationError

from model import RowError
from service.errors import Invalid
from service.schemas import Observation, problem
from service.store.awaiting import Awaiting
from service.store.blocks import Block
from service.web import loop
from service.web.feedback.drafts import NO_PREDICTION, Draft, encode
from service.web.feedback.submit import Feedback
from service.web.replicas.replica import ServedModel
from service.web.slicing import LINES_AT_A_TURN, encode_labels


@dataclass(slots=True)
class Reading:
    """A part as it was read: what is to be appended (None: nothing), and (line number, why) of the refused lines.

    `numbers` are the lines of the draft's rows.
    """

    draft: Draft | None
    numbers: Sequence[int]
    refused: list[tuple[int, str]] = field(default_factory=list)


class Part(Protocol):
    """Some lines of a stream, or rows of a table: `number` is that of the first one, from 1."""

    @property
    def number(self) -> int: ...

    def __len__(self) -> int: ...

    def slice(self, start: int, stop: int) -> Self:
        """The lines from `start` up to `stop`, counted from 0."""

    def to_bytes(self) -> bytes:
        """What is hashed of them, so that a repetition is recognised; the slices' bytes one behind the other."""

    def read(self, feedback: Feedback, served: ServedModel) -> Reading:
        """Read them as observations. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of NDJSON."""

    number: int
    lines: list[bytes]

    def __len__(self) -> int:
        return len(self.lines)

    def slice(self, start: int, stop: int) -> "Lines":
        """The lines from `start` up to `stop`, counted from 0."""
        return Lines(self.number + start, self.lines[start:stop])

    def to_bytes(self) -> bytes:
        """The lines, each with its end."""
        return b"\n".join([*self.lines, b""])

    def read(self, feedback: Feedback, served: ServedModel) -> Reading:
        """Read them as observations. Raises Unavailable."""
        return self._plain(served) or self._each(feedback, served)

    def _plain(self, served: ServedModel) -> Reading | None:
        """All lines at once, if each has plain numbers and a label that the model knows."""
        found = served.features.encode_lines(self.to_bytes(), len(self.lines))
        if found is None:
            return None
        features, labels = found
        try:
            block = Block(features, encode_labels(served.labels, labels))
        except RowError:
            return None  # the other way says which line it is
        return Reading(Draft(block), range(self.number, self.number + len(self)))

    def _each(self, feedback: Feedback, served: ServedModel) -> Reading:
        refused: list[tuple[int, str]] = []
        good = self._parsed(refused)
        found = feedback.look_up(served, [line.observation for line in good])
        for row, known in found.items():
            good[row].found = known
            if known is None:
                refused.append((good[row].number, f"/id: {NO_PREDICTION}"))
        good = [line for row, line in enumerate(good) if found.get(row, 0) is not None]
        try:
            return _reading(served, good, refused)
        except Invalid:  # some row is bad: try each alone
            good = [line for line in good if _is_good(served, line, refused)]
            return _reading(served, good, refused)

    def _parsed(self, refused: list[tuple[int, str]]) -> list["_Line"]:
        good = []
        for number, line in enumerate(self.lines, self.number):
            if number % LINES_AT_A_TURN == 0:
                loop.breathe()
            if line and not line.isspace():
                try:
                    good.append(_Line(number, Observation.model_validate_json(line)))
                except ValidationError as error:
                    refused.append((number, problem(error, Observation).detail))
        return good


@dataclass(slots=True)
class _Line:
    """One line that is an observation; `found` is what was stored under its id, if it has no features."""

    number: int
    observation: Observation
    found: int | Awaiting | None = None


def _reading(served: ServedModel, lines: list[_Line], refused: list[tuple[int, str]]) -> Reading:
    """The lines as a draft. Raises Invalid."""
    found = {row: line.found for row, line in enumerate(lines) if line.found is not None}
    draft = encode(served, [line.observation for line in lines], found) if lines else None
    return Reading(draft, [line.number for line in lines], sorted(refused))


def _is_good(served: ServedModel, line: _Line, refused: list[tuple[int, str]]) -> bool:
    try:
        encode(served, [line.observation], {} if line.found is None else {0: line.found}, "")
    except Invalid as error:
        refused.append((line.number, error.detail))
        return False
    return True
