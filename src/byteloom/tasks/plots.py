"""What all plots of the tasks share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from byteloom.errors import InvalidInputError, MissingExtraError
from byteloom.files import StrPath


def check_plot(path: StrPath) -> None:
    """Raise, before hours of work, what drawing would raise: for another suffix, or without matplotlib."""
    if Path(path).suffix not in (".svg", ".pdf", ".png"):
        raise InvalidInputError(f"a plot is an .svg, .pdf or .png file; got {path}")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "tasks")
