"""`byteloom tokenizer`: train, use, look at, compare and export tokenizers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from byteloom.cli.console import JsonFlag, err, out, print_json, progress
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.corpus import Corpus, Document
    from byteloom.evaluate.tokenizer_comparison import Group
    from byteloom.tokenize import Codec, Tokenizer

tokenizer_app = typer.Typer(no_args_is_help=True, help="Train, use, look at, compare and export tokenizers.")

_BLOCK = 1 << 20  # bytes read at a time where the input may be larger than memory
_STREAM = "-"
_SHOWN = 12  # bytes of a token in a table

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


@tokenizer_app.command()
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
    corpus = _corpus(paths, formats, field)
    with progress() as report, warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        total = corpus.size_on_disk()

        def forward(what: str, done: int, all_: int) -> None:
            report(what, *((corpus.visited_bytes, total) if what == "reading" else (done, all_)))

        tokenizer = train_bpe(
            (document.data for document in _documents(corpus)),
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
    _line(
        f"{tokenizer.vocab_size:,} tokens of {result['mean_token_bytes']:.2f} bytes on average, learned from "
        f"{_size(training.bytes)} in {training.seconds:.1f} s ({rate:.0f} MB/s)"
    )
    for folder, member in written.items():
        _line(f"  {member.vocab_size:>7,}  {folder}")
    _line(f"Next: byteloom tokenizer inspect FILE -t {output}")


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


@tokenizer_app.command()
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
    one a line.

    Example: byteloom tokenizer encode /bin/ls -t my-tokenizer -o ls.npy
    """
    from byteloom.files import read_blocks
    from byteloom.tokenize import Segmenter, load_tokenizer
    from byteloom.tokenize.id_files import write_ids
    from byteloom.tokenize.loading import load_bpe

    codec: Codec
    if inference is _Inference.merge:
        codec = load_tokenizer(tokenizer)
    else:
        codec = Segmenter(load_bpe(tokenizer, f"--inference {inference.value}"), inference=inference.name)  # type: ignore[arg-type]
    size = count = 0
    with progress() as report:
        total = 0 if source == _STREAM or not Path(source).is_file() else Path(source).stat().st_size

        def blocks() -> Iterator[bytes]:
            nonlocal size
            for block in iter(lambda: sys.stdin.buffer.read(_BLOCK), b"") if source == _STREAM else read_blocks(source):
                yield block
                size += len(block)
                report("encoding", size, total)

        encoded = codec.encode_blocks(blocks())
        if output is not None and output != _STREAM:
            count = write_ids(output, encoded)
        else:
            for ids in encoded:
                count += len(ids)
                if output == _STREAM:
                    sys.stdout.buffer.write(ids.astype("<u4").tobytes())
                elif not json:
                    sys.stdout.write("".join(f"{token}\n" for token in ids.tolist()))
            sys.stdout.flush()
    if output != _STREAM and json:
        print_json({"bytes": size, "tokens": count, "output": output})
    elif output not in (None, _STREAM):
        _line(f"{size:,} bytes, {count:,} tokens{_ratio(size, count)}: {output}")


@tokenizer_app.command()
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
    pieces = bpe.decode_blocks(read_id_stream(sys.stdin.buffer) if source == _STREAM else read_ids(source))
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
        _line(f"{size:,} bytes: {output}")


def _integer(value: str | int) -> int:
    return value if isinstance(value, int) else int(value, 0)  # typer passes the default through here too


