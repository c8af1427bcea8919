"""Chains of moves: what befalls a run in an order that random moves seldom meet, at times drawn from the seed.

Each chain is aimed at a fence or an order in the code: something late meets what came after it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Plan = dict[str, Any]
Move = dict[str, Any]

QUICK = {"snapshot_seconds": 0.1, "publish_seconds": 0.005, "max_lag": 1000}
SHORT_LEASE = {**QUICK, "lease_seconds": 0.5}


class Weaver:
    """Makes the moves of one chain: on one model, at one web process, from a moment on."""

    def __init__(self, chance: Random, made: Plan, number: int, start: float) -> None:
        self.chance = chance
        self.model = made["models"][number % len(made["models"])]
        self.webs = [each for each in made["processes"] if each.startswith("web")]
        self.learners = [each for each in made["processes"] if each.startswith("learner")]
        self.trainers = [each for each in made["processes"] if each.startswith("trainer")]
        self.moves: list[Move] = []
        self._name = chr(ord("a") + number)
        self._start = start

    def between(self, low: float, high: float) -> float:
        """A number of seconds."""
        return round(self.chance.uniform(low, high), 4)

    def at(self, moment: float, do: str, /, **details: Any) -> None:
        """A move, so many seconds after the chain's start."""
        move = {"id": f"{self._name}{len(self.moves)}", "at": round(self._start + moment, 4), "do": do}
        self.moves.append(move | details)

    def ask(self, moment: float, do: str, /, **details: Any) -> None:
        """A client's move."""
        self.at(moment, do, web=self.chance.choice(self.webs), model=self.model, **details)

    def feed(self, seconds: float, rows: int = 1, way: str = "key") -> None:
        """Observations."""
        self.ask(seconds, "feed", rows=rows, way=way)

    def hold(
        self,
        seconds: float,
        who: str,
        what: str,
        how: str,
        length: float,
        times: int = 1,
        within: float = 2.0,
    ) -> None:
        """The next commands of a kind are late, or their answers."""
        self.at(seconds, "hold", who=who, what=what, how=how, seconds=length, times=times, within=within)

    def predict(self, first: float, last: float, times: int) -> None:
        """Predictions by everyone, now and then."""
        for web in self.webs:
            for _ in range(times):
                self.at(self.between(first, last), "predict", web=web, model=self.model, times=3)


# -- names -----------------------------------------------------------------------------------------------------


def late_deletion(w: Weaver) -> None:
    """A deletion arrives when the name is another model's."""
    w.hold(0, "web", "DELETE", "broken", w.between(0.8, 2.5))
    w.ask(0.01, "renew")
    w.feed(w.between(0.5, 0.9), 3)
    w.predict(0.6, 3.0, 2)


def late_creation(w: Weaver) -> None:
    """A creation arrives when the model has been deleted again."""
    w.ask(0, "delete")
    w.hold(0.3, "web", "CREATE", "broken", w.between(1.2, 2.5))
    w.ask(0.31, "create")
    w.ask(w.between(0.7, 1.1), "delete")
    if w.chance.random() < 0.5:
        w.ask(3.2, "create")


def late_writes_of_a_learner(w: Weaver) -> None:
    """What a learner wrote of a deleted model arrives when its successor has come further."""
    what = w.chance.choice(["SNAPSHOT", "SNAPSHOT", "CHECKPOINT", "BEAT"])
    w.hold(0, "learner", what, "broken", w.between(1.2, 3.0))
    w.feed(0.01, w.chance.choice([1, 3, 8]))
    w.ask(0.02, "checkpoint")
    w.ask(w.between(0.4, 0.7), "renew")
    for number in range(5):
        w.feed(0.9 + 0.1 * number, 6)


def late_writes_of_a_web_process(w: Weaver) -> None:
    """What was asked of a deleted model arrives at its successor."""
    what, do = w.chance.choice(
        [("APPEND", "feed"), ("APPEND", "feed"), ("COMMAND", "patch"), ("KEEP_ANSWER", "feed")]
    )
    w.hold(0, "web", what, "broken", w.between(0.6, 2.0))
    w.ask(0.01, do, way="key", patience=0.1, tries=1)
    w.ask(w.between(0.15, 0.4), "renew")
    w.feed(0.6, 2)


# -- repetitions -----------------------------------------------------------------------------------------------


def repeated_commands(w: Weaver) -> None:
    """The answer to a command is lost, and the client asks again, while others ask for other things."""
    what, do = w.chance.choice(
        [("COMMAND", "patch"), ("COMMAND", "upload"), ("APPEND", "feed"), ("JOB_START", "retrain")]
    )
    w.hold(0, "web", what, w.chance.choice(["lost", "broken", "late"]), w.between(0.3, 1.5))
    w.ask(0.01, do, way="key", patience=w.chance.choice([0.05, 10.0]))
    w.ask(w.between(0.02, 0.5), "patch", way=w.chance.choice(["plain", "key"]))
    w.feed(w.between(0.02, 0.5), 2, w.chance.choice(["plain", "key", "ids"]))


