"""Plots of a stream, as SVG: the models' fading losses, the members' weights, the alarms."""

from collections.abc import Sequence
from html import escape

WIDTH, HIGH, LOW, LEFT, TOP, GAP = 900, 300, 120, 60, 40, 40
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#17becf")
POINTS = 600  # of a line


def _line(
    values: Sequence[float], rows: int, step: int, top: float, height: float, most: float, colour: str
) -> str:
    """A line through values that stand `step` rows apart, in a panel of this height."""
    every = max(len(values) // POINTS, 1)
    points = " ".join(
        f"{LEFT + WIDTH * step * place / rows:.1f},{top + height * (1 - min(values[place] / most, 1.0)):.1f}"
        for place in range(0, len(values), every)
    )
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" points="{points}"/>'


def _text(x: float, y: float, words: str, colour: str = "#000") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{escape(words)}</text>'


def _panel(top: float, height: float, most: float) -> str:
    box = f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{height}" fill="none" stroke="#ccc"/>'
    return box + _text(8, top + 12, f"{most:.3g}") + _text(8, top + height, "0")


def plot(
    title: str,
    losses: dict[str, list[float]],
    weights: list[list[float]],
    chunk: int,
    alarms: list[int],
) -> str:
    """Losses by model, one for each row; weights of the members after every `chunk` rows; alarms as rows."""
    rows = max(len(levels) for levels in losses.values())
    most = 1.3 * sorted(max(levels[len(levels) // 20 :]) for levels in losses.values())[len(losses) // 2]
    lower = TOP + HIGH + GAP
    parts = [_text(LEFT, 20, title), _panel(TOP, HIGH, most), _panel(lower, LOW, 1.0)]
    for number, (name, levels) in enumerate(losses.items()):
        parts.append(_line(levels, rows, 1, TOP, HIGH, most, COLOURS[number]))
        parts.append(_text(LEFT + 200 + 120 * number, 20, name, COLOURS[number]))
    for member in range(len(weights[0])):
        values = [shares[member] for shares in weights]
        parts.append(_line(values, rows, chunk, lower, LOW, 1.0, COLOURS[member]))
        parts.append(_text(LEFT + 120 * member, lower - 8, f"weight of member {member + 1}", COLOURS[member]))
    for alarm in alarms:
        x = LEFT + WIDTH * alarm / rows
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{lower + LOW}" stroke="#999" stroke-dasharray="3"/>'
        )
    size = f'width="{LEFT + WIDTH + 20}" height="{lower + LOW + 20}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n{body}\n</svg>\n'
