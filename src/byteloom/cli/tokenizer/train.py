"""`byteloom tokenizer train`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from byteloom.cli.console import JsonFlag, err, print_json, progress
from byteloom.cli.tokenizer.shared import Formats, Paths, documents_of, human_size, line, open_corpus
from byteloom.errors import InvalidInputError


def train(
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tokenizer and its smaller members.")],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, 7 special tokens and 256 bytes included.")] = 16384,
    family: Annotated[
        str | None, typer.Option(help="Also write these smaller sizes, with commas; they share ids with the large one.")
    ] = None,
    min_frequency: Annotated[int, typer.Option(help="Merge no pair that occurs less often.")] = 4,
    max_token_length: Annotated[int, typer.Option(help="Longest token in bytes.")] = 32,
    chunk_size: Annotated[
        int | None, typer.Option(help="Cut files every so many bytes first; 8192 is what the published family used.")
    ] = None,
    entropy: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LO HI", help="Train only on chunks (or files) between these entropies, in bits per byte."
        ),
    ] = None,
    formats: Formats = None,
    field: Annotated[
        str | None, typer.Option(help="Read this field of JSONL and Parquet records, and no other files.")
    ] = None,
    memory_limit: Annotated[
        float | None, typer.Option(metavar="GB", help="Sample the files so that training needs no more memory.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Default: all cores. The result does not depend on it.")] = None,
    json: JsonFlag = False,
) -> None:
    """Learn a byte-pair vocabulary from files.

    Use it when you have a corpus of executables or any other bytes and want 2 to 3 bytes per token. It learns
    tens of megabytes a second, and the result loads in transformers. Cut off small sizes with --family: they share ids
    with the large one, so that a model can grow.

    Example: byteloom tokenizer train /usr/bin -o my-tokenizer --vocab-size 32768 --family 4096,8192
    """
    from byteloom.tokenize import train_bpe
    from byteloom.tokenize.analysis import length_statistics

    members = _sizes(family, vocab_size) if family is not None else []
    corpus = open_corpus(paths, formats, field)
    with progress() as report, warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        total = corpus.size_on_disk()

        def forward(what: str, done: int, all_: int) -> None:
            report(what, *((corpus.visited_bytes, total) if what == "reading" else (done, all_)))

        tokenizer = train_bpe(
            (document.data for document in documents_of(corpus)),
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            max_token_length=max_token_length,
            chunk_size=chunk_size,
            entropy=entropy,
            threads=threads,
            memory_limit=None if memory_limit is None else int(memory_limit * 1e9),
            progress=forward,
        )
    for note in notes:
        err.print(f"note: {note.message}", markup=False)
    written = {str(output): tokenizer}
    for size in members:
        if size < tokenizer.vocab_size:
            written[str(output / str(size))] = tokenizer.truncate(size)
    for folder, member in written.items():
        member.save(folder)

    training = tokenizer.training
    assert training is not None
    result = {
        "vocab_size": tokenizer.vocab_size,
        "merges": len(tokenizer.merges),
        "bytes": training.bytes,
        "documents": training.documents,
        "sampled_from_bytes": training.sampled_from,
        "seconds": round(training.seconds, 3),
        "mean_token_bytes": round(length_statistics(tokenizer).mean, 3),
        "written": {folder: member.vocab_size for folder, member in written.items()},
    }
    if json:
        print_json(result)
        return
    rate = training.bytes / 1e6 / max(training.seconds, 1e-9)
    line(
        f"{tokenizer.vocab_size:,} tokens of {result['mean_token_bytes']:.2f} bytes on average, learned from "
        f"{human_size(training.bytes)} in {training.seconds:.1f} s ({rate:.0f} MB/s)"
    )
    for folder, member in written.items():
        line(f"  {member.vocab_size:>7,}  {folder}")
    line(f"Next: byteloom tokenizer inspect FILE -t {output}")


def _sizes(family: str, vocab_size: int) -> list[int]:
    try:
        sizes = [int(size) for size in family.split(",")]
    except ValueError:
        raise InvalidInputError(f"--family takes numbers with commas, such as 4096,8192; got {family}") from None
    if any(not 263 <= size <= vocab_size for size in sizes):
        raise InvalidInputError(f"--family sizes must lie from 263 to --vocab-size {vocab_size}; got {family}")
    return sizes
