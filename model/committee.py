"""What a committee says of itself: its members' weights and losses, its leader, and the drifts that it met."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Places:
    """Where the mixture's state, as a list, has what is told of the networks."""

    networks: int
    columns: int
    has_second: bool

    @classmethod
    def of(cls, spec: ModelSpec) -> "Places":
        kind = mixing.kind_of(spec)
        return cls(spec.networks, mixing.columns_of(spec), kind in (mixing.PROBABILITIES, mixing.VALUES))

    @property
    def size(self) -> int:
        """The part of the state that is looked at; the learned mixture's biases come after it."""
        return mixing.SHARES + self.networks * (2 + self.columns)

    def losses(self, state: list[float]) -> list[float]:
        """The networks' fading losses."""
        return state[mixing.SHARES + self.networks : mixing.SHARES + 2 * self.networks]

    def weights(self, state: list[float]) -> list[float]:
        """How much each network counts in the mixture: its shares of the two, as far as they are not negative."""
        first = state[mixing.SHARES : mixing.SHARES + self.networks]
        if not self.has_second:
            return first
        learned, columns = state[mixing.SHARES + 2 * self.networks :], self.columns
        second = [max(sum(learned[n * columns : (n + 1) * columns]), 0.0) for n in range(self.networks)]
        one, two = state[mixing.FIRST_SHARE], state[mixing.SECOND_SHARE] / max(sum(second), 1e-12)
        return [one * share + two * weight for share, weight in zip(first, second, strict=True)]


class Committee:
    """A spec's committee, which reads the state of its members from the arrays of a model. Made once, asked often."""

    def __init__(self, spec: ModelSpec) -> None:
        self._members = spec.members
        self._twins, self._owners = twins_of(spec), owners_of(spec)
        self._mixing = Places.of(spec)

    @property
    def _is_one(self) -> bool:
        return len(self._owners) == 1

    def members(self, arrays: Arrays) -> list[dict[str, Any]]:
        """Each member's weight in the mixture and fading loss, its twin's included. Empty for a single network.

        The loss is the log loss; of a regression the mean absolute error in standard deviations of the targets; of
        margins the share of mistakes.
        """
        if self._is_one:
            return []
        mixture = arrays["mixture"][: self._mixing.size].tolist()
        weights, losses = self._mixing.weights(mixture), self._mixing.losses(mixture)
        rates, counters = arrays["live"][:, LIVE_LEARNING_RATE].tolist(), arrays["counters"].tolist()
        return [
            {
                "member": number + 1,
                "optimizer": in_words(self._members[number], rates[number]),
                "weight": weights[number] + (weights[twin] if twin >= 0 else 0.0),
                "loss": losses[number],
                "average_loss": losses[twin] if twin >= 0 else None,
                "restarts": counters[number][RESTARTS],
                "restarted": counters[number][RESTARTED] or None,
            }
            for number, twin in enumerate(self._twins)
        ]

    def leading(self, arrays: Arrays) -> int:
        """The place of the member that leads, itself or by its twin."""
        return 0 if self._is_one else self._owners[int(arrays["mixture"][mixing.LEADER])]

    def leader(self, arrays: Arrays) -> dict[str, Any] | None:
        """Which member has the least loss, since when, and that in words; None for a single network."""
        if self._is_one:
            return None
        network, since = int(arrays["mixture"][mixing.LEADER]), int(arrays["mixture"][mixing.SINCE])
        number = self._owners[network]
        words = in_words(self._members[number], float(arrays["live"][number, LIVE_LEARNING_RATE]))
        averaged = ", by its averaged weights," if network >= len(self._members) else ","
        return {
            "member": number + 1,
            "since": since,
            "detail": f"member {number + 1}, {words}{averaged} leads since step {since:,}",
        }

    def standing(self, arrays: Arrays) -> dict[str, Any]:
        """What scores tell of a committee beside the scores."""
        leader = self.leader(arrays)
        return {
            "members": self.members(arrays),
            "leader": leader and leader["detail"],
            "events": event_count(arrays),
        }


def drift_report(spec: ModelSpec, arrays: Arrays) -> dict[str, Any]:
    """The events that are kept, newest first, and the number of all so far."""
    return {
        "detect": spec.drift.detect,
        "action": spec.drift.action,
        "count": event_count(arrays),
        "events": events_after(spec, arrays, 0)[::-1],
    }


def event_count(arrays: Arrays) -> int:
    """Drifts and restarts so far."""
    return int(arrays["counters"][0, EVENTS])


def events_after(spec: ModelSpec, arrays: Arrays, number: int) -> list[dict[str, Any]]:
    """The events after that of a number, as far as they are kept, oldest first."""
    events = drift.events_of(arrays["drift.events"], event_count(arrays))
    return [_event_report(spec, event) for event in events if event.number > number]


def _event_report(spec: ModelSpec, event: drift.Event) -> dict[str, Any]:
    return {
        "number": event.number,
        "step": event.step,
        "kind": event.kind,
        "subject": _subject(spec, event),
        "before": event.before,
        "after": event.after,
        "done": drift.DONE[event.action],
        "retrain": event.action == drift.RETRAIN,
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