def crowded(w: Weaver) -> None:
    """Appends are under way while the learner stands still and there is no room."""
    for learner in w.learners:
        w.at(0, "pause", who=learner, seconds=w.between(0.3, 1.0))
    w.hold(0.01, "web", "APPEND", w.chance.choice(["broken", "late", "lost"]), w.between(0.2, 1.5), times=2)
    for number in range(6):
        w.ask(
            0.02 + 0.05 * number,
            "feed",
            rows=1,
            way=w.chance.choice(["plain", "key", "ids"]),
            patience=w.chance.choice([0.3, 10.0]),
        )


# -- jobs ------------------------------------------------------------------------------------------------------


def _retrain(w: Weaver, length: float) -> None:
    """A retraining whose promotion is on its way from about 0.1 s to `length`."""
    w.feed(-0.6, 40)
    w.hold(0, "trainer", "JOB_PROMOTE", "held", length, within=3.0)
    w.ask(0.01, "retrain", way="key", promote="always")


def cancelled_promotion(w: Weaver) -> None:
    """A job is cancelled while its promotion is on its way, and its trainer does not look."""
    _retrain(w, w.between(0.5, 0.9))
    for trainer in w.trainers:
        w.at(w.between(0.06, 0.15), "pause", who=trainer, seconds=w.between(0.8, 2.0))
    w.ask(w.between(0.16, 0.45), "cancel")


def promotion_behind_others(w: Weaver) -> None:
    """Weights are replaced while a promotion is on its way."""
    _retrain(w, w.between(0.4, 0.9))
    w.ask(w.between(0.1, 0.3), w.chance.choice(["upload", "rollback"]), way="key", wait=0.0)
    w.feed(w.between(0.1, 0.5))


def promotion_behind_a_trim(w: Weaver) -> None:
    """More comes than the log keeps while a promotion is on its way, and a snapshot from before it trims."""
    _retrain(w, w.between(0.4, 0.7))
    for number in range(3):
        w.ask(0.15 + 0.05 * number, "burst", rows=1, clients=12)
    w.hold(w.between(0.2, 0.5), "learner", "SNAPSHOT", "held", w.between(0.3, 0.9), times=2)
    if w.chance.random() < 0.5:
        w.at(w.between(0.9, 1.5), "kill", who=w.chance.choice(w.learners), seconds=0.3)


def upload_behind_a_rebuild(w: Weaver) -> None:
    """Weights of the network before a rebuild are appended behind its promotion."""
    w.feed(-0.6, 40)
    w.hold(0.1, "web", "COMMAND", "held", w.between(0.2, 0.9))
    w.hold(0.1, "trainer", "JOB_PROMOTE", "held", w.between(0.1, 0.5))
    w.ask(0.05, "rebuild", way="key")
    w.ask(w.between(0.06, 0.2), "upload", way="key", wait=w.chance.choice([0.0, 0.1, 0.3]))


# -- learners --------------------------------------------------------------------------------------------------


def learner_behind_its_back(w: Weaver) -> None:
    """A learner stands still past its lease while another leads and trims; it wakes, and its heart beats later."""
    length = w.between(1.0, 2.5)
    w.feed(-0.3, 4)
    who = w.chance.choice(w.learners)
    w.at(0, "pause", who=who, seconds=length)
    w.at(0, "stall", who=who, thread="heartbeat", seconds=length + w.between(0.3, 1.5))
    for number in range(10):
        w.feed(length * (0.6 + 0.4 * number / 10), 3)
    for number in range(8):
        w.feed(length + 0.002 * number, 1)
    if w.chance.random() < 0.5:  # who starts just now knows no term
        w.at(length - w.between(0.02, 0.3), "kill", who=w.chance.choice(w.webs), seconds=0.02)
    w.predict(length, length + 0.5, 6)


def reader_that_knows_no_term(w: Weaver) -> None:
    """A web process has started from a snapshot when a learner wakes that has lost the lead, and publishes."""
    length = w.between(2.6, 3.0)
    w.feed(-0.3, 4)
    who = w.chance.choice(w.learners)
    w.at(0, "pause", who=who, seconds=length)
    w.at(0, "stall", who=who, thread="heartbeat", seconds=length + 0.5)
    w.feed(0.01)  # its read of the log waits for this one
    for number in range(4):
        w.feed(0.1 + 0.4 * number, 2)
    for web in w.webs:
        w.at(w.between(1.7, 1.9), "kill", who=web, seconds=0.02)
    w.predict(length - 0.4, length + 0.4, 12)


def late_snapshot(w: Weaver) -> None:
    """A snapshot arrives when newer ones have been stored and the log behind them is gone."""
    w.hold(0, "learner", "SNAPSHOT", "broken", w.between(0.6, 2.5))
    for number in range(8):
        w.feed(0.01 + 0.12 * number, 4)
    if w.chance.random() < 0.5:
        w.at(w.between(1.0, 3.0), "kill", who=w.chance.choice(w.learners), seconds=0.1)


