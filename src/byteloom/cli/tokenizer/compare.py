"""`byteloom tokenizer compare`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from byteloom.cli.console import JsonFlag, Progress, out, print_json, progress
from byteloom.cli.tokenizer.shared import Formats, Paths, documents_of, human_size, line, open_corpus, table_of
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.corpus import Corpus
    from byteloom.evaluate.tokenizer_comparison import Group
    from byteloom.tasks.small_models import SmallModel
    from byteloom.tokenize import Tokenizer

HELD_OUT = 0.1  # of the sample, when models are trained on the rest
JUDGED = 200_000  # bytes of it that the models are judged on


def compare(
    paths: Paths,
    tokenizers: Annotated[
        list[str],
        typer.Option("--tokenizer", "-t", help="A tokenizer of any kind; repeat it for each. Raw bytes come too."),
    ],
    formats: Formats = None,
    sample: Annotated[
        float, typer.Option(metavar="MB", help="Measure on about so many MB, chosen by path; 0 takes everything.")
    ] = 16.0,
    model_budget: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Train a small model with each tokenizer, too, on nine tenths of the sample: on raw bytes for so many "
            "seconds, with the others for as many operations. Everything is measured on the last tenth.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the bits per byte of the models into this .svg, .png or .pdf file.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Compare tokenizers on the same files: bytes per token, vocabulary use, speed, and what a model makes of them.

    Use it to choose a kind of tokenizer or a vocabulary size, or to see whether your tokenizer beats another on your
    files. Compare on files that no tokenizer was trained on. zstd and entropy are given as bytes of input per byte of
    output. Fewer tokens are not always easier to learn: --model-budget tells.

    Example: byteloom tokenizer compare /usr/lib -t bpe -t windows --model-budget 60 --plot models.svg
    """
    from byteloom.evaluate.tokenizer_comparison import compare_tokenizers
    from byteloom.tokenize import load_tokenizer
    from byteloom.tokenize.analysis import vocabulary_difference

    if len(set(tokenizers)) < len(tokenizers):
        raise InvalidInputError("a tokenizer is named twice; name each once")
    if model_budget is None and plot is not None:
        raise InvalidInputError("--plot draws the models of --model-budget; give both")
    if model_budget is not None and not model_budget > 0:
        raise InvalidInputError(f"--model-budget is a number of seconds above 0; got {model_budget:g}")
    if plot is not None:
        from byteloom.tasks.plots import check_plot
        from byteloom.tasks.small_models import draw_models

        check_plot(plot)
    loaded = {name: load_tokenizer(name) for name in tokenizers}
    corpus = open_corpus(paths, formats, None)
    if sample:
        corpus = corpus.sample(int(sample * 1e6))
    models: dict[str, SmallModel] = {}
    with progress() as report:
        measured = corpus
        if model_budget is not None:
            train, measured = corpus.split(HELD_OUT)
            models = _train_models(loaded, train, measured, model_budget, report)
        total = measured.size_on_disk()
        groups = compare_tokenizers(loaded, documents_of(measured), lambda done: report("measuring", done, total))
    if plot is not None:
        draw_models({_short_names(models)[name]: model for name, model in models.items()}, plot)
    if json:
        print_json(
            {
                "groups": [_group_json(group, loaded) for group in groups],
                "models": {name: asdict(model) for name, model in models.items()},
            }
        )
        return
    _print_comparison(groups, loaded)
    for name, count in groups[0].changed.items():
        if count:
            line(f"note: {name} does not give back {count:,} of the documents as they were: it is not made for them")
    if models:
        _print_models(models)
    if plot is not None:
        line(f"Plot  {plot}")
    if len(loaded) == 2:
        difference = vocabulary_difference(*loaded.values())
        out.print(
            f"The two vocabularies share {difference.shared:,} tokens; {len(difference.only_first):,} are only in the "
            f"first and {len(difference.only_second):,} only in the second. {difference.same_ids:,} ids mean the same."
        )


def _train_models(
    tokenizers: dict[str, Tokenizer], train: Corpus, held_out: Corpus, seconds: float, report: Progress
) -> dict[str, SmallModel]:
    from byteloom.evaluate.bits_per_byte import sample_blocks
    from byteloom.tasks.small_models import try_tokenizers

    blocks = sample_blocks((document.data for document in documents_of(held_out)), JUDGED)
    documents = [document.data for document in documents_of(train)]
    with tempfile.TemporaryDirectory(prefix="byteloom-compare-") as folder:
        return try_tokenizers(tokenizers, documents, blocks, Path(folder), seconds=seconds, progress=report)


