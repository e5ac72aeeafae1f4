"""`byteloom tokenizer inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from byteloom.cli.console import JsonFlag, err, out, print_json
from byteloom.cli.tokenizer.shared import TokenizerOption, human_size, line, ratio, table_of
from byteloom.errors import InvalidInputError


def _integer(value: str | int) -> int:
    return value if isinstance(value, int) else int(value, 0)  # typer passes the default through here too


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
    line(f"{file}: {kind}, {human_size(document.size)}, {len(ids):,} tokens{ratio(document.size, len(ids))}")
    if document.info.problem:
        err.print(f"note: its headers cannot be trusted: {document.info.problem}", markup=False)
    out.print(render_hex(document.data, spans, sections=sections))
    if rows:
        _print_sections(rows)


def _print_sections(rows: list[dict[str, Any]]) -> None:
    table = table_of("Section", "Kind", right=("Offset", "Bytes", "Tokens", "B/token", "Entropy"))
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
