"""`byteloom identify`: what files and fragments are, and what lies where in them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json, progress
from byteloom.errors import ByteloomError, FileError, InvalidInputError
from byteloom.files import open_bytes

if TYPE_CHECKING:
    from byteloom.tasks.identify import Classifier, Identification, Span

_ROWS, _SPANS = 8, 40  # of a map in the terminal


def identify(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files of any length; - for standard input.")],
    map_: Annotated[bool, typer.Option("--map", help="Tell what lies where in each file.")] = False,
    window: Annotated[int, typer.Option(help="Bytes of a file that are told apart in a map, from 256 on.")] = 4096,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw the map of one file: .svg, .pdf or .png.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many guesses to show for each file.")] = 1,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="DIR", help="A classifier of `byteloom fit --task classify`, instead."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Tell what files are from their bytes, and for machine code the instruction set.

    Names are not looked at, and it works on fragments from anywhere: half a kilobyte from the middle of a file is
    mostly enough. With --map it tells what lies where: code, strings, text, pictures, compressed data.

    Example: byteloom identify /bin/ls README.md; head -c 9000 /bin/ls | tail -c 1000 | byteloom identify -

    Example: byteloom identify firmware.bin --map --plot firmware.png
    """
    if top < 1:
        raise InvalidInputError(f"--top counts guesses, from 1 on; got {top}")
    if plot is not None:
        from byteloom.tasks.plots import check_plot

        check_plot(plot)
        if len(files) != 1:
            raise InvalidInputError("--plot draws one file; name one")
    classifier = _classifier(model)
    facts, failed = [], False
    for name in files:
        try:
            data = sys.stdin.buffer.read() if name == "-" else open_bytes(name)
            facts.append(_identified(name, data, classifier, map_ or plot is not None, window, plot, top, json))
        except ByteloomError as error:
            if len(files) == 1 or not isinstance(error, FileError):
                raise
            failed = True
            err.print(f"[bold red]error:[/] {error}", soft_wrap=True)
    if json:
        print_json(facts)
    if plot is not None:
        err.print(f"written to {plot}", markup=False)
    if failed:
        raise typer.Exit(2)


def _classifier(folder: Path | None) -> Classifier | None:
    if folder is None:
        return None
    from byteloom.tasks.classification import Classifier as Fitted

    return Fitted.load(folder)


def _identified(
    name: str,
    data: Any,
    classifier: Classifier | None,
    wants_map: bool,
    window: int,
    plot: Path | None,
    top: int,
    json: bool,
) -> dict[str, Any]:
    from byteloom.tasks.identify import content_map
    from byteloom.tasks.identify import identify as tell

    found = tell(data, classifier)
    facts: dict[str, Any] = {"file": name, **asdict(found)}
    spans: list[Span] = []
    if wants_map:
        with progress() as report:
            spans = content_map(data, window=window, classifier=classifier, progress=report)
        facts["map"] = [asdict(span) for span in spans]
    if not json:
        _show(name, found, top)
        if spans:
            _show_map(spans)
    if plot is not None:
        from byteloom.tasks.identify.picture import draw_map

        if not spans:
            raise InvalidInputError(f"{name} is empty; there is nothing to draw")
        draw_map(spans, plot, Path(name).name)
    return facts


def _show(name: str, found: Identification, top: int) -> None:
    what = found.label + (f", {found.details}" if found.details else "")
    if found.group not in (found.label, "empty"):
        what += f" ({found.group})"
    if found.by == "content" and found.size:
        what += f", {100 * found.probability:.0f} %"
    out.print(f"{name}: {what}", markup=False, soft_wrap=True)
    for label, chance in found.alternatives[:top] if top > 1 else ():
        out.print(f"    {100 * chance:5.1f} %  {label}", markup=False)


def _show_map(spans: Sequence[Span]) -> None:
    from rich.table import Table
    from rich.text import Text

    from byteloom.tasks.identify.picture import cell_spans, colour_of, shares_of

    groups = list(dict.fromkeys(span.group for span in spans))
    width = min(out.width, 96)
    cells = cell_spans(spans, _ROWS * width)
    for at in range(0, len(cells), width):
        line = Text()
        for span in cells[at : at + width]:
            line.append("█", style=colour_of(span.group, span.label, groups.index(span.group)))
        out.print(line)
    for group, label, share in shares_of(spans)[:12]:
        line = Text("█ ", style=colour_of(group, label, groups.index(group)))
        line.append(f"{100 * share:5.1f} %  {label}", style="default")
        out.print(line)
    table = Table("Offset", "Bytes", "What", "Sure", "Bits/byte")
    for column in (0, 1, 3, 4):
        table.columns[column].justify = "right"
    for span in spans[:_SPANS]:
        sure = f"{100 * span.probability:.0f} %"
        table.add_row(f"{span.offset:#x}", f"{span.size:,}", span.label, sure, f"{span.entropy:.1f}")
    out.print(table)
    if len(spans) > _SPANS:
        out.print(f"and {len(spans) - _SPANS:,} more; --json has all")
