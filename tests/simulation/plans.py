"""A plan: the settings of a run and its moves, drawn from a seed. It can be kept, cut down and run again."""

from random import Random
from typing import Any

from chains import CHAINS, add_chain
from ledger import KINDS

Plan = dict[str, Any]

SECONDS = 12.0  # in which moves are made
CHAINED = 0.6  # share of the plans that have chains
CHAINS_AT_ONCE = 3
MOVES_BESIDE_CHAINS = 8

# Commands that are worth holding back, by who sends them.
WEB = [
    *(
        "APPEND",
        "APPEND",
        "COMMAND",
        "CREATE",
        "DELETE",
        "HDEL",
        "HSET",
        "MARK_DELETED",
        "KEEP",
        "KEEP_ANSWER",
    ),
    *("HGETALL", "HGET", "HMGET", "RENEW", "REPUBLISH", "JOB_START", "JOB_CANCEL", "message"),
    *("SCHEDULE", "START"),
]
LEARNER = [
    *(
        "SNAPSHOT",
        "SNAPSHOT",
        "ACQUIRE",
        "BEAT",
        "RELEASE",
        "NEW_TIMELINE",
        "PUBLISH",
        "XREAD",
        "XRANGE",
        "HMGET",
    ),
    *("HGETALL", "CHECKPOINT", "REBUILT", "REFUSE"),
]
TRAINER = [
    *(
        "JOB_PROMOTE",
        "JOB_CLAIM",
        "JOB_BEAT",
        "JOB_FINISH",
        "JOB_GIVE_BACK",
        "XRANGE",
        "SCHEDULE_FIRE",
        "HGET",
    ),
    *("PROMOTE", "PULSE", "BEGIN", "FINISH"),
]

FEATURES = {
    # what a run may have more of: weights of moves
    "plain": {"feed": 6, "burst": 2, "predict": 3, "read_back": 2, "look": 1},
    "keys": {"twins": 3, "reuse": 1, "feed": 3, "stream": 2},
    "late": {"late": 3},
    "commands": {"patch": 3, "checkpoint": 1, "rollback": 1, "upload": 2},
    "schedules": {"schedule": 3},
    "names": {"delete": 1, "create": 2, "renew": 3},
    "retraining": {"retrain": 3, "rebuild": 2, "cancel": 1, "upload": 2, "feed": 3},
    "ways": {"hold": 9, "cut": 3},
    "pauses": {"pause": 4, "stall": 2},
    "deaths": {"kill": 5},
    "older": {"copy": 3, "back": 2},
    "empty": {"empty": 1},
    "redis": {"restart": 2, "freeze": 2, "full": 1},
    "clocks": {"jump": 3},
}
LIKELY: dict[str, dict[str, list[str]]] = {
    # commands that matter where a run has these moves
    "names": {
        "web": ["CREATE", "DELETE", "HDEL", "HSET", "MARK_DELETED"],
        "learner": ["HGETALL", "HMGET", "ACQUIRE"],
    },
    "commands": {"web": ["COMMAND"], "learner": ["CHECKPOINT", "REBUILT", "SNAPSHOT"]},
    "schedules": {"web": ["SCHEDULE_SET", "SCHEDULE", "COMMAND"]},
    "retraining": {
        "web": ["JOB_START", "START"],
        "learner": ["SNAPSHOT", "REBUILT"],
        "trainer": ["JOB_PROMOTE", "PROMOTE"],
    },
    "keys": {"web": ["KEEP", "KEEP_ANSWER", "APPEND"]},
    "older": {"web": ["RENEW"], "learner": ["NEW_TIMELINE", "BEAT", "SNAPSHOT"]},
    "deaths": {"learner": ["ACQUIRE", "BEAT", "XRANGE"]},
}
FAULTS = {
    "hold",
    "cut",
    "pause",
    "stall",
    "kill",
    "copy",
    "back",
    "empty",
    "restart",
    "freeze",
    "full",
    "jump",
}


