"""Atoms: aksharas of the Brahmic scripts, graphemes, code points; normalisation and joiners."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import InvalidInputError
from byteloom.tokenize.akshara import UNITS, Unit, atoms

INDIC = "".join(map(chr, range(0x0900, 0x0E00))) + "\u200c\u200d"
texts = st.text(st.one_of(st.sampled_from(INDIC), st.characters(exclude_categories=["Cs"])), max_size=20)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("தமிழ்நாடு", ["த", "மி", "ழ்நா", "டு"]),
        ("மற்றும்", ["ம", "ற்று", "ம்"]),  # a final virama stays with its consonant
        ("அஃது", ["அஃ", "து"]),  # aytham modifies what is before it
        ("ಕ್ಷೇತ್ರ", ["ಕ್ಷೇ", "ತ್ರ"]),
        ("ಅಂಗಡಿ", ["ಅಂ", "ಗ", "ಡಿ"]),
        ("नमस्ते", ["न", "म", "स्ते"]),
        ("क़लम", ["क़", "ल", "म"]),  # a nukta belongs to its consonant
        ("দুঃখ", ["দুঃ", "খ"]),
        ("ਪੰਜਾਬੀ", ["ਪੰ", "ਜਾ", "ਬੀ"]),
        ("ગુજરાતી", ["ગુ", "જ", "રા", "તી"]),
        ("ଓଡ଼ିଆ", ["ଓ", "ଡ଼ି", "ଆ"]),
        ("తెలుగు", ["తె", "లు", "గు"]),
        ("മലയാളം", ["മ", "ല", "യാ", "ളം"]),
        ("ශ්‍රී", ["ශ්‍රී"]),  # the conjunct is asked for by a joiner behind the virama
        ("abcத", ["a", "b", "c", "த"]),
        ("👩‍👩‍👧e\u0301", ["👩‍👩‍👧", "é"]),
    ],
)  # fmt: skip
def test_aksharas(word: str, expected: list[str]) -> None:
    assert atoms(word) == [unicodedata.normalize("NFC", atom) for atom in expected]


def test_other_units() -> None:
    assert atoms("தமிழ்நா", "grapheme") == ["த", "மி", "ழ்", "நா"]
    assert atoms("தமி", "codepoint") == ["த", "ம", "ி"]


def test_joiners_belong_to_the_left() -> None:
    for unit in UNITS:
        assert all(atom[0] not in "\u200c\u200d" for atom in atoms("क्\u200dषनक्\u200cष a\u200db", unit))


def test_two_part_vowel_signs_are_composed() -> None:
    assert atoms("கொ", "codepoint") == ["க", "ொ"]
    assert atoms("ಕೊ", "codepoint") == ["ಕ", "ೊ"]


@settings(max_examples=200, deadline=None)
@given(texts, st.sampled_from(UNITS))
def test_atoms_make_up_the_normalised_word(word: str, unit: Unit) -> None:
    parts = atoms(word, unit)
    assert "".join(parts) == unicodedata.normalize("NFC", word)
    assert all(parts)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("தமழகக்ிாுௌ்ஃஅஆக்ಕತರಿ್ಂಅ"), max_size=12))
def test_no_cut_before_a_sign(word: str) -> None:
    assert all(unicodedata.category(atom[0])[0] != "M" for atom in atoms(word)[1:])


def test_unknown_unit() -> None:
    with pytest.raises(InvalidInputError, match="unit must be one of akshara, grapheme, codepoint"):
        atoms("a", "letter")  # type: ignore[arg-type]
