"""Kills at random moments: nothing that was acknowledged is lost, nothing counts twice, and it recovers by itself."""

import os
import random
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tests import oracle
from tests.harness import Server, crowd, running, wait_until

PARTS = ("learner", "web", "redis")
RECOVERY_SECONDS = 5.0


@dataclass
class Experiment:
    """Random kills under load, on one server, with a new model whenever one is used up."""

    server: Server
    seed: int
    pause: float  # seconds between a recovery and the next kill, at most
    think: float  # seconds that each of the driver's clients waits between its requests
    kills: int = 0
    recoveries: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    verdicts: list[oracle.Verdict] = field(default_factory=list)

    def run(self, kills: list[str]) -> None:
        """Kill these parts one after the other."""
        choice = random.Random(self.seed)
        pending = list(kills)
        while pending:
            name = f"oracle-{len(self.verdicts)}"
            assert self.server.api("PUT", f"/v1/models/{name}", oracle.spec()).status == 201
            ledger = oracle.Ledger(self.server.folder / f"{name}.ledger")
            seed = self.seed + len(self.verdicts)
            with oracle.Driver(self.server.port, name, ledger, seed, pause=self.think) as driver:
                wait_until(lambda driver=driver: driver.recovered_since(0.0), 20, self.server.log)
                while pending and not driver.used_up:
                    self._kill(pending.pop(), driver, choice)
                driver.stop()
            self._judge(name, ledger)

    def _kill(self, part: str, driver: oracle.Driver, choice: random.Random) -> None:
        time.sleep(choice.uniform(0, self.pause))
        moment = time.monotonic()
        self.server.kill_part(part)
        self.kills += 1
        wait_until(lambda: driver.recovered_since(moment), 30, self.server.log)
        self.recoveries[part].append(time.monotonic() - moment)

    def _judge(self, name: str, ledger: oracle.Ledger) -> None:
        self.verdicts.append(oracle.judge(self.server, ledger, name))
        spans = sorted(ledger.spans)
        overlaps = [pair for pair in pairwise(spans) if pair[0][1] >= pair[1][0]]
        assert not overlaps, f"seed {self.seed}: two acknowledgements of one position: {overlaps[:3]}"
        assert self.server.api("DELETE", f"/v1/models/{name}").status == 204

    def report(self) -> str:
        """What the experiment measured."""
        lines = [f"seed {self.seed}: {self.kills} kills"]
        for part, seconds in self.recoveries.items():
            if seconds:
                lines.append(
                    f"  {part}: {len(seconds)} kills, seconds to recover: median "
                    f"{statistics.median(seconds):.2f}, longest {max(seconds):.2f}"
                )
        lost = sum(len(found.lost) for found in self.verdicts)
        twice = sum(len(found.twice) for found in self.verdicts)
        acknowledged = sum(found.acknowledged for found in self.verdicts)
        lines.append(f"  acknowledged {acknowledged}, of them lost {lost}; applied twice {twice}")
        return "\n".join(lines)


def experiment(folder: Path, seed: int, kills: int, pause: float, think: float) -> None:
    print(f"seed {seed}")  # wanted if anything fails
    parts = [PARTS[number % len(PARTS)] for number in range(kills)]
    random.Random(seed).shuffle(parts)
    with running(folder, web_workers=2, apply_timeout=2) as server:
        found = Experiment(server, seed, pause, think)
        found.run(parts)
        print(found.report())
        slowest = max(seconds for part in PARTS for seconds in found.recoveries[part])
        assert slowest < RECOVERY_SECONDS * crowd(), found.report()


def test_random_kills_lose_nothing_and_count_nothing_twice(folder: Path) -> None:
    experiment(folder, seed=20, kills=6, pause=0.5, think=0.005)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_three_hundred_random_kills(folder: Path) -> None:
    experiment(
        folder,
        seed=random.SystemRandom().randrange(10**6),
        kills=int(os.environ.get("KILLS", "300")),
        pause=1.0,
        think=0.02,
    )