def replay_beside_a_learner(w: Weaver) -> None:
    """A web process that starts without a learner replays the log, and meanwhile a learner comes and goes on."""
    w.feed(-0.2, 3)
    for learner in w.learners:
        w.at(0, "kill", who=learner, seconds=w.between(3.2, 3.6))
    web = w.chance.choice(w.webs)
    w.feed(-0.01, 1)
    w.at(0.05, "kill", who=web, seconds=0.05)
    w.hold(3.0, web, w.chance.choice(["XRANGE", "HMGET"]), "late", w.between(0.4, 0.9), times=2)
    for number in range(12):
        w.feed(3.3 + 0.1 * number, 1)
    w.predict(3.3, 5.5, 6)


# -- an older Redis --------------------------------------------------------------------------------------------


def snapshot_of_what_was_lost(w: Weaver) -> None:
    """A state is kept when Redis has come back older and has other observations at its place."""
    w.at(0, "copy")
    w.feed(0.01, 2)
    for learner in w.learners:
        w.at(0.02, "stall", who=learner, thread="saver", seconds=w.between(0.8, 1.6))
    for number in range(4):
        w.feed(0.03 + 0.05 * number, w.chance.choice([1, 2]))
    w.at(w.between(0.3, 0.5), "back", seconds=w.between(0.001, 0.1))
    for number in range(8):
        w.feed(0.6 + 0.05 * number, w.chance.choice([1, 2]))


def older_and_fed_beyond(w: Weaver) -> None:
    """Redis comes back older and is fed beyond what was seen while some processes stand still."""
    w.at(0, "copy")
    w.feed(0.01, 3)
    who = w.chance.choice([*w.learners, *w.webs])
    for number in range(3):
        w.feed(0.05 + 0.05 * number, 1, "plain")
    w.at(0.38, "pause", who=who, seconds=w.between(0.3, 2.0))
    w.at(0.4, "back", seconds=0.001)
    for number in range(8):
        w.feed(0.42 + 0.04 * number, 2, "plain")
    w.predict(0.4, 3.0, 2)


@dataclass(frozen=True)
class Chain:
    """A chain, and what a run needs for it."""

    weave: Callable[[Weaver], None]
    settings: dict[str, Any]
    more: tuple[dict[str, Any], ...] = ({}, {"keep": 10})  # limits of the models; one of these
    trainers: bool = False
    learners: int = 1
    seconds: float = 3.5  # that it takes, about


_SMALL = ({"keep": 10}, {"keep_bytes": 500})
_JOBS: tuple[dict[str, Any], ...] = ({}, {"keep_bytes": 2000}, {"keep_bytes": 1000})
CHAINS: dict[str, Chain] = {
    each.weave.__name__: each
    for each in (
        Chain(late_deletion, QUICK),
        Chain(late_creation, QUICK),
        Chain(late_writes_of_a_learner, QUICK, _SMALL),
        Chain(late_writes_of_a_web_process, QUICK),
        Chain(repeated_commands, QUICK),
        Chain(crowded, QUICK | {"max_lag": 4}),
        Chain(cancelled_promotion, QUICK, _JOBS, trainers=True),
        Chain(promotion_behind_others, QUICK, _JOBS, trainers=True),
        Chain(promotion_behind_a_trim, QUICK, ({"keep_bytes": 500}, {"keep_bytes": 1000}), trainers=True),
        Chain(upload_behind_a_rebuild, QUICK, _JOBS, trainers=True),
        Chain(learner_behind_its_back, SHORT_LEASE, _SMALL, learners=2),
        Chain(reader_that_knows_no_term, SHORT_LEASE, ({},), learners=2, seconds=4.5),
        Chain(late_snapshot, QUICK, _SMALL),
        Chain(replay_beside_a_learner, SHORT_LEASE | {"snapshot_seconds": 3.0}, seconds=6.0),
        Chain(snapshot_of_what_was_lost, QUICK),
        Chain(older_and_fed_beyond, QUICK),
    )
}


def add_chain(made: Plan, name: str, number: int) -> None:
    """Add a chain to a plan, with what it needs."""
    chain, chance = CHAINS[name], Random(f"chain/{made['seed']}/{name}/{number}")
    kinds = [each.partition("-")[0] for each in made["processes"]]
    if chain.trainers and "trainer" not in kinds:
        made["processes"].append("trainer-1")
    for place in range(kinds.count("learner") + 1, chain.learners + 1):
        made["processes"].append(f"learner-{place}")
    weaver = Weaver(chance, made, number, 1.0 + chain.seconds * number + chance.random())
    chain.weave(weaver)
    made["moves"] += weaver.moves
    if not number:
        made["settings"] = made["settings"] | chain.settings
        made["more"] = chance.choice(chain.more)
