"""Feedback: observations are encoded, appended to the log exactly once, and their result is waited for."""

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from model.errors import RowError
from service.blocks import Block
from service.errors import (
    Invalid,
    NotFound,
    OutcomeUnknown,
    StoreFull,
    StoreUnavailable,
    TooManyRequests,
    Unavailable,
    WrongGeneration,
)
from service.pressure import Pressure
from service.replica import Served
from service.schemas import ABSENT, Observation
from service.settings import Settings
from service.store import pending
from service.store.connection import Links
from service.store.log import Append, Appended, Limits, append, keep_answer, kept, kept_answer
from service.store.messages import Result
from service.store.pending import Awaiting
from service.waiting import Waiting

# The result usually comes right behind Redis's answer to the append. Whoever waits for it first sleeps once, not twice.
RESULT_FIRST = 0.1  # seconds
SEEN_FIRST = 0.005  # where the answer may be that it was seen before, and no result comes
ANSWER_LOOKS, ANSWER_PAUSE = 5, 0.02  # a repetition looks for the first answer this often, seconds between
NO_PREDICTION = (
    "no prediction with this id awaits its label: it was never made, has expired or made room for others"
)


@dataclass(slots=True)
class Draft:
    """The observations of one request, encoded.

    `joined` are the rows that consume the prediction that awaits their label, `bare` those of them that came without
    features of their own. `positions` are rows that were appended before; in the block they are placeholders.
    """

    block: Block
    joined: set[int] = field(default_factory=set)
    bare: set[int] = field(default_factory=set)
    positions: dict[int, int] = field(default_factory=dict)

    def join(self, row: int, awaiting: Awaiting) -> None:
        """Let a row consume a prediction, which is scored in place of one made now."""
        served = self.block.served
        if served is None:
            served = np.full((len(self.block), len(awaiting.served)), np.nan)
            self.block = replace(self.block, served=served)
        served[row] = awaiting.served
        self.joined.add(row)

    def part(self, rows: list[int]) -> None:
        """Let these rows consume no prediction."""
        assert self.block.served is not None
        self.block.served[rows] = np.nan
        self.joined.difference_update(rows)


@dataclass(slots=True)
class Outcome:
    """What became of the observations of one append.

    `rows` are the indices, in the request, of those that were appended; `duplicates` maps the others to the position
    they have. `result` is None if it was not waited for or did not come; `applied` then tells whether the model's
    step is known to have passed `position`.
    """

    position: int
    rows: list[int]
    duplicates: dict[int, int] = field(default_factory=dict)
    applied: bool = False
    result: Result | None = None


@dataclass(slots=True)
class Repetition:
    """A request whose key was used before: what came of the first one. `answer` is its answer, if that is kept."""

    position: int
    appended: int
    duplicates: int
    applied: bool
    answer: bytes | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept with a key: the position of its newest append, a record of the request, perhaps its answer."""

    position: int
    record: bytes
    answer: bytes = b""

    @classmethod
    def parse(cls, value: bytes, answer: bytes = b"") -> "Seen":
        """From what Redis keeps: position, blank, record."""
        position, _, record = value.partition(b" ")
        return cls(int(position), record, answer)

    def to_bytes(self) -> bytes:
        """What Redis keeps."""
        return b"%d %b" % (self.position, self.record)


@dataclass(frozen=True, slots=True)
class Request:
    """What is appended for: its key, the token of the log's entry, and what is kept with the key.

    `record` is given how many rows are appended and how many are duplicates.
    """

    key: bytes
    token: bytes
    record: Callable[[int, int], bytes]
    known: Seen | None = None
    deadline: float = 0.0  # monotonic seconds at which Redis is given up
    meanwhile: Callable[[], object] | None = None  # called between sending an append and reading its answer


class PredictionGone(Exception):
    """Predictions that were to be joined do not await their label any more."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(rows)
        self.rows = rows


