"""Several tokenizers on the same bytes, by file format and by kind of section, beside what compressors make of them.

Use it to choose a tokenizer, and to see where it works: machine code, tables and strings differ by a factor.
zstd and the order-0 entropy are bounds of another sort: a compressor adapts to each file and its output is no
sequence that a model could read, but a tokenizer far behind zstd leaves regularities to be found.
Source: Binary BPE, arXiv 2511.17573, for bytes per token. Cost: zstd at level 19 runs at 2-4 MB/s and decides.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from byteloom.evaluate.compression import ALL, group_of

if TYPE_CHECKING:
    from byteloom.corpus import Document
    from byteloom.tokenize import Codec

ZSTD_LEVELS = (3, 19)


@dataclass
class Group:
    """One group of bytes: all documents, those of a format, or the sections of a kind.

    `tokens` and `used` (distinct ids) have a key for each tokenizer, `compressed` (bytes) one for each zstd level.
    A file, or a section of it, is compressed by itself, and `entropy_bits` adds up what order 0 allows for each.
    Of whole documents, `seconds` (of one thread) is what encoding took, and `changed` counts those that decoding does
    not give back as they were, as with a tokenizer for DNA on anything else; both have a key for each tokenizer.
    """

    name: str
    by: str  # "all", "format" or "section"
    bytes: int = 0
    entropy_bits: float = 0.0
    tokens: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    compressed: dict[int, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)

    def bytes_per_token(self, tokenizer: str) -> float:
        """Bytes that one token holds; raw bytes have 1.0."""
        return self.bytes / max(self.tokens[tokenizer], 1)

    def bits_per_byte(self, tokenizer: str, vocab_size: int) -> float:
        """What a byte costs when every id is stored in log2(vocab_size) bits; comparable with compressors."""
        return self.tokens[tokenizer] * math.log2(vocab_size) / max(self.bytes, 1)

    def encode_mb_per_s(self, tokenizer: str) -> float:
        """MB of whole documents that one thread encodes in a second; 0 for sections."""
        return self.bytes / 1e6 / self.seconds[tokenizer] if self.seconds.get(tokenizer) else 0.0

    def zstd_ratio(self, level: int) -> float:
        """Bytes of input for each compressed byte."""
        return self.bytes / max(self.compressed[level], 1)

    def entropy_ratio(self) -> float:
        """Bytes of input for each byte that an ideal order-0 coder of each file would need; inf for constant ones."""
        return 8 * self.bytes / self.entropy_bits if self.entropy_bits else math.inf


def compare_tokenizers(
    tokenizers: Mapping[str, Codec],
    documents: Iterable[Document],
    progress: Callable[[int], None] | None = None,
) -> list[Group]:
    """Measure every tokenizer on every document: all of them first, then formats and section kinds by size.

    A token belongs to the section in which it starts. `progress` is called with the bytes done so far.
    """
    groups: dict[tuple[str, str], Group] = {}
    used: dict[tuple[str, str], dict[str, npt.NDArray[np.bool_]]] = {}
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for measured in _in_order(pool, lambda document: _measure(tokenizers, document), documents):
            for part in measured:
                group = groups.setdefault(part.key, Group(part.key[1], part.key[0]))
                seen = used.setdefault(part.key, {n: np.zeros(t.vocab_size, bool) for n, t in tokenizers.items()})
                group.bytes += part.size
                group.entropy_bits += part.entropy_bits
                for level, size in part.compressed.items():
                    group.compressed[level] = group.compressed.get(level, 0) + size
                for name, ids in part.ids.items():
                    group.tokens[name] = group.tokens.get(name, 0) + len(ids)
                    seen[name][ids] = True
                for name, seconds in part.seconds.items():
                    group.seconds[name] = group.seconds.get(name, 0.0) + seconds
                for name, changed in part.changed.items():
                    group.changed[name] = group.changed.get(name, 0) + changed
            done += measured[0].size
            if progress:
                progress(done)
    for key, group in groups.items():
        group.used = {name: int(flags.sum()) for name, flags in used[key].items()}
    order = ("all", "format", "section")
    return sorted(groups.values(), key=lambda group: (order.index(group.by), -group.bytes, group.name))


@dataclass
class _Part:
    """A document or a section of it, measured; key is (by, name) of its group."""

    key: tuple[str, str]
    size: int
    entropy_bits: float
    compressed: dict[int, int]
    ids: dict[str, npt.NDArray[np.uint32]]
    seconds: dict[str, float] = field(default_factory=dict)
    changed: dict[str, bool] = field(default_factory=dict)


def _measure(tokenizers: Mapping[str, Codec], document: Document) -> list[_Part]:
    ids, seconds = {}, {}
    for name, tokenizer in tokenizers.items():
        began = time.thread_time()
        ids[name] = tokenizer.encode(document.data)
        seconds[name] = time.thread_time() - began
    changed = {name: tokenizers[name].decode(ids[name]) != document.data for name in ids}
    ends = {name: np.cumsum(tokenizers[name].token_lengths[ids[name]], dtype=np.int64) for name in ids}
    whole = replace(_part(("all", ALL), document.data, ids), seconds=seconds, changed=changed)
    parts = [whole, replace(whole, key=("format", group_of(document)))]
    for section in document.info.sections:
        stop = section.offset + section.size
        inside = {}
        for name in ids:
            starts = ends[name] - tokenizers[name].token_lengths[ids[name]]
            first, last = np.searchsorted(starts, [section.offset, stop])
            inside[name] = ids[name][first:last]
        parts.append(_part(("section", section.kind), document.data[section.offset : stop], inside))
    return parts


def _part(key: tuple[str, str], data: memoryview, ids: dict[str, npt.NDArray[np.uint32]]) -> _Part:
    import zstandard

    from byteloom.corpus import entropy

    compressed = {level: len(zstandard.ZstdCompressor(level).compress(data)) for level in ZSTD_LEVELS}
    return _Part(key, len(data), entropy(data) * len(data), compressed, ids)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Document], list[_Part]], documents: Iterable[Document]
) -> Iterator[list[_Part]]:
    """`pool.map` that holds a few documents at a time instead of all."""
    iterator = iter(documents)
    while batch := list(islice(iterator, 2 * (os.cpu_count() or 1))):
        yield from pool.map(work, batch)
