"""What really stands in Redis: every entry of every log as it was appended, and the model that it makes.

The reference of a model learns each entry in the moment it is appended, so it tells what every answer should have been.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from scheduler import Process, world
from server import Server
from wire import Command

LOG = re.compile(rb"^freshet:\{(.+)\}:log$")
SNAPSHOT = re.compile(rb"^freshet:\{(.+)\}:snapshot$")
WEIGHTS = re.compile(rb"^freshet:\{(.+)\}:weights$")
PLACES = 4096  # an observation's first feature is its number divided by this
PROBES = [[0.25, 0.5], [0.75, -0.25]]
READ = 6  # index of the last entry that a candidate has learned, among the arguments of JOB_PROMOTE


@dataclass
class Logged:
    """One observation in the log."""

    position: int
    number: int  # which observation
    entry: str  # log id
    token: bytes


@dataclass
class Ordered:
    """A command in the log."""

    log_id: Any
    command: dict[str, Any]
    at: float
    token: bytes = b""
    is_refused: bool = False
    read: Any = None  # the last entry that a promoted candidate has learned; None: not known


@dataclass
class Return:
    """Redis has come back with less of a model's log than some processes had seen."""

    at: float
    timeline: int  # before
    stale: set[Process]  # who led it before, and may go on without noticing
    witnesses: list[Process]  # who has seen more than there is now


@dataclass
class Book:
    """The true history of one model, in one generation."""

    name: str
    generation: bytes
    spec: Any
    reference: Any  # OnlineModel
    head: Any  # LogId
    rows: list[Logged] = field(default_factory=list)
    commands: list[Ordered] = field(default_factory=list)
    told: dict[int, Any] = field(
        default_factory=dict
    )  # position -> prediction made before learning, as JSON has it
    probes: dict[int, list[Any]] = field(
        default_factory=lambda: defaultdict(list)
    )  # step -> predictions of PROBES
    made: dict[Any, Any] = field(default_factory=dict)  # log id -> predictions of PROBES
    applied: int = 0  # the highest position that a learner has published or told a result of, in this lineage
    timelines: set[int] = field(default_factory=set)  # that were published
    broken: str = ""  # why the reference cannot go on
    applied_by: dict[Process, int] = field(
        default_factory=dict
    )  # the highest position that each learner published
    told_by: dict[Process, int] = field(default_factory=dict)  # the highest step that each web process told
    returns: list[Return] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # commands that the reference refuses
    lost: bool = False  # Redis holds it no more, and nobody has deleted it
    restored: bool = False  # Redis has come back older in this generation

    def where(self, number: int) -> list[int]:
        """The positions at which an observation stands."""
        return [row.position for row in self.rows if row.number == number]


