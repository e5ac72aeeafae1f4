"""Pictures of the tables of results, for docs/results.md."""

from __future__ import annotations

from pathlib import Path

from byteloom.bench.result import Plot, Result
from byteloom.files import atomic_write

COLOURS = 10  # of lines, before they repeat


def draw(result: Result, plot: Plot, path: Path) -> None:
    """Draw a plot of `result` into an .svg file, atomically; the same numbers give the same file.

    Raises ImportError without matplotlib.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines: dict[str, list[tuple[float, float]]] = {}
    for row in result.rows:
        x, y = row.get(plot.x), row.get(plot.y)
        if row["table"] == plot.table and isinstance(x, (int, float)) and isinstance(y, (int, float)):
            lines.setdefault(str(row[plot.by]), []).append((x, y))
    with rc_context({"svg.hashsalt": path.name}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for at, (name, points) in enumerate(lines.items()):
            style = "-" if at < COLOURS else "--"
            axes.plot(*zip(*sorted(points), strict=True), style, marker="o", markersize=4, label=name)
        if "x" in plot.log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        if "y" in plot.log:
            axes.set_yscale("log")
        axes.set_title(plot.table, fontsize="medium", loc="left")
        axes.set_xlabel(plot.x)
        axes.set_ylabel(plot.y)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, title=plot.by, loc="center left", bbox_to_anchor=(1, 0.5))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
