"""Marking pieces of words and joining them again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import InvalidInputError
from byteloom.tokenize.marks import MarkStyle, join, mark

STYLES: tuple[MarkStyle, ...] = ("suffix", "prefix", "both", "boundary")
pieces = st.text(st.sampled_from("abத்@-"), min_size=1, max_size=4)
words = st.lists(pieces, min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("style", "tokens"),
    [
        ("suffix", ["pu+", "tti+", "l", "a"]),
        ("prefix", ["pu", "+tti", "+l", "a"]),
        ("both", ["pu+", "+tti+", "+l", "a"]),
        ("boundary", ["pu", "tti", "l", "+", "a", "+"]),
    ],
)
def test_styles(style: MarkStyle, tokens: list[str]) -> None:
    assert mark(["pu", "tti", "l"], style) + mark(["a"], style) == tokens
    assert join(tokens, style) == "puttil a"


@settings(max_examples=300, deadline=None)
@given(st.lists(words, max_size=5), st.sampled_from(STYLES), st.sampled_from(["+", "_", "++", "</w>"]))
def test_join_is_the_inverse_of_mark(sentence: list[list[str]], style: MarkStyle, symbol: str) -> None:
    tokens = [token for word in sentence for token in mark(word, style, symbol)]
    assert join(tokens, style, symbol) == " ".join("".join(word) for word in sentence)


def test_open_ends() -> None:
    assert join(["pu+", "tti+"]) == "putti"  # a mark at the end of an utterance is dropped
    assert join(["+tti", "+l"], "prefix") == "ttil"
    assert join(["pu+", "tti", "+l"], "both") == "puttil"  # one mark is enough
    assert join(["+", "pu", "+", "+", "tti"], "boundary") == "pu tti"
    assert join([]) == join(["+"]) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", ""], "suffix", "+"), "a piece is empty"),
        ((["a+b"], "suffix", "+"), "choose another mark"),
        ((["a b"], "suffix", "+"), "white space"),
        ((["a"], "infix", "+"), "style must be one of suffix, prefix, both, boundary"),
        ((["a"], "suffix", ""), "a mark must be"),
        ((["a"], "suffix", " "), "a mark must be"),
    ],
)
def test_bad_input(arguments: tuple[list[str], MarkStyle, str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        mark(*arguments)
