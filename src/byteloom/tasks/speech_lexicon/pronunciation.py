"""How a piece of a word is pronounced: by its letters, by rules of Tamil, or by eSpeak NG.

The scripts of India are nearly phonemic: a consonant letter is followed by its vowel sign, or by a virama, or else by
the inherent vowel. Everything is read from the names of Unicode characters, so all these scripts are treated alike.
Source: Subword Dictionary Learning and Segmentation Techniques for Automatic Speech Recognition in Tamil and Kannada,
arXiv 2207.13331, whose languages these are; the rules are those of grammars. Cost: linear in the letters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import regex

from byteloom.errors import InvalidInputError, MissingExtraError

# A phone of the Tamil rules for each letter; stops have a voiceless and a voiced one.
_TAMIL_STOPS = {"க": ("k", "g"), "ச": ("tʃ", "s"), "ட": ("ʈ", "ɖ"), "த": ("t̪", "d̪"), "ப": ("p", "b")}
_TAMIL_NASALS = "ஙஞணநமன"
_TAMIL_LETTERS = {
    "அ": "a", "ஆ": "aː", "இ": "i", "ஈ": "iː", "உ": "u", "ஊ": "uː", "எ": "e", "ஏ": "eː", "ஐ": "ai", "ஒ": "o", "ஓ": "oː",
    "ஔ": "au", "ங": "ŋ", "ஞ": "ɲ", "ண": "ɳ", "ந": "n̪", "ம": "m", "ன": "n", "ய": "j", "ர": "ɾ", "ல": "l", "வ": "ʋ",
    "ழ": "ɻ", "ள": "ɭ", "ற": "r", "ஜ": "dʒ", "ஷ": "ʂ", "ஸ": "s", "ஹ": "h", "ஶ": "ʃ", "ஃ": "x",
}  # fmt: skip
_TAMIL_VOWELS = frozenset("அஆஇஈஉஊஎஏஐஒஓஔ")

_ESPEAK_LANGUAGES = {
    "BENGALI": "bn", "DEVANAGARI": "hi", "GUJARATI": "gu", "GURMUKHI": "pa", "KANNADA": "kn", "MALAYALAM": "ml",
    "ORIYA": "or", "SINHALA": "si", "TAMIL": "ta", "TELUGU": "te",
}  # fmt: skip


def grapheme_phones(text: str) -> list[str]:
    """Consonants and vowels as letters, with the inherent vowels; other scripts letter by letter.

    A sign that has lost its consonant is spelled as its vowel, or as it is.

    >>> grapheme_phones("மற்றும்")
    ['ம', 'அ', 'ற', 'ற', 'உ', 'ம']
    """
    phones: list[str] = []
    after_consonant = False  # whose vowel is still open
    inherent = ""
    for character in unicodedata.normalize("NFC", text):
        kind, letter = _classify(character)
        if kind == "joiner":
            continue
        if kind == "nukta" and after_consonant:
            phones[-1] += character
            continue
        if after_consonant and kind != "sign":
            phones.append(inherent)
        if letter or not after_consonant:
            phones.append(letter or character)
        after_consonant = kind == "consonant"
        if after_consonant:
            inherent = _inherent_vowel(character)
    if after_consonant:
        phones.append(inherent)
    return phones


def tamil_phones(text: str, starts_word: bool) -> list[list[str]]:
    """Pronunciations (IPA) of a Tamil piece by the rules for its stops; other scripts as in `grapheme_phones`.

    Stops are voiced between vowels and after a nasal, and voiceless at the beginning of a word, doubled, and beside
    other consonants; between vowels ச is s. A piece that begins with a stop and need not start a word has two
    pronunciations, since its left neighbour is unknown.
    """
    letters = grapheme_phones(text)
    if not set(letters) <= _TAMIL_LETTERS.keys() | _TAMIL_STOPS.keys():
        return [letters]
    phones = []
    for i, letter in enumerate(letters):
        before, after = (letters[i - 1] if i else ""), (letters[i + 1] if i + 1 < len(letters) else "")
        if letter not in _TAMIL_STOPS:
            phones.append(_TAMIL_LETTERS[letter])
        elif letter == "ச" and before in _TAMIL_NASALS and before:
            phones.append("dʒ")
        elif letter == "ச" and not before and after in _TAMIL_VOWELS:
            phones.append("s")
        else:
            nasal = before != "" and before in _TAMIL_NASALS
            voiced = nasal or (before in _TAMIL_VOWELS and after in _TAMIL_VOWELS)
            phones.append(_TAMIL_STOPS[letter][voiced])
    found = [phones]
    if not starts_word and letters[0] in _TAMIL_STOPS and len(letters) > 1 and letters[1] in _TAMIL_VOWELS:
        first = {"tʃ", "s", "dʒ"} if letters[0] == "ச" else set(_TAMIL_STOPS[letters[0]])
        found += [[other, *phones[1:]] for other in sorted(first - {phones[0]})]
    return found


class Espeak:
    """Pronunciations of words by eSpeak NG, offline; the voice is that of the script.

    Raises MissingExtraError without the wheels espeakng-loader and phonemizer-fork.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
            from phonemizer.backend import EspeakBackend
            from phonemizer.backend.espeak.wrapper import EspeakWrapper
        except ImportError as error:
            raise MissingExtraError("eSpeak NG (espeakng-loader and phonemizer-fork)", "speech") from error
        EspeakWrapper.set_library(espeakng_loader.get_library_path())
        EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
        self._backend = EspeakBackend
        self._voices: dict[str, Any] = {}

    def phones(self, words: Sequence[str]) -> list[list[str]]:
        """The phones (IPA) of each word. Raises InvalidInputError for a script whose language is not known."""
        from phonemizer.separator import Separator

        separator = Separator(phone=" ", word="|", syllable="")
        found: dict[str, list[str]] = {}
        for language, some in _by_language(words).items():
            voice = self._voices.get(language) or self._backend(language)
            self._voices[language] = voice
            spoken = voice.phonemize(some, separator=separator, strip=True)
            found |= {word: line.replace("|", " ").split() for word, line in zip(some, spoken, strict=True)}
        return [found[word] for word in words]


