"""The hex view of one sample: which parts of it are worth showing, and their rows for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from byteloom.tasks.report.disassembly import disassemble
from byteloom.tasks.report.samples import Part, Sample
from byteloom.tokenize.segments import HexRow, hex_rows, id_spans, printable

if TYPE_CHECKING:
    from byteloom.tokenize import Tokenizer

WIDTH = 16  # bytes a row
HEADER_ROWS, CODE_ROWS, STRING_ROWS = 12, 110, 90  # of an executable
PLAIN_ROWS = 200  # of any other file
NAMES = 3  # of sections above one row


@dataclass(frozen=True)
class Piece:
    """Bytes of one row that have one look: a part of a token, or blanks (style "")."""

    hex: str
    ascii: str
    style: str  # classes of the style sheet
    title: str


@dataclass(frozen=True)
class Row:
    """One row of the hex view."""

    offset: int
    pieces: tuple[Piece, ...]
    heading: str  # names of the sections that begin in the row; "" when none does


@dataclass(frozen=True)
class Excerpt:
    """Rows without a gap; `skipped` bytes lie between the excerpt before, or the start of the file, and them."""

    skipped: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class HexView:
    """Excerpts of one sample, in the order in which they lie in the file."""

    name: str
    format: str
    architecture: str | None
    bytes: int
    tokens: int
    excerpts: tuple[Excerpt, ...]


def hex_view(tokenizer: Tokenizer, samples: Sequence[Sample]) -> HexView | None:
    """A view of the sample that shows most: one with code and strings if there is one. None without samples."""
    if not any(sample.data for sample in samples):
        return None
    sample = max(samples, key=_interest)
    ids = tokenizer.encode(sample.data)
    view = []
    shown = 0
    for start, stop in _excerpts(sample):
        rows = hex_rows(id_spans(tokenizer, ids, start, stop), sections=sample.sections, width=WIDTH)
        inside = tuple(_row(row, sample) for row in rows if start <= row.offset < stop)
        view.append(Excerpt(start - shown, inside))
        shown = stop
    return HexView(sample.name, sample.format, sample.architecture, len(sample.data), len(ids), tuple(view))


def _interest(sample: Sample) -> tuple[int, int, int]:
    code, strings = _largest(sample, "code"), _strings(sample)
    shown = min(code.size if code else 0, CODE_ROWS * WIDTH) + min(strings.size if strings else 0, STRING_ROWS * WIDTH)
    return shown, min(len(sample.data), PLAIN_ROWS * WIDTH), -len(sample.sections)


def _excerpts(sample: Sample) -> list[tuple[int, int]]:
    """Ranges [start, stop) that begin at multiples of WIDTH, ascending and with gaps between them."""
    code, strings = _largest(sample, "code"), _strings(sample)
    wanted = [(0, HEADER_ROWS)] if code or strings else [(0, PLAIN_ROWS)]
    if code:
        wanted.append((code.offset // WIDTH, CODE_ROWS))
    if strings:
        wanted.append((_most_printable(sample, strings) // WIDTH, STRING_ROWS))
    ranges: list[tuple[int, int]] = []
    for row, rows in sorted(wanted):
        start, stop = row * WIDTH, min((row + rows) * WIDTH, len(sample.data))
        if ranges and start <= ranges[-1][1]:
            ranges[-1] = ranges[-1][0], max(stop, ranges[-1][1])
        else:
            ranges.append((start, stop))
    return ranges


def _largest(sample: Sample, kind: str) -> Part | None:
    return max((part for part in sample.sections if part.kind == kind), key=lambda part: part.size, default=None)


def _strings(sample: Sample) -> Part | None:
    return _largest(sample, "read-only data") or _largest(sample, "data")


def _most_printable(sample: Sample, part: Part) -> int:
    """Offset of the window in `part` with most printable bytes."""
    data = np.frombuffer(sample.data, np.uint8, part.size, part.offset)
    before = np.concatenate([[0], np.cumsum((data >= 0x20) & (data < 0x7F))])
    window = min(STRING_ROWS * WIDTH, part.size)
    return part.offset + int(np.argmax(before[window:] - before[:-window]))


def _row(row: HexRow, sample: Sample) -> Row:
    pieces = []
    at = row.offset
    for run in row.runs:
        if run.start > at:
            pieces.append(_blank(run.start - at))
        data = sample.data[run.start : run.end]
        style = f"t{run.hue}" + " s" * (run.start == run.span.start) + " e" * (run.end == run.span.end)
        style += " z" * (not any(data))
        pieces.append(Piece(data.hex(" "), printable(data), style, _title(run.span, sample)))
        at = run.end
    if at < row.offset + WIDTH:
        pieces.append(_blank(row.offset + WIDTH - at))
    return Row(row.offset, tuple(pieces), _heading(row.sections))


def _heading(names: Sequence[str]) -> str:
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:NAMES]) + (", …" if len(shown) > NAMES else "")


def _blank(count: int) -> Piece:
    return Piece(" " * (3 * count - 1), " " * count, "", "")


def _title(span: tuple[int, int, int], sample: Sample) -> str:
    start, end, token = span
    data = sample.data[start:end]
    title = f"token {token}, {len(data)} byte{'s' * (len(data) != 1)}: {printable(data)}"
    owner = sample.section_of_byte[start]
    if owner >= 0 and sample.sections[owner].kind == "code":
        instructions = disassemble(data, sample.architecture)
        title += f" = {'; '.join(instructions)}" if instructions else ""
    return title


def short_hex(data: bytes) -> str:
    """Hex bytes, in which five and more equal ones in a row are written once, with their number."""
    groups = [(byte, len(list(run))) for byte, run in groupby(data)]
    return " ".join(
        f"{byte:02x}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}{count}"
        if count > 4
        else " ".join([f"{byte:02x}"] * count)
        for byte, count in groups
    )
