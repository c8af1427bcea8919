"""Figures and the table that shows them beside their targets."""

from dataclasses import dataclass
from html import escape

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


def plot(figures: list[Figure]) -> str:
    """Figures with a target as bars in SVG: each as a share of its target, which is the line at 1."""
    shown = [figure for figure in figures if figure.target and figure.value is not None]
    rows = []
    for place, figure in enumerate(shown):
        share, top = min(figure.value / figure.target, 2.0), 28 * place + 12  # type: ignore[operator]
        colour = "#3a7d44" if figure.holds else "#b3372f"
        bound = f"{'≥' if figure.at_least else '≤'} {figure.target:.3g}"
        rows.append(
            f'<rect x="420" y="{top}" width="{150 * share:.0f}" height="16" fill="{colour}"/>'
            f'<text x="412" y="{top + 13}" text-anchor="end">{escape(figure.name.strip())}</text>'
            f'<text x="728" y="{top + 13}">{figure.value:.3g} {escape(figure.unit)} ({bound})</text>'
        )
    height = 28 * len(shown) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{height}" font-family="sans-serif" '
        f'font-size="12">{"".join(rows)}<line x1="570" y1="4" x2="570" y2="{height - 4}" stroke="black"/></svg>\n'
    )


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
