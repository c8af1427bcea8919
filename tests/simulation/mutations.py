"""Faults in the code that simulation has to find: each is applied to a copy, and plans run until one fails.

First come the plans that were kept, then new seeds. A seed counts if it passes without the fault.

mutations.py [--minutes 10] [WORD ...]      those whose names hold a word; default: all
"""

import argparse
import importlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from simulate import simulation

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOUND = sorted((HERE / "found").glob("*.json"))
# What takes long to load and knows nothing of the code under test: it is loaded once, before the forks.
COMMON = ("flask", "redis", "structlog", "pydantic_settings", "prometheus_client", "croniter", "model")
LUA = "service/store/lua"
LEADS = "if not leads(meta, lease, generation, term) then return 'lost' end"


class Mutation(NamedTuple):
    """One fault: `search` stands once in `file`; blanks and line breaks in it match any others."""

    name: str
    file: str
    search: str
    replacement: str

    def apply(self, copy: Path) -> None:
        """Change the file in a copy of the code. Raises ValueError if `search` does not stand in it once."""
        pattern = r"\s+".join(map(re.escape, self.search.split()))
        text, count = re.subn(pattern, lambda _: self.replacement, (ROOT / self.file).read_text("utf-8"))
        if count != 1:
            raise ValueError(f"{self.name}: what it searches for stands {count} times in {self.file}")
        (copy / self.file).write_text(text, "utf-8")


MUTATIONS = [
    Mutation("snapshot without the term's check", f"{LUA}/snapshot.lua", LEADS, ""),
    Mutation(
        "older snapshot over a newer one",
        f"{LUA}/snapshot.lua",
        "and is_before(log_id, stored[3]) then return 'stale' end",
        "and false then return 'stale' end",
    ),
    Mutation(
        "snapshot of another log",
        f"{LUA}/snapshot.lua",
        "if not is_of_this_log(meta, log, timeline, log_id, token) then return 'stale' end",
        "",
    ),
    Mutation(
        "trim ignores a promotion that is to come",
        f"{LUA}/snapshot.lua",
        "trim = math.min(trim, tonumber(from))",
        "",
    ),
    Mutation(
        "trim past the snapshot",
        f"{LUA}/snapshot.lua",
        "string.format('%.0f', trim)",
        "string.format('%.0f', trim + 20)",
    ),
    Mutation(
        "append without the key's check",
        f"{LUA}/append.lua",
        "if known and known ~=",
        "if false and known ~=",
    ),
    Mutation(
        "append without the ids' check",
        f"{LUA}/append.lua",
        "if #duplicates > 1 then return duplicates end",
        "",
    ),
    Mutation(
        "append without the generation's check",
        f"{LUA}/append.lua",
        "if model[1] ~= generation then return {'gone'} end",
        "",
    ),
    Mutation(
        "append to a log that came back older",
        f"{LUA}/append.lua",
        "(timeline == known_timeline and before < known_step)",
        "false",
    ),
    Mutation(
        "command without the key's check",
        f"{LUA}/command.lua",
        "if known then return {'seen', known} end",
        "",
    ),
    Mutation(
        "late deletion of another generation",
        f"{LUA}/delete.lua",
        "if known and known ~= generation then return 0 end",
        "",
    ),
    Mutation(
        "late creation of a deleted model",
        f"{LUA}/create.lua",
        "~= seen_deletions then return {'again'} end",
        "~= seen_deletions and false then return {'again'} end",
    ),
    Mutation(
        "a created model is not listed",
        f"{LUA}/create.lua",
        "redis.call('HSET', models, name, generation)",
        "",
    ),
    Mutation(
        "cancelled job promoted",
        f"{LUA}/job_promote.lua",
        "if redis.call('HGET', job, 'cancel') then",
        "if false then",
    ),
    Mutation(
        "promotion over weights that were replaced",
        f"{LUA}/job_promote.lua",
        "if is_before(read, field) then return {'behind'} end",
        "",
    ),
    Mutation(
        "results known by their token alone",
        "service/web/waiting.py",
        "self._receivers.pop((result.generation, result.token), [])",
        "next((self._receivers.pop(key) for key in list(self._receivers) if key[1] == result.token), [])",
    ),
    Mutation(
        "web process takes an older state",
        "service/web/replicas/replica.py",
        "version.order <= now.order or",
        "version.order == now.order or",
    ),
    Mutation(
        "learner goes on with an older Redis",
        "service/learner/learner.py",
        "elif led.token is not None and token_at(self.link, led.name, led.log_id) != led.token:",
        "elif False:",
    ),
    Mutation(
        "a refusal is final though a try is under way",
        "service/web/feedback/submit.py",
        "request.is_unknown = request.is_unknown or error.sent",
        "request.is_unknown = False",
    ),
    Mutation(
        "a command that cannot be obeyed stops the learner",
        "service/learner/led_model.py",
        "except CommandRefused as error:",
        "except ZeroDivisionError as error:",
    ),
    Mutation(
        "learner misses a gap in the log",
        "service/learner/led_model.py",
        "if not self.learned and not follows(self.log_id, entry):",
        "if False:",
    ),
]


