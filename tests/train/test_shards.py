import json

import numpy as np
import pytest
import torch

from byteloom.errors import FileError, InvalidInputError
from byteloom.tokenize import BPE, byte_tokenizer, train_bpe
from byteloom.train import shards as module
from byteloom.train.shards import Windows, read_shards, write_shards

DOCUMENTS = [b"abcabcabc" * 50, b"", b"x", bytes(range(256)) * 9, b"abcabc" * 300]


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return train_bpe(DOCUMENTS, vocab_size=280, min_frequency=2)


def stream(documents, tokenizer) -> list[int]:
    """The obvious definition of what shards hold, one after another."""
    return [token for document in documents for token in (0, *tokenizer.encode(document).tolist(), 1)]


@pytest.mark.parametrize("shard_tokens", [1, 700, 1 << 20])
def test_shards_hold_every_document_between_start_and_end(tmp_path, bpe, shard_tokens):
    shards = write_shards(DOCUMENTS, bpe, tmp_path, shard_tokens=shard_tokens)
    assert np.concatenate(shards.arrays()).tolist() == stream(DOCUMENTS, bpe)
    assert shards.tokens == len(stream(DOCUMENTS, bpe))
    assert (shards.documents, shards.bytes) == (len(DOCUMENTS), sum(map(len, DOCUMENTS)))
    assert len(shards.files) == {1: len(DOCUMENTS), 700: 2, 1 << 20: 1}[shard_tokens]
    assert read_shards(tmp_path) == shards


def test_a_document_longer_than_a_batch_is_streamed(tmp_path, bpe, monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    monkeypatch.setattr(module, "BLOCK_BYTES", 37)
    shards = write_shards(DOCUMENTS, bpe, tmp_path)
    assert np.concatenate(shards.arrays()).tolist() == stream(DOCUMENTS, bpe)


def test_two_bytes_a_token_up_to_65536_ids(tmp_path):
    class Wide(BPE):
        vocab_size = 65_537

    assert write_shards([b"a"], byte_tokenizer(), tmp_path / "a").dtype == "uint16"
    wide = write_shards([b"a"], Wide(), tmp_path / "b")
    assert wide.dtype == "uint32"
    assert wide.arrays()[0].tolist() == [0, 7 + ord("a"), 1]


def test_unfinished_damaged_or_empty_shards(tmp_path):
    assert read_shards(tmp_path) is None
    (tmp_path / "index.json").write_text(json.dumps({"files": []}))
    with pytest.raises(FileError, match="not an index of shards"):
        read_shards(tmp_path)
    with pytest.raises(InvalidInputError, match="no document to train on"):
        write_shards([], byte_tokenizer(), tmp_path)
    shards = write_shards([b"abc"], byte_tokenizer(), tmp_path)
    (tmp_path / shards.files[0]).unlink()
    with pytest.raises(FileError, match="cannot map"):
        shards.arrays()


def test_each_pass_reads_every_window_once_in_its_own_order(tmp_path):
    shards = write_shards(DOCUMENTS, byte_tokenizer(), tmp_path, shard_tokens=700)
    context = 16
    whole = [array[at : at + context] for array in shards.arrays() for at in range(0, len(array), context)]
    expected = sorted(window.tolist() for window in whole if len(window) == context)
    windows = Windows(shards, context, count=2 * len(expected), seed=0)
    passes = [[windows[i]["input_ids"].tolist() for i in range(at, at + len(expected))] for at in (0, len(expected))]
    assert sorted(passes[0]) == sorted(passes[1]) == expected
    assert passes[0] != passes[1]
    assert windows[0]["input_ids"].dtype == torch.int64


def test_a_window_depends_on_seed_and_number_alone(tmp_path):
    shards = write_shards(DOCUMENTS, byte_tokenizer(), tmp_path)
    one, other = Windows(shards, 32, 500, seed=1), Windows(shards, 32, 500, seed=1)
    assert torch.equal(one[411]["input_ids"], [other[i] for i in range(412)][411]["input_ids"])
    seeded = Windows(shards, 32, 500, seed=2)
    assert any(not torch.equal(one[i]["input_ids"], seeded[i]["input_ids"]) for i in range(20))
    with pytest.raises(IndexError):
        one[500]


def test_less_than_one_window_is_refused(tmp_path):
    shards = write_shards([b"abc"], byte_tokenizer(), tmp_path)
    with pytest.raises(InvalidInputError, match="give 5 tokens, less than one window of 16"):
        Windows(shards, 16, 1, seed=0)