def encode(
    served: Served,
    observations: Sequence[Observation],
    found: Mapping[int, int | Awaiting],
    prefix: str = "/observations",
) -> Draft:
    """The observations as a draft; `found` is what stands for those without features. Raises Invalid.

    The error names the row and the field, `prefix` goes before.
    """
    weights = ids = None
    if any(observation.weight is not None for observation in observations):
        weights = np.array([1.0 if o.weight is None else o.weight for o in observations])
    if any(observation.id is not None for observation in observations):
        ids = [observation.id for observation in observations]

    def where(row: int, part: str, detail: str) -> Invalid:
        place = (prefix and f"{prefix}/{row}") + f"/{part}"
        return Invalid(f"{place}: {detail}", [(place, detail)])

    rows = (
        [row for row in range(len(observations)) if row not in found] if found else range(len(observations))
    )
    for row in rows:
        if observations[row].features is ABSENT:
            raise where(
                row, "features", "required, unless a prediction with the observation's id awaits its label"
            )
    try:
        features = served.features.encode([observations[row].features for row in rows])
    except RowError as error:
        raise where(rows[error.row], f"features{error.pointer}", error.detail) from None
    try:
        labels = served.labels.encode([observation.label for observation in observations])
    except RowError as error:
        raise where(error.row, f"label{error.pointer}", error.detail) from None
    if not found:
        return Draft(Block(features, labels, weights, None, ids))
    return _joined(Block(features, labels, weights, None, ids), list(rows), found)


def _joined(block: Block, rows: list[int], found: Mapping[int, int | Awaiting]) -> Draft:
    """The draft of a block whose features are those of `rows` only; the other rows are found."""
    features = np.full((len(block.labels), block.features.shape[1]), np.nan)
    features[rows] = block.features
    draft = Draft(replace(block, features=features))
    for row, known in found.items():
        if isinstance(known, Awaiting):
            features[row] = known.features
            draft.join(row, known)
            draft.bare.add(row)
        else:
            draft.positions[row] = known
    return draft


