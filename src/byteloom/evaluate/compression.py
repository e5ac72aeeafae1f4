"""How many bytes one token holds: measured by vocabulary size and by kind of file.

Use it to choose a vocabulary size, and to say how much file fits into a model's context window.
Source: Binary BPE, arXiv 2511.17573 (bytes per token by format, vocabulary used on a test corpus).
Cost: one pass over the documents, an encoding for each tokenizer; memory of one batch of documents.

>>> from byteloom.corpus import Corpus
>>> from byteloom.tokenize import byte_tokenizer
>>> rows = measure_compression([byte_tokenizer()], Corpus(["/bin/ls"]))
>>> [bytes_per_token(row) for row in rows]
[1.0, 1.0]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from byteloom.corpus import Document
    from byteloom.tokenize import Codec

ALL = "all"  # the group of every document
BATCH_BYTES = 32 << 20  # encoded at a time: enough for every thread, little beside a corpus


class CompressionRow(TypedDict):
    """One tokenizer on one group of documents; the form in which fit.json keeps it."""

    vocab_size: int
    group: str  # "elf x86-64", "text", ...; ALL for every document
    bytes: int
    tokens: int
    tokens_used: int  # distinct ids that occur


def measure_compression(tokenizers: Sequence[Codec], documents: Iterable[Document]) -> list[CompressionRow]:
    """Count bytes, tokens and distinct tokens by tokenizer and by format and architecture.

    Rows come in the order of `tokenizers`; for each, ALL and then the groups, largest first. Pass
    `byte_tokenizer()` among the tokenizers to have raw bytes in the same table. No documents, no rows.
    """
    sizes: dict[str, int] = {}
    tokens: list[dict[str, int]] = [{} for _ in tokenizers]
    used: list[dict[str, np.ndarray]] = [{} for _ in tokenizers]
    for batch in _batches(documents):
        groups = [(ALL, group_of(document)) for document in batch]
        for document, names in zip(batch, groups, strict=True):
            for name in names:
                sizes[name] = sizes.get(name, 0) + document.size
        for index, tokenizer in enumerate(tokenizers):
            encoded = tokenizer.encode_batch([document.data for document in batch])
            for ids, names in zip(encoded, groups, strict=True):
                for name in names:
                    tokens[index][name] = tokens[index].get(name, 0) + len(ids)
                    used[index].setdefault(name, np.zeros(tokenizer.vocab_size, bool))[ids] = True
    order = sorted(sizes, key=lambda name: (name != ALL, -sizes[name], name))
    return [
        CompressionRow(
            vocab_size=tokenizer.vocab_size,
            group=name,
            bytes=sizes[name],
            tokens=tokens[index][name],
            tokens_used=int(used[index][name].sum()),
        )
        for index, tokenizer in enumerate(tokenizers)
        for name in order
    ]


def bytes_per_token(row: CompressionRow) -> float:
    """Bytes that one token holds on average; 1.0 for raw bytes."""
    return row["bytes"] / max(row["tokens"], 1)


def context_bytes(row: CompressionRow, context_tokens: int) -> int:
    """Bytes of file that a window of `context_tokens` tokens holds on average."""
    return round(context_tokens * bytes_per_token(row))


def group_of(document: Document) -> str:
    """Format and architecture, such as "elf x86-64"; the format alone where there is no architecture."""
    architecture = document.info.architecture
    return f"{document.format} {architecture}" if architecture else document.format


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += document.size
        if held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
