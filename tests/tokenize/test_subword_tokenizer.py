"""SubwordTokenizer: exact on all bytes, equal to Hugging Face on text; its file and its training at the edges."""

from __future__ import annotations

import json
import pickle
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.reference.subword import reference_unigram
from tokenizers import Tokenizer

from byteloom.errors import FileError, InvalidInputError
from byteloom.tokenize import (
    SPECIAL_TOKENS,
    SubwordDictionary,
    SubwordTokenizer,
    load_tokenizer,
    train_subword_tokenizer,
)

FIRST = len(SPECIAL_TOKENS) + 256

# Scores with exact sums, units that overlap, end in a space, or are white space.
UNITS = ["a", "b", "ab", "ba", "aab", "ab ", "b ", "a" * 7, "aaaa", "த", "தி", "ிa", " ", "  ", "\n", "é", "😀b", "<"]
SCORES = [-3.0, -3.25, -4.0, -4.5, -6.25, -4.5, -5.0, -9.0, -7.0, -5.0, -6.0, -6.0, -2.0, -2.5, -3.0, -8.0, -8.0, -5.0]
TOKENIZER = SubwordTokenizer(UNITS, SCORES)

texts = st.lists(
    st.sampled_from(
        [*UNITS, "c", "ி", "\u200d", "\x00", "\t", "\v", "\f", "\r", "\x85", "\u00a0", "\u2028", "😀", "z", ">"]
    ),
    max_size=40,
).map("".join)
blobs = st.one_of(
    st.binary(max_size=60),
    texts.map(str.encode),
    st.lists(st.one_of(st.binary(max_size=5), texts.map(str.encode))).map(b"".join),
)


@pytest.fixture(scope="module")
def text() -> str:
    rng = random.Random(0)
    words = [
        "".join(
            rng.choice(["மர", "த்து", "க்கு", "கள்", "ನದಿ", "ಗಳು", "re", "port", "ing", "é"])
            for _ in range(rng.randint(1, 4))
        )
        for _ in range(300)
    ]
    return "".join(rng.choice(words) + rng.choice([" ", " ", " ", "\n", "  "]) for _ in range(5000))


@pytest.fixture(scope="module")
def trained(text: str) -> SubwordTokenizer:
    return train_subword_tokenizer([text[:30_000].encode(), text[30_000:].encode()], vocab_size=400)