def cut_phones(phones: Sequence[str], pieces: Sequence[str]) -> list[list[str]]:
    """Deal the phones of a word out to its pieces, in order: the cheapest alignment with their letters.

    A vowel costs nothing against a vowel nor a consonant against a consonant, 2 crossed, and 1 alone.
    """
    letters = [(phone, i) for i, piece in enumerate(pieces) for phone in grapheme_phones(piece)]
    best: list[list[tuple[int, int]]] = [[(j, 1) for j in range(len(phones) + 1)]]  # cost; phones taken in the step
    for i, (letter, _) in enumerate(letters, 1):
        row = [(i, 0)]
        for j in range(1, len(phones) + 1):
            crossed = 2 * (_is_vowel(letter) != _is_vowel(phones[j - 1]))
            row.append(
                min(
                    (best[i - 1][j - 1][0] + crossed, 2),  # both
                    (best[i - 1][j][0] + 1, 0),  # a letter that is silent
                    (row[-1][0] + 1, 1),  # a phone without a letter
                )
            )
        best.append(row)
    dealt: list[list[str]] = [[] for _ in pieces]
    i, j = len(letters), len(phones)
    while i or j:
        step = best[i][j][1]
        piece = letters[max(i, 1) - 1][1]
        if step:  # a phone without a letter goes to the piece of the letter before it
            j -= 1
            dealt[piece].insert(0, phones[j])
        if step != 1:
            i -= 1
    return dealt


def is_consonant(character: str) -> bool:
    """Whether a character is a consonant letter of an Indic script, or of any other a letter but a, e, i, o, u."""
    if _INDIC_CONSONANT.match(character):
        return True
    indic = _script(character) in _ESPEAK_LANGUAGES
    return not indic and character.isalpha() and unicodedata.normalize("NFD", character)[0].lower() not in "aeiou"


_INDIC_CONSONANT = regex.compile(r"[\p{InSC=Consonant}\p{InSC=Consonant_Dead}]", regex.V1)
_WITH_INHERENT_VOWEL = regex.compile(r"\p{InSC=Consonant}", regex.V1)
_VIRAMA = 9  # the canonical combining class


@cache
def _classify(character: str) -> tuple[str, str]:
    """What a character is, and the letter that stands for its sound; the virama has none."""
    name = unicodedata.name(character, "")
    if character in "\u200c\u200d":
        return "joiner", ""
    if unicodedata.combining(character) == _VIRAMA:
        return "sign", ""
    if " VOWEL SIGN " in name:
        try:
            return "sign", unicodedata.lookup(name.replace("VOWEL SIGN", "LETTER"))
        except KeyError:  # Sinhala names its signs by their shapes
            return "sign", character
    if name.endswith(" SIGN NUKTA"):
        return "nukta", character
    if _WITH_INHERENT_VOWEL.match(character) and _script(character) in _ESPEAK_LANGUAGES:
        return "consonant", character
    return "other", character


@cache
def _inherent_vowel(consonant: str) -> str:
    script = _script(consonant)
    return unicodedata.lookup(f"{script} LETTER {'AYANNA' if script == 'SINHALA' else 'A'}")


def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]


def _is_vowel(phone: str) -> bool:
    if _script(phone[0]) in _ESPEAK_LANGUAGES:
        return not is_consonant(phone[0]) and unicodedata.category(phone[0]) == "Lo"
    return phone[0] in "aeiouyæɐɑɒɔəɘɛɜɞɨɪɯɵøœɶʉʊʌɤʏ"


def _by_language(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        scripts = [_script(character) for character in _letters(word)]
        language = _ESPEAK_LANGUAGES.get(scripts[0]) if scripts else None
        if language is None:
            known = ", ".join(sorted(_ESPEAK_LANGUAGES)).title()
            raise InvalidInputError(f"eSpeak has no voice for the script of {word!r}; it has voices for {known}")
        found.setdefault(language, []).append(word)
    return found


def _letters(word: str) -> Iterator[str]:
    return (character for character in word if unicodedata.category(character)[0] == "L")
