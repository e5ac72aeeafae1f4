import math

import pytest

from byteloom.corpus import Document, FileInfo, Section
from byteloom.evaluate.tokenizer_comparison import ZSTD_LEVELS, compare_tokenizers
from byteloom.tokenize import byte_tokenizer, train_bpe

TEXT = b"the cat sat on the mat. " * 50
TOKENIZERS = {"raw": byte_tokenizer(), "bpe": train_bpe([TEXT], vocab_size=279)}


def executable(sections):
    document = Document("a.out", b"\x7fELF" + TEXT)
    document.info = FileInfo("elf", "x86-64", 64, "linux", sections)  # instead of what its lying header would give
    document.format = "elf"
    return document


def test_every_token_is_counted_once():
    groups = compare_tokenizers(TOKENIZERS, [Document("a.txt", TEXT), Document("b.txt", b"on the mat"), executable(())])
    everything, *formats = groups
    assert (everything.name, everything.by) == ("all", "all")
    assert everything.bytes == 2 * len(TEXT) + 4 + 10 == sum(group.bytes for group in formats)
    assert {group.name for group in formats} == {"text", "elf x86-64"}
    for name, tokenizer in TOKENIZERS.items():
        expected = sum(tokenizer.count(data) for data in (TEXT, b"on the mat", b"\x7fELF" + TEXT))
        assert everything.tokens[name] == expected == sum(group.tokens[name] for group in formats)
    assert everything.bytes_per_token("raw") == 1.0 < everything.bytes_per_token("bpe")
    assert everything.bits_per_byte("raw", 256) == 8.0
    assert everything.used["raw"] == len(set(TEXT + b"\x7fELF"))


def test_sections_hold_the_tokens_that_start_in_them():
    # 3 bytes before, so that tokens cross both borders; the token that starts at 24 belongs to the first section
    sections = (Section(".text", 3, 25, "code"), Section(".data", 28, 100, "data"), Section(".more", 128, 40, "code"))
    document = executable(sections)
    groups = compare_tokenizers(TOKENIZERS, [document])
    code, data = (next(g for g in groups if (g.by, g.name) == ("section", kind)) for kind in ("code", "data"))
    assert (code.bytes, data.bytes) == (65, 100)
    assert (code.tokens["raw"], data.tokens["raw"]) == (65, 100)
    ids = TOKENIZERS["bpe"].encode(document.data)
    starts, at = [], 0
    for token in ids:
        starts.append(at)
        at += TOKENIZERS["bpe"].token_lengths[token]
    assert data.tokens["bpe"] == sum(28 <= start < 128 for start in starts)
    assert code.tokens["bpe"] == sum(3 <= start < 28 or 128 <= start < 168 for start in starts)


def test_compressors():
    (everything, _) = compare_tokenizers(TOKENIZERS, [Document("a", bytes(1000))])
    assert everything.entropy_ratio() == math.inf
    assert set(everything.compressed) == set(ZSTD_LEVELS)
    assert everything.zstd_ratio(19) > 20
    (everything, _) = compare_tokenizers(TOKENIZERS, [Document("a", bytes(range(256)) * 4)])
    assert everything.entropy_ratio() == pytest.approx(1.0)


def test_progress_and_nothing():
    seen = []
    compare_tokenizers(TOKENIZERS, [Document(str(i), TEXT[: i + 1]) for i in range(9)], seen.append)
    assert seen[-1] == sum(range(1, 10)) and seen == sorted(seen)
    assert compare_tokenizers(TOKENIZERS, []) == []