def hugging_face(tokenizer: SubwordTokenizer, folder: Path) -> Tokenizer:
    tokenizer.save(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return hugging_face(TOKENIZER, tmp_path_factory.mktemp("units"))


class TestEncoding:
    @settings(max_examples=300, deadline=None)
    @given(blobs)
    @example(b"\xe0\xae\xa4\xe0\xae")
    @example(b"\xed\xa0\x80\xc0\x80\xf4\x90\x80\x80")
    def test_every_byte_string_comes_back(self, data: bytes) -> None:
        ids = TOKENIZER.encode(data)
        assert TOKENIZER.decode(ids) == data
        assert TOKENIZER.count(data) == len(ids)
        assert [one.tolist() for one in TOKENIZER.encode_batch([data, b"", data], 2)] == [
            ids.tolist(),
            [],
            ids.tolist(),
        ]

    @settings(max_examples=300, deadline=None)
    @given(texts)
    def test_ids_are_those_of_hugging_face(self, theirs: Tokenizer, text: str) -> None:
        ids = TOKENIZER.encode(text.encode()).tolist()
        assert theirs.encode(text, add_special_tokens=False).ids == ids
        assert theirs.decode(ids) == text

    @settings(max_examples=200, deadline=None)
    @given(st.text(st.sampled_from("abத😀z"), min_size=1, max_size=14))
    def test_ids_are_those_of_the_definition(self, word: str) -> None:
        scores = dict(zip(UNITS, SCORES, strict=True))
        expected = []
        for piece in reference_unigram(word, scores):
            expected += [FIRST + UNITS.index(piece)] if piece in scores else [7 + byte for byte in piece.encode()]
        assert TOKENIZER.encode(word.encode()).tolist() == expected

    @settings(max_examples=150, deadline=None)
    @given(blobs, st.lists(st.integers(0, 60), max_size=6))
    def test_streams(self, data: bytes, cuts: list[int]) -> None:
        ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
        blocks = [data[start:end] for start, end in pairwise(ends)]
        ids = [token for some in TOKENIZER.encode_blocks(blocks) for token in some.tolist()]
        assert ids == TOKENIZER.encode(data).tolist()

    def test_words_of_any_length(self, theirs: Tokenizer) -> None:
        for text in ("a" * 300_000, "ab" * 150_000 + "a", "த" * 70_000, "aab" * 90_000 + "\n" + "ab " * 50_000):
            ids = TOKENIZER.encode(text.encode())
            assert theirs.encode(text, add_special_tokens=False).ids == ids.tolist()
        data = bytes(range(33, 256)) * 3000
        assert TOKENIZER.decode(TOKENIZER.encode(data)) == data

    def test_unknown_code_points_cost_ten_nats_more_than_the_rarest_unit(self) -> None:
        # "ab" at once is -28, in two parts "a" and an unknown "b" -1 - 38 = -39.
        assert SubwordTokenizer(["a", "ab"], [-1.0, -28.0]).encode(b"ab").tolist() == [FIRST + 1]

    def test_nothing_is_normalised(self) -> None:
        assert TOKENIZER.encode("e\u0301".encode()).tolist() != TOKENIZER.encode("é".encode()).tolist()


class TestTraining:
    def test_trained(self, trained: SubwordTokenizer, text: str, tmp_path: Path) -> None:
        assert trained.vocab_size == 400
        assert trained.training is not None
        assert (trained.training.documents, trained.training.bytes) == (2, len(text.encode()))
        data = text.encode()
        ids = trained.encode(data)
        assert trained.decode(ids) == data
        assert len(ids) < len(data) / 6
        assert hugging_face(trained, tmp_path).encode(text, add_special_tokens=False).ids == ids.tolist()
        assert any(unit.endswith(" ") and len(unit) > 4 for unit in trained.units)

    @pytest.mark.parametrize("method", ["bpe", "morfessor"])
    def test_other_methods(self, text: str, method: Any) -> None:
        if method == "morfessor":
            pytest.importorskip("morfessor")
        tokenizer = train_subword_tokenizer([text.encode()], vocab_size=360, method=method, estimation="ml")
        assert abs(tokenizer.vocab_size - 360) <= 5
        assert tokenizer.decode(tokenizer.encode(text.encode())) == text.encode()

    def test_equal_arguments_give_equal_tokenizers(self, trained: SubwordTokenizer, text: str) -> None:
        assert train_subword_tokenizer([text.encode()], vocab_size=400) == trained
        assert train_subword_tokenizer([text.encode()], vocab_size=399) != trained

    def test_bytes_that_are_no_text(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
        with pytest.warns(UserWarning, match="the documents support"):
            tokenizer = train_subword_tokenizer([noise, b"word word word \xff", "ம".encode() * 5000], vocab_size=4096)
        assert tokenizer.decode(tokenizer.encode(noise)) == noise
        assert "word" in {unit.strip() for unit in tokenizer.units}

    def test_rare_atoms_are_given_as_bytes(self) -> None:
        documents = [" ".join(chr(0x4E00 + i) for i in range(500)).encode() + b" ab" * 99]
        with pytest.warns(UserWarning, match="the documents support"):
            tokenizer = train_subword_tokenizer(documents, vocab_size=FIRST + 20)
        assert "ab" in {unit.strip() for unit in tokenizer.units}
        assert sum(ord(unit[0]) >= 0x4E00 for unit in tokenizer.units) <= 10

    @pytest.mark.parametrize(
        ("documents", "options", "message"),
        [
            ([], {}, "no document has text"),
            ([b"", b"\xff\xfe"], {}, "no document has text"),
            ([b"abc"], {"vocab_size": 264}, "too small"),
            ([b"abc abc"], {"method": "unigram"}, "method must be one of"),
            ([b"abc abc"], {"unit": "letter"}, "unit must be one of"),
        ],
    )
    def test_bad_input(self, documents: list[bytes], options: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            train_subword_tokenizer(documents, **options)

    @pytest.mark.parametrize(
        ("units", "logp", "special"),
        [
            ([], [], SPECIAL_TOKENS),
            (["a"], [], SPECIAL_TOKENS),
            (["a"], [1.0], SPECIAL_TOKENS),
            (["a"], [np.nan], SPECIAL_TOKENS),
            (["a", "a"], [-1, -1], SPECIAL_TOKENS),
            (["<0x41>"], [-1], SPECIAL_TOKENS),
            (["<|unk|>"], [-1], SPECIAL_TOKENS),
            ([""], [-1], SPECIAL_TOKENS),
            (["\ud800"], [-1], SPECIAL_TOKENS),
            (["a"], [-1], ("<|x|>", "<|x|>")),
        ],
    )
    def test_bad_units(self, units: list[str], logp: list[float], special: tuple[str, ...]) -> None:
        with pytest.raises(InvalidInputError):
            SubwordTokenizer(units, logp, special)


class TestFiles:
    def test_round_trip(self, trained: SubwordTokenizer, tmp_path: Path) -> None:
        for path in (tmp_path / "folder", tmp_path / "file.json"):
            trained.save(path)
            loaded = load_tokenizer(path)
            assert loaded == trained == SubwordTokenizer.load(path)
            assert loaded.kind == "subword"
        assert pickle.loads(pickle.dumps(trained)) == trained

    def test_special_tokens(self, tmp_path: Path) -> None:
        grown = TOKENIZER.with_special_tokens(["<|file|>"])
        assert grown.special_tokens["<|file|>"] == TOKENIZER.vocab_size == grown.vocab_size - 1
        assert grown.encode(b"ab c").tolist() == TOKENIZER.encode(b"ab c").tolist()
        grown.save(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert loaded == grown
        assert loaded.decode([grown.vocab_size - 1], skip_special_tokens=False) == b"<|file|>"
        assert grown.encode(b"a", add_special_tokens=True).tolist() == [0, FIRST, 1]
        none = SubwordTokenizer(["a"], [-1.0], ())
        none.save(tmp_path / "none")
        assert load_tokenizer(tmp_path / "none") == none

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d["model"].update(byte_fallback=False), "byte_fallback"),
            (lambda d: d["model"]["vocab"].pop(8), "no token for 1 of the 256 bytes, such as <0x01>"),
            (lambda d: d.update(normalizer={"type": "NFC"}), "normalizer"),
            (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
            (lambda d: d["model"]["vocab"][-1].__setitem__(1, "x"), "vocabulary"),
            (lambda d: d["model"]["vocab"][-1].__setitem__(0, "a"), "spelled 'a'"),
            (lambda d: d["model"].update(unk_id=99_999), "unknown token"),
            (lambda d: d["added_tokens"][0].update(id=5), "cannot load"),
        ],
    )
    def test_damaged(self, tmp_path: Path, change: Any, message: str) -> None:
        TOKENIZER.save(tmp_path)
        document = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
        change(document)
        (tmp_path / "tokenizer.json").write_text(json.dumps(document), "utf-8")
        with pytest.raises(InvalidInputError, match=message):
            load_tokenizer(tmp_path)

    def test_a_dictionary_is_no_tokenizer(self, tmp_path: Path) -> None:
        SubwordDictionary(["a"], [-1.0]).save(tmp_path / "units.json")
        with pytest.raises(InvalidInputError, match="it has no model"):
            load_tokenizer(tmp_path / "units.json")
        TOKENIZER.save(tmp_path)
        with pytest.raises(FileError, match="no dictionary"):
            SubwordDictionary.load(tmp_path / "tokenizer.json")
