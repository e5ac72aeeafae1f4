from __future__ import annotations

import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.words import split
from tokenizers import Tokenizer as HFTokenizer
from transformers import AutoTokenizer

from byteloom.errors import InvalidInputError
from byteloom.tokenize import load_tokenizer, train_bpe
from byteloom.tokenize.words import FIRST, LAST, WordSplitter, spans_of

TEXTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=80).map(str.encode),
    st.text(" \n\tab1.,é", max_size=80).map(str.encode),
)


@given(TEXTS, st.integers(1, 20))
def test_words_are_those_of_the_regular_expression(data, max_bytes):
    splitter = WordSplitter(max_bytes=max_bytes)
    assert splitter.split(data) == split(data, max_bytes)


@given(TEXTS, st.sampled_from(["text", "fixed:4", "fixed:1"]))
def test_nothing_is_lost_and_ends_are_marked(data, rule):
    splitter = WordSplitter(rule)
    ids = splitter.encode(data)
    assert splitter.decode(ids) == data and len(ids) == len(data) == splitter.count(data)
    ends = np.flatnonzero(ids >= FIRST + LAST) + 1
    assert np.array_equal(ends, np.cumsum(splitter.word_lengths(data)))
    assert b"".join(splitter.split(data)) == data


@given(TEXTS, st.lists(st.integers(0, 200), max_size=6))
def test_pieces_give_the_ids_of_the_whole(data, cuts):
    splitter = WordSplitter()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    blocks = [data[start:end] for start, end in pairwise(edges)]
    pieces = list(splitter.encode_blocks(blocks))
    assert np.array_equal(np.concatenate([*pieces, np.empty(0, np.uint32)]), splitter.encode(data))


def test_a_prefix_that_ends_with_a_word_has_the_same_words():
    data = "Größe: 16 bytes,  a\n\nand more".encode()
    words = WordSplitter().split(data)
    for count in range(len(words)):
        prefix = b"".join(words[:count])
        assert WordSplitter().split(prefix) == words[:count]


@pytest.mark.parametrize("rule, max_bytes", [("text", 16), ("text", 5), ("text", 1), ("fixed:4", 16)])
def test_saved_it_loads_and_plain_tokenizers_gives_its_ids(rule, max_bytes, tmp_path):
    splitter = WordSplitter(rule, max_bytes).with_special_tokens(["<|more|>"])
    splitter.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, WordSplitter)
    assert again.special_tokens == splitter.special_tokens and again.vocab_size == 520
    plain = HFTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    wrapped = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("two words, 16 bytes", "Größe  der\n\tWörter: 12345678901234567890", "ไทย 漢字かな", "a" * 40 + " b"):
        ids = splitter.encode(text.encode()).tolist()
        assert again.encode(text.encode()).tolist() == ids
        assert plain.encode(text).ids == ids
        assert plain.decode(ids) == text
        assert wrapped(text)["input_ids"] == ids


def test_a_function_says_what_words_are():
    splitter = WordSplitter(lambda data: [1] * (len(data) % 3) + [3] * (len(data) // 3))
    assert splitter.split(b"abcdefgh") == [b"a", b"b", b"cde", b"fgh"]
    assert splitter.decode(splitter.encode(b"abcdefgh")) == b"abcdefgh"
    assert [ids.tolist() for ids in splitter.encode_batch([b"abc", b""])] == [[104, 105, 362], []]


def test_tokens_can_be_words():
    bpe = train_bpe([b"abcabcabcabcabcabcabcabcabcabcabc" * 9], vocab_size=268)
    rule = spans_of(bpe, 4)
    data = b"abcabcabcabcabcabcabcabxabc"
    words = WordSplitter(rule, 4).split(data)
    assert b"".join(words) == data and max(map(len, words)) <= 4
    starts = np.cumsum([0, *map(len, words)])
    tokens = np.cumsum([0, *bpe.token_lengths[bpe.encode(data)].tolist()])
    assert set(tokens.tolist()) <= set(starts.tolist())


def test_it_travels():
    splitter = WordSplitter("fixed:3", 8)
    again = pickle.loads(pickle.dumps(splitter))
    assert again.split(b"abcdefg") == [b"abc", b"def", b"g"]


@pytest.mark.parametrize("rule", ["fixed:0", "fixed:17", "fixed:x", "words", ""])
def test_unknown_rules_are_refused(rule):
    with pytest.raises(InvalidInputError, match="the rule is"):
        WordSplitter(rule)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(TypeError, match="bytes"):
        WordSplitter().encode("text")
    with pytest.raises(TypeError, match="bytes"):
        WordSplitter(lambda data: [len(data)]).encode("text")
    with pytest.raises(InvalidInputError, match="at least one byte"):
        WordSplitter(max_bytes=0)
    with pytest.raises(InvalidInputError, match="words of 2 bytes for 3 bytes"):
        WordSplitter(lambda data: [2]).encode(b"abc")
    with pytest.raises(InvalidInputError, match="a word of 20 bytes"):
        WordSplitter(lambda data: [20]).encode(b"a" * 20)
    with pytest.raises(InvalidInputError, match="cannot be saved"):
        WordSplitter(lambda data: [len(data)]).save(tmp_path)
    with pytest.raises(InvalidInputError, match="one piece"):
        list(WordSplitter(lambda data: [len(data)]).encode_blocks([b"a"]))
    WordSplitter().save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["pre_tokenizer"]["pretokenizers"][1]["pattern"]["Regex"] = "[a-z]{1,16}"
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(InvalidInputError, match="another rule"):
        load_tokenizer(tmp_path)
