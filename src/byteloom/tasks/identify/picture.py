"""A map of a file as a picture: what lies where, beside the entropy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from byteloom.files import StrPath, atomic_write
from byteloom.tasks.identify.identification import Span
from byteloom.tasks.identify.labels import GROUPS
from byteloom.tasks.plots import check_plot

ROWS, COLUMNS = 24, 96  # of the grid; a cell is the same number of bytes everywhere

COLOURS = {
    "machine code": "#c0392b",
    "bytecode": "#e67e22",
    "program data": "#f1c40f",
    "source": "#27ae60",
    "text": "#7fb77e",
    "image": "#2980b9",
    "audio": "#16a085",
    "document": "#8e6e53",
    "font": "#9b59b6",
    "database": "#34495e",
    "compressed": "#7f8c8d",
    "archive": "#95a5a6",
    "executable": "#d35400",
    "empty": "#ecf0f1",
    "zeros": "#ecf0f1",
    "unknown": "#bdc3c7",
}
OTHER = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#393b79")


def colour_of(group: str, label: str, number: int = 0) -> str:
    """The colour of a label: that of its group, in one of four shades.

    Groups that byteloom does not know take turns, by `number`.
    """
    if label in COLOURS and label not in GROUPS:
        return COLOURS[label]
    if group not in COLOURS:
        return OTHER[number % len(OTHER)]
    labels = GROUPS.get(group, ())
    white = 0.2 * (labels.index(label) % 4) if label in labels else 0.0
    parts = (int(COLOURS[group][at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + white * (255 - part)):02x}" for part in parts)


def draw_map(spans: Sequence[Span], path: StrPath, title: str = "") -> None:
    """Draw a map into an .svg, .pdf or .png file, atomically: the file from left to right and top to bottom.

    Raises InvalidInputError for another suffix and MissingExtraError without matplotlib.
    """
    check_plot(path)
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    size = spans[-1].offset + spans[-1].size
    groups = list(dict.fromkeys(span.group for span in spans))
    order = [*GROUPS, *[group for group in groups if group not in GROUPS]]
    cells = cell_spans(spans, ROWS * COLUMNS)
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    grid, curve = figure.subplots(2, 1, gridspec_kw={"height_ratios": [4, 1]})
    colours = [to_rgb(colour_of(span.group, span.label, order.index(span.group) - len(GROUPS))) for span in cells]
    grid.imshow([colours[at : at + COLUMNS] for at in range(0, len(cells), COLUMNS)], aspect="auto")
    grid.set_xticks([])
    grid.set_yticks([0, ROWS // 2, ROWS - 1], [_bytes(size * row // ROWS) for row in (0, ROWS // 2, ROWS - 1)])
    grid.set_title(title or "what lies where", loc="left")
    patches = []
    for group, label, share in sorted(shares_of(spans)[:14], key=lambda entry: (order.index(entry[0]), -entry[2])):
        colour = colour_of(group, label, order.index(group) - len(GROUPS))
        patches.append(Patch(facecolor=colour, label=f"{label}  {100 * share:.1f} %"))
    grid.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    at = [place * size / len(cells) for place in range(len(cells))]
    curve.fill_between(at, [span.entropy for span in cells], step="post", color="#7f8c8d", alpha=0.5, linewidth=0)
    curve.set_ylim(0, 8)
    curve.set_xlim(0, size)
    curve.set_ylabel("bits a byte")
    ticks = [size * part // 4 for part in range(5)]
    curve.set_xticks(ticks, [_bytes(tick) for tick in ticks])
    curve.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:], dpi=150)


def cell_spans(spans: Sequence[Span], count: int) -> list[Span]:
    """The span that holds the middle of each of `count` equal parts of the file."""
    size = spans[-1].offset + spans[-1].size
    cells, at = [], 0
    for cell in range(count):
        middle = (2 * cell + 1) * size / (2 * count)
        while spans[at].offset + spans[at].size <= middle:
            at += 1
        cells.append(spans[at])
    return cells


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def shares_of(spans: Sequence[Span]) -> list[tuple[str, str, float]]:
    """(group, label, share of the bytes) of everything in a map, the largest first."""
    size = spans[-1].offset + spans[-1].size
    shares: dict[tuple[str, str], int] = {}
    for span in spans:
        shares[span.group, span.label] = shares.get((span.group, span.label), 0) + span.size
    return [(*key, shares[key] / size) for key in sorted(shares, key=lambda key: -shares[key])]
