"""Simulated runs, see `simulate.py`: in a process of their own, whose `service` has neither real clock nor threads."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOUND = sorted((HERE / "found").glob("*.json"))
SEEDS = 6
MORE_SEEDS = 24
pytestmark = pytest.mark.timeout(900)  # half a minute on a machine that does nothing else


def _simulate(*arguments: str) -> str:
    command = [sys.executable, str(HERE / "simulate.py"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_same_seed_is_the_same_run() -> None:
    assert "4 runs" in _simulate("--seeds", "101", "103", "--twice")


@pytest.mark.slow
def test_more_seeds_keep_all_promises() -> None:
    assert f"{MORE_SEEDS} runs" in _simulate("--seeds", str(100 + SEEDS), str(100 + SEEDS + MORE_SEEDS))


def test_plans_that_failed_once_and_fixed_seeds_keep_all_promises() -> None:
    told = _simulate("--plan", *map(str, FOUND), "--seeds", "100", str(100 + SEEDS))
    assert f"{len(FOUND) + SEEDS} runs" in told
