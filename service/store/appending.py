"""What is appended to a model's log, on which conditions, and what came of it."""

from dataclasses import dataclass, field
from typing import Any

from service import failpoints
from service.errors import WrongGeneration
from service.store import keys
from service.store.blocks import Block
from service.store.kept import Kept


@dataclass(frozen=True, slots=True)
class Limits:
    """The deduplication window in observations, and how much may be unapplied."""

    dedup_window: int
    max_lag: int
    label_ttl_ms: int
    max_lag_bytes: int = 2**53

    @property
    def segment(self) -> int:
        """Observations after which the next hash of what was seen begins: all but the newest are complete."""
        return -(-self.dedup_window // (keys.SEEN - 1))


@dataclass(frozen=True, slots=True)
class Append:
    """A block to append, and the conditions.

    `key` is the Idempotency-Key, or one made up for the request; `record` is kept with it, and `known` is what the
    caller knows to be kept with it so far. `joined` are the rows whose prediction must still await its label. `step`
    is one that the model is known to have reached in `timeline`. `web` is the process that waits for the result, or
    empty. `by` is the name of the API key that teaches, or empty.
    """

    token: bytes
    block: Block
    key: bytes
    record: bytes = b""
    known: Kept | None = None
    joined: frozenset[int] = frozenset()
    step: int = 0
    timeline: int = 0
    web: str = ""
    by: str = ""
    encoded: bytes = b""  # the block's bytes, if they were made beside the event loop

    def to_arguments(self, generation: bytes, limits: Limits) -> list[Any]:
        """The arguments of the script, in its order."""
        block, joined = self.block, ""
        if self.joined:
            joined = "".join("1" if row in self.joined else "0" for row in range(len(block)))
        return [
            *(generation, self.token, len(block), self.encoded or block.to_bytes(), self.web, limits.segment),
            *(self.record, b"" if self.known is None else self.known.to_bytes(), self.step, self.timeline),
            *(limits.max_lag, limits.label_ttl_ms, joined),
            *(self.key, self.by, limits.max_lag_bytes),
            *([] if block.ids is None else [f"i{known}" if known else "" for known in block.ids]),
        ]


@dataclass(frozen=True, slots=True)
class Appended:
    """What came of an append: the block was written up to `position`, or not, for the first reason that is set here."""

    position: int = 0
    timeline: int = 0  # in which the block was appended
    kept: Kept | None = None  # with the key, which was used before
    duplicates: dict[int, int] = field(default_factory=dict)  # row -> its position
    unknown: list[int] = field(default_factory=list)  # rows whose prediction no longer awaits its label
    awaiting: dict[int, bytes] = field(default_factory=dict)  # row that does not join -> its prediction
    lag: int = 0  # observations that are not applied: too many,
    lag_bytes: int = 0  # or too many bytes, if this is not 0
    lost: bool = False  # Redis came back without what was appended before with the key
    older: bool = False  # the log ends before what the caller has seen: Redis came back older

    @classmethod
    def parse(cls, name: str, answer: list[Any]) -> "Appended":
        """From the script's answer for the model `name`. Raises WrongGeneration."""
        kind, *values = answer
        match kind:
            case b"appended":
                failpoints.reach("after-append")
                return cls(int(values[0]), int(values[1]))
            case b"seen":
                return cls(kept=Kept.parse(values[0], values[1]))
            case b"duplicates":
                pairs = zip(values[::2], values[1::2], strict=True)
                return cls(duplicates={row: int(position) for row, position in pairs})
            case b"unknown":
                return cls(unknown=values)
            case b"awaiting":
                return cls(awaiting=dict(zip(values[::2], values[1::2], strict=True)))
            case b"lag":
                return cls(lag=int(values[0]), lag_bytes=int(values[1]) if len(values) > 1 else 0)
            case b"lost":
                return cls(lost=True)
            case b"older":
                return cls(older=True)
        raise WrongGeneration(f"model {name} was deleted")


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to set (JSON; "": none any more), and when it is due first, seconds since the epoch."""

    text: str
    due: float | None = None

    def to_arguments(self) -> tuple[str, str]:
        """The arguments of the scripts that set it."""
        return self.text or "none", "" if self.due is None else repr(self.due)
