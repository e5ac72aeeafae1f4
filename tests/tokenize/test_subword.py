"""Subword dictionaries: lattice, learning and estimation against definitions, Hugging Face, pynini and Morfessor."""

from __future__ import annotations

import json
import math
import random
import sys
import unicodedata
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.subword import (
    Word,
    reference_expected_counts,
    reference_log_likelihood,
    reference_nbest,
    reference_word_bpe,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from byteloom.errors import ByteloomError, FileError, InvalidInputError, MissingExtraError
from byteloom.tokenize import SubwordDictionary, join, mark, train_subwords
from byteloom.tokenize.akshara import atoms
from byteloom.tokenize.subword import UNKNOWN_PENALTY
from byteloom.tokenize.subword_training import Estimation, Method, _Corpus, estimated, read_word_counts, smoothed

# Few letters, so that units overlap; log-probabilities whose sums are exact, so that ties are ties.
letters = st.text(st.sampled_from("aabc"), min_size=1, max_size=9)
unit_scores = st.dictionaries(
    st.text(st.sampled_from("aab"), min_size=1, max_size=4), st.integers(-12, -1).map(lambda n: n / 4), min_size=1,
    max_size=9,
)  # fmt: skip
counted_words = st.dictionaries(letters, st.integers(1, 9), min_size=1, max_size=12)

STEMS = ["மர", "பழ", "வீட்", "கட", "ನದಿ", "ಮನೆ", "ಹಳ್ಳಿ", "ಊರ"]
SUFFIXES = ["ங்கள்", "த்தில்", "க்கு", "ை", "ಗಳು", "ಯಲ್ಲಿ", "ಗೆ", ""]


def chained_words(count: int = 400) -> dict[str, float]:
    """Words of stems and chains of suffixes, with counts that fall."""
    rng = random.Random(0)
    words: dict[str, float] = {}
    for i in range(count):
        word = rng.choice(STEMS) + "".join(rng.choice(SUFFIXES) for _ in range(rng.randrange(4)))
        words[word] = words.get(word, 0) + 1 + 40 // (1 + i)
    return words


def dictionary(scores: dict[str, float], **options: Any) -> SubwordDictionary:
    return SubwordDictionary(list(scores), list(scores.values()), unit="codepoint", **options)


def corpus(words: dict[str, float]) -> _Corpus:
    return _Corpus({tuple(word): count for word, count in words.items()})


class TestLattice:
    @settings(max_examples=300, deadline=None)
    @given(unit_scores, letters, st.integers(2, 6))
    def test_paths_are_those_of_the_definition(self, scores: dict[str, float], word: str, nbest: int) -> None:
        made = dictionary(scores)
        unknown = min(scores.values()) - UNKNOWN_PENALTY
        every = reference_nbest(tuple(word), scores, unknown)
        assert made.segment(word) == every[0][0]
        assert made.segment(word, nbest=nbest) == every[:nbest]
        assert made.segment_corpus([word, "b", word], threads=2) == [every[0][0], made.segment("b"), every[0][0]]
        expected = reference_log_likelihood(tuple(word), scores, unknown)
        assert made.log_likelihood(word) == pytest.approx(expected, rel=1e-9)

    @settings(max_examples=100, deadline=None)
    @given(counted_words, st.dictionaries(letters, st.floats(-20, -0.01), max_size=9))
    def test_expected_counts(self, words: dict[str, float], extra: dict[str, float]) -> None:
        scores = dict.fromkeys("abc", -3.7) | extra
        made = corpus(words)
        logp, _ = estimated(list(scores), np.array(list(scores.values())), made.words, made.weights, "ml")
        spelled: dict[Word, float] = {tuple(word): count for word, count in words.items()}
        expected = reference_expected_counts(spelled, scores, -99.0)
        total = sum(expected.values())
        for unit, score in zip(scores, logp.tolist(), strict=True):
            assert math.exp(score) == pytest.approx(expected[unit] / total, rel=1e-7, abs=1e-12)

    def test_long_words_neither_underflow_nor_slow_down(self) -> None:
        made = dictionary({"a": -9.0, "aa": -17.0, "b": -400.0})
        word = "ab" * 5000
        assert made.segment(word) == list(word)
        assert made.log_likelihood(word) == pytest.approx(-409.0 * 5000, rel=1e-12)

    @settings(max_examples=100, deadline=None)
    @given(unit_scores, st.text(st.sampled_from("aab"), min_size=1, max_size=12))
    def test_score_is_that_of_hugging_face(self, scores: dict[str, float], word: str) -> None:
        scores = {"a": -5.25, "b": -4.5} | scores
        model = models.Unigram([("<unk>", -12.0), *scores.items()], 0, False)
        theirs = sum(scores[token.value] for token in model.tokenize(word))
        assert dictionary(scores).segment(word, nbest=2)[0][1] == pytest.approx(theirs, rel=1e-9)


class TestTransducer:
    def test_shortest_path_and_distance(self) -> None:
        pynini = pytest.importorskip("pynini")
        trained = train_subwords(chained_words(), size=90)
        tropical = trained.to_fst()
        # The weights of pynini's standard arcs are single precision; those of log64 arcs are not.
        precise = pynini.Fst(arc_type="log64")
        for _ in tropical.states():
            precise.add_state()
        precise.set_start(tropical.start())
        precise.set_final(tropical.start())
        ids = {text: i for i, text in enumerate(trained.units)}
        for state in tropical.states():
            for arc in tropical.arcs(state):
                unit = tropical.output_symbols().find(arc.olabel)
                weight = -trained.logp[ids[unit]] if arc.olabel else 0.0
                precise.add_arc(
                    state, pynini.Arc(arc.ilabel, arc.olabel, pynini.Weight("log64", weight), arc.nextstate)
                )
        for word in list(chained_words())[:60]:
            labels = [tropical.input_symbols().find(atom) for atom in atoms(word)]
            shortest = pynini.shortestpath(acceptor(labels, "standard") @ tropical)
            score = trained.segment(word, nbest=2)[0][1]
            assert float(pynini.shortestdistance(shortest, reverse=True)[shortest.start()]) == pytest.approx(
                -score, rel=1e-5
            )
            lattice = acceptor(labels, "log64") @ precise
            total = pynini.shortestdistance(lattice, reverse=True, delta=1e-15)[lattice.start()]
            assert float(total) == pytest.approx(
                -trained.log_likelihood(word), rel=1e-8
            )  # float() of a weight has nine digits

    def test_without_pynini(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynini", None)
        with pytest.raises(MissingExtraError, match=r"byteloom\[lexicon\]"):
            dictionary({"a": -1.0}).to_fst()


def acceptor(labels: list[int], arc_type: str) -> Any:
    import pynini

    fst = pynini.Fst(arc_type=arc_type)
    one = pynini.Weight.one(fst.weight_type())
    state = fst.add_state()
    fst.set_start(state)
    for label in labels:
        after = fst.add_state()
        fst.add_arc(state, pynini.Arc(label, label, one, after))
        state = after
    fst.set_final(state)
    return fst


def hugging_face_merges(words: dict[str, int], size: int, least: int) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=least, limit_alphabet=1 << 20, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator((word for word, count in words.items() for _ in range(count)), trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


class TestBPE:
    @settings(max_examples=200, deadline=None)
    @given(counted_words, st.integers(1, 12), st.integers(1, 3))
    def test_merges_are_those_of_the_definition_and_of_hugging_face(
        self, words: dict[str, int], merges: int, least: int
    ) -> None:
        size = len({letter for word in words for letter in word}) + merges
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = train_subwords(words, method="bpe", estimation="none", size=size, unit="codepoint", min_count=least)
        assert got.merges is not None
        # A pair can come about again after it was joined; then the definition lists it twice.
        expected = list(dict.fromkeys(reference_word_bpe({tuple(w): n for w, n in words.items()}, size, least)))
        assert list(got.merges) == expected
        theirs = hugging_face_merges(words, size, least)
        if len({"".join(merge) for merge in expected}) == len(expected):  # else the order of joined pairs differs
            assert list(got.merges) == theirs

    def test_hugging_face_on_words_of_a_language(self) -> None:
        words = {word: int(count) for word, count in chained_words().items()}
        got = train_subwords(words, method="bpe", estimation="none", size=120, unit="codepoint")
        assert list(got.merges or ()) == hugging_face_merges(words, 120, 2)

    def test_segmentation_is_in_merge_order(self) -> None:
        words = {word: int(count) for word, count in chained_words().items()}
        got = train_subwords(words, method="bpe", estimation="none", size=120, unit="codepoint")
        model = models.BPE({unit: i for i, unit in enumerate(got.units)}, list(got.merges or ()))
        for word in words:
            assert got.segment(word) == [token.value for token in model.tokenize(word)]

    def test_fractional_counts(self) -> None:
        # By rank, every count is a fraction; twice all counts change nothing.
        words = list(chained_words())
        by_rank = {word: 6 / (1 + rank / 1000) for rank, word in enumerate(words)}
        once = train_subwords(words, method="bpe", size=90)
        assert once.units == train_subwords(by_rank, method="bpe", size=90, min_count=4).units


class TestLearning:
    @pytest.mark.parametrize("estimation", ["none", "viterbi", "ml"])
    @pytest.mark.parametrize("method", ["bpe", "extended_bpe"])
    def test_dictionaries(self, method: Method, estimation: Estimation) -> None:
        words = chained_words()
        seen: list[tuple[str, int, int]] = []
        made = train_subwords(
            words, method=method, estimation=estimation, size=80, progress=lambda *step: seen.append(step)
        )
        assert len(made) == 80
        assert {atom for word in words for atom in atoms(word)} <= set(made.units)
        assert np.exp(made.logp).sum() == pytest.approx(1, abs=1e-12)
        assert seen[-1] == (("estimating", 6, 6) if estimation != "none" else ("learning", seen[-1][1], seen[-1][2]))
        for word in words:
            pieces = made.segment(word)
            assert "".join(pieces) == word
            assert all(pieces)
            ends = {len("".join(atoms(word)[: k + 1])) for k in range(len(atoms(word)))}
            assert {len("".join(pieces[: k + 1])) for k in range(len(pieces))} <= ends
            for style in ("suffix", "prefix", "both", "boundary"):
                assert join(mark(pieces, style), style) == word

    def test_extended_bpe_drops_units_that_longer_ones_replaced(self) -> None:
        # "ab" is the most frequent pair, but stands in "abc" only.
        made = train_subwords({"abc": 9, "c": 5, "xabc": 4}, size=6, unit="codepoint")
        assert "ab" not in made.units
        assert "abc" in made.units

    @settings(max_examples=40, deadline=None)
    @given(counted_words, st.sets(letters, max_size=9), st.integers(0, 2**32))
    def test_estimation_never_lowers_its_objective(self, words: dict[str, float], extra: set[str], seed: int) -> None:
        made = corpus(words)
        units = sorted({*made.atoms, *extra})
        for estimation in ("ml", "viterbi"):
            logp = np.log(np.random.default_rng(seed).dirichlet(np.ones(len(units))))
            objectives = []
            for _ in range(6):
                logp, objective = estimated(units, logp, made.words, made.weights, estimation, add=0.0)
                assert np.exp(logp).sum() == pytest.approx(1, abs=1e-12)
                objectives.append(objective)
            assert all(after >= before - 1e-6 for before, after in pairwise(objectives))

    def test_smoothing(self) -> None:
        assert np.exp(smoothed(np.array([3.0, 0.0]))).tolist() == pytest.approx([4 / 5, 1 / 5])

    def test_counts_of_equal_words_are_added(self) -> None:
        split, whole = "க\u0bc6\u0bbe", "க\u0bca"
        words = {split + "ம": 2.0, whole + "ம": 1.0, "ம": 1.0}
        assert train_subwords(words, size=3).units == train_subwords({whole + "ம": 3, "ம": 1}, size=3).units


class TestMorfessor:
    def test_units_segmentation_and_cost_are_those_of_the_package(self) -> None:
        morfessor = pytest.importorskip("morfessor")
        words = [word for word in chained_words() if len(word) > 1]
        random.seed(3)
        model = morfessor.BaselineModel()
        model.load_data([(1, word) for word in words])
        before, model_random = random.getstate(), random.Random(3)
        random.setstate(model_random.getstate())
        model.train_batch()
        random.setstate(before)
        counts = dict(model.get_constructions())
        size = len(counts.keys() | {letter for word in words for letter in word})
        made = train_subwords(words, method="morfessor", estimation="none", size=size, unit="codepoint", seed=3)
        assert set(counts) <= set(made.units)
        assert random.getstate() == before
        boundary = math.log(model.tokens + len(words)) - math.log(len(words))
        for word in words:
            pieces, cost = model.viterbi_segment(word, addcount=0)
            assert made.segment(word) == pieces
            assert made.segment(word, nbest=2)[0][1] == pytest.approx(boundary - cost, rel=1e-9)

    def test_size_is_reached(self) -> None:
        pytest.importorskip("morfessor")
        for size in (55, 75):
            made = train_subwords(chained_words(), method="morfessor", size=size, unit="grapheme")
            assert abs(len(made) - size) <= 0.05 * size

    def test_without_morfessor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "morfessor", None)
        with pytest.raises(MissingExtraError, match=r"byteloom\[lexicon\]"):
            train_subwords(chained_words(), method="morfessor", size=80)


class TestFiles:
    @pytest.mark.parametrize("estimation", ["none", "viterbi"])
    def test_round_trip(self, tmp_path: Path, estimation: Estimation) -> None:
        made = train_subwords(chained_words(), method="bpe", estimation=estimation, size=70, mark_symbol="@@")
        made.save(tmp_path / "units.json")
        loaded = SubwordDictionary.load(tmp_path / "units.json")
        assert loaded == made
        assert loaded.segment("மரங்கள்") == made.segment("மரங்கள்")
        assert made != train_subwords(chained_words(), method="bpe", estimation=estimation, size=69)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b'{"format": "byteloom-subwords-1"}',
            b'{"format": "byteloom-subwords-1", "unit": "akshara", "mark_symbol": "+", "unknown": "atom", '
            b'"units": {"a": "x"}, "merges": null}',
            b'{"format": "byteloom-subwords-1", "unit": "akshara", "mark_symbol": "+", "unknown": "atom", '
            b'"units": {"a": -1}, "merges": [["a", "b"]]}',
            b'{"format": "byteloom-subwords-1", "unit": "akshara", "mark_symbol": "+", "unknown": "atom", '
            b'"units": ["a"], "merges": null}',
        ],
    )
    def test_damaged(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "units.json").write_bytes(content)
        with pytest.raises(FileError):
            SubwordDictionary.load(tmp_path / "units.json")

    def test_word_lists(self, tmp_path: Path) -> None:
        path = tmp_path / "words.txt"
        path.write_text("\ufeffb\na\n\nb\n", "utf-8")
        assert read_word_counts(path) == {"b": 3.0, "a": 3 / 1.001}
        path.write_text("b\t2\na\t1.5\nb\t1\n", "utf-8")
        assert read_word_counts(path) == {"b": 3.0, "a": 1.5}
        path.write_text("b a\nக\u0bc6\u0bbe b\n", "utf-8")
        assert read_word_counts(path) == {"b": 2, "a": 1, "க\u0bca": 1}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a\n\xff\n", "line 2 of .* is not UTF-8"),
            (b"a\t1\nb\n", "line 2 of .* is not a word, a tab and a positive count"),
            (b"a\t-1\n", "line 1 of"),
            (b"a\tx\n", "line 1 of"),
            (b"\n", "holds no words"),
        ],
    )
    def test_bad_word_lists(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "words.txt").write_bytes(content)
        with pytest.raises(InvalidInputError, match=message):
            read_word_counts(tmp_path / "words.txt")


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "options", "message"),
        [
            ({}, {}, "no words"),
            ([], {}, "no words"),
            ("word", {}, "got one str"),
            ({"a": 0}, {}, "positive"),
            ({"a": -1}, {}, "positive"),
            ({"a": math.nan}, {}, "positive"),
            ({"a": math.inf}, {}, "positive"),
            ({"a": 1e18}, {}, "below 1e18"),
            ({"": 1}, {}, "empty"),
            ({"a b": 1}, {}, "white space"),
            ({"a+": 1}, {}, "choose another mark"),
            ({"a\u037e": 1}, {"mark_symbol": ";"}, "choose another mark"),  # NFC makes it a semicolon
            ({"abc": 1}, {"size": 3}, "3 different atoms"),
            ({"abc": 1}, {"method": "wordpiece"}, "method must be one of"),
            ({"abc": 1}, {"estimation": "map"}, "estimation must be one of"),
            ({"abc": 1}, {"unit": "letter"}, "unit must be one of"),
            ({"abc": 1}, {"iterations": 0}, "iterations"),
            ({"abc": 1}, {"min_count": 0}, "min_count"),
            ({"abc": 1}, {"mark_symbol": ""}, "a mark must be"),
            ({"a\ud800": 1}, {}, "surrogate"),
        ],
    )
    def test_training(self, words: Any, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            train_subwords(words, **options)

    def test_fewer_units_than_asked_for(self) -> None:
        with pytest.warns(UserWarning, match="the words support 3 units, not 9"):
            train_subwords({"ab": 5}, size=9)

    @pytest.mark.parametrize("word", ["", "a b", "a+", "a\u00a0b", "\ud800"])
    def test_words(self, word: str) -> None:
        with pytest.raises(InvalidInputError):
            dictionary({"a": -1.0}).segment(word)

    def test_unknown_atoms(self) -> None:
        assert dictionary({"a": -1.0}).segment("axa") == ["a", "x", "a"]
        assert dictionary({"a": -1.0}).segment("axa", nbest=2) == [(["a", "x", "a"], -13.0)]
        with pytest.raises(InvalidInputError, match="'x' in 'axa' is no unit"):
            dictionary({"a": -1.0}, unknown="error").segment("axa")
        merged = dictionary({"a": -1.0, "aa": -1.0}, merges=[("a", "a")])
        assert merged.segment("aaxa") == ["aa", "x", "a"]

    def test_words_are_normalised(self) -> None:
        word = "க\u0bc6\u0bbeடு"
        pieces = train_subwords(chained_words(), size=80).segment(word)
        assert "".join(pieces) == unicodedata.normalize("NFC", word) != word

    @pytest.mark.parametrize(
        ("units", "logp", "options"),
        [
            ([], [], {}),
            (["a"], [], {}),
            (["a"], [0.5], {}),
            (["a"], [-math.inf], {}),
            (["a"], [math.nan], {}),
            (["a", "a"], [-1, -1], {}),
            ([""], [-1], {}),
            (["a b"], [-1], {}),
            (["a+"], [-1], {}),
            (["a"], [-1], {"unit": "letter"}),
            (["a"], [-1], {"unknown": "skip"}),
            (["a"], [-1], {"mark_symbol": " "}),
            (["a"], [-1], {"merges": [("a", "a")]}),
            (["\ud800"], [-1], {}),
        ],
    )
    def test_dictionary(self, units: list[str], logp: list[float], options: dict[str, Any]) -> None:
        with pytest.raises(InvalidInputError):
            SubwordDictionary(units, logp, **options)

    def test_nbest(self) -> None:
        with pytest.raises(ByteloomError, match="nbest"):
            dictionary({"a": -1.0}).segment("a", nbest=0)
