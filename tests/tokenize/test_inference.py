"""Merge-free inference: the native segmenters against their definitions and Hugging Face; damaged merge lists."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.segment import (
    Tokens,
    reference_greedy,
    reference_greedy_right,
    reference_longest_first,
    reference_minimal,
)
from tokenizers import Tokenizer, models

from byteloom.errors import InvalidInputError
from byteloom.tokenize import BPE, SPECIAL_TOKENS, TokenSet, train_bpe
from byteloom.tokenize.byte_alphabet import to_characters
from byteloom.tokenize.inference import INFERENCES, MERGE_FREE, Inference, Segmenter, Tie

REFERENCE = {
    "greedy": reference_greedy,
    "greedy_right": reference_greedy_right,
    "minimal": reference_minimal,
    "longest_first": reference_longest_first,
}
SINGLE = [bytes([byte]) for byte in range(256)]

# Few letters, so that tokens overlap in many ways; runs of one byte are walked apart.
words = st.lists(st.sampled_from(b"aab"), min_size=2, max_size=7).map(bytes)
token_sets = st.lists(words, max_size=12, unique=True)
texts = st.lists(st.sampled_from(b"aaabc"), max_size=11).map(bytes)


@cache
def machine_code(size: int) -> bytes:
    data = Path(sys.executable).resolve().read_bytes()
    if len(data) < 2 * size:  # a small launcher; its extension modules are large
        data = b"".join(p.read_bytes() for p in sorted(Path(np.__file__).parent.rglob("*.so"))[:8])
    return data[len(data) // 8 : len(data) // 8 + size]


def dictionary(tokens: list[bytes]) -> Tokens:
    return {text: token for token, text in enumerate(tokens)}


@pytest.fixture(scope="module")
def trained() -> BPE:
    return train_bpe([machine_code(400_000)], vocab_size=2048, min_frequency=2, threads=1)


@pytest.fixture(scope="module")
def segmenters(trained: BPE) -> dict[Inference, Segmenter]:
    return {inference: Segmenter(trained, inference=inference) for inference in INFERENCES}


class TestDefinitions:
    @settings(max_examples=300, deadline=None)
    @given(token_sets, texts, st.sampled_from(MERGE_FREE))
    def test_ids_are_those_of_the_definition(self, extra: list[bytes], text: bytes, inference: Inference) -> None:
        tokens = [*SINGLE, *extra]
        segmenter = Segmenter(tokens, inference=inference)
        expected = REFERENCE[inference](text, dictionary(tokens))
        assert segmenter.encode(text).tolist() == expected
        assert segmenter.count(text) == len(expected)

    @settings(max_examples=200, deadline=None)
    @given(token_sets, texts, st.sampled_from(["longest", "shortest", "lowest_id"]))
    def test_ties(self, extra: list[bytes], text: bytes, tie: Tie) -> None:
        tokens = [*extra, *SINGLE]
        segmenter = Segmenter(tokens, inference="minimal", tie=tie)
        assert segmenter.encode(text).tolist() == reference_minimal(text, dictionary(tokens), tie)

    def test_random_ties_differ_by_seed_alone(self) -> None:
        tokens, text = [*SINGLE, b"aa", b"aaa"], b"a" * 500
        fewest = Segmenter(tokens, inference="minimal").count(text)
        drawn = [Segmenter(tokens, inference="minimal", tie="random", seed=s).encode(text).tolist() for s in (1, 2, 1)]
        assert drawn[0] == drawn[2] != drawn[1]
        assert {len(ids) for ids in drawn} == {fewest}

    # Long enough for the lists of runs, blocks, and tokens of more than 255 bytes.
    @pytest.mark.parametrize("inference", ["greedy", "greedy_right", "longest_first"])
    def test_long_runs(self, inference: Inference) -> None:
        tokens = [*SINGLE, *(bytes(2**k) for k in range(1, 9)), bytes(5), bytes(9) + b"x", b"x" + bytes(9)]
        rng = np.random.default_rng(0)
        text = b"".join(bytes(int(n)) + b"x" for n in rng.integers(0, 400, 20))
        assert Segmenter(tokens, inference=inference).encode(text).tolist() == REFERENCE[inference](
            text, dictionary(tokens)
        )

    def test_an_unknown_byte_gets_the_unknown_id(self) -> None:
        for inference in MERGE_FREE:
            segmenter = Segmenter([b"a", b"b", b"ab"], inference=inference, unk_id=7)
            assert segmenter.encode(b"xab\x00a").tolist() == [7, 2, 7, 0]


class TestPeers:
    def slices(self, size: int) -> list[bytes]:
        data, rng = machine_code(400_000), np.random.default_rng(2)
        return [data[at : at + size] for at in rng.integers(0, len(data) - size, 100).tolist()]

    def vocabulary(self, tokenizer: BPE) -> dict[str, int]:
        ids = range(len(SPECIAL_TOKENS), tokenizer.vocab_size)
        return {to_characters(tokenizer.token_bytes(token)): token for token in ids}

    def test_greedy_is_wordpiece_of_hugging_face(self, trained: BPE) -> None:
        vocabulary = self.vocabulary(trained) | {"<|unk|>": 3}
        peer = Tokenizer(
            models.WordPiece(
                vocabulary, unk_token="<|unk|>", max_input_chars_per_word=10**9, continuing_subword_prefix=""
            )
        )
        segmenter = Segmenter(trained, inference="greedy")
        for text in self.slices(500):
            assert segmenter.encode(text).tolist() == peer.encode(to_characters(text)).ids

    def test_minimal_needs_as_many_tokens_as_unigram_of_hugging_face(self, trained: BPE) -> None:
        peer = Tokenizer(models.Unigram([(text, -1.0) for text in self.vocabulary(trained)], 0, False))
        segmenter = Segmenter(trained, inference="minimal")
        for text in self.slices(1000):
            assert segmenter.count(text) == len(peer.encode(to_characters(text)).ids)


class TestEveryInference:
    @settings(max_examples=30, deadline=None)
    @given(st.one_of(st.binary(max_size=300), st.integers(0, 390_000).map(lambda at: machine_code(400_000)[at:][:900])))
    def test_round_trip_and_minimal_is_least(
        self, trained: BPE, segmenters: dict[Inference, Segmenter], text: bytes
    ) -> None:
        fewest = segmenters["minimal"].count(text)
        for segmenter in segmenters.values():
            ids = segmenter.encode(text)
            assert ids.dtype == np.uint32
            assert segmenter.decode(ids) == trained.decode(ids) == text
            assert fewest <= segmenter.count(text) == len(ids) <= len(text)

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_a_stream_gives_what_the_whole_gives(self, trained: BPE, data: st.DataObject) -> None:
        unit = data.draw(st.sampled_from([b"\x00", b"ab", machine_code(40)]))
        text = machine_code(120_000) + unit * data.draw(st.integers(0, 3000)) + machine_code(70_000)[::-1]
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=9)))
        blocks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        inference = data.draw(st.sampled_from(["greedy", "minimal", "greedy_right", "longest_first", "merge"]))
        tie = data.draw(st.sampled_from(["longest", "shortest", "lowest_id", "random"]))
        segmenter = Segmenter(trained, inference=inference, tie=tie, seed=5)
        pieces = list(segmenter.encode_blocks(blocks))
        assert np.array_equal(np.concatenate(pieces), segmenter.encode(text))
        if inference in ("greedy", "minimal") and unit != b"\x00":
            assert len(pieces) > 1

    def test_an_undecided_text_is_held_and_given_in_the_end(self) -> None:
        segmenter = Segmenter([*SINGLE, b"aa", b"aaa"], inference="minimal")
        text = b"a" * 300_001
        pieces = list(segmenter.encode_blocks([text[:150_000], text[150_000:]]))
        assert np.array_equal(np.concatenate(pieces), segmenter.encode(text))

    @pytest.mark.parametrize("inference", ["greedy", "minimal", "longest_first", "delete"])
    def test_a_batch_is_its_documents(self, trained: BPE, inference: Inference) -> None:
        data = machine_code(60_000)
        docs = [data[:0], data[:1], memoryview(data)[100:], bytearray(data[:999]), np.frombuffer(data, np.uint8)[7:]]
        segmenter = Segmenter(trained, inference=inference)
        for threads in (None, 1, 3):
            batch = segmenter.encode_batch(docs, threads)
            assert all(np.array_equal(ids, segmenter.encode(doc)) for ids, doc in zip(batch, docs, strict=True))
        assert segmenter.encode_batch([]) == []

    def test_special_tokens_and_names_are_those_of_the_tokenizer(self, trained: BPE) -> None:
        segmenter = Segmenter(trained)
        assert segmenter.vocab_size == trained.vocab_size
        assert segmenter.special_tokens == trained.special_tokens
        for token in (0, 7, 2047):
            assert segmenter.token_bytes(token) == trained.token_bytes(token)
        assert segmenter.decode([0, 7 + 65, 1]) == b"A"


class TestDamagedMerges:
    def test_nothing_damaged_is_merge_order(self, trained: BPE) -> None:
        text = machine_code(30_000)
        expected = trained.encode(text).tolist()
        for options in ({"inference": "merge"}, {"inference": "truncate", "keep": 1}, {"inference": "delete", "p": 0}):
            assert Segmenter(trained, **options).encode(text).tolist() == expected

    def test_shuffled_by_the_identity_is_merge_order(self, trained: BPE, monkeypatch: pytest.MonkeyPatch) -> None:
        text = machine_code(30_000)
        monkeypatch.setattr(np.random, "default_rng", lambda seed: SimpleNamespace(permutation=np.arange))
        assert Segmenter(trained, inference="shuffle").encode(text).tolist() == trained.encode(text).tolist()

    def test_truncate_is_the_smaller_member_of_the_family(self, trained: BPE) -> None:
        text = machine_code(30_000)
        half = trained.truncate(263 + round(0.5 * len(trained.merges)))
        assert Segmenter(trained, inference="truncate").encode(text).tolist() == half.encode(text).tolist()
        assert Segmenter(trained, inference="bytes").count(text) == len(text)

    def test_deleted_tokens_cannot_form(self, trained: BPE) -> None:
        text = machine_code(60_000)
        ids = Segmenter(trained, inference="delete", p=0.3, seed=1).encode(text)
        lost = set(np.sort(np.random.default_rng(1).permutation(len(trained.merges))[: round(0.3 * 1785)]) + 263)
        assert lost and not lost & set(ids.tolist())
        everything_lost = Segmenter(trained, inference="delete", p=1)
        assert everything_lost.count(text) == len(text)

    def test_shuffle_is_the_heap_of_hugging_face_on_the_shuffled_list(self, trained: BPE) -> None:
        text = machine_code(3000)
        names = {token: to_characters(trained.token_bytes(token)) for token in range(7, trained.vocab_size)}
        order = np.random.default_rng(3).permutation(len(trained.merges))
        pairs = [(names[left], names[right]) for left, right in trained.merges[order].tolist()]
        peer = Tokenizer(models.BPE(vocab={name: token for token, name in names.items()}, merges=pairs))
        ids = Segmenter(trained, inference="shuffle", seed=3).encode(text).tolist()
        assert ids == peer.encode(to_characters(text)).ids
        assert len(ids) > len(trained.encode(text))


class TestBadInput:
    def test_missing_bytes_are_named(self) -> None:
        with pytest.raises(InvalidInputError, match="bytes 0x00, 0x02"):
            Segmenter([*SINGLE[1:2], *SINGLE[3:]])
        with pytest.raises(InvalidInputError, match="and 247 more"):
            Segmenter([b"a"])

    def test_equal_tokens_are_named(self) -> None:
        with pytest.raises(InvalidInputError, match="tokens 256 and 258 are the same bytes b'ab'"):
            Segmenter([*SINGLE, b"ab", b"", b"ab"])

    @pytest.mark.parametrize("inference", sorted(set(INFERENCES) - set(MERGE_FREE)))
    def test_without_merges(self, inference: Inference) -> None:
        with pytest.raises(InvalidInputError, match="needs a merge list"):
            Segmenter(SINGLE, inference=inference)
        with pytest.raises(InvalidInputError, match="needs a merge list"):
            Segmenter(TokenSet(tuple(SINGLE), {}), inference=inference)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"inference": "delete", "p": 1.1}, "p is a share"),
            ({"inference": "truncate", "keep": -0.1}, "keep is a share"),
            ({"inference": "fast"}, "inference must be one of"),
            ({"tie": "first"}, "tie must be one of"),
        ],
    )
    def test_options(self, trained: BPE, options: dict, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            Segmenter(trained, **options)

    def test_data_and_ids(self, trained: BPE) -> None:
        segmenter = Segmenter(trained)
        for data in ("text", None, np.zeros(4, np.int64)):
            with pytest.raises(TypeError, match="bytes"):
                segmenter.encode(data)
        for ids in ([2048], [-1]):
            with pytest.raises(InvalidInputError, match="not in the vocabulary"):
                segmenter.decode(ids)
        with pytest.raises(InvalidInputError, match="not in the vocabulary"):
            segmenter.token_bytes(2048)
