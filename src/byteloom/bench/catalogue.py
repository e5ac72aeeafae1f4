"""The catalogue: every file of this folder that defines a `CARD` is a benchmark; nothing else to register."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from byteloom.bench.result import Card, Result, Scale
from byteloom.errors import InvalidInputError

Progress = Callable[[str, int, int], None]  # (what is being done, units done, units in all)


class Benchmark(Protocol):
    """A module of this folder: a card, and a function that measures."""

    CARD: Card

    def run(self, scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
        """Measure the method and its peer. `data` is a folder for downloads or of the user's own files."""
        ...


def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by the name of their method, in alphabetical order."""
    here = str(Path(__file__).parent)
    modules = (import_module(file.name) for file in pkgutil.iter_modules([here], "byteloom.bench."))
    found = {module.CARD.method: cast(Benchmark, module) for module in modules if hasattr(module, "CARD")}
    return dict(sorted(found.items()))


def benchmark(method: str) -> Benchmark:
    """The benchmark of one method. Raises InvalidInputError that lists the methods when it is unknown."""
    known = benchmarks()
    if method not in known:
        raise InvalidInputError(f"there is no method {method!r}; choose from: {', '.join(known)}")
    return known[method]
