"""`byteloom tokenizer encode` and `byteloom tokenizer decode`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byteloom.cli.console import JsonFlag, print_json, progress
from byteloom.cli.tokenizer.shared import STREAM, TokenizerOption, line, ratio
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.tokenize import Codec, DNATokenizer
    from byteloom.tokenize.tokenizer import Ids

BLOCK = 1 << 20  # bytes read at a time where the input may be larger than memory


class _Inference(StrEnum):
    merge = "merge"
    greedy = "greedy"
    greedy_right = "greedy_right"
    minimal = "minimal"
    longest_first = "longest_first"
    shuffle = "shuffle"
    delete = "delete"
    truncate = "truncate"
    bytes = "bytes"


def encode(
    source: Annotated[str, typer.Argument(metavar="FILE", help="The file to encode; - for standard input.")],
    tokenizer: TokenizerOption,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="FILE.npy, FILE.bin (uint32), FILE.txt, or - for uint32 on standard output."
        ),
    ] = None,
    inference: Annotated[
        _Inference,
        typer.Option(
            help="merge: in merge order. Without merges: greedy and greedy_right, the longest token from the start or "
            "the end; minimal, the fewest tokens; longest_first. Damaged merges, as controls: shuffle, delete (a "
            "tenth), truncate (to half), bytes."
        ),
    ] = _Inference.merge,
    json: JsonFlag = False,
) -> None:
    """Turn bytes into token ids.

    Use it to prepare data for other tools, or to see the ids of a file. Files of any size are encoded in constant
    memory, but for greedy_right, longest_first and shuffle, which hold the file. Without -o, ids are printed as text,
    one a line. With a tokenizer of DNA, a FASTA or FASTQ file gives its sequences, each with an end token behind it.

    Example: byteloom tokenizer encode /bin/ls -t my-tokenizer -o ls.npy
    """
    from byteloom.files import read_blocks
    from byteloom.tokenize import DNATokenizer, Segmenter, load_tokenizer
    from byteloom.tokenize.id_files import write_ids
    from byteloom.tokenize.loading import load_bpe

    codec: Codec
    if inference is _Inference.merge:
        codec = load_tokenizer(tokenizer)
    else:
        codec = Segmenter(load_bpe(tokenizer, f"--inference {inference.value}"), inference=inference.name)  # type: ignore[arg-type]
    size = count = 0
    with progress() as report:
        total = 0 if source == STREAM or not Path(source).is_file() else Path(source).stat().st_size

        def blocks() -> Iterator[bytes]:
            nonlocal size
            for block in iter(lambda: sys.stdin.buffer.read(BLOCK), b"") if source == STREAM else read_blocks(source):
                yield block
                size += len(block)
                report("encoding", size, total)

        if isinstance(codec, DNATokenizer) and total and _is_fasta(source):

            def count_bases(bases: int) -> None:
                nonlocal size
                size += bases

            encoded = _encoded_sequences(codec, source, count_bases)
        else:
            encoded = codec.encode_blocks(blocks())
        if output is not None and output != STREAM:
            count = write_ids(output, encoded)
        else:
            for ids in encoded:
                count += len(ids)
                if output == STREAM:
                    sys.stdout.buffer.write(ids.astype("<u4").tobytes())
                elif not json:
                    sys.stdout.write("".join(f"{token}\n" for token in ids.tolist()))
            sys.stdout.flush()
    if output != STREAM and json:
        print_json({"bytes": size, "tokens": count, "output": output})
    elif output not in (None, STREAM):
        line(f"{size:,} bytes, {count:,} tokens{ratio(size, count)}: {output}")


def _is_fasta(source: str) -> bool:
    """Whether a file begins as FASTA, FASTQ or one of them compressed does."""
    from byteloom.files import open_bytes

    return bytes(open_bytes(source)[:1]) in (b">", b"@", b"\x1f")


def _encoded_sequences(codec: DNATokenizer, source: str, counted: Callable[[int], None]) -> Iterator[Ids]:
    """The ids of each sequence of a FASTA or FASTQ file, with the token that ends a text behind them."""
    import numpy as np

    from byteloom.corpus import read_fasta

    end = [codec.special_tokens[name] for name in ("<|end|>", "[EOS]") if name in codec.special_tokens]
    for record in read_fasta(source):
        counted(len(record.seq))
        yield np.concatenate([codec.encode(record.seq), np.array(end[:1], np.uint32)])


def decode(
    source: Annotated[
        str, typer.Argument(metavar="IDS", help="FILE.npy, .bin or .txt; - for uint32 on standard input.")
    ],
    tokenizer: TokenizerOption,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: standard output.")] = None,
    json: JsonFlag = False,
) -> None:
    """Turn token ids back into bytes.

    Use it on what `encode` wrote or a model generated. Special tokens give no bytes.

    Example: byteloom tokenizer decode ls.npy -t my-tokenizer -o ls.copy
    """
    from byteloom.files import atomic_write
    from byteloom.tokenize import load_tokenizer
    from byteloom.tokenize.id_files import read_id_stream, read_ids

    if json and output is None:
        raise InvalidInputError("--json would mix with the bytes on standard output; name a file with -o")
    bpe = load_tokenizer(tokenizer)
    pieces = bpe.decode_blocks(read_id_stream(sys.stdin.buffer) if source == STREAM else read_ids(source))
    if output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        return
    size = 0
    with atomic_write(output) as file:
        for piece in pieces:
            size += file.write(piece)
    if json:
        print_json({"bytes": size, "output": str(output)})
    else:
        line(f"{size:,} bytes: {output}")
