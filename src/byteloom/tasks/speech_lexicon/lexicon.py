"""The pronunciation lexicon of a subword dictionary, as Kaldi files and as the trie that the decoder walks.

Use `build_lexicon` on a dictionary of byteloom.tokenize.subword, and `write_lexicon` for Kaldi, k2 and WFST tools.
Source: arXiv 2207.13331; marks as in Smit, Virpioja and Kurimo, Interspeech 2017. Cost: linear in the units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath, atomic_write, open_bytes
from byteloom.tasks.speech_lexicon.pronunciation import Espeak, cut_phones, grapheme_phones, tamil_phones
from byteloom.tokenize.marks import mark

if TYPE_CHECKING:
    from byteloom.tokenize.subword import SubwordDictionary

Pronunciation = Literal["grapheme", "rules", "espeak", "letters"]
Style = Literal["suffix", "prefix", "both"]
Entry = tuple[str, list[str]]  # a marked unit, and its phones


def build_lexicon(
    dictionary: SubwordDictionary,
    *,
    pronunciation: Pronunciation = "grapheme",
    style: Style = "suffix",
    symbol: str = "+",
    words: Iterable[str] = (),
) -> list[Entry]:
    """Every unit in every position of a word, with its phones; a unit may have several entries.

    `pronunciation` is "grapheme" (consonant and vowel letters with inherent vowels), "rules" (IPA with the voicing of
    Tamil stops; other scripts as grapheme), "espeak" (eSpeak NG), or "letters" (code points, for recognisers that
    emit characters). eSpeak pronounces whole words: given `words`, each is cut by `dictionary` and its phones are
    dealt out to the pieces, which then have the pronunciation they have most often; other units are pronounced alone.
    Raises MissingExtraError without the wheels of eSpeak, InvalidInputError when the units may begin within a
    consonant and its vowel (unit="codepoint") and have no pronunciation but "letters".
    """
    if dictionary.unit == "codepoint" and pronunciation != "letters":
        raise InvalidInputError(
            "units of code points may be cut off from their vowel and have no pronunciation; train with "
            'unit="akshara", or use pronunciation="letters"'
        )
    forms = [(form, unit) for unit in dictionary.units for form in marked_forms(unit, style, symbol)]
    if pronunciation == "espeak":
        return _spoken(forms, dictionary, style, symbol, list(dict.fromkeys(words)))
    lexicon: list[Entry] = []
    for form, unit in forms:
        if pronunciation == "rules":
            # In the style "suffix" nothing tells whether a unit begins a word.
            starts = style != "suffix" and not form.startswith(symbol)
            lexicon += [(form, phones) for phones in tamil_phones(unit, starts)]
        elif pronunciation == "grapheme":
            lexicon.append((form, grapheme_phones(unit)))
        elif pronunciation == "letters":
            lexicon.append((form, list(unit)))
        else:
            raise InvalidInputError(
                f"there is no pronunciation {pronunciation!r}; choose from grapheme, rules, espeak, letters"
            )
    return lexicon


def marked_forms(unit: str, style: Style = "suffix", symbol: str = "+") -> list[str]:
    """The tokens that one unit can be, by its place in a word: first, inside, last, alone.

    >>> marked_forms("pu")
    ['pu+', 'pu']
    """
    first, inside, last = mark([unit] * 3, style, symbol)
    return list(dict.fromkeys([first, inside, last, *mark([unit], style, symbol)]))


def write_lexicon(path: StrPath, lexicon: Iterable[Entry]) -> None:
    """Write a Kaldi lexicon.txt: a unit and its phones a line. Raises FileError."""
    with atomic_write(path, "w") as file:
        file.writelines(f"{unit} {' '.join(phones)}\n" for unit, phones in lexicon)


def read_lexicon(path: StrPath) -> list[Entry]:
    """Read a Kaldi lexicon.txt. Raises FileError when it cannot be read or a line has no phones."""
    lexicon = []
    try:
        lines = bytes(open_bytes(path)).decode().splitlines()
    except UnicodeDecodeError as error:
        raise FileError(f"cannot read {path}: it is not UTF-8; convert it first") from error
    for number, line in enumerate(lines, 1):
        unit, *phones = line.split() or [""]
        if not phones:
            raise FileError(f"cannot read {path}: line {number} has no phones; a line is a unit and its phones")
        lexicon.append((unit, phones))
    return lexicon


class Lexicon:
    """A lexicon as a trie over phones, and the rule by which its units make words.

    The rule has two states, between words (0) and inside a word (1): `allowed[state][unit]` says whether a unit may
    come in a state, and `leads[unit]` to which state it leads; `last` are the states in which a sentence may end.
    Raises InvalidInputError for entries without phones.
    """

    def __init__(self, entries: Iterable[Entry], style: Style = "suffix", symbol: str = "+") -> None:
        if style not in ("suffix", "prefix", "both"):
            raise InvalidInputError(f"a lexicon cannot be marked by style {style!r}; use suffix, prefix or both")
        self.style, self.symbol = style, symbol
        self.units: list[str] = []
        self.root = Node()
        ids: dict[str, int] = {}
        for unit, phones in entries:
            if not phones:
                raise InvalidInputError(f"the unit {unit!r} has no phones; leave it out of the lexicon")
            node = self.root
            for phone in phones:
                node = node.next.setdefault(phone, Node())
            if ids.setdefault(unit, len(self.units)) == len(self.units):
                self.units.append(unit)
            if ids[unit] not in node.units:
                node.units.append(ids[unit])
        goes_on = [unit.endswith(symbol) for unit in self.units]
        continues = [unit.startswith(symbol) for unit in self.units]
        self.allowed: tuple[list[bool], list[bool]] = ([not c for c in continues], [True] * len(self.units))
        self.leads = [1] * len(self.units)
        self.last: tuple[int, ...] = (0, 1)
        if style != "prefix":
            self.leads, self.last = [int(goes) for goes in goes_on], (0,)
        if style == "suffix":
            self.allowed = (self.allowed[1], self.allowed[1])
        elif style == "both":
            self.allowed = (self.allowed[0], continues)


class Node:
    """A node of the trie: the units whose phones end here, and the nodes one phone on."""

    __slots__ = ("next", "units")

    def __init__(self) -> None:
        self.units: list[int] = []
        self.next: dict[str, Node] = {}


def _spoken(
    forms: Sequence[tuple[str, str]], dictionary: SubwordDictionary, style: Style, symbol: str, words: Sequence[str]
) -> list[Entry]:
    espeak = Espeak()
    heard: dict[str, Counter[tuple[str, ...]]] = {}
    for pieces, phones in zip(dictionary.segment_corpus(words), espeak.phones(words), strict=True):
        for form, part in zip(mark(pieces, style, symbol), cut_phones(phones, pieces), strict=True):
            if part:
                heard.setdefault(form, Counter())[tuple(part)] += 1
    alone = _alone([unit for form, unit in forms if form not in heard], espeak)
    return [(form, list(_usual(heard[form])) if form in heard else alone[unit]) for form, unit in forms]


def _usual(counts: Counter[tuple[str, ...]]) -> tuple[str, ...]:
    return min(counts, key=lambda phones: (-counts[phones], phones))


def _alone(units: Sequence[str], espeak: Espeak) -> Mapping[str, list[str]]:
    """Units as if they were words. What eSpeak leaves silent is spelled, for an entry needs phones."""
    return {unit: phones or grapheme_phones(unit) for unit, phones in zip(units, espeak.phones(units), strict=True)}
