"""Cutting a plan that fails down to its fewest moves."""

from collections.abc import Callable
from typing import Any

Plan = dict[str, Any]
RUNS = 400  # at most


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The fewest moves, processes and models of a plan that still fail. Halves first, then single moves."""
    left = [RUNS]

    def still(tried: Plan) -> bool:
        left[0] -= 1
        return left[0] > 0 and fails(tried)

    plan = _fewer(plan, still)
    for field in ("processes", "models"):
        plan = _without(plan, field, still)
    plan = _simpler(plan, still)
    return _fewer(plan, still)


def _fewer(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    size = max(1, len(plan["moves"]) // 2)
    while True:
        moves = plan["moves"]
        for start in range(0, len(moves), size):
            tried = plan | {"moves": moves[:start] + moves[start + size :]}
            if fails(tried):
                plan = tried
                break
        else:
            if size == 1:
                return plan
            size = max(1, size // 2)


def _without(plan: Plan, field: str, fails: Callable[[Plan], bool]) -> Plan:
    for name in list(plan[field])[1:]:
        kind = name.partition("-")[0]
        alone = field == "processes" and sum(other.startswith(kind) for other in plan[field]) == 1
        if alone or any(name in str(move) for move in plan["moves"]):
            continue
        tried = plan | {field: [other for other in plan[field] if other != name]}
        if fails(tried):
            plan = tried
    return plan


def _simpler(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Without the frills of moves: impatience, repetitions, several rows."""
    for number, move in enumerate(plan["moves"]):
        for field in ("patience", "wander", "repeat", "rows", "times", "cut", "least", "wait", "way"):
            if field not in move:
                continue
            plainer = {name: value for name, value in move.items() if name != field}
            if field == "rows" and move["do"] == "stream":
                plainer["rows"] = 1
            moves = [plainer if place == number else other for place, other in enumerate(plan["moves"])]
            if plainer != move and fails(plan | {"moves": moves}):
                plan, move = plan | {"moves": moves}, plainer
    return plan