def main() -> int:
    """Try the faults that are meant; the number of those that are not found."""
    parser = argparse.ArgumentParser(description="See which faults simulation finds.")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--minutes", type=float, default=10.0, help="at most, for each")
    parser.add_argument("--from", dest="first", type=int, default=1, help="first seed")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.path.insert(0, str(ROOT))
    for name in COMMON:
        importlib.import_module(name)
    words = arguments.words
    chosen = [fault for fault in MUTATIONS if not words or any(word in fault.name for word in words)]
    missed = [fault.name for fault in chosen if not is_found(fault, arguments.minutes, arguments.first)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} found{''.join(f'; not: {name}' for name in missed)}")
    return len(missed)


def is_found(fault: Mutation, minutes: float, first: int) -> bool:
    """Whether a plan fails with the fault in a copy of the code, and not without it."""
    with tempfile.TemporaryDirectory(prefix="freshet-mutation-") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "service", copy / "service", ignore=shutil.ignore_patterns("__pycache__"))
        fault.apply(copy)
        started, kept = time.monotonic(), [path.stem for path in FOUND]
        while time.monotonic() - started < 60 * minutes:
            broken = in_child(copy, kept, first, started + 60 * minutes)
            if broken is None:
                break
            seed, what = broken
            if seed in kept or in_child(ROOT, [], int(seed), 0.0) is None:
                print(
                    f"found in {time.monotonic() - started:4.0f} s  {fault.name}: {seed}: {what}", flush=True
                )
                return True
            print(f"seed {seed} fails without the fault, too: {what}", flush=True)
            kept, first = [], int(seed) + 1
    print(f"MISSED {fault.name}", flush=True)
    return False


def in_child(code: Path, kept: list[str], first: int, until: float) -> tuple[str, str] | None:
    """The first plan that fails with some code, and what it breaks: the kept ones, then seeds; None if none does."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(code, kept, first, until, there))
    process.start()
    there.close()
    try:
        found: tuple[str, str] | None = here.recv()
    except EOFError:
        found = None
    process.join()
    return found


def _run(code: Path, kept: list[str], first: int, until: float, told: Connection) -> None:
    with simulation(code) as server:
        from run import Run

        for name, plan in _plans(kept, first, until):
            outcome = Run(server, plan).go()
            if outcome.broken:
                told.send((name, str(outcome.broken[0]).splitlines()[0][:160]))
                return
    told.send(None)


def _plans(kept: list[str], first: int, until: float) -> Iterator[tuple[str, dict[str, Any]]]:
    from plans import plan

    for name in kept:
        yield name, json.loads((HERE / "found" / f"{name}.json").read_text())
    yield str(first), plan(first)
    while time.monotonic() < until:
        first += 1
        yield str(first), plan(first)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