def plan(seed: int | str) -> Plan:
    """The plan of a seed; `17:names,late_deletion` is that of seed 17 with these features and chains."""
    made = _moves_at_random(seed)
    chance = Random(f"chains/{seed}")
    _, _, wanted = str(seed).partition(":")
    chains = [name for name in wanted.split(",") if name in CHAINS]
    if not wanted and chance.random() < CHAINED:
        chains = chance.choices([*CHAINS], k=chance.choice([1, 1, 2]))
    if chains:
        made["moves"] = chance.sample(made["moves"], min(len(made["moves"]), MOVES_BESIDE_CHAINS))
        for number in range(CHAINS_AT_ONCE):
            add_chain(made, chains[number % len(chains)], number)
    made["moves"].sort(key=lambda move: (move["at"], move["id"]))
    return made


def _moves_at_random(seed: int | str) -> Plan:
    chance = Random(f"plan/{seed}")
    chosen = ["plain", *(name for name in FEATURES if name != "plain" and chance.random() < 0.4)]
    _, _, wanted = str(seed).partition(":")
    if wanted:
        chosen = ["plain", *(name for name in wanted.split(",") if name in FEATURES)]
    elif not {"ways", "pauses", "deaths", "older", "redis"}.intersection(chosen):
        chosen.append(chance.choice(["ways", "pauses", "deaths", "older", "redis"]))
    weights: dict[str, int] = {}
    for name in chosen:
        for move, weight in FEATURES[name].items():
            weights[move] = weights.get(move, 0) + weight
    models = [f"{kind}-{number}" for number in (1, 2) for kind in KINDS]
    models = chance.sample(models, chance.choice([1, 2, 2, 3]))
    webs = [f"web-{number}" for number in range(1, chance.choice([1, 1, 2]) + 1)]
    learners = [f"learner-{number}" for number in range(1, chance.choice([1, 2]) + 1)]
    trainers = ["trainer-1", "trainer-2"][: chance.choice([1, 2])] if "retraining" in chosen else []
    made: Plan = {
        "seed": str(seed),
        "settings": _settings(chance),
        "more": _limits(chance, "retraining" in chosen),
        "one_machine": chance.random() < 0.5,
        "models": models,
        "processes": [*webs, *learners, *trainers],
        "likely": {
            who: [what for feature in chosen for what in LIKELY.get(feature, {}).get(who, ())]
            for who in ("web", "learner", "trainer")
        },
        "moves": [],
    }
    if "retraining" in chosen:
        made["moves"] += [_bulk(model, webs) for model in models]
    moves, shares = zip(*sorted(weights.items()), strict=True)
    for number in range(chance.choice([15, 30, 60])):
        do = chance.choices(moves, shares)[0]
        move = {"id": str(number), "at": round(chance.uniform(0, SECONDS), 4), "do": do}
        made["moves"].append(move | _details(do, chance, made))
    return made


def _bulk(model: str, webs: list[str]) -> dict[str, Any]:
    """Enough observations for a retraining."""
    return {
        "id": f"bulk-{model}",
        "at": 0.0,
        "do": "feed",
        "web": webs[0],
        "model": model,
        "rows": 40,
        "way": "key",
    }


def _settings(chance: Random) -> dict[str, Any]:
    return {
        "snapshot_seconds": chance.choice([0.1, 0.5, 1.0, 3.0]),
        "publish_seconds": chance.choice([0.005, 0.02, 0.1]),
        "max_lag": chance.choice([4, 50, 1000]),
        "dedup_window": chance.choice([100, 100_000]),
        "checkpoints": chance.choice([2, 4]),
        "checkpoint_observations": chance.choice([0, 20]),
        "lease_seconds": chance.choice([0.5, 2.0]),
        "web_threads": chance.choice([8, 32]),
        "redis_timeout": 1.0,
        "apply_timeout": 2.0,
    }


def _limits(chance: Random, retraining: bool) -> dict[str, Any]:
    """How much the log keeps."""
    return chance.choice(
        [{}, {"keep": 20}, {"keep_bytes": 2000}, {"keep": 200}] if retraining else [{}, {"keep": 10}]
    )


