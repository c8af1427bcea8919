"""Stream a file to a server as feedback, in order: exactly once through restarts, with the running score.

Rows go in blocks, each a JSON list with an idempotency key of its own. A block is repeated until the server
has given it a final answer; the key keeps a repetition from being a second lesson.
"""

import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol
from urllib.parse import quote

import urllib3

from service.client.columns import Note, Observation, choose_columns, infer_spec, observations
from service.client.source import FeedError, Source, open_source

SCORE_INTERVAL = 0.5
"""Seconds between two looks at the model's scores."""

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds between repetitions where the server does not say how long to wait; doubled each time."""

REPEATED = frozenset({429, 502, 503, 504})
"""Statuses that mean: not now, ask again."""


class RefusedError(FeedError):
    """The server gave a final no: its status and problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(f"{status}: {problem_text(problem)}")


class PatienceError(FeedError):
    """No final answer within the patience."""


def problem_text(problem: dict[str, Any]) -> str:
    """A problem document in one line: the detail, and each bad field."""
    fields = [f"{error.get('pointer')}: {error.get('detail')}" for error in problem.get("errors", [])]
    return "; ".join([str(problem.get("detail") or problem.get("title") or "no detail"), *fields])


@dataclass(frozen=True)
class Options:
    """What `freshet feed` was asked to do; columns that are None are looked for or absent."""

    file: str
    model: str
    url: str = "http://127.0.0.1:8000"
    label: str | None = None
    id: str | None = None
    weight: str | None = None
    drop: tuple[str, ...] = ()
    create: str | None = None
    batch: int = 500
    limit: int | None = None
    patience: float = 60.0


