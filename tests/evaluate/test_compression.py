"""measure_compression counts what encoding each document by itself counts."""

from __future__ import annotations

import numpy as np
import pytest

from byteloom.corpus import Document
from byteloom.evaluate import compression
from byteloom.evaluate.compression import (
    ALL,
    CompressionRow,
    bytes_per_token,
    context_bytes,
    group_of,
    measure_compression,
)
from byteloom.tokenize import BPE, byte_tokenizer, train_bpe


@pytest.fixture(scope="module")
def tokenizer() -> BPE:
    return train_bpe([b"the cat sat on the mat, the rat sat on the cat; " * 30], vocab_size=284, min_frequency=2)


def documents() -> list[Document]:
    random = np.random.default_rng(1)
    noise = [random.integers(0, 256, n, dtype=np.uint8).tobytes() for n in (900, 10)]
    texts = [b"the cat sat on the mat\n" * n for n in (1, 7, 50)]
    return [Document(str(i), data) for i, data in enumerate([*noise, *texts, b""])]


@pytest.mark.parametrize("batch", [1, 1000, 1 << 20])
def test_counts_are_those_of_single_documents(tokenizer: BPE, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "BATCH_BYTES", batch)
    family = [byte_tokenizer(), tokenizer.truncate(270), tokenizer]
    rows = measure_compression(family, iter(documents()))
    groups = sorted({group_of(document) for document in documents()})
    assert groups == ["empty", "other", "text"]
    assert [row["vocab_size"] for row in rows] == [size for size in (263, 270, 284) for _ in range(4)]
    for row in rows:
        member = next(t for t in family if t.vocab_size == row["vocab_size"])
        mine = [d for d in documents() if row["group"] in (ALL, group_of(d))]
        ids = [member.encode(d.data) for d in mine]
        assert row["bytes"] == sum(d.size for d in mine)
        assert row["tokens"] == sum(map(len, ids))
        assert row["tokens_used"] == len(np.unique(np.concatenate(ids)))


def test_order_is_all_and_then_the_largest_group(tokenizer: BPE) -> None:
    rows = measure_compression([tokenizer], documents())
    assert [row["group"] for row in rows] == [ALL, "text", "other", "empty"]
    assert bytes_per_token(rows[1]) > 3 > 1.2 > bytes_per_token(rows[2])


def test_nothing_measured() -> None:
    assert measure_compression([byte_tokenizer()], []) == []


def test_numbers_for_a_window() -> None:
    row = CompressionRow(vocab_size=4096, group=ALL, bytes=2500, tokens=1000, tokens_used=10)
    assert bytes_per_token(row) == 2.5
    assert context_bytes(row, 2048) == 5120
    empty = CompressionRow(vocab_size=4096, group=ALL, bytes=0, tokens=0, tokens_used=0)
    assert bytes_per_token(empty) == 0.0


def test_architecture_is_part_of_the_group() -> None:
    header = bytearray(64)  # of an ELF file for x86-64, without segments and sections
    header[:20] = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00"
    header[20], header[52], header[54], header[58] = 1, 64, 56, 64
    assert group_of(Document("library", bytes(header))) == "elf x86-64"
    assert group_of(Document("words", b"plain text")) == "text"