class Feedback:
    """Appends observations for one web process, and waits for their results where a place to wait is free."""

    def __init__(self, settings: Settings, links: Links, web: str, waiting: Waiting) -> None:
        self._settings = settings
        self._links = links
        self._web = web
        self._waiting = waiting
        self._pressure = Pressure()
        self._ttl_ms = round(settings.label_ttl * 1000)
        self._limits = Limits(settings.remembered, settings.max_lag, self._ttl_ms)

    # -- predictions that await their label -------------------------------------------------------------------

    def remember(
        self, served: Served, ids: list[str], step: int, features: np.ndarray, made: np.ndarray
    ) -> None:
        """Remember predictions until their labels come. Raises Unavailable: then nothing is remembered."""
        try:
            self._check_memory(served, features.nbytes)
            pending.remember(
                self._links.mine(),
                served.name,
                served.generation,
                ids,
                step,
                features,
                made,
                label_ttl_ms=self._ttl_ms,
                label_bytes=self._settings.label_bytes,
            )
        except WrongGeneration as error:
            raise NotFound(str(error)) from error
        except (StoreUnavailable, StoreFull) as error:
            raise Unavailable(f"{error}; predictions cannot be remembered now", retry_after=1) from error

    def look_up(
        self, served: Served, observations: Sequence[Observation]
    ) -> dict[int, int | Awaiting | None]:
        """What stands for the observations with an id and no features: row -> position, prediction or nothing."""
        rows = [row for row, o in enumerate(observations) if o.features is ABSENT and o.id is not None]
        if not rows:
            return {}
        ids = [observations[row].id or "" for row in rows]
        try:
            found = pending.look_up(self._links.mine(), served.name, ids, self._ttl_ms, served.features.width)
        except StoreUnavailable as error:
            raise Unavailable(f"{error}; nothing was appended", retry_after=1) from error
        return dict(zip(rows, found, strict=True))

    def draft(self, served: Served, observations: Sequence[Observation], prefix: str) -> Draft:
        """The observations of a request, encoded. Raises Invalid, naming the first bad row."""
        found: dict[int, int | Awaiting] = {}
        for row, known in self.look_up(served, observations).items():
            if known is None:
                raise _gone([row], prefix)
            found[row] = known
        return encode(served, observations, found, prefix)

    # -- appending -------------------------------------------------------------------------------------------

    def submit(
        self, served: Served, draft: Draft, prefix: str, key: str | None, body: bytes
    ) -> Outcome | Repetition:
        """Append a draft and wait for its result, at most `apply_timeout` seconds.

        `key` is the request's Idempotency-Key and `body` what it came with. Raises Problem.
        """
        token = (key or new_key()).encode()
        digest = body_digest(body)
        request = Request(token, token, lambda _, duplicates: b"b%b %d" % (digest, duplicates))
        with self._waiting.place() as may_wait, self._waiting.waiter(token) as waiter:
            wait = may_wait and not served.is_late
            if wait:
                patience = RESULT_FIRST if key is None and draft.block.ids is None else SEEN_FIRST
                request = replace(request, meanwhile=lambda: waiter.wait(patience))
            try:
                outcome = self.append(served, draft, request, wait)
            except PredictionGone as error:
                raise _gone(error.rows, prefix) from None
            if isinstance(outcome, Seen):
                return self._repetition(served, outcome, digest, token, len(draft.block), wait)
            if wait and outcome.rows:
                outcome.result = waiter.wait(self._settings.apply_timeout)
            outcome.applied = outcome.result is not None or served.replica.step >= outcome.position
            return outcome

    def keep_answer(self, served: Served, key: str, answer: bytes) -> None:
        """Keep the answer to the request with this key, for its repetitions. Best effort."""
        try:
            keep_answer(
                self._links.mine(),
                served.name,
                served.generation,
                key.encode(),
                answer,
                self._settings.answer_bytes,
            )
        except (StoreUnavailable, StoreFull):
            return

    def _repetition(
        self, served: Served, seen: Seen, digest: bytes, key: bytes, rows: int, wait: bool
    ) -> Repetition:
        first, _, duplicates = seen.record.removeprefix(b"b").partition(b" ")
        if not seen.record.startswith(b"b") or first != digest:
            raise another_body()
        applied = served.wait_for(seen.position, self._settings.apply_timeout if wait else 0)
        answer = seen.answer
        for _ in range(
            ANSWER_LOOKS if applied and not answer else 0
        ):  # the first request may be about to keep it
            answer = kept_answer(self._links.mine(), served.name, key) or b""
            if answer:
                break
            time.sleep(ANSWER_PAUSE)
        return Repetition(seen.position, rows - int(duplicates), int(duplicates), applied, answer or None)

    def append(self, served: Served, draft: Draft, request: Request, wants_result: bool) -> Outcome | Seen:
        """Append the rows of a draft that were not appended before, or find what was done with the key.

        Raises PredictionGone, TooManyRequests, Unavailable, OutcomeUnknown, NotFound.
        """
        request = replace(request, deadline=time.monotonic() + self._settings.redis_timeout)
        rows = range(len(draft.block))
        repeated = _repeated(draft.block)
        while True:
            known = draft.positions
            fresh = (
                [row for row in rows if row not in repeated and row not in known]
                if repeated or known
                else rows
            )
            if not fresh:
                seen = self._seen(served, request)
                if seen is not None:
                    return seen
                known = known | {row: known[first] for row, first in repeated.items() if row not in known}
                return Outcome(max(known.values()), [], known)
            part = draft.block if len(fresh) == len(rows) else draft.block.without(set(rows) - set(fresh))
            joined = frozenset(place for place, row in enumerate(fresh) if row in draft.joined)
            wanted = Append(
                request.token,
                part,
                request.key,
                request.record(len(fresh), len(rows) - len(fresh)),
                b"" if request.known is None else request.known.to_bytes(),
                joined,
                served.replica.step,
                self._web if wants_result else "",
            )
            appended = self._append_once(served, wanted, request)
            if appended.position:
                places = _positions(repeated, fresh, appended.position)
                return Outcome(appended.position, list(fresh), known | places)
            if appended.seen:
                return Seen.parse(appended.seen, appended.answer)
            self._adapt(served, draft, fresh, appended)

    def _seen(self, served: Served, request: Request) -> Seen | None:
        """What is kept with the key, if it is not what is known: for a draft of which nothing is left to append."""
        try:
            value = kept(self._links.mine(), served.name, request.key)
        except StoreUnavailable as error:
            raise Unavailable(f"{error}; nothing was appended", retry_after=1) from error
        if value is None or (request.known is not None and value == request.known.to_bytes()):
            return None
        return Seen.parse(value)

    def _adapt(self, served: Served, draft: Draft, fresh: Sequence[int], appended: Appended) -> None:
        """Change a draft so that what spoke against it does so no more. Raises PredictionGone, TooManyRequests."""
        if appended.lag:
            raise TooManyRequests(
                f"{appended.lag} observations are not applied yet; at most {self._limits.max_lag} may be "
                "(FRESHET_MAX_LAG); nothing was appended",
                retry_after=1,
                lag=appended.lag,
            )
        draft.positions |= {fresh[place]: position for place, position in appended.duplicates.items()}
        gone = [fresh[place] for place in appended.unknown]
        if draft.bare.intersection(gone):
            raise PredictionGone(sorted(draft.bare.intersection(gone)))
        if gone:
            draft.part(gone)
        for place, value in appended.awaiting.items():
            draft.join(fresh[place], Awaiting.parse(value, served.features.width))

    def _append_once(self, served: Served, wanted: Append, request: Request) -> Appended:
        """Append, and should Redis vanish in the middle, ask again with the same token."""
        unknown = False
        while True:
            try:
                self._check_memory(served, wanted.block.features.nbytes)
                appended = append(
                    *(self._links.mine(), served.name, served.generation, wanted, self._limits),
                    request.meanwhile,
                )
                if unknown and appended.seen and Seen.parse(appended.seen).record == wanted.record:
                    return Appended(Seen.parse(appended.seen).position)  # it was carried out the first time
                return appended
            except WrongGeneration as error:
                raise NotFound(str(error)) from error
            except StoreFull as error:
                raise Unavailable(f"{error}; nothing was appended", retry_after=1) from error
            except StoreUnavailable as error:
                unknown = unknown or error.sent
                if time.monotonic() < request.deadline - self._settings.redis_timeout / 2:
                    time.sleep(0.02)
                    continue
                if unknown:
                    raise OutcomeUnknown(
                        "Redis vanished in the middle of the append; retry with the Idempotency-Key in `token`",
                        retry_after=1,
                        token=request.key.decode(),
                    ) from error
                raise Unavailable(f"{error}; nothing was appended", retry_after=1) from error

    def _check_memory(self, served: Served, size: int) -> None:
        """Refuse to write where Redis is nearly full. Raises Unavailable, StoreUnavailable with nothing sent."""
        link = self._links.mine()
        try:
            self._pressure.check(
                link, size, lambda: pending.expire(link, served.name, served.generation, self._ttl_ms)
            )
        except StoreUnavailable as error:
            raise StoreUnavailable(str(error)) from error


