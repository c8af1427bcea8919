"""Figures and the table that shows them beside their targets."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass
class Figure:
    """One line of the report."""

    name: str
    value: float | None
    unit: str
    target: float | None = None
    at_least: bool = False
    """Whether the target is a lower bound; else it is an upper one."""
    floor: float | None = None
    """The floor's figure, in the same unit."""
    note: str = ""
    """How it came about."""

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None or self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def report(console: Console, figures: list[Figure]) -> None:
    """Print the table, and under it how each figure came about."""
    table = Table("measured", "value", "", "floor", "target", "holds", title="Freshet's numbers")
    for column in (1, 3, 4):
        table.columns[column].justify = "right"
    for figure in figures:
        bound = "" if figure.target is None else f"{'≥' if figure.at_least else '≤'} {figure.target:g}"
        table.add_row(
            figure.name,
            "–" if figure.value is None else f"{figure.value:,.2f}",
            figure.unit,
            "" if figure.floor is None else f"{figure.floor:,.2f}",
            bound,
            {True: "[green]yes[/]", False: "[red]NO[/]", None: ""}[figure.holds],
        )
    console.print(table)
    for figure in figures:
        if figure.note:
            console.print(f"[bold]{figure.name.strip()}[/] {figure.note}", style="dim", highlight=False)
