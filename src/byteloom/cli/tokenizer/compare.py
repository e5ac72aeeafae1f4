"""`byteloom tokenizer compare`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from byteloom.cli.console import JsonFlag, out, print_json, progress
from byteloom.cli.tokenizer.shared import Formats, Paths, documents_of, human_size, open_corpus, table_of
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.evaluate.tokenizer_comparison import Group
    from byteloom.tokenize import Tokenizer


def compare(
    paths: Paths,
    tokenizers: Annotated[
        list[str],
        typer.Option("--tokenizer", "-t", help="A tokenizer; repeat it for each. Raw bytes are always there."),
    ],
    formats: Formats = None,
    sample: Annotated[
        float, typer.Option(metavar="MB", help="Measure on about so many MB, chosen by path; 0 takes everything.")
    ] = 16.0,
    json: JsonFlag = False,
) -> None:
    """Compare tokenizers on the same files: bytes per token by format and section, beside zstd and entropy.

    Use it to choose a vocabulary size, or to see whether your tokenizer beats another on your files. Compare on
    files that no tokenizer was trained on. zstd and entropy are given as bytes of input per byte of output.

    Example: byteloom tokenizer compare /usr/lib -t small-tokenizer -t large-tokenizer
    """
    from byteloom.evaluate.tokenizer_comparison import compare_tokenizers
    from byteloom.tokenize import load_tokenizer
    from byteloom.tokenize.analysis import vocabulary_difference

    if len(set(tokenizers)) < len(tokenizers):
        raise InvalidInputError("a tokenizer is named twice; name each once")
    loaded = {name: load_tokenizer(name) for name in tokenizers}
    corpus = open_corpus(paths, formats, None)
    if sample:
        corpus = corpus.sample(int(sample * 1e6))
    with progress() as report:
        total = corpus.size_on_disk()
        groups = compare_tokenizers(loaded, documents_of(corpus), lambda done: report("measuring", done, total))
    if json:
        print_json([_group_json(group, loaded) for group in groups])
        return
    _print_comparison(groups, loaded)
    if len(loaded) == 2:
        difference = vocabulary_difference(*loaded.values())
        out.print(
            f"The two vocabularies share {difference.shared:,} tokens; {len(difference.only_first):,} are only in the "
            f"first and {len(difference.only_second):,} only in the second. {difference.same_ids:,} ids mean the same."
        )


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
            }
            for name, tokenizer in tokenizers.items()
        },
        "zstd_ratio": {str(level): group.zstd_ratio(level) for level in group.compressed},
        "entropy_bits_per_byte": group.entropy_bits / max(group.bytes, 1),
    }


def _print_comparison(groups: list[Group], tokenizers: dict[str, Tokenizer]) -> None:
    levels = list(groups[0].compressed)
    last = [Path(name).name for name in tokenizers]
    short = last if len(set(last)) == len(last) else tokenizers
    titles = ("Bytes", "Raw", *short, *(f"zstd -{level}" for level in levels), "Order 0")
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
        right=("Vocabulary", "Used", "Bits/byte", "2,048 tokens"),
        title="All of it, with ids stored in log2(vocabulary) bits",
    )
    table.add_row("raw bytes", "256", "", "8.00", human_size(2048))
    for name, tokenizer in tokenizers.items():
        table.add_row(
            Text(name),
            f"{tokenizer.vocab_size:,}",
            f"{everything.used[name] / tokenizer.vocab_size:.0%}",
            f"{everything.bits_per_byte(name, tokenizer.vocab_size):.2f}",
            human_size(round(2048 * everything.bytes_per_token(name))),
        )
    for level in levels:
        table.add_row(f"zstd -{level}", "", "", f"{8 / everything.zstd_ratio(level):.2f}", "")
    table.add_row("order-0 entropy", "", "", f"{8 / everything.entropy_ratio():.2f}", "")
    out.print(table)
