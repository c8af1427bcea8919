"""Stream a file to a server as feedback, in order: exactly once through restarts, with the running score.

Rows go in blocks, each a JSON list with an idempotency key of its own. A block is repeated until the server
has given it a final answer; the key keeps a repetition from being applied twice.
"""

import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from service.client.columns import Columns, Row, choose_columns, rows
from service.client.display import Display, Progressed
from service.client.errors import ClientError, FileError, PatienceError, RefusedError
from service.client.http import Client, model_path
from service.client.inference import infer_spec
from service.client.scores import score_text
from service.client.source import Source, open_source

SCORE_INTERVAL = 0.5
"""Seconds between two looks at the model's scores."""

CREATED = 201
SHOWN_SKIPS = 10
"""Rows that were left out of which each is named; after them only their count is shown."""


@dataclass(frozen=True)
class Options:
    """What `freshet feed` was asked to do; columns that are None are looked for or absent."""

    file: str
    model: str
    label: str | None = None
    id: str | None = None
    weight: str | None = None
    drop: tuple[str, ...] = ()
    create: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    skip_bad: bool = False
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
    skipped: int = 0
    position: int = 0
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Acknowledged rows a second so far."""
        return self.sent / self.seconds if self.seconds else 0.0

    @property
    def progressed(self) -> Progressed:
        """The report for a display."""
        text = f"{self.sent:,} rows, {self.rate:,.0f} rows/s"
        scores = score_text(self.metrics.get("window", {}))
        return Progressed("", self.read_bytes, self.total_bytes, text, scores)


@dataclass(frozen=True)
class Plan:
    """What a feed would do: the model's spec, the rows that could be read, and those that would be refused."""

    spec: dict[str, Any]
    rows: int
    bad: int


class Feed:
    """One run of `freshet feed`."""

    def __init__(self, options: Options, client: Client, display: Display) -> None:
        self._options = options
        self._client = client
        self._display = display
        self._path = model_path(options.model)
        self.report = Report()

    def run(self) -> Report:
        """Send a file's rows to a model in order and wait until the model has applied them all.

        Raises ClientError: for a row that cannot be read or that the server refuses, with the row's number, and
        for a server that stays away. What was acknowledged until then stays learned; a model that this feed has
        created and taught nothing is deleted again.
        """
        with self._opened() as source:
            columns = self._columns(source)
            created = self._options.create is not None and self._create(source, columns)
            try:
                self._send_all(source, columns)
            except (FileError, RefusedError):
                if created and self.report.sent == 0:
                    self._client.request("DELETE", self._path)
                raise
            self._await_applied()
            self._display.update(self.report.progressed)
        return self.report

    def plan(self) -> Plan:
        """What `run` would do, without sending anything. Raises ClientError."""
        with self._opened() as source:
            columns = self._columns(source)
            spec = self._spec(source, columns) if self._options.create else self._described()["spec"]
            complete = {"classes": [0, 1], **spec} if spec["task"] == "binary" else spec
            read = bad = 0
            for row in islice(rows(source, columns, complete), self._options.limit):
                read += 1
                trouble = _trouble(row, complete, columns)
                if trouble is not None:
                    bad += 1
                    self._tell_of_bad(row.number, trouble, bad)
        return Plan(spec, read, bad + self.report.skipped)

    def _opened(self) -> "_Opened":
        return _Opened(self._options.file, self.report, self._skip if self._options.skip_bad else None)

    def _columns(self, source: Source) -> Columns:
        named = self._options
        return choose_columns(source, named.label, named.id, named.weight, named.drop, self._display.note)

    def _spec(self, source: Source, columns: Columns) -> dict[str, Any]:
        return infer_spec(str(self._options.create), source, columns, self._options.kinds, self._display.note)

    def _create(self, source: Source, columns: Columns) -> bool:
        """Create the model; False if it was created by the same spec before."""
        spec = self._spec(source, columns)
        try:
            return self._client.status_and_answer("PUT", self._path, spec)[0] == CREATED
        except RefusedError as refusal:
            if refusal.status == 409:
                raise ClientError(f"{refusal}; leave out --create to teach the model that exists") from None
            raise

    def _described(self) -> dict[str, Any]:
        return self._client.request("GET", self._path)

    def _send_all(self, source: Source, columns: Columns) -> None:
        model = self._described()
        report = self.report
        report.step = report.position = model["step"]
        spec = model["spec"]
        feed, scored = uuid.uuid4(), 0.0
        for number, block in enumerate(_blocks(rows(source, columns, spec), self._options)):
            self._send(block, f"{feed}-{number}", columns, spec)
            report.read_bytes = source.position
            if time.monotonic() - scored >= SCORE_INTERVAL:
                self._look()
                scored = time.monotonic()
            self._display.update(report.progressed)

    def _send(self, block: list[Row], key: str, columns: Columns, spec: dict[str, Any]) -> None:
        """Send a block; with --skip-bad again without the rows that are refused, as another request."""
        attempt = 0
        while block:
            body = {"observations": [row.observation for row in block]}
            try:
                answer = self._client.request(
                    "POST", f"{self._path}/feedback", body, {"Idempotency-Key": f"{key}-{attempt}"}
                )
            except RefusedError as refusal:
                refused = _refused_rows(refusal, block, columns, spec)
                if not refused:
                    raise ClientError(f"the rows after row {block[0].number - 1:,}: {refusal}") from refusal
                if not self._options.skip_bad:
                    number, why = next(iter(refused.items()))
                    raise FileError(f"row {number:,}{why}") from refusal
                for number, why in refused.items():
                    self._skip(number, why)
                block = [row for row in block if row.number not in refused]
                attempt += 1
                continue
            self._count(answer, len(block))
            return

    def _skip(self, number: int, why: str) -> None:
        self.report.skipped += 1
        self._tell_of_bad(number, why, self.report.skipped)

    def _tell_of_bad(self, number: int, why: str, count: int) -> None:
        if count <= SHOWN_SKIPS:
            verb = "left out" if self._options.skip_bad else "bad"
            self._display.note(f"{verb}: row {number:,}{why if why.startswith(',') else ': ' + why}")

    def _count(self, answer: dict[str, Any], sent: int) -> None:
        report = self.report
        report.sent += sent
        report.applied += answer["applied"]
        report.pending += answer["pending"]
        report.duplicates += answer["duplicates"]
        report.position = max(report.position, answer["position"])
        report.seconds = time.monotonic() - report.started

    def _look(self) -> None:
        """Bring the report's step and scores up to date."""
        answer = self._client.request("GET", f"{self._path}/metrics")
        self.report.step, self.report.metrics = answer["step"], answer["metrics"]

    def _await_applied(self) -> None:
        """Wait until the model has applied what was acknowledged. Raises PatienceError if it does not get on."""
        report = self.report
        before, moved = report.step, time.monotonic()
        self._look()
        while report.step < report.position:
            if report.step > before:
                before, moved = report.step, time.monotonic()
            if time.monotonic() - moved > self._options.patience:
                raise PatienceError(
                    f"the model stays at step {report.step:,}; {report.position:,} are acknowledged"
                )
            time.sleep(0.05)
            self._look()
        report.applied, report.pending = report.applied + report.pending, 0
        report.seconds = time.monotonic() - report.started


