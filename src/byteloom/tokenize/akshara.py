"""Words into atoms: the smallest pieces that a subword may begin or end at.

Use "akshara" for the Brahmic scripts: a consonant is never cut from its vowel sign, nor a conjunct from itself, so
every piece can be pronounced without its neighbours. Other scripts fall back to user-perceived characters.
Source: the orthographic syllable of Unicode Standard Annex 29 and of the Indic scripts; spec of Madhavaraj et al. 2022,
arXiv 2207.13331. Cost: one regular expression a word, about a microsecond.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Literal, get_args

import regex

from byteloom.errors import InvalidInputError

Unit = Literal["akshara", "grapheme", "codepoint"]

UNITS: tuple[Unit, ...] = get_args(Unit)

_SCRIPTS = "".join(
    rf"\p{{Script={script}}}"
    for script in (
        "Bengali", "Devanagari", "Gujarati", "Gurmukhi", "Kannada", "Malayalam", "Oriya", "Sinhala", "Tamil", "Telugu",
    )
)  # fmt: skip


def _of_script(*classes: str) -> str:
    """A character class: the letters of the scripts that have one of these Indic syllabic categories."""
    categories = "".join(rf"\p{{InSC={name}}}" for name in classes)
    return f"[[{_SCRIPTS}]&&[{categories}]]"


_JOINERS = r"[\u200c\u200d]"
_CONSONANT = _of_script("Consonant", "Consonant_Dead", "Consonant_Placeholder", "Consonant_With_Stacker")
_VOWEL = _of_script("Vowel_Independent", "Vowel")
_VIRAMA = _of_script("Virama", "Pure_Killer", "Invisible_Stacker")
_AFTER = rf"(?:[\p{{M}}\u200c\u200d]|{_of_script('Bindu', 'Visarga', 'Modifying_Letter')})*"  # signs and modifiers
_PATTERNS = {
    "akshara": rf"{_CONSONANT}(?:\p{{M}}*{_JOINERS}*{_VIRAMA}{_JOINERS}*{_CONSONANT})*{_AFTER}|{_VOWEL}{_AFTER}|\X",
    "grapheme": r"\X",
    "codepoint": rf".{_JOINERS}*",
}


@cache
def _compiled(unit: Unit) -> regex.Pattern[str]:
    return regex.compile(_PATTERNS[unit], regex.V1 | regex.DOTALL)


def normalise(word: str) -> str:
    """`word` in Unicode's composed form (NFC): two-part vowel signs, as Tamil ொ from ெ and ா, become one sign."""
    return unicodedata.normalize("NFC", word)


def atoms(word: str, unit: Unit = "akshara") -> list[str]:
    """The atoms of a word, in NFC; together they are the normalised word.

    - "akshara": consonants joined by viramas, with their vowel sign or final virama and what modifies them (anusvara,
      visarga, aytham); or an independent vowel with its modifiers; any other character as "grapheme" has it.
    - "grapheme": what a reader takes for one character (Unicode's extended grapheme clusters).
    - "codepoint": Unicode's characters.

    Zero-width joiners and non-joiners belong to the atom on their left. Raises InvalidInputError for another unit.

    >>> atoms("தமிழ்நாடு")
    ['த', 'மி', 'ழ்நா', 'டு']
    >>> atoms("தமிழ்நாடு", "grapheme")
    ['த', 'மி', 'ழ்', 'நா', 'டு']
    """
    return atoms_of_text(normalise(word), unit)


def atoms_of_text(text: str, unit: Unit) -> list[str]:
    """`atoms` of any text, and without normalisation: together they are the text itself."""
    if unit not in UNITS:
        raise InvalidInputError(f"unit must be one of {', '.join(UNITS)}; got {unit!r}")
    return _compiled(unit).findall(text)
