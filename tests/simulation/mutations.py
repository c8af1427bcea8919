"""Faults in the code that simulation has to find: each is applied to a copy, and plans run until one fails.

First come the plans that were kept, then new seeds. A seed counts if it passes without the fault.

mutations.py [--minutes 10] [WORD ...]      those whose names hold a word; default: all that are in SIMULATED
"""

import argparse
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from simulate import simulation

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOUND = sorted((HERE / "found").glob("*.json"))
# What takes long to load and knows nothing of the code under test: it is loaded once, before the forks.
COMMON = ("flask", "redis", "structlog", "pydantic_settings", "prometheus_client", "croniter", "model")


class Ended(NamedTuple):
    """How a child ended: the plan that failed and what it broke, if one did, and what the runs took."""

    seed: str = ""
    what: str = ""
    runs: int = 0
    seconds: float = 0.0  # of processor time


def main() -> int:
    """Try the faults that are meant; the number of those that are not found."""
    parser = argparse.ArgumentParser(description="See which faults simulation finds.")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--minutes", type=float, default=10.0, help="at most, for each")
    parser.add_argument("--from", dest="first", type=int, default=1, help="first seed")
    parser.add_argument("--features", default="", help="of all plans; default: drawn by the seed")
    parser.add_argument("--no-kept", action="store_true", help="new seeds alone")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.path.insert(0, str(ROOT))
    for name in COMMON:
        importlib.import_module(name)
    from tests.mutations.table import MUTATIONS, SIMULATED

    words = arguments.words
    chosen = [fault for fault in MUTATIONS if fault.name in SIMULATED or words]
    chosen = [fault for fault in chosen if not words or any(word in fault.name for word in words)]
    missed = [fault.name for fault in chosen if not is_found(fault, arguments)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} found{''.join(f'; not: {name}' for name in missed)}")
    return len(missed)


def is_found(fault: Any, arguments: argparse.Namespace) -> bool:
    """Whether a plan fails with the fault in a copy of the code, and not without it."""
    first, features = arguments.first, arguments.features
    with tempfile.TemporaryDirectory(prefix="freshet-mutation-") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "service", copy / "service", ignore=shutil.ignore_patterns("__pycache__"))
        (copy / fault.file).write_text(fault.applied(), "utf-8")
        kept = [] if arguments.no_kept else [path.stem for path in FOUND]
        until, runs, seconds = time.monotonic() + 60 * arguments.minutes, 0, 0.0
        while time.monotonic() < until:
            ended = in_child(copy, Plans(kept, first, features, until))
            runs, seconds = runs + ended.runs, seconds + ended.seconds
            passed = time.monotonic() - until + 60 * arguments.minutes
            took = f"{passed:4.0f} s ({seconds:.0f} s of processor, {runs} runs)"
            if not ended.seed:
                break
            if ended.seed in kept or not in_child(ROOT, Plans([], seed_of(ended), features, 0.0)).seed:
                print(f"found in {took}  {fault.name}: {ended.seed}: {ended.what}", flush=True)
                return True
            print(f"seed {ended.seed} fails without the fault, too: {ended.what}", flush=True)
            kept, first = [], seed_of(ended) + 1
    print(f"MISSED in {took}  {fault.name}", flush=True)
    return False


def seed_of(ended: Ended) -> int:
    """The number of the seed that failed."""
    return int(ended.seed.partition(":")[0])


@dataclass(frozen=True)
class Plans:
    """Kept plans, then those of new seeds from the first one on, until a moment; one at least."""

    kept: list[str]
    first: int
    features: str
    until: float

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        from plans import plan

        for name in self.kept:
            yield name, json.loads((HERE / "found" / f"{name}.json").read_text())
        seed = self.first
        while seed == self.first or time.monotonic() < self.until:
            name = f"{seed}:{self.features}" if self.features else str(seed)
            yield name, plan(name)
            seed += 1


def in_child(code: Path, plans: Plans) -> Ended:
    """Run plans with some code until one fails."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(code, plans, there))
    process.start()
    there.close()
    try:
        ended: Ended = here.recv()
    except EOFError:
        ended = Ended()
    process.join()
    return ended


def _run(code: Path, plans: Plans, told: Connection) -> None:
    runs = 0
    with simulation(code) as server:
        from run import Run

        for name, plan in plans:
            outcome = Run(server, plan).go()
            runs += 1
            if outcome.broken:
                what = str(outcome.broken[0]).splitlines()[0][:160]
                told.send(Ended(name, what, runs, time.process_time()))
                return
    told.send(Ended(runs=runs, seconds=time.process_time()))


if __name__ == "__main__":
    sys.exit(min(main(), 1))
