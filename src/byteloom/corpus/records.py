"""One field of JSONL or Parquet records as documents: text becomes its UTF-8 bytes, Parquet binary stays as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

RECORD_LIMIT = 256 << 20  # bytes of one JSONL line
_PARQUET_MAGIC = b"PAR1"

Record = tuple[int, bytes | None, str]  # number from 1, the bytes or None, why there are none


def record_kind(head: bytes) -> str | None:
    """ "parquet" or "jsonl" by the first bytes of a file, else None."""
    if head.startswith(_PARQUET_MAGIC):
        return "parquet"
    return "jsonl" if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") else None


def records(stream: BinaryIO, kind: str, field: str) -> Iterator[Record]:
    """`field` of every record in file order, streaming. Raises ValueError or OSError when the file is damaged.

    Parquet needs a stream that can seek.
    """
    return _parquet(stream, field) if kind == "parquet" else _jsonl(stream, field)


def _jsonl(stream: BinaryIO, field: str) -> Iterator[Record]:
    number = 0
    while line := stream.readline(RECORD_LIMIT + 1):
        number += 1
        if len(line) > RECORD_LIMIT:
            raise ValueError(f"line {number} is longer than {RECORD_LIMIT >> 20} MiB")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield number, None, "a line that is not JSON"
            continue
        if not isinstance(record, dict) or field not in record:
            yield number, None, f"no field {field!r}"
            continue
        yield number, *_as_document(record[field], field)


def _parquet(stream: BinaryIO, field: str) -> Iterator[Record]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(stream)
    if field not in file.schema_arrow.names:
        raise ValueError(f"no column {field!r}; there are: {', '.join(file.schema_arrow.names)}")
    number = 0
    for batch in file.iter_batches(batch_size=256, columns=[field]):
        for value in batch.column(0):
            number += 1
            yield number, *_as_document(value.as_py(), field)


def _as_document(value: Any, field: str) -> tuple[bytes | None, str]:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass"), ""
    if isinstance(value, bytes):
        return value, ""
    return None, f"field {field!r} is neither text nor bytes"
