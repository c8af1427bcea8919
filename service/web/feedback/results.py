"""Appended observations in a response."""

from typing import Any

from model import LabelEncoder
from service.store.messages import Result
from service.web.feedback.submit import Outcome
from service.web.replicas.replica import ServedModel


def summary(
    served: ServedModel,
    position: int,
    appended: int,
    is_applied: bool,
    duplicates: int,
    rejected: int = 0,
    loss: float | None = None,
) -> dict[str, Any]:
    """The fields of every response to feedback; `position` is that of the last observation in the log."""
    return {
        "model": served.name,
        "step": served.version.step,
        "position": position,
        "applied": appended if is_applied else 0,
        "pending": 0 if is_applied else appended,
        "duplicates": duplicates,
        "rejected": rejected,
        "loss": loss,
    }


def row_results(labels: LabelEncoder, outcome: Outcome, rows: int) -> list[dict[str, Any]]:
    """For each row of a request: the prediction made before learning it, or that it is a duplicate or pending."""
    results: list[dict[str, Any]] = [
        {"duplicate": True, "position": outcome.duplicates.get(row, 0)} for row in range(rows)
    ]
    first, result = outcome.position - len(outcome.rows) + 1, outcome.result
    if result is None:
        for index, row in enumerate(outcome.rows):
            results[row] = {"position": first + index}
            if not outcome.applied:
                results[row]["pending"] = True
        return results
    predictions = _predictions(labels, result)
    losses, skips = result.losses.tolist(), result.skipped.tolist()
    for index, row in enumerate(outcome.rows):
        results[row] = {
            "position": first + index,
            "prediction": predictions[index] if predictions else None,
            "loss": None if skips[index] else losses[index],
        }
        if skips[index]:
            results[row]["skipped"] = True
    return results


def _predictions(labels: LabelEncoder, result: Result) -> list[dict[str, Any]]:
    """What a client reads; empty if the learner had too much to tell."""
    if result.classes is not None:
        return labels.decode_classes(result.classes, result.predictions)
    return labels.decode(result.predictions) if result.predictions.shape[1] else []


def mean_loss(result: Result | None) -> float | None:
    """The mean loss of the rows that were learned; None if none was, or it is not known."""
    if result is None:
        return None
    # Lists: for the usual single observation NumPy's calls would cost more than all of this.
    losses, skips = result.losses.tolist(), result.skipped.tolist()
    finite = [loss for loss, skipped in zip(losses, skips, strict=True) if not skipped]
    return sum(finite) / len(finite) if finite else None
