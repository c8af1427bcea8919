"""The service's numbers beside their targets and beside the floor, measured in one run on this machine.

    run.py [--only NAME ...] [--seconds 5] [--rounds 3] [--json FILE] [--plot FILE]

Real servers on free ports, their files in a temporary folder (TMPDIR chooses the disk); everything started is
stopped again. What is compared runs alternately and the median of the rounds counts, so that a disturbance
from outside meets both sides. Nothing else should run on the machine: the report says how much else did.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bench import Bench
from measures import BENCHMARKS
from report import Figure, plot, report
from rich.console import Console


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(
        description="Measure the service beside its targets and beside the floor."
    )
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="may be repeated; default: all")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of one run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--json", type=Path, help="write figures and runs to this file too")
    parser.add_argument(
        "--plot", type=Path, help="draw the figures beside their targets into this file, as SVG"
    )
    arguments = parser.parse_args()

    figures: list[Figure] = []
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-bench-")))
        bench = Bench(folder, stack, arguments.seconds, arguments.rounds)
        for name in arguments.only or BENCHMARKS:
            console.print(f"[dim]{name} …[/]")
            figures.extend(BENCHMARKS[name](bench))
    report(console, figures)
    others = [run.elsewhere for _, run in bench.runs]
    if others:
        console.print(
            f"Other processes kept {statistics.median(others):.2f} cores busy, {max(others):.2f} at most."
        )
    if arguments.plot:
        arguments.plot.write_text(plot(figures))
    if arguments.json:
        runs = [{"run": label, **asdict(run)} for label, run in bench.runs]
        shown = [asdict(figure) | {"holds": figure.holds} for figure in figures]
        arguments.json.write_text(json.dumps({"figures": shown, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