@dataclass
class Report:
    """How far a feed has come. Rows are counted once the server has acknowledged them."""

    total_bytes: int | None = None
    read_bytes: int = 0
    sent: int = 0
    applied: int = 0
    pending: int = 0
    duplicates: int = 0
    position: int = 0
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Acknowledged rows a second so far."""
        return self.sent / self.seconds if self.seconds else 0.0


class Display(Protocol):
    """Whoever shows the user how the feed goes."""

    def note(self, text: str) -> None:
        """Something the user should know, once."""

    def update(self, report: Report) -> None:
        """The feed has come further."""

    def close(self) -> None:
        """The feed is over."""


class Client:
    """One HTTP connection to a model's server. Repeats a request until there is a final answer."""

    def __init__(self, url: str, model: str, patience: float, note: Note) -> None:
        self._model_url = f"{url.rstrip('/')}/v1/models/{quote(model, safe='')}"
        self._patience = patience
        self._note = note
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)
        self._http = urllib3.PoolManager(num_pools=1, maxsize=1, block=True, retries=False, timeout=timeout)

    def create(self, spec: dict[str, Any]) -> None:
        """Create the model, or find that it was created by the same spec."""
        self.request("PUT", "", spec)

    def model(self) -> dict[str, Any]:
        """The model's spec, step and lag."""
        return self.request("GET", "")

    def metrics(self) -> dict[str, Any]:
        """The model's step and prequential scores."""
        return self.request("GET", "/metrics")

    def feedback(self, observations: list[Observation], key: str) -> dict[str, Any]:
        """Teach the model a block of observations; with the same key again it is the same lesson."""
        return self.request("POST", "/feedback", {"observations": observations}, {"Idempotency-Key": key})

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON answer to a request. Raises RefusedError for a final no, PatienceError if none comes."""
        encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", **(headers or {})} if encoded else headers
        deadline = time.monotonic() + self._patience
        delay = FIRST_DELAY
        while True:
            status, answer, wait = self._once(method, path, encoded, headers)
            if status and status not in REPEATED:
                break
            wait = delay if wait is None else wait
            if time.monotonic() + wait > deadline:
                raise PatienceError(
                    f"no answer within {self._patience:g} s; the last was {problem_text(answer)}"
                )
            self._note(f"waiting for the server: {problem_text(answer)}")
            time.sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY)
        if status >= 300:
            raise RefusedError(status, answer)
        return answer

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None
    ) -> tuple[int, dict[str, Any], float | None]:
        """Status (0: no answer), JSON answer, and the seconds that the server asks to wait."""
        try:
            response = self._http.request(method, self._model_url + path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            return 0, {"detail": f"{self._model_url} cannot be reached ({_reason(error)})"}, None
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            if response.status < 300:
                raise FeedError(f"{self._model_url} does not answer as a Freshet server does")
            answer = {"detail": response.reason}
        return response.status, answer, _retry_after(response.headers.get("Retry-After"))


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    return str(error.__cause__ or error.args[-1])


def _retry_after(header: str | None) -> float | None:
    # A server may also send a date; then the own delay serves as well.
    return float(header) if header and re.fullmatch(r"\d+(\.\d+)?", header) else None


def run(options: Options, display: Display) -> Report:
    """Send a file's rows to a model in order and wait until the model has taken them all.

    Raises FeedError: for a row that cannot be read or that the server does not take, with the row's number,
    and for a server that stays away. What was acknowledged until then stays learned.
    """
    with open_source(options.file) as source:
        client = Client(options.url, options.model, options.patience, display.note)
        columns = choose_columns(
            source, options.label, options.id, options.weight, options.drop, display.note
        )
        if options.create:
            client.create(infer_spec(options.create, source, columns, display.note))
        model = client.model()
        report = Report(total_bytes=source.size, step=model["step"], position=model["step"])
        rows = islice(observations(source, columns, model["spec"]), options.limit)
        _send(_blocks(rows, options.batch), source, client, report, display)
        _await_applied(client, report, options.patience)
        display.update(report)
    return report


def _blocks(rows: Iterable[Observation], size: int) -> Iterator[list[Observation]]:
    iterator = iter(rows)
    while block := list(islice(iterator, size)):
        yield block


def _send(
    blocks: Iterable[list[Observation]], source: Source, client: Client, report: Report, display: Display
) -> None:
    feed = uuid.uuid4()
    scored = 0.0
    for number, block in enumerate(blocks):
        try:
            answer = client.feedback(block, f"{feed}-{number}")
        except RefusedError as refusal:
            raise _naming_row(refusal, report.sent) from refusal
        _count(report, answer, len(block))
        report.read_bytes = source.position
        if time.monotonic() - scored >= SCORE_INTERVAL:
            _look(client, report)
            scored = time.monotonic()
        display.update(report)


def _count(report: Report, answer: dict[str, Any], rows: int) -> None:
    report.sent += rows
    report.applied += answer["applied"]
    report.pending += answer["pending"]
    report.duplicates += answer["duplicates"]
    report.position = max(report.position, answer["position"])
    report.seconds = time.monotonic() - report.started


def _look(client: Client, report: Report) -> None:
    """Bring the report's step and scores up to date."""
    answer = client.metrics()
    report.step, report.metrics = answer["step"], answer["metrics"]


def _naming_row(refusal: RefusedError, sent: int) -> FeedError:
    """The refusal with the row of the file in place of the place in the block, where it names one."""
    pointers = [str(error.get("pointer")) for error in refusal.problem.get("errors", [])]
    places = [found for pointer in pointers if (found := re.match(r"/observations/(\d+)", pointer))]
    if not places:
        return FeedError(f"the rows after row {sent:,}: {refusal}")
    return FeedError(f"row {sent + int(places[0][1]) + 1:,}: {refusal}")


def _await_applied(client: Client, report: Report, patience: float) -> None:
    """Wait until the model has taken what was acknowledged. Raises PatienceError if it does not get on."""
    before, moved = report.step, time.monotonic()
    _look(client, report)
    while report.step < report.position:
        if report.step > before:
            before, moved = report.step, time.monotonic()
        if time.monotonic() - moved > patience:
            raise PatienceError(
                f"the model stays at step {report.step:,}; {report.position:,} are acknowledged"
            )
        time.sleep(0.05)
        _look(client, report)
    report.applied, report.pending = report.applied + report.pending, 0
    report.seconds = time.monotonic() - report.started
