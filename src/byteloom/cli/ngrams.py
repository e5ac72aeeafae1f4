"""`byteloom ngrams`: counts of token n-grams, the second opinion of superposed decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json, progress

ngrams_app = typer.Typer(no_args_is_help=True, help="Count token n-grams of a corpus, for `byteloom complete`.")


@ngrams_app.callback()
def _group() -> None:
    pass  # keeps `build` a subcommand while it is the only one


@ngrams_app.command(name="build")
def build(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, archives or quoted glob patterns.")],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", "-t", metavar="DIR|FILE", help="That of the model: its folder will do.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    max_order: Annotated[int, typer.Option(help="Tokens of the longest n-grams, 2 to 6.")] = 6,
    min_count: Annotated[int, typer.Option(help="Leave out n-grams that occur less often; 2 makes small files.")] = 1,
    formats: Annotated[
        str | None, typer.Option(help="Only these formats, with commas; see `byteloom corpus stats -h`.")
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Read this field of JSONL and Parquet records, and no other files.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Count the token n-grams of files, within each document.

    Use it before `byteloom complete`, on files like those that will be completed. The file is mapped when it is used,
    not loaded, so that it may be larger than memory.

    Example: byteloom ngrams build src/ --tokenizer my-model -o code.ngr
    """
    from byteloom.corpus import Corpus
    from byteloom.tasks.completion import build_ngrams

    corpus = Corpus(
        paths, formats=[name.strip() for name in formats.split(",")] if formats is not None else None, field=field
    )
    with progress() as report:
        ngrams = build_ngrams(corpus, tokenizer, max_order=max_order, min_count=min_count, progress=report)
    ngrams.save(output)
    if json:
        print_json({"output": str(output), "bytes": ngrams.nbytes, "sizes": ngrams.sizes})
        return
    from rich.filesize import decimal
    from rich.table import Table

    table = Table("Tokens")
    table.add_column("Distinct n-grams", justify="right")
    for order, size in ngrams.sizes.items():
        table.add_row(str(order), f"{size:,}")
    out.print(table)
    err.print(f"{decimal(ngrams.nbytes)} written to {output}", markup=False, soft_wrap=True)
    if corpus.skipped:
        err.print(
            f"note: {len(corpus.skipped):,} files could not be read, the first because: {corpus.skipped[0].reason}",
            markup=False,
        )
