"""A hex dump for the terminal in which neighbouring tokens differ in colour.

Used by `byteloom tokenizer inspect` and `byteloom generate`; `tokenize.segments` says where tokens lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from byteloom.tokenize.segments import Region

HUE_STYLES = ("cyan", "yellow", "magenta", "green")  # legible on black and on white; one for each of HUES


def render_hex(
    data: Buffer, spans: Sequence[tuple[int, int, int]], *, sections: Sequence[Region] = (), width: int = 16
) -> Group:
    """Offset, hex and ASCII columns of the part of `data` that `spans` cover; a bar opens each token.

    `spans` are (start, end, id) as from `token_spans` or `id_spans`. A section's name stands above the row in
    which it begins. Without colour the bars alone show the boundaries.
    """
    from byteloom.tokenize.segments import hex_rows, printable

    view = memoryview(data).cast("B")
    lines: list[Text] = []
    for row in hex_rows(spans, sections=sections, width=width):
        lines += [Text(f"  {_harmless(name)}", style="bold") for name in row.sections]
        line = Text.assemble((f"{row.offset:08x} ", "dim"))
        ascii_column = Text()
        at = row.offset
        for run in row.runs:
            line.append("   " * (run.start - at))
            ascii_column.append(" " * (run.start - at))
            style = HUE_STYLES[run.hue]
            for position in range(run.start, run.end):
                line.append("│" if position == run.span.start else " ", style="dim")
                line.append(f"{view[position]:02x}", style=style)
            ascii_column.append(printable(view[run.start : run.end]), style=style)
            at = run.end
        line.append("   " * (row.offset + width - at) + "  ")
        lines.append(line.append_text(ascii_column))
    return Group(*lines)


def _harmless(name: str) -> str:
    """A name out of a file, without the control characters that could drive the terminal."""
    return "".join(c if c.isprintable() else "·" for c in name)
