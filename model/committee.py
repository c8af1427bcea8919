"""What a committee says of itself: its members' weights and losses, its leader, and the drifts that it met."""

from typing import Any

from model import drift, mixing
from model.optimizer_spec import OptimizerSpec
from model.program import EVENTS, RESTARTED, RESTARTS, owners_of, twins_of
from model.spec import ModelSpec
from model.state import LIVE_LEARNING_RATE, Arrays

_NAMES = {"sgd": "SGD", "rmsprop": "RMSProp", "adam": "Adam", "adamw": "AdamW", "adagrad": "Adagrad"}


def in_words(member: OptimizerSpec, learning_rate: float) -> str:
    """Such as "Adam 0.01 with layer norm and rehearsal"."""
    extras = [
        words
        for words, given in (("layer norm", member.layer_norm), ("rehearsal", member.rehearse is not None))
        if given
    ]
    return " ".join(
        [_NAMES[member.name], f"{learning_rate:g}", *(["with " + " and ".join(extras)] if extras else [])]
    )


def members_report(spec: ModelSpec, arrays: Arrays) -> list[dict[str, Any]]:
    """Each member's weight in the mixture and fading loss, its twin's included. Empty for a single network.

    The loss is the log loss; of a regression the mean absolute error in standard deviations of the targets; of margins
    the share of mistakes.
    """
    if spec.networks == 1:
        return []
    weights = mixing.weights_of(arrays["mixture"], spec)
    losses = arrays["mixture"][mixing.SHARES + spec.networks : mixing.SHARES + 2 * spec.networks]
    reports = []
    for number, twin in enumerate(twins_of(spec)):
        networks = [number] if twin < 0 else [number, twin]
        counters = arrays["counters"][number]
        reports.append(
            {
                "member": number + 1,
                "optimizer": in_words(
                    spec.members[number], float(arrays["live"][number, LIVE_LEARNING_RATE])
                ),
                "weight": float(weights[networks].sum()),
                "loss": float(losses[number]),
                "average_loss": None if twin < 0 else float(losses[twin]),
                "restarts": int(counters[RESTARTS]),
                "restarted": int(counters[RESTARTED]) or None,
            }
        )
    return reports


def leading_member(spec: ModelSpec, arrays: Arrays) -> int:
    """The place of the member that leads, itself or by its twin."""
    return owners_of(spec)[int(arrays["mixture"][mixing.LEADER])] if spec.networks > 1 else 0


def leader_report(spec: ModelSpec, arrays: Arrays) -> dict[str, Any] | None:
    """Which member has the least loss, since when, and that in words; None for a single network."""
    if spec.networks == 1:
        return None
    network, since = int(arrays["mixture"][mixing.LEADER]), int(arrays["mixture"][mixing.SINCE])
    number = leading_member(spec, arrays)
    words = in_words(spec.members[number], float(arrays["live"][number, LIVE_LEARNING_RATE]))
    averaged = ", by its averaged weights," if network >= len(spec.members) else ","
    return {
        "member": number + 1,
        "since": since,
        "detail": f"member {number + 1}, {words}{averaged} leads since step {since:,}",
    }


def drift_report(spec: ModelSpec, arrays: Arrays) -> dict[str, Any]:
    """The events that are kept, newest first, and the number of all so far."""
    count = int(arrays["counters"][0, EVENTS])
    events = drift.events_of(arrays["drift.events"], count)
    return {
        "detect": spec.drift.detect,
        "action": spec.drift.action,
        "count": count,
        "events": [_event_report(spec, event) for event in reversed(events)],
    }


def _event_report(spec: ModelSpec, event: drift.Event) -> dict[str, Any]:
    return {
        "number": event.number,
        "step": event.step,
        "kind": event.kind,
        "subject": _subject(spec, event),
        "before": event.before,
        "after": event.after,
        "done": drift.DONE[event.action],
        "detail": _detail(spec, event),
    }


def _subject(spec: ModelSpec, event: drift.Event) -> str:
    if event.kind == "inputs":
        return drift.watched(spec)[event.subject][1]
    return f"member {event.subject + 1}" if event.kind == "restart" else "loss"


def _detail(spec: ModelSpec, event: drift.Event) -> str:
    change = f"from {event.before:.3g} to {event.after:.3g}"
    if event.kind == "inputs":
        return f"the mean of {_subject(spec, event)}, scaled, went {change}"
    if event.kind == "restart":
        return (
            f"{_subject(spec, event)} diverged, with a loss of {event.before:.3g}: it started anew as a copy of one "
            f"with {event.after:.3g}"
        )
    pace = "slowly" if event.kind == "gradual" else "at once"
    return f"the loss rose {pace}, {change}: {drift.DONE[event.action]}"
