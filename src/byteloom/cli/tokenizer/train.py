"""`byteloom tokenizer train`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byteloom.cli.console import JsonFlag, err, print_json, progress
from byteloom.cli.subword_choices import Estimation, SubwordMethod, Unit
from byteloom.cli.tokenizer.shared import Formats, Paths, documents_of, human_size, line, open_corpus
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.tokenize import Tokenizer


class _Method(StrEnum):
    bpe = "bpe"
    dna = "dna"
    equal_info = "equal-info"
    subword = "subword"


_VOCAB_SIZE = {_Method.bpe: 16_384, _Method.dna: 1_024, _Method.equal_info: 65_536, _Method.subword: 4_096}


def train(
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tokenizer and its smaller members.")],
    method: Annotated[
        _Method,
        typer.Option(
            help="bpe: byte-pair encoding, for any bytes. subword: parts of words, for text in languages with long "
            "words. dna: byte-pair encoding of reads and genomes. equal-info: strings of about equal information."
        ),
    ] = _Method.bpe,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            help="Number of ids, 7 special tokens included. Default: 16384 for bpe, 65536 for equal-info, 4096 for "
            "subword, 1024 for dna."
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(help="bpe, dna: also write these smaller sizes, with commas; they share ids with the large one."),
    ] = None,
    min_frequency: Annotated[
        int | None, typer.Option(help="bpe, dna: merge no pair that occurs less often. Default: 4.")
    ] = None,
    max_token_length: Annotated[int | None, typer.Option(help="bpe: longest token in bytes. Default: 32.")] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(help="bpe: cut files every so many bytes first; 8192 is what the published family used."),
    ] = None,
    entropy: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LO HI", help="bpe: train only on chunks (or files) between these entropies, in bits per byte."
        ),
    ] = None,
    boundary: Annotated[
        str | None,
        typer.Option(
            metavar="BYTE", help="equal-info: end every token behind this byte, such as 0x0a, so that lines are apart."
        ),
    ] = None,
    dictionary: Annotated[
        SubwordMethod | None, typer.Option(help="subword: how units are found. Default: extended_bpe.")
    ] = None,
    estimation: Annotated[
        Estimation | None, typer.Option(help="subword: how their probabilities are found. Default: viterbi.")
    ] = None,
    unit: Annotated[
        Unit | None, typer.Option(help="subword: what is never cut. Default: akshara, the syllables of Indic scripts.")
    ] = None,
    formats: Formats = None,
    field: Annotated[
        str | None, typer.Option(help="Read this field of JSONL and Parquet records, and no other files.")
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(metavar="GB", help="bpe, dna: sample the files so that training needs no more memory."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Default: all cores. The result does not depend on it.")] = None,
    json: JsonFlag = False,
) -> None:
    """Learn a tokenizer from files.

    Use it when you have a corpus of executables or any other bytes and want 2 to 3 bytes per token, or a language, a
    genome or another domain with its own method. Byte-pair encoding learns tens of megabytes a second. The result loads
    in transformers, whatever the method. Cut off small sizes with --family: they share ids with the large one, so
    that a model can grow. `byteloom tokenizer compare` tells which method pays on your files.

    Example: byteloom tokenizer train /usr/bin -o my-tokenizer --vocab-size 32768 --family 4096,8192
    """
    from byteloom.tokenize import BPE
    from byteloom.tokenize.analysis import length_statistics

    if vocab_size is None:
        vocab_size = _VOCAB_SIZE[method]
    members = _sizes(family, vocab_size) if family is not None else []
    options: dict[str, Any] = {
        "min_frequency": min_frequency,
        "max_token_length": max_token_length,
        "chunk_size": chunk_size,
        "entropy": entropy,
        "memory_limit": None if memory_limit is None else int(memory_limit * 1e9),
        "boundary": None if boundary is None else _byte(boundary),
        "dictionary": dictionary and dictionary.value,
        "estimation": estimation and estimation.value,
        "unit": unit and unit.value,
        "threads": threads,
    }
    trainer, accepted = _trainer(method)
    given = {name: value for name, value in options.items() if value is not None}
    if family is not None:
        accepted = accepted | ({"family"} if method in (_Method.bpe, _Method.dna) else set())
    for name in [*given, *(["family"] if family is not None else [])]:
        if name not in accepted:
            option = "--" + name.replace("_", "-")
            raise InvalidInputError(f"{option} has no meaning for --method {method}; leave it out")
    corpus = open_corpus(paths, formats, field)
    with progress() as report, warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        total = corpus.size_on_disk()

        def documents() -> Iterator[memoryview]:
            for document in documents_of(corpus):
                report("reading", corpus.visited_bytes, total)
                yield document.data

        def forward(what: str, done: int, all_: int) -> None:
            if what != "reading":  # which is reported above, in bytes of files
                report(what, done, all_)

        tokenizer = trainer(documents(), vocab_size=vocab_size, progress=forward, **given)
    for note in notes:
        err.print(f"note: {note.message}", markup=False)
    written = {str(output): tokenizer}
    if isinstance(tokenizer, BPE):
        for size in members:
            if size < tokenizer.vocab_size:
                written[str(output / str(size))] = tokenizer.truncate(size)
    for folder, member in written.items():
        member.save(folder)

    training = tokenizer.training
    assert training is not None
    result = {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
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
        f"{human_size(training.bytes)} in {training.seconds:.1f} s ({rate:,.{rate < 10:d}f} MB/s)"
    )
    for folder, member in written.items():
        line(f"  {member.vocab_size:>7,}  {folder}")
    line(f"Next: byteloom tokenizer inspect FILE -t {output}")


def _trainer(method: _Method) -> tuple[Callable[..., Tokenizer], frozenset[str]]:
    """The function that trains, and the options that it takes."""
    from byteloom import tokenize

    if method is _Method.bpe:
        accepted = {"min_frequency", "max_token_length", "chunk_size", "entropy", "memory_limit", "threads"}
        return tokenize.train_bpe, frozenset(accepted)
    if method is _Method.dna:
        return tokenize.train_dna, frozenset({"min_frequency", "memory_limit", "threads"})
    if method is _Method.equal_info:
        return tokenize.train_equal_info, frozenset({"boundary", "threads"})

    def train_subwords(documents: Iterator[memoryview], dictionary: Any = "extended_bpe", **options: Any) -> Tokenizer:
        return tokenize.train_subword_tokenizer(documents, method=dictionary, **options)

    return train_subwords, frozenset({"dictionary", "estimation", "unit"})


def _sizes(family: str, vocab_size: int) -> list[int]:
    try:
        sizes = [int(size) for size in family.split(",")]
    except ValueError:
        raise InvalidInputError(f"--family takes numbers with commas, such as 4096,8192; got {family}") from None
    if any(not 0 < size <= vocab_size for size in sizes):
        raise InvalidInputError(f"--family sizes must not exceed --vocab-size {vocab_size}; got {family}")
    return sizes


def _byte(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 256:
        raise InvalidInputError(f"--boundary is one byte, such as 0x0a or 10; got {text}")
    return value
