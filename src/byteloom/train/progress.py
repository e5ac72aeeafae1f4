"""How long jobs say where they are: a callback, so that no library code draws."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is being done, units done, units in all; 0 = unknown)


def silent(what: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""
