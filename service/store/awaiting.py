"""Predictions that await their label: what was predicted from, and what was served."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from service.errors import WrongGeneration
from service.store import keys, scripts
from service.store.model_part import ModelPart

Array = np.ndarray

_TIME = 13  # digits of the time that the scripts put before a prediction
_STEP = 8  # bytes
_FLOAT = np.dtype("<f8")
BUCKETS = 32  # of a label's delay: bucket i ends at 2**(i - 5) seconds, the last one is open
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Awaiting:
    """A prediction that awaits its label: features (d,) float64, raw, and the served prediction (outputs,) float64."""

    step: int
    features: Array
    served: Array

    @classmethod
    def parse(cls, value: bytes, width: int) -> "Awaiting":
        """The prediction as Redis holds it; `width` is d."""
        step = int.from_bytes(value[_TIME : _TIME + _STEP], "little")
        numbers = np.frombuffer(value, _FLOAT, offset=_TIME + _STEP)
        return cls(step, numbers[:width], numbers[width:])


class AwaitingPredictions(ModelPart):
    """A model's predictions that await their label."""

    @property
    def _keys(self) -> list[bytes]:
        name = self.name
        return [
            *(keys.meta(name), keys.awaiting_times(name)),
            *(keys.awaiting(name), keys.awaiting_counts(name)),
        ]

    def remember(
        self,
        ids: list[str],
        step: int,
        features: Array,
        served: Array,
        *,
        label_ttl_ms: int,
        label_bytes: int,
    ) -> None:
        """Remember predictions, made at `step` from features (n, d), until their labels come, in place of older ones.

        Raises WrongGeneration, StoreFull and StoreUnavailable.
        """
        rows = np.concatenate([features, served], axis=1, dtype=_FLOAT)
        head = step.to_bytes(_STEP, "little")
        pairs = [
            part for known, row in zip(ids, rows, strict=True) for part in (f"i{known}", head + row.tobytes())
        ]
        waiting = self.link.run(
            scripts.REMEMBER, self._keys, [self.generation, label_ttl_ms, label_bytes, *pairs]
        )
        if waiting is None:
            raise WrongGeneration(f"model {self.name} was deleted")

    def look_up(self, ids: list[str], label_ttl_ms: int, width: int) -> list[int | Awaiting | None]:
        """For each id its position if it was appended already, else the prediction that awaits its label, else None."""
        answer = self.link.run(
            scripts.LOOK_UP,
            [*keys.seen(self.name), keys.awaiting(self.name)],
            [label_ttl_ms, *(f"i{known}" for known in ids)],
        )
        found: list[int | Awaiting | None] = []
        for value, is_position in zip(answer[::2], answer[1::2], strict=True):
            if value is None:
                found.append(None)
            else:
                found.append(int(value) if is_position else Awaiting.parse(value, width))
        return found

    def expire(self, label_ttl_ms: int) -> None:
        """Forget predictions whose label has not come in time. Works in a Redis that is full."""
        self.link.run(scripts.EXPIRE, self._keys, [self.generation, label_ttl_ms])

    def counts(self, label_ttl_ms: int) -> dict[str, Any] | None:
        """How predictions and labels found each other: JSON-ready. None if no prediction was ever remembered.

        `delay_seconds` are quantiles of the time from prediction to label, each the upper end of its bucket, and the
        buckets: each ends at a power of two, the last one is open. `expired_share` is of those that wait no longer.
        """
        answer = self.link.run(
            scripts.AWAITING_COUNTS,
            [keys.awaiting_times(self.name), keys.awaiting_counts(self.name)],
            [label_ttl_ms],
        )
        awaiting, not_yet_dropped, *pairs = answer
        if not pairs:
            return None
        known = {field.decode(): int(value) for field, value in zip(pairs[::2], pairs[1::2], strict=True)}
        labelled, displaced = known.get("joined", 0), known.get("displaced", 0)
        expired = known.get("expired", 0) + not_yet_dropped
        ended = labelled + displaced + expired
        delays = [known.get(f"delay:{bucket}", 0) for bucket in range(BUCKETS)]
        return {
            "awaiting": awaiting,
            "remembered": known.get("remembered", 0),
            "labelled": labelled,
            "expired": expired,
            "displaced": displaced,
            "expired_share": expired / ended if ended else None,
            "delay_seconds": _quantiles(delays)
            | {"buckets": [[_end(bucket), count] for bucket, count in enumerate(delays) if count]},
        }


def _quantiles(delays: list[int]) -> dict[str, float | None]:
    ends = np.cumsum(delays)
    total = int(ends[-1])
    return {
        name: _end(int(np.searchsorted(ends, share * total))) if total else None
        for name, share in QUANTILES.items()
    }


def _end(bucket: int) -> float:
    """Seconds at which a bucket of the delay's distribution ends."""
    return float(2.0 ** (bucket - 5))
