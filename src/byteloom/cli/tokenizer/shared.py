"""What the verbs of `byteloom tokenizer` share: options, corpora, and how results are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from byteloom.cli.console import out

if TYPE_CHECKING:
    from byteloom.corpus import Corpus, Document

STREAM = "-"  # in place of a file: standard input or output

Paths = Annotated[list[str], typer.Argument(help="Files, folders, archives or quoted glob patterns.")]
TokenizerOption = Annotated[
    str,
    typer.Option(
        "--tokenizer", "-t", help='A tokenizer folder, tokenizer.json or .tiktoken file; or "bytes" for raw bytes.'
    ),
]
Formats = Annotated[
    str | None, typer.Option(help="Only these formats, with commas, such as elf,pe; see `byteloom corpus stats -h`.")
]


def open_corpus(paths: list[str], formats: str | None, field: str | None) -> Corpus:
    from byteloom.corpus import Corpus

    names = None if formats is None else [name.strip() for name in formats.split(",")]
    return Corpus(paths, formats=names, field=field)


def documents_of(corpus: Corpus) -> Iterator[Document]:
    """The documents of a corpus. Raises InvalidInputError at the end when there was none."""
    empty = True
    for document in corpus:
        empty = False
        yield document
    if empty:
        raise corpus.nothing_found()


def human_size(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)


def ratio(size: int, tokens: int) -> str:
    return f", {size / tokens:.2f} bytes per token" if tokens else ""


def line(text: str) -> None:
    """Print a line as it is: a path in it is neither markup nor broken in two."""
    out.print(text, markup=False, soft_wrap=True)


def table_of(*left: str, right: Iterable[str], title: str | None = None) -> Table:
    """A table that fits a narrow terminal."""
    from rich.box import SIMPLE_HEAD

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table
