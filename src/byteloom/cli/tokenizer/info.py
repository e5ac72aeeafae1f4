"""`byteloom tokenizer info`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from byteloom.cli.console import JsonFlag, out, print_json, progress
from byteloom.cli.tokenizer.shared import Formats, documents_of, open_corpus, table_of

SHOWN = 12  # bytes of a token in a table


def info(
    tokenizer: Annotated[str, typer.Argument(help='A tokenizer folder, tokenizer.json or .tiktoken file; or "bytes".')],
    paths: Annotated[
        list[str] | None, typer.Argument(help="Files to count the use of tokens on: files, folders, archives, globs.")
    ] = None,
    formats: Formats = None,
    examples: Annotated[int, typer.Option(help="How many tokens to show for each format.")] = 12,
    json: JsonFlag = False,
) -> None:
    """Describe a vocabulary: token lengths, and, given files, its use and its most telling tokens by format.

    Use it to judge a tokenizer before a model is trained on it. Tokens are shown with a guess of what they mean.

    Example: byteloom tokenizer info my-tokenizer /usr/lib
    """
    from dataclasses import asdict

    import numpy as np

    from byteloom.tokenize import load_tokenizer
    from byteloom.tokenize.analysis import guess_meaning, length_statistics, telling_tokens, used_share

    bpe = load_tokenizer(tokenizer)
    statistics = length_statistics(bpe)
    counts: dict[str, Any] = {}
    if paths:
        corpus = open_corpus(paths, formats, None)
        with progress() as report:
            total = corpus.size_on_disk()
            for document in documents_of(corpus):
                counts.setdefault(document.format, np.zeros(bpe.vocab_size, np.int64))
                counts[document.format] += np.bincount(bpe.encode(document.data), minlength=bpe.vocab_size)
                report("encoding", corpus.visited_bytes, total)
    everything = sum(counts.values()) if counts else np.ones(bpe.vocab_size, np.int64)
    shown = {}
    for name, here in (counts or {"the vocabulary": everything}).items():
        elsewhere = everything - here if len(counts) > 1 else None
        shown[name] = [
            {
                "id": token,
                "hex": bpe.token_bytes(token).hex(),
                "count": int(here[token]) if counts else None,
                "meaning": guess_meaning(bpe.token_bytes(token)),
            }
            for token in telling_tokens(bpe, here, elsewhere, examples)
        ]
    result = {
        "vocab_size": bpe.vocab_size,
        "kind": bpe.kind,
        "special_tokens": dict(bpe.special_tokens),
        "lengths": asdict(statistics),
        "used_share": used_share(bpe, everything) if counts else None,
        "tokens": shown,
    }
    if json:
        print_json(result)
    else:
        _print_info(result)


def _print_info(result: dict[str, Any]) -> None:
    from byteloom.tokenize.segments import printable

    lengths = result["lengths"]
    out.print(
        f"{result['vocab_size']:,} tokens ({result['kind']}), {len(result['special_tokens'])} of them special; "
        f"mean length {lengths['mean']:.2f} bytes, longest {lengths['longest']}, "
        f"{lengths['three_byte_share']:.1%} of 3 bytes",
        soft_wrap=True,
    )
    if result["used_share"] is not None:
        out.print(f"{result['used_share']:.1%} of the vocabulary occurs in these files")
    most = max(lengths["histogram"].values())
    for length, count in lengths["histogram"].items():
        out.print(f"{length:>5} bytes {count:>7,} {'█' * round(40 * count / most)}")
    for name, tokens in result["tokens"].items():
        table = table_of("Id", "Hex", "ASCII", right=["Count"], title=f"What the tokenizer learned from {name}")
        table.add_column("Looks like")
        for token in tokens:
            data = bytes.fromhex(token["hex"])
            count = "" if token["count"] is None else f"{token['count']:,}"
            shown = data[:SHOWN].hex() + ("..." if len(data) > SHOWN else "")
            table.add_row(str(token["id"]), shown, Text(printable(data[:SHOWN])), count, token["meaning"])
        if tokens:
            out.print(table)
