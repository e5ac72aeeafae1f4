"""Where tokens lie in a document, and the rows of a hex dump that shows it.

The terminal (`byteloom tokenizer inspect`) and the HTML report draw these same rows.

>>> from byteloom.tokenize import byte_tokenizer
>>> spans = token_spans(byte_tokenizer(), b"hi")
>>> spans
[Span(start=0, end=1, id=111), Span(start=1, end=2, id=112)]
>>> [row.offset for row in hex_rows(spans)]
[0]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from byteloom.tokenize.tokenizer import Codec

HUES = 4  # colours that neighbouring tokens cycle through


class Span(NamedTuple):
    """One token in a document: it covers the bytes [start, end)."""

    start: int
    end: int
    id: int


class Region(Protocol):
    """A named part of a document, in bytes; `byteloom.corpus.Section` is one."""

    @property
    def name(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class Run:
    """The part of one token that lies in one row: document offsets [start, end)."""

    start: int
    end: int
    span: Span
    hue: int  # 0 .. HUES - 1; neighbouring tokens differ


@dataclass(frozen=True)
class HexRow:
    """One row of a hex dump: bytes [offset, offset + width), of which the runs cover a part."""

    offset: int
    runs: tuple[Run, ...]
    sections: tuple[str, ...]  # that begin here; in the first row also the one it lies in


def token_spans(tokenizer: Codec, data: Buffer, start: int = 0, stop: int | None = None) -> list[Span]:
    """Encode all of `data` and return the tokens that touch the bytes [start, stop)."""
    return id_spans(tokenizer, tokenizer.encode(data), start, stop)


def id_spans(tokenizer: Codec, ids: np.ndarray, start: int = 0, stop: int | None = None) -> list[Span]:
    """Where each of `ids` (uint32 [n]) lies in `decode(ids)`: those that touch [start, stop), no specials."""
    lengths = tokenizer.token_lengths[ids].astype(np.int64)
    ends = np.cumsum(lengths)
    first = int(np.searchsorted(ends, start, side="right"))
    last = len(ends) if stop is None else int(np.searchsorted(ends - lengths, stop, side="left"))
    parts = ((ends - lengths)[first:last].tolist(), ends[first:last].tolist(), ids[first:last].tolist())
    return [Span(begin, end, token) for begin, end, token in zip(*parts, strict=True) if end > begin]


def hex_rows(
    spans: Sequence[tuple[int, int, int]], *, sections: Sequence[Region] = (), width: int = 16
) -> Iterator[HexRow]:
    """The rows of a hex dump from the first to the last of `spans`; each starts at a multiple of `width`."""
    if not spans:
        return
    ordered = sorted((s for s in sections if s.size), key=lambda s: (s.offset, -s.size))
    runs: dict[int, list[Run]] = {}  # by row number; a token that crosses a row's end gives a run to each row
    for index, (start, end, token) in enumerate(spans):
        for row in range(start // width, (end - 1) // width + 1):
            part = max(start, row * width), min(end, (row + 1) * width)
            runs.setdefault(row, []).append(Run(*part, Span(start, end, token), index % HUES))
    seen = spans[0][0] // width * width
    around = [s.name for s in ordered if s.offset < seen < s.offset + s.size][-1:]
    for row, parts in sorted(runs.items()):
        begins = [s.name for s in ordered if row * width <= s.offset < (row + 1) * width]
        yield HexRow(row * width, tuple(parts), tuple(around + begins))
        around = []


def printable(data: Buffer) -> str:
    """ASCII as it is, any other byte as a middle dot: one character a byte."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in bytes(data))