class _Opened:
    """A file opened for a feed."""

    def __init__(self, path: str, report: Report, skip: Any) -> None:
        self._source = open_source(path)
        self._report = report
        self._skip = skip

    def __enter__(self) -> Source:
        source = self._source.__enter__()
        source.skip = self._skip
        self._report.total_bytes = source.size
        return source

    def __exit__(self, *error: Any) -> None:
        self._source.__exit__(*error)


def _blocks(all_rows: Iterable[Row], options: Options) -> Iterator[list[Row]]:
    iterator = iter(islice(all_rows, options.limit))
    while block := list(islice(iterator, options.batch)):
        yield block


def _refused_rows(
    refusal: RefusedError, block: list[Row], columns: Columns, spec: dict[str, Any]
) -> dict[int, str]:
    """By row number, the rows that a refusal names: `, column 'a', value 'x': why`."""
    found: dict[int, str] = {}
    for error in refusal.problem.get("errors", []):
        pointer = re.fullmatch(r"/observations/(\d+)(?:/(\w+))?(?:/(.*))?", str(error.get("pointer")))
        if pointer is None or int(pointer[1]) >= len(block):
            continue
        row = block[int(pointer[1])]
        column = _column(pointer[2], pointer[3], row, columns, spec)
        where = "" if column is None else f", column {column!r}, value {row.record.get(column)!r}"
        found.setdefault(row.number, f"{where}: {error.get('detail')}")
    return found


def _column(
    member: str | None, place: str | None, row: Row, columns: Columns, spec: dict[str, Any]
) -> str | None:
    """The column of the file that a member of an observation, and a place in it, came from."""
    if columns.nested or member is None:
        return None
    if member != "features":
        return next((column for column, name in columns.special.items() if name == member), None)
    if place is None:
        return None
    if not place.isdecimal():
        return place
    features = spec["features"]
    names = (
        list(columns.features(row.record))
        if isinstance(features, int)
        else [feature["name"] for feature in features]
    )
    return names[int(place)] if int(place) < len(names) else None


def _trouble(row: Row, spec: dict[str, Any], columns: Columns) -> str | None:
    """Why a server would refuse a row, as far as that is known here."""
    if columns.nested:
        return None
    features = spec["features"]
    kinds = (
        dict.fromkeys(columns.features(row.record), "number")
        if isinstance(features, int)
        else {feature["name"]: feature["kind"] for feature in features}
    )
    for (name, kind), value in zip(kinds.items(), row.observation["features"], strict=True):
        fits = {"number": (int, float), "boolean": (bool,)}.get(kind)
        if value is not None and fits is not None and not isinstance(value, fits):
            return f", column {name!r}, value {row.record.get(name)!r}: not a {kind}"
    label = row.observation["label"]
    if spec["task"] == "regression":
        fits_label = isinstance(label, int | float) and not isinstance(label, bool)
    else:
        fits_label = any(label == known and type(label) is type(known) for known in spec["classes"])
    if fits_label:
        return None
    expected = "a number" if spec["task"] == "regression" else "one of the classes"
    return f", column {columns.label!r}, value {row.record.get(columns.label)!r}: not {expected}"
