"""`make mutate`: apply each fault of the table to a copy of the code, and see whether the tests find it."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutations.table import MUTATIONS, ROOT, Mutation

PARTS = ("model", "service", "tests", "pyproject.toml", "README.md")
FOUND = 1  # pytest's exit status where tests fail


def main(words: list[str]) -> int:
    """Try the faults whose names hold one of the words, or all; the number of those that no test finds."""
    chosen = [fault for fault in MUTATIONS if not words or any(word in fault.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = Path(folder)
        for part in PARTS:
            if (ROOT / part).is_dir():  # compiled code comes along: it is known by its sources
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("*.pyc"))
            else:
                shutil.copy(ROOT / part, copy)
        missed = [fault for fault in chosen if not is_found(fault, copy)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} found")
    for fault in missed:
        print(f"no test finds: {fault.name} ({fault.file})")
    return len(missed)


def is_found(fault: Mutation, copy: Path) -> bool:
    """Whether a test fails with the fault in a copy of the code."""
    file, started = copy / fault.file, time.monotonic()
    sound = file.read_text("utf-8")
    file.write_text(fault.applied(copy), "utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault.tests.split()]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    finally:
        file.write_text(sound, "utf-8")
    lines = done.stdout.strip().splitlines() or [done.stderr]
    verdict = "found" if done.returncode == FOUND else "MISSED" if done.returncode == 0 else "BROKEN"
    failed = next((line for line in lines if line.startswith("FAILED")), lines[-1])
    print(f"{verdict:7}{time.monotonic() - started:5.0f} s  {fault.name}: {failed[:150]}", flush=True)
    return done.returncode == FOUND


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
