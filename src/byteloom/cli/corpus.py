"""`byteloom corpus`: look at bytes before anything is trained on them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from byteloom.cli.console import JsonFlag, out, print_json, progress

if TYPE_CHECKING:
    from byteloom.corpus import CorpusStatistics

corpus_app = typer.Typer(no_args_is_help=True, help="Look at a corpus before anything is trained on it.")

_TOP_REASONS = 3
_BARS = "▁▂▃▄▅▆▇█"


@corpus_app.callback()
def _group() -> None:
    pass  # keeps `stats` a subcommand while it is the only one


@corpus_app.command(name="stats")
def stats(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, archives or quoted glob patterns.")],
    formats: Annotated[
        str | None,
        typer.Option(
            help="Only these formats, with commas: elf, pe, mach-o, coff, dex, apk, wasm, text, empty, other."
        ),
    ] = None,
    min_size: Annotated[int, typer.Option(help="Leave out documents of fewer bytes.")] = 1,
    max_size: Annotated[int | None, typer.Option(help="Leave out documents of more bytes.")] = None,
    max_entropy: Annotated[
        float | None,
        typer.Option(help="Leave out documents above this order-0 entropy in bits per byte; 7.2 drops packed content."),
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Read this field of JSONL and Parquet records, and no other files.")
    ] = None,
    no_archives: Annotated[
        bool, typer.Option("--no-archives", help="Take archives as they are instead of reading their members.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Count files, bytes and entropy of a corpus by format and architecture.

    Use it before training: it shows what a folder holds, how much of it is duplicated, packed or unreadable, and
    what a filter would leave. Documents of equal content count once. Formats are told by content, not by name.

    Example: byteloom corpus stats /usr/bin --formats elf --max-entropy 7.2
    """
    from byteloom.corpus import Corpus, corpus_statistics

    corpus = Corpus(
        paths,
        formats=[name.strip() for name in formats.split(",")] if formats is not None else None,
        min_size=min_size,
        max_size=max_size,
        entropy=(0.0, max_entropy) if max_entropy is not None else None,
        archives=not no_archives,
        field=field,
    )
    with progress() as report:
        statistics = corpus_statistics(corpus, report)
    if statistics.files == 0:
        raise corpus.nothing_found()
    if json:
        print_json(statistics.to_json())
    else:
        _print(statistics)


def _print(statistics: CorpusStatistics) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("Format", "Architecture")
    for title in ("Files", "Bytes", "Share", "Entropy"):
        table.add_column(title, justify="right")
    for row in statistics.rows:
        share = f"{row.bytes / max(statistics.bytes, 1):.1%}"
        size = decimal(row.bytes)
        table.add_row(row.format, row.architecture or "", f"{row.files:,}", size, share, f"{row.entropy:.2f}")
    table.add_section()
    table.add_row("[bold]all[/]", "", f"{statistics.files:,}", decimal(statistics.bytes), "100.0%", "")
    out.print(table)
    out.print(f"Entropy, bits per byte  0 {_sparkline(statistics.entropy_histogram)} 8")
    out.print(f"Duplicates              {statistics.duplicates:,}")
    for name, count in statistics.filtered.items():
        if name != "duplicate":
            out.print(f"Kept out by {name:<11} {count:,}")
    for problem, count in statistics.problems.items():
        out.print(f"Damaged headers         {count:,} x {problem}", markup=False)
    out.print(f"Unreadable              {len(statistics.skipped):,}")
    for reason, count in Counter(skipped.reason for skipped in statistics.skipped).most_common(_TOP_REASONS):
        example = next(skipped.name for skipped in statistics.skipped if skipped.reason == reason)
        out.print(f"  {count:,} x {reason}, such as {example}", markup=False, soft_wrap=True)


def _sparkline(counts: list[int]) -> str:
    """One character a bin; empty bins are blank, the fullest is a full block."""
    most = max(counts)
    return "".join(_BARS[min(count * len(_BARS) // most, len(_BARS) - 1)] if count else " " for count in counts)