def _details(do: str, chance: Random, made: Plan) -> dict[str, Any]:
    webs = [name for name in made["processes"] if name.startswith("web")]
    if do not in FAULTS:
        return _details_of_client(do, chance, made, webs)
    if do == "hold":
        return _details_of_hold(chance, made)
    children = [f"{name}.child" for name in made["processes"] if name.startswith("trainer")]
    who = chance.choice([*made["processes"], *(children if do in ("cut", "pause", "stall") else [])])
    match do:
        case "cut":
            return {"who": who, "all": chance.random() < 0.5, "drop": chance.random() < 0.5}
        case "pause":
            longest = 20.0 if who.startswith("trainer") else 6.0
            return {"who": who, "seconds": chance.choice([0.3, 1.5, 3.0, longest])}
        case "stall":
            threads = {
                "web": ["listener", "poller"],
                "learner": ["main", "heartbeat"],
                "trainer": ["main", "heartbeat"],
            }
            thread = chance.choice(threads[who.partition("-")[0]])
            return {"who": who, "thread": thread, "seconds": chance.choice([0.3, 1.5, 3.0])}
        case "kill":
            return {"who": who, "seconds": chance.choice([0.05, 0.3, 2.0])}
        case "jump":
            jumps = [-3600.0, -5.0, 5.0, 3600.0, 100_000.0]
            return {"who": chance.choice([who, "redis"]), "seconds": chance.choice(jumps)}
        case "freeze":
            return {"seconds": chance.choice([0.2, 0.8, 1.5, 3.0])}
        case "full":
            return {"seconds": chance.choice([0.5, 2.0])}
        case "back" | "empty" | "restart":
            return {"seconds": chance.choice([0.001, 0.05, 1.0])}
    return {}


def _details_of_hold(chance: Random, made: Plan) -> dict[str, Any]:
    kinds = {"web": WEB, "learner": LEARNER, "trainer": TRAINER}
    present = sorted({name.partition("-")[0] for name in made["processes"]})
    who = chance.choice(present)
    how = chance.choices(["held", "late", "lost", "broken"], [4, 1, 2, 4])[0]
    return {
        "who": who,
        "what": chance.choice(
            kinds[who] if chance.random() < 0.5 else [*made["likely"][who], *kinds[who][:2]]
        ),
        "how": how,
        "seconds": round(chance.choice([0.02, 0.3, 1.2, 2.5, 5.0]) * chance.uniform(0.7, 1.3), 3),
        "times": chance.choice([1, 1, 1, 3]),
        "within": 4.0,
    }


def _details_of_client(do: str, chance: Random, made: Plan, webs: list[str]) -> dict[str, Any]:
    details: dict[str, Any] = {"web": chance.choice(webs), "model": chance.choice(made["models"])}
    if chance.random() < 0.2:
        details["patience"] = chance.choice([0.05, 0.5, 1.5])
    if chance.random() < 0.2:
        details["wander"] = True
    match do:
        case "feed" | "read_back":
            details |= {
                "rows": chance.choice([1, 1, 2, 5]),
                "way": chance.choice(["plain", "plain", "key", "ids"]),
            }
            details["repeat"] = chance.random() < 0.2
        case "burst":
            details |= {"rows": 1, "clients": chance.choice([2, 5, 12])}
        case "twins":
            details["models"] = chance.sample(made["models"], min(2, len(made["models"])))
            details["patience"] = 10.0
        case "stream":
            details |= {"rows": chance.choice([2, 8, 30]), "way": chance.choice(["plain", "key"])}
            details["cut"] = chance.choice([None, None, 1, 5])
        case "predict":
            details |= {"least": chance.random() < 0.5, "times": chance.choice([1, 5])}
        case "look":
            if chance.random() < 0.3:
                details["model"] = None
        case "patch" | "schedule" | "checkpoint" | "rollback" | "upload" | "retrain" | "rebuild":
            details["way"] = chance.choice(["plain", "key"])
            details["repeat"] = chance.random() < 0.5
            details["wait"] = chance.choice([0.0, 0.5])
            if do == "retrain":
                details["then"] = Random(repr(details)).choice([None, None, "cancel", "upload"])
        case "create" | "delete":
            details["once"] = chance.random() < 0.3
    return details
