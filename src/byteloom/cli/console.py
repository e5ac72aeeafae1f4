"""What every verb shares: where text goes, `--json`, and the progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Annotated, Any

import typer
from rich.console import Console

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Progress = Callable[[str, int, int], None]  # (what is being done, units done, units in all; 0 = unknown)

out = Console(highlight=False)  # results
err = Console(stderr=True, highlight=False)  # progress, notes and errors
interrupted = Event()  # set by the handler of Ctrl-C


def print_json(value: Any) -> None:
    """Print `value` as JSON on standard output, one object a call."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on standard error as a callback, a line for each `what`; silent when not a terminal."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        if interrupted.is_set():  # a library, or a destructor, has swallowed the KeyboardInterrupt
            raise KeyboardInterrupt
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total or None)
        bar.update(tasks[what], completed=done, total=total or None)

    with bar:
        yield report
