from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import InvalidInputError
from byteloom.models import word_batch
from byteloom.models.word_batch import CLS, MASK, collate_ids, collate_words, table_of
from byteloom.models.word_encoder import WORD_PADDING
from byteloom.tokenize.words import WordSplitter

WORDS = WordSplitter()
documents = st.lists(st.binary(max_size=60), min_size=1, max_size=6)


def words_in(batch: word_batch.WordBatch, row: int) -> list[bytes]:
    kept = batch.attention_mask[row].bool()
    rows = batch.table[batch.index[row][kept]].tolist()
    assert rows[0] == [CLS, *[WORD_PADDING] * (len(rows[0]) - 1)]
    return [bytes(symbol for symbol in row if symbol != WORD_PADDING) for row in rows[1:]]


@settings(deadline=None)
@given(documents, st.integers(1, 30), st.sampled_from(["text", "fixed:3", "fixed:9"]))
def test_places_and_spans_are_the_words(some, most, rule):
    splitter = WordSplitter(rule)
    batch = collate_words(some, splitter, most)
    assert len(batch.table) == len({tuple(row) for row in batch.table.tolist()})
    for row, data in enumerate(some):
        expected = splitter.split(data)[:most]
        assert words_in(batch, row) == expected
        assert batch.attention_mask[row].tolist() == [1] * (1 + len(expected)) + [0] * (
            batch.index.shape[1] - 1 - len(expected)
        )
        spans = batch.spans[row].tolist()
        assert [data[first:last] for first, last in spans[1 : 1 + len(expected)]] == expected
        assert not batch.spans[row, 1 + len(expected) :].any() and spans[0] == [0, 0]


@settings(deadline=None)
@given(documents)
def test_ids_give_the_words_that_their_bytes_give(some):
    rows = [[0, *WORDS.encode(data).tolist(), 1] for data in some]
    ids = torch.tensor([row + [2] * (max(map(len, rows)) - len(row)) for row in rows])
    one, other = collate_ids(ids), collate_words(some, WORDS, 100)
    assert torch.equal(one.table, other.table) and torch.equal(one.index, other.index)
    assert torch.equal(one.attention_mask, other.attention_mask) and torch.equal(one.spans, other.spans)


def test_words_that_share_a_hash_are_told_apart(monkeypatch):
    some = [b"to be or not to be", b"\x00 \x00\x00 to", bytes(40)]
    expected = collate_words(some, WORDS, 100)
    monkeypatch.setattr(word_batch, "_hashes", lambda bytes_RW, length_R: (length_R % 2).astype(np.uint64))
    found = collate_words(some, WORDS, 100)
    assert len(found.table) == len(expected.table)
    for row in range(len(some)):
        assert words_in(found, row) == words_in(expected, row)


def test_long_words():
    splitter = WordSplitter("fixed:300", max_bytes=300)
    data = np.random.default_rng(0).bytes(1000)
    assert words_in(collate_words([data], splitter, 100), 0) == splitter.split(data)


def test_a_table_of_listed_words():
    table = table_of([b"b", b"a", b"b"], 16)
    assert len(table) == 4 and table[0, 0] == CLS and table[-1, 0] == MASK
    assert {row[0] for row in table[1:3].tolist()} == {97, 98}
    assert table_of([], 16).tolist() == [[CLS], [MASK]]


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match=r"document 0 is a str; pass its bytes"):
        collate_words(["text"], WORDS, 10)
    with pytest.raises(InvalidInputError, match="no documents"):
        collate_words([], WORDS, 10)
