"""Feedback: observations are encoded, appended to the log exactly once, and their result is waited for."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from service.errors import (
    KeyUsed,
    Problem,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TooManyRequests,
    Unavailable,
)
from service.schemas import ABSENT, Observation
from service.settings import Settings
from service.store.appending import Append, Appended, Limits
from service.store.awaiting import Awaiting
from service.store.connection import SharedLink
from service.store.entries import LogId
from service.store.grouping import GroupedLink
from service.store.kept import BlockRecord, Kept
from service.store.log import Log
from service.store.messages import Result
from service.web import loop, problems
from service.web.current import key_name
from service.web.feedback.drafts import Draft, PredictionGone, encode, gone, repeated
from service.web.feedback.pressure import Pressure
from service.web.idempotency import Request, body_digest, new_key
from service.web.replicas.replica import ServedModel
from service.web.waiting import Waiter, Waiting

GROUPED_BYTES = 32 * 1024  # of features: a larger append goes by itself, and holds up no small ones
LOOK_PAUSE = 0.05  # seconds from one look for a version of the log as it is to the next
RESULT_LATE = 0.05  # seconds that a result may come after the model's version that has learned it
ANSWER_LOOKS, ANSWER_PAUSE = 5, 0.02  # a repetition looks for the first answer this often, seconds between


@dataclass(slots=True)
class Outcome:
    """What became of the observations of one append.

    `rows` are the indices, in the request, of those that were appended; `duplicates` maps the others to the position
    they have. `result` is None if it was not waited for or did not come; `applied` then tells whether the model's
    step is known to have passed `position`, in `timeline` or a later one.
    """

    position: int
    rows: list[int]
    duplicates: dict[int, int] = field(default_factory=dict)
    timeline: int = 0
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


class Feedback:
    """Appends observations for one web process, and waits for their results."""

    def __init__(self, settings: Settings, link: SharedLink, web: str, waiting: Waiting) -> None:
        self._settings = settings
        self._link = link
        self._appends = GroupedLink(link.url, link.timeout)
        self._web = web
        self._waiting = waiting
        self._pressure = Pressure()
        self._ttl_ms = round(settings.label_ttl * 1000)
        self._limits = Limits(settings.dedup_window, settings.max_lag, self._ttl_ms, settings.max_lag_bytes)

    # -- predictions that await their label -------------------------------------------------------------------

    def remember(
        self, served: ServedModel, ids: list[str], step: int, features: np.ndarray, made: np.ndarray
    ) -> None:
        """Remember predictions until their labels come. Raises Unavailable: then nothing is remembered."""
        try:
            self._check_memory(served, features.nbytes)
            served.store.awaiting.remember(
                *(ids, step, features, made),
                label_ttl_ms=self._ttl_ms,
                label_bytes=self._settings.label_bytes,
            )
        except StoreError as error:
            problems.refuse(error, served, "predictions cannot be remembered now")

    def look_up(
        self, served: ServedModel, observations: Sequence[Observation]
    ) -> dict[int, int | Awaiting | None]:
        """What is found for the observations with an id and no features: row -> position, prediction or nothing."""
        rows = [row for row, o in enumerate(observations) if o.features is ABSENT and o.id is not None]
        if not rows:
            return {}
        ids = [observations[row].id or "" for row in rows]
        try:
            found = served.store.awaiting.look_up(ids, self._ttl_ms, served.features.width)
        except StoreError as error:
            problems.refuse(error, served, "nothing was appended")
        return dict(zip(rows, found, strict=True))

    def draft(self, served: ServedModel, observations: Sequence[Observation], prefix: str) -> Draft:
        """The observations of a request, encoded. Raises Invalid, naming the first bad row."""
        found: dict[int, int | Awaiting] = {}
        if any(observation.features is ABSENT for observation in observations):
            for row, known in self.look_up(served, observations).items():
                if known is None:
                    raise gone([row], prefix)
                found[row] = known
        return encode(served, observations, found, prefix)

    # -- appending -------------------------------------------------------------------------------------------

    def submit(
        self, served: ServedModel, draft: Draft, prefix: str, key: str | None, body: bytes, columns: int
    ) -> Outcome | Repetition:
        """Append a draft and wait for its result, at most `apply_timeout` seconds.

        `key` is the request's Idempotency-Key and `body` what it came with. `columns` is how many numbers of each
        prediction the result is to have. Raises Problem.
        """
        token = (key or new_key()).encode()
        digest = body_digest(body)

        def record(_: int, duplicates: int) -> bytes:
            return BlockRecord(digest, duplicates).to_bytes()

        request = Request(token, token, record, named=key is not None)
        with self._waiting.turn(), self._waiting.waiter(served.generation, token) as waiter:
            timeout = 0.0 if served.is_late else self._settings.apply_timeout
            try:
                outcome = self.append(served, draft, request, columns if timeout > 0 else None)
            except PredictionGone as error:
                raise request.refusal(gone(error.rows, prefix)) from None
            except Problem as error:
                raise request.refusal(error) from error
            if isinstance(outcome, Kept):
                return self._repetition(served, outcome, digest, token, len(draft.block), timeout)
            self.await_result(served, outcome, waiter, timeout)
            return outcome

    def await_result(self, served: ServedModel, outcome: Outcome, waiter: Waiter, timeout: float) -> None:
        """Wait until this process serves a version that has learned the observations; its result comes before it.

        So a client with the answer finds the observations in what this process answers next.
        """
        deadline = time.monotonic() + timeout
        outcome.applied = served.wait_for(outcome.position, timeout, outcome.timeline)
        if not outcome.applied or not outcome.rows:
            return
        if not served.is_late:
            outcome.result = waiter.wait(RESULT_LATE)
        if outcome.result is None:
            outcome.applied = self.is_of_this_log(served, outcome.position, deadline)

    def is_of_this_log(self, served: ServedModel, position: int, deadline: float) -> bool:
        """Whether a version that has reached a position is of the log as it is; looks until a monotonic time.

        Where no result came, a version does not prove by its position that an entry was applied: it may be from before
        Redis came back older.
        """
        while True:
            version = served.version
            try:
                if version.step >= position and version.token:
                    there = served.store.log.token_at(version.log_id)
                    if there == version.token:
                        return True
            except StoreError:
                return False
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_PAUSE)

    def keep_answer(self, served: ServedModel, key: str, answer: bytes) -> None:
        """Keep the answer to the request with this key, for its repetitions. Best effort."""
        try:
            served.store.kept.keep_answer(key.encode(), answer, self._settings.answer_bytes)
        except (StoreUnavailable, StoreFull):
            return

    def _repetition(
        self, served: ServedModel, kept: Kept, digest: bytes, key: bytes, rows: int, timeout: float
    ) -> Repetition:
        first = BlockRecord.parse(kept.record)
        if first.digest != digest:
            raise KeyUsed
        deadline = time.monotonic() + timeout
        applied = served.wait_for(kept.position, timeout)
        appended, answer = rows - first.duplicates, kept.answer
        for _ in range(ANSWER_LOOKS if applied and appended else 0):
            if answer:
                break
            time.sleep(ANSWER_PAUSE)  # the first request may be about to keep it
            answer = served.store.kept.answer(key) or b""
        if applied and appended and not answer:
            applied = self.is_of_this_log(served, kept.position, deadline)
        return Repetition(kept.position, appended, first.duplicates, applied, answer or None)

    def append(
        self, served: ServedModel, draft: Draft, request: Request, columns: int | None
    ) -> Outcome | Kept:
        """Append the rows of a draft that were not appended before, or find what was done with the key.

        `columns` is how many numbers of each prediction the result is to have; None: no result is waited for.

        Raises PredictionGone, TooManyRequests, Unavailable, OutcomeUnknown, NotFound.
        """
        rows = range(len(draft.block))
        again = repeated(draft.block)
        while True:
            known = draft.positions
            fresh = [row for row in rows if row not in again and row not in known] if again or known else rows
            if not fresh:
                known = known | {row: known[first] for row, first in again.items() if row not in known}
                position = max(known.values())
                return self._keep(served, request, position, len(rows)) or Outcome(position, [], known)
            part = draft.block if len(fresh) == len(rows) else draft.block.without(set(rows) - set(fresh))
            joined = frozenset(index for index, row in enumerate(fresh) if row in draft.joined)
            seen = served.version
            wanted = Append(
                request.token,
                part,
                request.key,
                request.record(len(fresh), len(rows) - len(fresh)),
                request.known,
                joined,
                seen.step,
                seen.timeline,
                "" if columns is None else f"{self._web}:{columns}",
                key_name(),
            )
            appended = self._append_once(served, wanted, request)
            if appended.position:
                served.note_entry(LogId(appended.position, 0), request.token)
                repeats = _positions(again, fresh, appended.position)
                return Outcome(appended.position, list(fresh), known | repeats, appended.timeline)
            if appended.kept is not None:
                return appended.kept
            self._adapt(served, draft, fresh, appended)

    def _keep(self, served: ServedModel, request: Request, position: int, duplicates: int) -> Kept | None:
        """Keep with a key that all were duplicates. Returns what is kept with it already, if that is something else.

        Raises Unavailable, NotFound.
        """
        if not request.named:
            return None
        kept = Kept(position, request.record(0, duplicates))
        try:
            return served.store.kept.keep(request.key, request.known, kept, self._settings.answer_bytes)
        except StoreError as error:
            problems.refuse(error, served, "nothing was appended")

    def _adapt(self, served: ServedModel, draft: Draft, fresh: Sequence[int], appended: Appended) -> None:
        """Change a draft so that the next try is not refused for the same reason.

        Raises PredictionGone, TooManyRequests, Unavailable.
        """
        if appended.older:
            served.note_older()
            raise Unavailable(
                f"Redis came back older than this process has seen model {served.name}; nothing is appended until a "
                "learner has started a new timeline",
                retry_after=1,
            )
        if appended.lost:
            raise Unavailable("Redis came back without all that this stream has appended", retry_after=1)
        if appended.lag:
            most = f"at most {self._limits.max_lag} may be (FRESHET_MAX_LAG)"
            if appended.lag_bytes:
                limit = f"at most {self._limits.max_lag_bytes} (FRESHET_MAX_LAG_BYTES)"
                most = f"they take {appended.lag_bytes} bytes, {limit}"
            raise TooManyRequests(
                f"{appended.lag} observations are not applied yet; {most}; nothing was appended",
                retry_after=1,
                lag=appended.lag,
            )
        draft.positions |= {fresh[index]: position for index, position in appended.duplicates.items()}
        unknown = [fresh[index] for index in appended.unknown]
        if draft.bare.intersection(unknown):
            raise PredictionGone(sorted(draft.bare.intersection(unknown)))
        if unknown:
            draft.part(unknown)
        for index, value in appended.awaiting.items():
            draft.join(fresh[index], Awaiting.parse(value, served.features.width))

    def _append_once(self, served: ServedModel, wanted: Append, request: Request) -> Appended:
        """Append, and should Redis vanish in the middle, ask again with the same token."""
        deadline = time.monotonic() + self._settings.redis_timeout / 2
        if wanted.block.features.nbytes > GROUPED_BYTES:
            wanted = replace(wanted, encoded=loop.run(wanted.block.to_bytes))
        while True:
            try:
                self._check_memory(served, wanted.block.features.nbytes)
                link = self._appends if wanted.block.features.nbytes <= GROUPED_BYTES else self._link
                appended = Log(link, served.name, served.generation).append(wanted, self._limits)
                kept = appended.kept
                if request.is_unknown and kept is not None and kept.record == wanted.record:
                    # It was carried out the first time.
                    appended = Appended(kept.position, wanted.timeline)
                request.is_unknown = request.is_unknown and not (appended.position or kept)
                return appended
            except StoreError as error:
                if isinstance(error, StoreUnavailable):
                    request.is_unknown = request.is_unknown or error.sent
                    if time.monotonic() < deadline:
                        time.sleep(0.02)
                        continue
                problems.refuse(error, served, "nothing was appended")

    def _check_memory(self, served: ServedModel, size: int) -> None:
        """Refuse to write where Redis is nearly full. Raises Unavailable, StoreUnavailable with nothing sent."""
        link = self._link
        try:
            self._pressure.check(link, size, lambda: served.store.awaiting.expire(self._ttl_ms))
        except StoreUnavailable as error:
            raise StoreUnavailable(str(error)) from error


def _positions(repeated: dict[int, int], fresh: Sequence[int], position: int) -> dict[int, int]:
    """The positions of repeated rows, given the rows that were appended up to `position`."""
    start = position - len(fresh) + 1
    positions = {row: start + index for index, row in enumerate(fresh)} if repeated else {}
    return {row: positions[first] for row, first in repeated.items() if first in positions}
