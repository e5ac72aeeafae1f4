"""`byteloom compare-models`: several models and tokenizers on the same bytes at equal compute."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json, progress
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.tasks.model_comparison import ComparedModel


def compare_models(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, archives or quoted glob patterns.")],
    models: Annotated[
        str,
        typer.Option(
            help="With commas, each a model or model:tokenizer: llama:bytes, llama:bpe, llama:words, llama:PATH, "
            "word-pooled, byt5, mrt5, byte2word. Those that fill in hidden bytes are compared among themselves."
        ),
    ] = "llama:bytes,llama:bpe,word-pooled,byt5,mrt5,byte2word",
    seconds: Annotated[
        float, typer.Option(help="Training of the first model; the others get as many operations.")
    ] = 60.0,
    size: Annotated[str, typer.Option(help="nano, tiny, mini, small, ...: see `byteloom fit`.")] = "nano",
    vocab_size: Annotated[int, typer.Option(help="Tokens of bpe.")] = 2048,
    sample_mb: Annotated[float, typer.Option(help="Use a part of about this many megabytes, chosen by hash.")] = 32.0,
    validation: Annotated[float, typer.Option(help="Share of the documents to hold out and to judge on.")] = 0.1,
    validation_kb: Annotated[int, typer.Option(help="Kilobytes of held-out documents to judge on.")] = 128,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Keep models here, and go on here after a break."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw figures, speeds and memory: .svg, .pdf or .png.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and files train the same models.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Train several models on the same files at equal compute, and compare what they predict, speed and memory.

    Use it to choose a model for a kind of data before a long training. All see windows of the same bytes of text, and
    are judged on the same held-out files.

    Example: byteloom compare-models /usr/bin --seconds 120 --plot models.svg
    """
    from byteloom.corpus import Corpus
    from byteloom.evaluate.bits_per_byte import sample_blocks
    from byteloom.tasks.model_comparison import compare_models as run
    from byteloom.tasks.model_comparison import draw_comparison
    from byteloom.tasks.plots import check_plot
    from byteloom.train.plan import SIZES

    if plot is not None:
        check_plot(plot)
    if size not in SIZES:
        raise InvalidInputError(f"--size is one of {', '.join(SIZES)}, not {size!r}")
    if seconds <= 0:
        raise InvalidInputError(f"--seconds must be positive; got {seconds}")
    corpus = Corpus(paths).sample(int(sample_mb * 1e6), seed=seed)
    parts = [list(part) for part in corpus.split(validation)]
    if not all(parts):
        raise InvalidInputError("there are too few documents to train and to judge on; add files")
    train, held_out = ([document.data for document in part] for part in parts)
    blocks = sample_blocks(held_out, validation_kb << 10)
    with tempfile.TemporaryDirectory() as scratch, progress() as report:
        found = run(
            [name.strip() for name in models.split(",") if name.strip()],
            train,
            blocks,
            output or Path(scratch),
            seconds=seconds,
            backbone=SIZES[size],
            vocab_size=vocab_size,
            seed=seed,
            progress=report,
        )
    if plot is not None:
        draw_comparison(found, plot)
    if json:
        print_json([asdict(model) for model in found.values()])
    else:
        _print(list(found.values()))
    if plot is not None:
        err.print(f"written to {plot}", markup=False)


def _print(models: list[ComparedModel]) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    for measure in dict.fromkeys(model.measure for model in models):
        table = Table()
        table.add_column("Model", no_wrap=True)
        for title in (measure.capitalize(), "Parameters", "Seen", "Training/s", "Reading/s", "Memory"):
            table.add_column(title, justify="right")
        for model in sorted(models, key=lambda model: model.bits_per_byte):
            if model.measure == measure:
                table.add_row(
                    model.name,
                    f"{model.bits_per_byte:.3f}",
                    f"{model.parameters:,}",
                    decimal(model.bytes),
                    decimal(round(model.training_bytes_per_s)),
                    decimal(round(model.read_bytes_per_s)),
                    decimal(model.memory_bytes),
                )
        out.print(table)
