"""Counts what becomes of feedback: rows by model and outcome, losses by API key."""

from typing import Any

from service.counters import KEY_LOSS, KEY_ROWS, ROWS, label_of
from service.store.messages import Result
from service.web.current import key_name

_children: dict[tuple[str, str], Any] = {}
_keys: dict[str, tuple[Any, Any]] = {}


def count_rows(model: str, **outcomes: int) -> None:
    """Count rows by outcome: appended, duplicate or rejected."""
    for outcome, rows in outcomes.items():
        if rows:
            label = label_of(model)
            child = _children.get((label, outcome))
            if child is None:
                child = _children[label, outcome] = ROWS.labels(label, outcome)
            child.inc(rows)


def count_losses(result: Result | None) -> None:
    """Count the losses of learned rows for the current request's API key: a source that misleads has a high one."""
    name = key_name()
    if result is None or not name:
        return
    counters = _keys.get(name)
    if counters is None:
        counters = _keys[name] = KEY_ROWS.labels(name), KEY_LOSS.labels(name)
    # Lists: for the usual single observation NumPy's calls would cost more than all of this.
    learned = [
        loss
        for loss, skipped in zip(result.losses.tolist(), result.skipped.tolist(), strict=True)
        if not skipped
    ]
    counters[0].inc(len(learned))
    counters[1].inc(sum(learned))
