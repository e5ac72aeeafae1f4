"""Which bytes of a long file a model of limited length sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Cut = Literal["head", "head+tail", "strided", "fragment"]
PIECES = 16  # of a file that is cut "strided"


def check_cut(how: str) -> None:
    """Raise InvalidInputError when `how` is no Cut."""
    if how not in get_args(Cut):
        raise InvalidInputError(f"a cut is one of {', '.join(get_args(Cut))}, not {how!r}")


def cut(data: Buffer, size: int, how: Cut, place: float = 0.5) -> bytes:
    """At most `size` bytes of `data`: all of it where it is short enough.

    head: its beginning. head+tail: as much of its beginning as of its end. strided: PIECES pieces spread evenly over
    it. fragment: one piece, at `place` of the way (0 the beginning, 1 the end).

    >>> cut(b"abcdefgh", 4, "head+tail")
    b'abgh'
    """
    check_cut(how)
    view = memoryview(data).cast("B")
    if len(view) <= size:
        return bytes(view)
    if how == "head":
        return bytes(view[:size])
    if how == "head+tail":
        return bytes(view[: size - size // 2]) + bytes(view[len(view) - size // 2 :])
    if how == "fragment":
        start = round(place * (len(view) - size))
        return bytes(view[start : start + size])
    pieces = min(PIECES, size)
    starts = np.linspace(0, len(view) - size // pieces, pieces).astype(int).tolist()
    return b"".join(bytes(view[start : start + size // pieces]) for start in starts)