class Truth:
    """Watches the server."""

    def __init__(self, server: Server) -> None:
        from service.replay.commands import apply_command
        from service.store import keys
        from service.store.connection import Link
        from service.store.entries import START, Entry, LogId
        from service.store.model_store import ModelStore

        self._keys, self._start, self._entry, self._log_id = keys, START, Entry, LogId
        self._store, self._apply_command = ModelStore, apply_command
        self._server = server
        self._link = Link(f"unix://{server.path}", 5.0)
        self.books: dict[tuple[str, bytes], Book] = {}
        self.broken: list[tuple[str, str]] = []  # promises broken in Redis itself
        self.lineage = 0  # how often Redis has come back older
        self.older_at: list[float] = []
        self._last: dict[str, Book] = {}  # read last, by name
        self._deleted_at: dict[str, float] = {}  # by name
        self._states: list[dict[tuple[str, bytes], tuple[Any, ...]]] = []
        server.watchers.append(self._watch)

    # -- looking -----------------------------------------------------------------------------------------------

    def _watch(self, command: Command, raw: bytes) -> None:
        if command.words[0].upper() == b"PUBLISH":
            self._published(command.words[1], command.words[2], command.connection.process)
            return
        if command.label in ("CREATE", "DELETE"):
            self._check_names(command, raw)
        for key in command.keys:
            found = LOG.match(key)
            if found and command.words[0].upper() in (b"EVALSHA", b"EVAL"):
                self._read(found[1].decode(), command)
            found = SNAPSHOT.match(key)
            if found:
                self._check_snapshot(found[1].decode(), command)
                if b"kept" in raw:
                    self._check_state(found[1].decode())

    def _check_names(self, command: Command, raw: bytes) -> None:
        """A creation that was sent before a deletion does not bring the model back."""
        name = command.words[3 + len(command.keys)].decode()
        if command.label == "DELETE" and raw.startswith(b":1"):
            self._deleted_at[name] = world().now
        elif command.label == "CREATE" and b"created" in raw:
            deleted_at = self._deleted_at.get(name, 0.0)
            if command.sent_at < deleted_at:
                what = f"{name} was deleted at {deleted_at - 1000:.3f} s and is back at {world().since_start:.3f} s"
                self._tell("what was deleted never comes back", what)
            self._read(name, command)  # another model from now on, though nothing was appended yet

    def _published(self, channel: bytes, payload: bytes, learner: Process) -> None:
        from service.store import messages

        publication = getattr(messages, "Publication", None) or messages.Weights  # as 0.1 called it

        found = WEIGHTS.match(channel)
        if found:
            weights = publication.from_bytes(payload)
            book = self.books.get((found[1].decode(), weights.generation))
            if book is None:
                return
            book.timelines.add(weights.timeline)
            self._check_publication(book, weights, learner)
            position = weights.log_id.position
            book.applied_by[learner] = max(book.applied_by.get(learner, 0), position)
            stale = any(weights.timeline <= back.timeline and learner in back.stale for back in book.returns)
            if position <= book.head.position and not stale:
                book.applied = max(book.applied, position)
        elif b"results" in channel:
            for result in messages.parse_results(payload):
                for book in self.books.values():
                    for row in reversed(book.rows[-200:]):
                        if row.position == result.position and row.token == result.token:
                            book.applied = max(book.applied, result.position)
                            break

    def book(self, name: str) -> Book | None:
        """The book of the model that has this name now."""
        generation = self._server.real("HGET", self._keys.meta(name), "generation")
        return self.books.get((name, generation)) if generation else None

    def is_published(self, name: str, book: Book) -> bool:
        """Whether a learner has published all that the log of a model holds, commands too."""
        published = self._server.real("HGET", self._keys.lease(name), "published")
        return book.head == self._start or (published and self._log_id.parse(published) >= book.head)

    def _read(self, name: str, command: Command) -> None:
        meta, log = self._keys.meta(name), self._keys.log(name)
        last = self._last.get(name)
        after = last.head if last is not None else self._start
        (generation, spec), found = self._server.real.many(
            [("HMGET", meta, "generation", "spec"), ("XRANGE", log, f"({after}", "+")]
        )
        if generation is None:
            return
        book = self.books.get((name, generation))
        if book is None:
            book = self._open(name, generation, spec)
        if book is not last:
            self._last[name] = book
            found = self._server.real("XRANGE", log, f"({book.head}", "+")
        for log_id, fields in found:
            self._append(book, self._entry.parse(log_id, fields))
        if found and command.label == "JOB_PROMOTE" and book.commands:
            book.commands[-1].read = self._log_id.parse(command.words[3 + len(command.keys) + READ])

    def _open(self, name: str, generation: bytes, spec: bytes) -> Book:
        from model import ModelSpec, OnlineModel

        parsed = ModelSpec.model_validate_json(spec)
        book = Book(name, generation, parsed, OnlineModel(parsed), self._start)
        self.books[name, generation] = book
        self._probe(book)
        return book

    def open(self, name: str) -> None:
        """Take note of a model that was created."""
        generation, spec = self._server.real("HMGET", self._keys.meta(name), "generation", "spec")
        if generation is not None and (name, generation) not in self.books:
            self._open(name, generation, spec)

    def _append(self, book: Book, entry: Any) -> None:
        if entry.command is not None:
            book.commands.append(Ordered(entry.log_id, entry.command, world().now, entry.token))
            if not book.broken:
                try:
                    book.reference = self._apply_command(
                        book.reference, entry, self._store(self._link, book.name)
                    )
                except Exception as error:  # noqa: BLE001 - then what it makes is not known
                    if type(error).__name__ == "CommandRefused":
                        book.commands[-1].is_refused = True
                        book.refused.append(f"{entry.log_id} {entry.command['do']}: {error}")
                    else:
                        book.broken = f"{entry.command['do']}: {type(error).__name__}: {error}"
        else:
            block = entry.block
            if not book.generation.startswith(getattr(entry, "generation", b"")):
                what = f"{entry.log_id} of {book.name} was appended to another model of this name"
                self._tell("an observation goes to its own model", what)
            start = entry.log_id.position - len(block)
            if start != book.head.position:
                self._tell("the log is dense", f"{book.name}: after {book.head} comes {entry.log_id}")
            for row in range(len(block)):
                number = round(float(block.features[row][0]) * PLACES)
                book.rows.append(Logged(start + row + 1, number, str(entry.log_id), entry.token))
            if not book.broken:
                self._learn(book, block, start)
        book.head = entry.log_id
        self._probe(book)

    def _learn(self, book: Book, block: Any, start: int) -> None:
        from model import LabelEncoder

        learned = book.reference.learn(block.features, block.labels, block.weights, block.served)
        decoded = LabelEncoder(book.reference.spec).decode(learned.predictions)
        for row, prediction in enumerate(decoded):
            book.told[start + row + 1] = prediction

    def _probe(self, book: Book) -> None:
        if book.broken:
            return
        made = _predictions(book.reference.spec, book.reference.predictor_bytes())
        book.made[book.head] = made
        known = book.probes[book.head.position]
        if made in known:
            known.remove(made)
        known.append(made)  # the newest is the last

    def _check_snapshot(self, name: str, command: Command) -> None:
        """The log follows on the snapshot: what is acknowledged can be recovered at any moment."""
        real, keys = self._server.real, self._keys
        generation = real("HGET", keys.meta(name), "generation")
        book = self.books.get((name, generation)) if generation else None
        if book is None:
            return
        found, log_id = real("HMGET", keys.snapshot(name), "generation", "log_id")
        stands_at = self._log_id.parse(log_id) if found == generation else self._start
        if stands_at >= book.head:
            return
        first = real("XRANGE", keys.log(name), f"({stands_at}", "+", "COUNT", "1")
        entry = self._entry.parse(*first[0]) if first else None
        from service.store.entries import follows

        if entry is None or not follows(stands_at, entry):
            what = (
                f"{name}: the snapshot is at {stands_at}, then comes {entry.log_id if entry else 'nothing'}"
            )
            self._tell("what is acknowledged can be recovered", f"{what} (after {command.label})")

        else:
            self._check_promotions(book, stands_at, command)

    def _check_promotions(self, book: Book, stands_at: Any, command: Command) -> None:
        """The log holds what is to be learned on top of each candidate whose promotion is still to be obeyed."""
        for ordered in book.commands:
            if ordered.command["do"] != "promote" or ordered.log_id <= stands_at or ordered.is_refused:
                continue
            start = ordered.command["position"]
            entries = self._server.real(
                "XRANGE", self._keys.log(book.name), f"{start + 1}-0", "+", "COUNT", "1"
            )
            first = self._entry.parse(*entries[0]) if entries else None
            if first and first.command is None and first.log_id.position - len(first.block) > start:
                what = f"{book.name}: the promotion {ordered.log_id} goes on from {start}, the log from {first.log_id}"
                self._tell("what is acknowledged can be recovered", f"{what} (after {command.label})")

    def _check_state(self, name: str) -> None:
        """A state that was kept is what the log makes up to its place."""
        from model import OnlineModel

        generation, log_id, state = self._server.real(
            "HMGET", self._keys.snapshot(name), "generation", "log_id", "state"
        )
        book = self.books.get((name, generation))
        if book is None or book.broken or not state:
            return
        expected = book.made.get(self._log_id.parse(log_id))
        model = OnlineModel.from_bytes(state)
        found = _predictions(model.spec, model.predictor_bytes())
        if found != expected:
            what = f"{name}: the snapshot at {log_id.decode()} predicts {found}, not {expected}"
            self._tell("a snapshot is what the log makes", what)

    def _check_publication(self, book: Book, weights: Any, learner: Process) -> None:
        """What a learner publishes is what the log makes up to its place; unless the log is not what it was."""
        from model import ModelSpec

        expected = book.made.get(weights.log_id)
        if expected is None or book.broken or self.older_at or not hasattr(weights, "predictor"):
            return
        spec = ModelSpec.model_validate_json(weights.spec) if weights.spec else book.spec
        found = _predictions(spec, weights.predictor)
        if found != expected:
            what = f"{learner} publishes {book.name} at {weights.log_id}: it predicts {found}, not {expected}"
            self._tell("what is published is what the log makes", what)

    def _tell(self, promise: str, what: str) -> None:
        if (promise, what) not in self.broken:
            self.broken.append((promise, what))

    # -- when Redis comes back older -----------------------------------------------------------------------------

    def keep_state(self) -> None:
        """Remember how things stand, together with a copy of Redis."""
        self._states.append(
            {
                place: (book.reference.to_bytes(), book.head, len(book.rows), len(book.commands), book.broken)
                for place, book in self.books.items()
            }
        )

    def go_back(self, number: int | None) -> None:
        """Redis holds an earlier copy now, or nothing."""
        from model import OnlineModel

        self.lineage += 1
        self.older_at.append(world().now)
        self._deleted_at.clear()
        states = {} if number is None else self._states[number]
        for place, book in list(self.books.items()):
            if place not in states:
                book.lost = book.restored = True
                continue
            state, head, rows, commands, broken = states[place]
            book.lost = False
            if head != book.head:
                book.restored = True
                seen = {**book.applied_by, **book.told_by}
                witnesses = [
                    process for process, step in seen.items() if process.alive and step > head.position
                ]
                book.returns.append(
                    Return(world().now, max(book.timelines, default=1), set(book.applied_by), witnesses)
                )
                book.applied_by.clear()
                book.told_by.clear()
            book.reference = OnlineModel.from_bytes(state)
            book.head, book.broken = head, broken
            del book.rows[rows:], book.commands[commands:]
            book.applied = min(book.applied, head.position)
            for position in [position for position in book.told if position > head.position]:
                del book.told[position]
            for log_id in [log_id for log_id in book.made if log_id > head]:
                del book.made[log_id]
            self._probe(book)


def _predictions(spec: Any, predictor: bytes) -> Any:
    """What a network predicts for PROBES, as answers tell it."""
    from model import FeatureEncoder, LabelEncoder, Predictor

    return LabelEncoder(spec).decode(Predictor(spec, predictor).predict(FeatureEncoder(spec).encode(PROBES)))