@tokenizer_app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="The file to look at.")],
    tokenizer: TokenizerOption,
    offset: Annotated[int, typer.Option(parser=_integer, metavar="BYTES", help="Where to start, such as 0x1000.")] = 0,
    length: Annotated[int, typer.Option(parser=_integer, metavar="BYTES", help="How much to draw.")] = 512,
    section: Annotated[
        str | None, typer.Option(help="Start at this section, such as .text; --offset counts from it.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Draw how a file is cut into tokens: hex, ASCII, token boundaries, and a table of its sections.

    Use it to see what a tokenizer learned. Neighbouring tokens differ in colour and a bar opens each, so that it
    can be read without colour too. Lines for sections tell where tokens are long and where they are not.

    Example: byteloom tokenizer inspect /bin/ls -t my-tokenizer --section .text --length 0x200
    """
    import numpy as np

    from byteloom.cli.hexview import render_hex
    from byteloom.corpus import Document, entropy
    from byteloom.files import open_bytes
    from byteloom.tokenize import load_tokenizer
    from byteloom.tokenize.segments import id_spans

    bpe = load_tokenizer(tokenizer)
    document = Document(str(file), open_bytes(file), file)
    sections = document.info.sections
    if section is not None:
        start = next((s.offset for s in sections if s.name == section), None)
        if start is None:
            names = ", ".join(s.name for s in sections[:12]) or "it has none"
            raise InvalidInputError(f"{file} has no section {section}; its sections: {names}")
        offset += start
    if offset < 0 or length < 1:
        raise InvalidInputError("--offset must not be negative and --length must be at least 1")
    if document.size and offset >= document.size:
        raise InvalidInputError(f"--offset {offset} lies behind the end of {file}, which has {document.size} bytes")

    ids = bpe.encode(document.data)
    spans = id_spans(bpe, ids, offset, min(offset + length, document.size))
    lengths = bpe.token_lengths[ids].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    rows = []
    for part in sections:
        first, last = np.searchsorted(starts, [part.offset, part.offset + part.size])
        data = document.data[part.offset : part.offset + part.size]
        rows.append(
            {
                "section": part.name,
                "kind": part.kind,
                "offset": part.offset,
                "bytes": part.size,
                "tokens": int(last - first),
                "distinct_tokens": len(np.unique(ids[first:last])),
                "entropy": round(entropy(data), 3),
            }
        )
    whole = {
        "file": str(file),
        "format": document.format,
        "architecture": document.info.architecture,
        "bytes": document.size,
        "tokens": len(ids),
        "entropy": round(document.entropy, 3),
        "problem": document.info.problem,
    }
    if json:
        print_json(whole | {"sections": rows, "spans": [span._asdict() for span in spans]})
        return
    kind = " ".join(filter(None, [document.format, document.info.architecture]))
    _line(f"{file}: {kind}, {_size(document.size)}, {len(ids):,} tokens{_ratio(document.size, len(ids))}")
    if document.info.problem:
        err.print(f"note: its headers cannot be trusted: {document.info.problem}", markup=False)
    out.print(render_hex(document.data, spans, sections=sections))
    if rows:
        _print_sections(rows)


@tokenizer_app.command()
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
        corpus = _corpus(paths, formats, None)
        with progress() as report:
            total = corpus.size_on_disk()
            for document in _documents(corpus):
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


@tokenizer_app.command()
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
    corpus = _corpus(paths, formats, None)
    if sample:
        corpus = corpus.sample(int(sample * 1e6))
    with progress() as report:
        total = corpus.size_on_disk()
        groups = compare_tokenizers(loaded, _documents(corpus), lambda done: report("measuring", done, total))
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


class _Target(StrEnum):
    hf = "hf"
    latin1 = "latin1"
    tiktoken = "tiktoken"


@tokenizer_app.command()
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
        _line(f"{loaded.vocab_size:,} tokens: {output}")


def _corpus(paths: list[str], formats: str | None, field: str | None) -> Corpus:
    from byteloom.corpus import Corpus

    names = None if formats is None else [name.strip() for name in formats.split(",")]
    return Corpus(paths, formats=names, field=field)


def _documents(corpus: Corpus) -> Iterator[Document]:
    """The documents of a corpus. Raises InvalidInputError at the end when there was none."""
    empty = True
    for document in corpus:
        empty = False
        yield document
    if empty:
        raise corpus.nothing_found()


def _sizes(family: str, vocab_size: int) -> list[int]:
    try:
        sizes = [int(size) for size in family.split(",")]
    except ValueError:
        raise InvalidInputError(f"--family takes numbers with commas, such as 4096,8192; got {family}") from None
    if any(not 263 <= size <= vocab_size for size in sizes):
        raise InvalidInputError(f"--family sizes must lie from 263 to --vocab-size {vocab_size}; got {family}")
    return sizes


def _size(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)


def _ratio(size: int, tokens: int) -> str:
    return f", {size / tokens:.2f} bytes per token" if tokens else ""


def _line(text: str) -> None:
    """Print a line as it is: a path in it is neither markup nor broken in two."""
    out.print(text, markup=False, soft_wrap=True)


def _table(*left: str, right: Iterable[str], title: str | None = None) -> Table:
    """A table that fits a narrow terminal."""
    from rich.box import SIMPLE_HEAD

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def _print_sections(rows: list[dict[str, Any]]) -> None:
    table = _table("Section", "Kind", right=("Offset", "Bytes", "Tokens", "B/token", "Entropy"))
    for row in rows:
        table.add_row(
            Text(row["section"]),
            row["kind"],
            f"{row['offset']:#x}",
            f"{row['bytes']:,}",
            f"{row['tokens']:,}",
            f"{row['bytes'] / row['tokens']:.2f}" if row["tokens"] else "",
            f"{row['entropy']:.2f}",
        )
    out.print(table)


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
        table = _table("Id", "Hex", "ASCII", right=["Count"], title=f"What the tokenizer learned from {name}")
        table.add_column("Looks like")
        for token in tokens:
            data = bytes.fromhex(token["hex"])
            count = "" if token["count"] is None else f"{token['count']:,}"
            shown = data[:_SHOWN].hex() + ("..." if len(data) > _SHOWN else "")
            table.add_row(str(token["id"]), shown, Text(printable(data[:_SHOWN])), count, token["meaning"])
        if tokens:
            out.print(table)


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
    table = _table("", right=titles, title="Bytes per token; for zstd and order-0 entropy, bytes per byte of output")
    for before, group in pairwise([groups[0], *groups]):
        if group.by != before.by:
            table.add_section()
            table.add_row(f"[dim]by {group.by}[/]")
        best = max(group.tokens, key=group.bytes_per_token)
        table.add_row(
            group.name,
            _size(group.bytes).replace(" bytes", " B"),
            "1.00",
            *(Text(f"{group.bytes_per_token(name):.2f}", "bold" if name == best else "") for name in tokenizers),
            *(f"{group.zstd_ratio(level):.2f}" for level in levels),
            f"{group.entropy_ratio():.2f}",
        )
    out.print(table)

    everything = groups[0]
    table = _table(
        "",
        right=("Vocabulary", "Used", "Bits/byte", "2,048 tokens"),
        title="All of it, with ids stored in log2(vocabulary) bits",
    )
    table.add_row("raw bytes", "256", "", "8.00", _size(2048))
    for name, tokenizer in tokenizers.items():
        table.add_row(
            Text(name),
            f"{tokenizer.vocab_size:,}",
            f"{everything.used[name] / tokenizer.vocab_size:.0%}",
            f"{everything.bits_per_byte(name, tokenizer.vocab_size):.2f}",
            _size(round(2048 * everything.bytes_per_token(name))),
        )
    for level in levels:
        table.add_row(f"zstd -{level}", "", "", f"{8 / everything.zstd_ratio(level):.2f}", "")
    table.add_row("order-0 entropy", "", "", f"{8 / everything.entropy_ratio():.2f}", "")
    out.print(table)
