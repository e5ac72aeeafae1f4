"""`byteloom tokenizer export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from byteloom.cli.console import JsonFlag, print_json
from byteloom.cli.tokenizer.shared import line
from byteloom.errors import InvalidInputError


class _Target(StrEnum):
    hf = "hf"
    latin1 = "latin1"
    tiktoken = "tiktoken"


def export(
    tokenizer: Annotated[str, typer.Argument(help="A tokenizer folder, tokenizer.json or .tiktoken file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder or .json file; for tiktoken a .tiktoken file.")
    ],
    to: Annotated[
        _Target,
        typer.Option(
            help="hf: Hugging Face, as byteloom writes it; latin1: the same, but plain `tokenizers` takes any bytes as "
            'data.decode("latin-1"); tiktoken: a rank file.'
        ),
    ] = _Target.hf,
    vocab_size: Annotated[int | None, typer.Option(help="Cut the vocabulary to its first so many ids.")] = None,
    json: JsonFlag = False,
) -> None:
    """Write a tokenizer in another form or at a smaller size.

    Use it to give a tokenizer to other programs, to convert an official Latin-1 file or a tiktoken file, or to cut
    a smaller member of the family. Ids stay what they are.

    Example: byteloom tokenizer export my-tokenizer --vocab-size 4096 --to tiktoken -o small.tiktoken
    """
    from byteloom.tokenize import BPE, load_tokenizer
    from byteloom.tokenize.loading import load_bpe
    from byteloom.tokenize.tiktoken_ranks import write_tiktoken_ranks
    from byteloom.tokenize.tokenizer_json import write_tokenizer_json

    if (to == _Target.tiktoken) != (output.suffix == ".tiktoken"):
        raise InvalidInputError(
            f"--to {to} and {output} do not fit: a name in .tiktoken is for rank files, and only for them"
        )
    loaded = load_tokenizer(tokenizer) if to == _Target.hf else load_bpe(tokenizer, f"--to {to}")
    if vocab_size is not None:
        if not isinstance(loaded, BPE):
            raise InvalidInputError(f"only BPE has smaller members; {tokenizer} is of the kind {loaded.kind}")
        loaded = loaded.truncate(vocab_size)
    if isinstance(loaded, BPE) and to == _Target.tiktoken:
        write_tiktoken_ranks(output, loaded.tables)
    elif isinstance(loaded, BPE) and to == _Target.latin1:
        write_tokenizer_json(output, loaded.tables, alphabet="latin-1")
    else:
        loaded.save(output)
    if json:
        print_json({"vocab_size": loaded.vocab_size, "to": to, "output": str(output)})
    else:
        line(f"{loaded.vocab_size:,} tokens: {output}")