def _short_names(names: Iterable[str]) -> dict[str, str]:
    """The last part of each path that tells them apart; the whole paths where it does not."""
    paths = {name: Path(name) for name in names}
    short = {name: (path.parent if path.name == "tokenizer.json" else path).name for name, path in paths.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in short}


def _group_json(group: Group, tokenizers: dict[str, Tokenizer]) -> dict[str, Any]:
    return {
        "group": group.name,
        "by": group.by,
        "bytes": group.bytes,
        "tokenizers": {
            name: {
                "vocab_size": tokenizer.vocab_size,
                "tokens": group.tokens[name],
                "tokens_used": group.used[name],
                "bytes_per_token": group.bytes_per_token(name),
                "bits_per_byte": group.bits_per_byte(name, tokenizer.vocab_size),
                "encode_mb_per_s": group.encode_mb_per_s(name) or None,
                "changed_documents": group.changed.get(name),
            }
            for name, tokenizer in tokenizers.items()
        },
        "zstd_ratio": {str(level): group.zstd_ratio(level) for level in group.compressed},
        "entropy_bits_per_byte": group.entropy_bits / max(group.bytes, 1),
    }


def _print_comparison(groups: list[Group], tokenizers: dict[str, Tokenizer]) -> None:
    levels = list(groups[0].compressed)
    short = _short_names(tokenizers)
    titles = ("Bytes", "Raw", *short.values(), *(f"zstd -{level}" for level in levels), "Order 0")
    table = table_of("", right=titles, title="Bytes per token; for zstd and order-0 entropy, bytes per byte of output")
    for before, group in pairwise([groups[0], *groups]):
        if group.by != before.by:
            table.add_section()
            table.add_row(f"[dim]by {group.by}[/]")
        best = max(group.tokens, key=group.bytes_per_token)
        table.add_row(
            group.name,
            human_size(group.bytes).replace(" bytes", " B"),
            "1.00",
            *(Text(f"{group.bytes_per_token(name):.2f}", "bold" if name == best else "") for name in tokenizers),
            *(f"{group.zstd_ratio(level):.2f}" for level in levels),
            f"{group.entropy_ratio():.2f}",
        )
    out.print(table)

    everything = groups[0]
    table = table_of(
        "",
        right=("Kind", "Vocabulary", "Used", "MB/s", "Bits/byte", "2,048 tokens"),
        title="All of it, with ids stored in log2(vocabulary) bits",
    )
    table.add_row("raw bytes", "", "256", "", "", "8.00", human_size(2048))
    for name, tokenizer in tokenizers.items():
        table.add_row(
            Text(short[name]),
            tokenizer.kind,
            f"{tokenizer.vocab_size:,}",
            f"{everything.used[name] / tokenizer.vocab_size:.0%}",
            f"{everything.encode_mb_per_s(name):.0f}",
            f"{everything.bits_per_byte(name, tokenizer.vocab_size):.2f}",
            human_size(round(2048 * everything.bytes_per_token(name))),
        )
    for level in levels:
        table.add_row(f"zstd -{level}", "", "", "", "", f"{8 / everything.zstd_ratio(level):.2f}", "")
    table.add_row("order-0 entropy", "", "", "", "", f"{8 / everything.entropy_ratio():.2f}", "")
    out.print(table)


def _print_models(models: dict[str, SmallModel]) -> None:
    least = min(model.bits_per_byte for model in models.values())
    table = table_of(
        "",
        right=("Bits/byte", "Parameters", "Tokens seen", "Bytes seen", "Time"),
        title="A small model of each, at equal operations, on the held-out tenth",
    )
    short = _short_names(models)
    for name, model in models.items():
        table.add_row(
            Text(short[name]),
            Text(f"{model.bits_per_byte:.3f}", "bold" if model.bits_per_byte == least else ""),
            f"{model.parameters:,}",
            f"{model.tokens:,}",
            human_size(model.bytes),
            f"{model.seconds:.0f} s",
        )
    out.print(table)
