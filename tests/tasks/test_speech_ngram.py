"""The n-gram model against its formula, KenLM, and its own files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import FileError, InvalidInputError
from byteloom.tasks.speech_lexicon import NGram
from tests.reference.ngram import reference_witten_bell

SENTENCES = [["a", "b"], ["a", "c"], ["a", "b", "c"], []]
FRAGMENTS = [(("b", "d"), 0.5), (("d",), 3.0)]


def test_the_example_of_the_docstring() -> None:
    assert math.exp(NGram.train([["a", "b"], ["a", "c"]]).logp("b", ["a"])) == pytest.approx(0.34)


words = st.lists(st.sampled_from("abcd"), max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    sentences=st.lists(words, min_size=1, max_size=5),
    fragments=st.lists(st.tuples(words, st.sampled_from([0.25, 1.0, 2.5])), max_size=4),
    history=st.lists(st.sampled_from("abcd"), max_size=3),
    order=st.integers(1, 4),
    starts=st.booleans(),
)
def test_it_is_the_formula(
    sentences: list[list[str]], fragments: list[tuple[list[str], float]], history: list[str], order: int, starts: bool
) -> None:
    lm = NGram.train(sentences, order, fragments=fragments, vocabulary=["z"])
    runs = [(["<s>", *sentence, "</s>"], 1.0) for sentence in sentences] + fragments
    context = (["<s>"] if starts else []) + history
    kept = context[max(0, len(context) - order + 1) :]
    for token in lm.tokens[1:]:
        expected = reference_witten_bell(runs, len(lm.tokens) - 1, token, kept)
        assert math.exp(lm.logp(token, context)) == pytest.approx(expected, rel=1e-9)
    assert sum(math.exp(lm.logp(token, context)) for token in lm.tokens[1:]) == pytest.approx(1)


def test_an_unknown_token_is_unk() -> None:
    lm = NGram.train(SENTENCES)
    assert lm.logp("never", ["a"]) == lm.logp("<unk>", ["a"])
    assert lm.logp("a", ["never"]) == lm.logp("a", ["<unk>"])
    assert "never" not in lm and "a" in lm
    assert lm.units == ["a", "b", "c"]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_arpa_file_reads_back(order: int, tmp_path: Path) -> None:
    lm = NGram.train(SENTENCES, order, fragments=FRAGMENTS, vocabulary=["z"])
    lm.save_arpa(tmp_path / "lm.arpa")
    again = NGram.load(tmp_path / "lm.arpa")
    assert again.order == order
    for history in ([], ["<s>"], ["<s>", "a"], ["a", "b"], ["b", "d"], ["never"]):
        for token in lm.tokens[1:]:
            assert again.logp(token, history) == pytest.approx(lm.logp(token, history), abs=1e-5)


def test_kenlm_reads_the_same_probabilities(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    lm = NGram.train(SENTENCES, 3, fragments=FRAGMENTS, vocabulary=["z"])
    lm.save_arpa(tmp_path / "lm.arpa")
    theirs = kenlm.Model(str(tmp_path / "lm.arpa"))
    for sentence in (["a", "b", "c"], ["b", "d", "z"], ["z", "never", "a"], []):
        tokens = [*sentence, "</s>"]
        scores = [score for score, _, _ in theirs.full_scores(" ".join(sentence))]
        ours = [lm.logp(token, ["<s>", *tokens[:i]]) / math.log(10) for i, token in enumerate(tokens)]
        assert ours == pytest.approx(scores, abs=1e-5)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no sentence"):
        NGram.train([])
    with pytest.raises(InvalidInputError, match="at least 1"):
        NGram.train(SENTENCES, 0)
    with pytest.raises(InvalidInputError, match="positive"):
        NGram.train(SENTENCES, fragments=[(("a",), 0.0)])
    with pytest.raises(InvalidInputError, match="reserved"):
        NGram.train([["a", "</s>"]])
    with pytest.raises(InvalidInputError, match="white space"):
        NGram.train([["a b"]])


@pytest.mark.parametrize(
    "text", ["", "hello", "\\data\\\nngram 1=1\n\n\\1-grams:\nx a\n\\end\\\n", "\\data\\\n\\end\\\n"]
)
def test_a_file_that_is_no_arpa_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(text)
    with pytest.raises(FileError, match="not an ARPA file"):
        NGram.load(tmp_path / "lm.arpa")


def test_an_arpa_file_must_name_its_tokens(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text("\\data\\\n\n\\1-grams:\n-1 </s>\n-1 a\n\n\\2-grams:\n-1 a b\n\\end\\\n")
    with pytest.raises(FileError, match="lack b"):
        NGram.load(tmp_path / "lm.arpa")