def new_key() -> str:
    """What stands for an Idempotency-Key where none is given."""
    return secrets.token_urlsafe(12)


def body_digest(body: bytes) -> bytes:
    """By which the body of a repeated request is recognised."""
    return hashlib.blake2b(body, digest_size=8).hexdigest().encode()


def another_body() -> Invalid:
    """The problem of a key that comes again with something else."""
    return Invalid(
        "this Idempotency-Key was used with another body", [("Idempotency-Key", "was used with another body")]
    )


def _gone(rows: list[int], prefix: str) -> Invalid:
    places = [(prefix and f"{prefix}/{row}") + "/id" for row in rows]
    return Invalid(f"{places[0]}: {NO_PREDICTION}", [(place, NO_PREDICTION) for place in places])


def _repeated(block: Block) -> dict[int, int]:
    """Rows whose id stands in an earlier row of the same request: row -> that earlier row."""
    if block.ids is None:
        return {}
    first: dict[str, int] = {}
    return {
        row: first[observation]
        for row, observation in enumerate(block.ids)
        if observation is not None and first.setdefault(observation, row) != row
    }


def _positions(repeated: dict[int, int], fresh: Sequence[int], position: int) -> dict[int, int]:
    """The positions of repeated rows, given the rows that were appended up to `position`."""
    start = position - len(fresh) + 1
    place = {row: start + index for index, row in enumerate(fresh)} if repeated else {}
    return {row: place[first] for row, first in repeated.items() if first in place}
