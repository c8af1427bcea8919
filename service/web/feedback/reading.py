"""Reading lines as observations: what is to be appended, and which lines are refused, and why."""

from dataclasses import dataclass

from pydantic import ValidationError

from service.errors import Invalid
from service.schemas import Observation, problem
from service.store.pending import Awaiting
from service.web.feedback.drafts import NO_PREDICTION, Draft, encode
from service.web.feedback.submit import Feedback
from service.web.replicas.replica import Served


@dataclass(slots=True)
class Reading:
    """Some lines as they were read: what is to be appended (None: nothing), and (line number, why) of the refused."""

    draft: Draft | None
    refused: list[tuple[int, str]]


@dataclass(slots=True)
class _Line:
    """One line that is an observation; `found` is what stands for its features, if it came without."""

    number: int
    observation: Observation
    found: int | Awaiting | None = None


def read(feedback: Feedback, served: Served, number: int, lines: list[bytes]) -> Reading:
    """Read lines, of which the first has this number. Raises Unavailable."""
    refused: list[tuple[int, str]] = []
    good = _parsed(number, lines, refused)
    found = feedback.look_up(served, [line.observation for line in good])
    for row, known in found.items():
        good[row].found = known
        if known is None:
            refused.append((good[row].number, f"/id: {NO_PREDICTION}"))
    good = [line for row, line in enumerate(good) if found.get(row, 0) is not None]
    try:
        return Reading(_encoded(served, good), refused)
    except Invalid:  # some row is bad: try each alone
        good = [line for line in good if _is_good(served, line, refused)]
        return Reading(_encoded(served, good), refused)


def _parsed(number: int, lines: list[bytes], refused: list[tuple[int, str]]) -> list[_Line]:
    good = []
    for place, line in enumerate(lines, number):
        if line and not line.isspace():
            try:
                good.append(_Line(place, Observation.model_validate_json(line)))
            except ValidationError as error:
                refused.append((place, problem(error).detail))
    return good


def _encoded(served: Served, lines: list[_Line]) -> Draft | None:
    """The lines as a draft; None if there are none. Raises Invalid."""
    found = {row: line.found for row, line in enumerate(lines) if line.found is not None}
    return encode(served, [line.observation for line in lines], found) if lines else None


def _is_good(served: Served, line: _Line, refused: list[tuple[int, str]]) -> bool:
    try:
        encode(served, [line.observation], {} if line.found is None else {0: line.found}, "")
    except Invalid as error:
        refused.append((line.number, error.detail))
        return False
    return True
