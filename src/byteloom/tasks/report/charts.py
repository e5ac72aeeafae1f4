"""Line charts as numbers that the template draws: scales, ticks and labels that do not collide.

The template stretches the lines over whatever width there is (an SVG without a fixed aspect ratio, strokes that
do not scale) and sets the labels as ordinary text, so that a chart is as legible on a phone as on a desk.
Positions are therefore percentages of the plot, from its top left corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PLOT_HEIGHT = 288  # CSS pixels; the style sheet's --plot-height
LABEL_HEIGHT = 18  # CSS pixels that the label at the end of a line needs


@dataclass(frozen=True)
class Line:
    """One series in data units. `colour` numbers one of the style sheet's series colours."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int
    marks: bool = True  # a dot and a tooltip at each point
    faint: bool = False  # background beside a line that matters more


@dataclass(frozen=True)
class Mark:
    """A point of a line: where, and the tooltip."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class DrawnLine:
    """A series in percentages: an SVG path, its marks, and where its label goes (None: no label)."""

    label: str
    colour: int
    path: str
    marks: tuple[Mark, ...]
    faint: bool
    label_top: float | None


@dataclass(frozen=True)
class LineChart:
    """Everything that the template's `line_chart` needs."""

    title: str  # read out in place of the picture
    x_title: str
    y_title: str
    x_ticks: tuple[tuple[float, str], ...]  # (percent, text)
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[DrawnLine, ...]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    log_x: bool = False,
    y_bottom: float | None = None,
    y_top: float | None = None,
) -> LineChart | None:
    """Lay out `lines`; None when no line has two points.

    `x_ticks` are (value, text), by default round numbers. `y_bottom` and `y_top` fix the scale; what lies
    higher is cut off.
    """
    lines = [line for line in lines if len(line.points) > 1]
    if not lines:
        return None
    position: Callable[[float], float] = math.log2 if log_x else float
    xs = [position(x) for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)
    low, high = min(ys) if y_bottom is None else y_bottom, max(ys) if y_top is None else y_top
    y_values = round_ticks(low, high)
    bottom, top = y_values[0], y_values[-1]
    if x_ticks is None:
        x_ticks = [(x, short(x)) for x in round_ticks(left, right, 6, inside=True)]

    def at_x(x: float) -> float:
        return round(100 * (position(x) - left) / (right - left), 2)

    def at_y(y: float) -> float:
        return round(100 * (top - y) / (top - bottom), 2)

    ends = _apart([at_y(line.points[-1][1]) for line in lines if not line.faint])
    label_tops = iter(ends)
    return LineChart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        x_ticks=tuple((at_x(x), text) for x, text in x_ticks),
        y_ticks=tuple((at_y(y), f"{y:.{_decimals(y_values)}f}") for y in y_values),
        lines=tuple(
            DrawnLine(
                label=line.label,
                colour=line.colour,
                path="M" + "L".join(f"{at_x(x)} {at_y(y)}" for x, y in line.points),
                marks=tuple(
                    Mark(at_x(x), at_y(y), f"{line.label}: {y:.3g} {y_title} at {short(x)} {x_title}")
                    for x, y in line.points
                )
                if line.marks
                else (),
                faint=line.faint,
                label_top=None if line.faint else next(label_tops),
            )
            for line in lines
        ),
    )


def round_ticks(low: float, high: float, count: int = 5, *, inside: bool = False) -> list[float]:
    """About `count` round numbers (steps of 1, 2 or 5) that enclose low .. high; `inside`: that lie within."""
    if high - low <= 1e-9 * abs(high):
        high = low + 1.0  # one value: any step will do
    span = high - low
    magnitude = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude * count >= span)
    first, last = (math.ceil, math.floor) if inside else (math.floor, math.ceil)
    return [round(k * step, 12) for k in range(first(low / step), last(high / step) + 1)]


def short(value: float) -> str:
    """A number as a tick shows it: 4096 -> "4K", 0.25 -> "0.25", 30.0 -> "30"."""
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:.0f}K"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _decimals(values: Sequence[float]) -> int:
    step = values[1] - values[0] if len(values) > 1 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _apart(tops: Sequence[float]) -> list[float]:
    """Move labels (percent from the top) down, then up, until none overlaps its neighbour."""
    gap = 100 * LABEL_HEIGHT / PLOT_HEIGHT
    order = sorted(range(len(tops)), key=lambda i: tops[i])
    placed = [tops[i] for i in order]
    for k in range(1, len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + gap)
    if placed:
        placed[-1] = min(placed[-1], 100.0)
    for k in range(len(placed) - 2, -1, -1):
        placed[k] = min(placed[k], placed[k + 1] - gap)
    result = [0.0] * len(tops)
    for k, i in enumerate(order):
        result[i] = round(placed[k], 2)
    return result
