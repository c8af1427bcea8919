"""Simulation from the command line: runs plans until the time is over, and shrinks what fails to its fewest moves.

simulate.py [--minutes N] [--from SEED] [--code FOLDER]      new seeds, one after the other
simulate.py --seeds FROM TO [--code FOLDER]                  these seeds
simulate.py --plan FILE... [--story] [--code FOLDER]         plans that were kept
simulate.py --shrink SEED [--promise TEXT] [--keep FILE]     the fewest moves of a seed that still fail
"""

import argparse
import functools
import importlib.metadata
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KEPT = HERE / "found"
NOT_IN_SIMULATIONS = ("service.web.gunicorn", "service.web.worker", "service.cli", "service.__main__")


def main() -> None:
    """Run what is asked for. The exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(
        description="Simulate Freshet and hold its promises against what happens."
    )
    parser.add_argument(
        "--code", type=Path, default=HERE.parent.parent, help="folder with `service` and `model`"
    )
    parser.add_argument("--minutes", type=float, help="new seeds for so long")
    parser.add_argument("--from", dest="first", type=int, help="first seed; default: a random one")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FROM", "TO"))
    parser.add_argument("--features", help="of plans, such as `names,ways`; default: drawn by the seed")
    parser.add_argument("--plan", type=Path, nargs="+", help="plans that were kept")
    parser.add_argument("--twice", action="store_true", help="run each twice: the traces must be the same")
    parser.add_argument("--digests", action="store_true", help="print the hash of each run's trace")
    parser.add_argument("--story", action="store_true", help="tell what happened")
    parser.add_argument(
        "--shrink", metavar="SEED", help="the fewest moves of a seed that break the same promise"
    )
    parser.add_argument("--promise", default="", help="the promise that is meant, or a part of its name")
    parser.add_argument("--keep", type=Path, help="file for the shrunk plan")
    parser.add_argument("--no-story", action="store_true", help="shrink nothing")
    parser.add_argument("--stop", action="store_true", help="stop at the first seed that fails")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"  # the order of sets is a part of the run
        os.execv(sys.executable, [sys.executable, *sys.argv])
    with simulation(arguments.code) as server:
        failed = Session(server, arguments).go()
    sys.exit(1 if failed else 0)


@contextmanager
def simulation(code: Path) -> Iterator[Any]:
    """A real server, and the service of a folder loaded for simulation."""
    import imitations

    imitations.install(code.resolve())
    importlib.metadata.version = functools.cache(importlib.metadata.version)  # every web process asks for it
    import parts
    import trainers
    import wire
    from server import Server

    assert parts
    assert trainers
    with tempfile.TemporaryDirectory(prefix="freshet-simulation-") as folder:
        server = Server(Path(folder))
        wire.install(server)
        try:
            _warm_up(server)
            yield server
        finally:
            server.close()


def _warm_up(server: Any) -> None:
    """Load and compile what a first run would: it would look at the clock meanwhile, and be another run."""
    import pkgutil
    from importlib import import_module

    from plans import plan
    from run import Run

    import service

    for module in pkgutil.walk_packages(service.__path__, "service."):
        if not module.name.startswith(NOT_IN_SIMULATIONS):
            import_module(module.name)
    Run(server, plan("first:names,commands")).go()


class Session:
    """The runs of one call."""

    def __init__(self, server: Any, arguments: argparse.Namespace) -> None:
        self.server = server
        self.arguments = arguments
        self.runs = self.events = 0
        self.seconds = 0.0
        self.met: Counter[str] = Counter()
        self.promises: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # promise -> the first seed that broke it

    def run(self, plan: dict[str, Any]) -> Any:
        """One run."""
        from run import Run

        try:
            outcome = Run(self.server, plan).go()
        except Exception:
            print(f"seed {plan['seed']}: the simulation itself failed", flush=True)
            raise
        self.runs += 1
        self.events += outcome.events
        self.seconds += outcome.seconds
        self.met.update(outcome.met)
        return outcome

    def go(self) -> bool:
        """Do what is asked for; whether a promise was broken."""
        from plans import plan

        if self.arguments.shrink:
            made = plan(self.arguments.shrink)
            return self._shrink(made, self.arguments.promise) is not None
        failed = False
        for made in self._plans():
            outcome = self.run(made)
            if self.arguments.digests:
                print(made["seed"], outcome.digest, outcome.events, flush=True)
            if self.arguments.twice and self.run(made).digest != outcome.digest:
                print(f"seed {made['seed']}: two runs were not the same", flush=True)
                failed = True
            for promise in sorted({broken.promise for broken in outcome.broken}):
                if self.arguments.promise not in promise:
                    continue
                self.promises[promise] += 1
                self.first.setdefault(promise, made["seed"])
            meant = [broken for broken in outcome.broken if self.arguments.promise in broken.promise]
            if meant:
                failed = True
                print(f"seed {made['seed']} ({len(made['moves'])} moves):")
                for broken in {each.promise: each for each in reversed(meant)}.values():
                    print(f"  {_first_line(broken)}", flush=True)
            if self.arguments.story:
                tell(outcome)
            if meant and self.arguments.stop:
                break
        self._report()
        if self.first and not self.arguments.no_story and (self.arguments.minutes or self.arguments.keep):
            promise, seed = next((p, s) for p, s in self.first.items() if self.arguments.promise in p)
            self._shrink(plan(seed), promise)
        return failed

    def _plans(self) -> Iterator[dict[str, Any]]:
        from plans import plan

        for path in self.arguments.plan or ():
            yield json.loads(path.read_text())
        for seed in range(*(self.arguments.seeds or (0, 0))):
            yield plan(f"{seed}:{self.arguments.features}" if self.arguments.features else seed)
        if not self.arguments.plan and not self.arguments.seeds:
            until = time.monotonic() + 60 * (self.arguments.minutes or 1)
            seed = self.arguments.first
            seed = random.SystemRandom().randrange(10**9) if seed is None else seed
            while time.monotonic() < until:
                yield plan(seed)
                seed += 1

    def _report(self) -> None:
        rate = self.events / self.seconds if self.seconds else 0.0
        print(f"{self.runs} runs, {self.events} moves, {rate:.0f} a second")
        for fault, count in sorted(self.met.items()):
            print(f"  {count:7} {fault}")
        for promise, count in sorted(self.promises.items()):
            print(f"  broken in {count} runs: {promise} (first: seed {self.first[promise]})")

    def _shrink(self, plan: dict[str, Any], promise: str) -> dict[str, Any] | None:
        """Print the fewest moves that break a promise, as a story."""
        from shrink import shrink

        found = self.run(plan)
        broken = next((b for b in found.broken if promise in b.promise), None)
        if broken is None:
            print(f"seed {plan['seed']} does not break {promise!r}")
            return None
        small = shrink(plan, lambda tried: any(b.promise == broken.promise for b in self.run(tried).broken))
        outcome = self.run(small)
        print(f"\nseed {plan['seed']}, {len(plan['moves'])} moves shrunk to {len(small['moves'])}:")
        tell(outcome, broken.promise)
        if self.arguments.keep:
            small["breaks"] = broken.promise
            self.arguments.keep.write_text(json.dumps(small, indent=1) + "\n")
        return small


def tell(outcome: Any, promise: str = "") -> None:
    """Print the story of a run."""
    from story import story

    print(story(outcome, promise), flush=True)


def _first_line(broken: Any) -> str:
    line = str(broken).splitlines()[0]
    return line if len(line) < 400 else line[:400] + "…"


if __name__ == "__main__":
    main()
