"""Simulated runs, see `simulate.py`: in a process of their own, whose `service` has neither real clock nor threads."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def _simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "simulate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_same_seed_is_the_same_run() -> None:
    ended = _simulate("--seeds", "1", "7", "--twice", "--promise", "the same run")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "12 runs" in ended.stdout
