import numpy as np
import pytest

from byteloom.tokenize import BPE, byte_tokenizer, train_bpe
from byteloom.tokenize.analysis import (
    guess_meaning,
    length_statistics,
    telling_tokens,
    token_counts,
    used_share,
    vocabulary_difference,
)

CODE = bytes.fromhex("f30f1efa554889e5") * 40
TEXT = b"the cat sat on the mat. " * 40


@pytest.fixture(scope="module")
def trained():
    return train_bpe([CODE, TEXT], vocab_size=288, min_frequency=2)


def test_length_statistics():
    raw = length_statistics(byte_tokenizer())
    assert (raw.tokens, raw.histogram, raw.mean, raw.longest, raw.three_byte_share) == (256, {1: 256}, 1.0, 1, 0.0)
    a, b = 7 + ord("a"), 7 + ord("b")
    learned = length_statistics(BPE([(a, b), (263, a), (264, 264)]))
    assert learned.histogram == {1: 256, 2: 1, 3: 1, 6: 1}
    assert learned.mean == pytest.approx((256 + 2 + 3 + 6) / 259)
    assert learned.three_byte_share == pytest.approx(1 / 259)


def test_counts_and_use(trained):
    counts = token_counts(trained, [CODE, TEXT])
    assert counts.sum() == trained.count(CODE) + trained.count(TEXT)
    assert (counts * trained.token_lengths).sum() == len(CODE) + len(TEXT)
    assert used_share(trained, counts) == (counts > 0).sum() / (trained.vocab_size - 7)
    assert used_share(trained, np.zeros(trained.vocab_size, np.int64)) == 0.0


def test_telling_tokens_tell_formats_apart(trained):
    code, text = token_counts(trained, [CODE]), token_counts(trained, [TEXT])
    for here, elsewhere, document in ((code, text, CODE), (text, code, TEXT)):
        chosen = [trained.token_bytes(token) for token in telling_tokens(trained, here, elsewhere)]
        assert chosen and all(token in document for token in chosen)
        assert not any(a in b for a in chosen for b in chosen if a is not b)
    assert len(telling_tokens(trained, code + text, limit=1)) == 1
    assert telling_tokens(byte_tokenizer(), token_counts(byte_tokenizer(), [TEXT])) == []


def test_vocabulary_difference(trained):
    smaller = trained.truncate(270)
    difference = vocabulary_difference(trained, smaller)
    assert difference.only_second == ()
    assert difference.only_first == tuple(trained.token_bytes(i) for i in range(270, trained.vocab_size))
    assert difference.shared == 263 - 7 + 7
    assert difference.same_ids == 270
    other = BPE([(7, 8)])
    assert vocabulary_difference(byte_tokenizer(), other).only_second == (b"\x00\x01",)


@pytest.mark.parametrize(
    ("token", "meaning"),
    [
        (b"\x7fELF\x02\x01", "magic number: ELF"),
        (b"\x00" * 5, "zeros: padding"),
        (b"\xcc" * 5, "int3 padding"),
        (b"\x07\x07", "run of 0x07"),
        (bytes.fromhex("f30f1efa"), "x86: endbr64"),
        (bytes.fromhex("554889e5"), "x86: function prologue"),
        (bytes.fromhex("660f1f440000"), "x86: long nop"),
        (bytes.fromhex("fd7bbfa9"), "AArch64: function prologue"),
        (bytes.fromhex("c0035fd6"), "AArch64: ret"),
        (b"hello ", "text"),
        (b"error: %s\n\x00", "text, ends with NUL"),
        (b"h\x00i\x00", "text: UTF-16"),
        (b"_ZNSt6vector", "mangled C++"),
        (b".rodata", "name of a section"),
        (b"\x07\x00\x00\x00", "integer 7, little-endian, 32 bits"),
        (b"\xfe" + b"\xff" * 7, "integer -2, little-endian, 64 bits"),
        (bytes.fromhex("00000000080000000000000000"), "relocation"),
        (bytes.fromhex("410e38420e30410e"), "DWARF unwind"),
        (b"\x93\x1b\xe7", ""),
        (b"\x93", ""),
    ],
)
def test_guesses(token, meaning):
    guess = guess_meaning(token)
    assert meaning in guess and bool(meaning) == bool(guess)
