"""Pronunciations, lexicon files, word error rates, and recognisers as a whole."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import FileError, InvalidInputError, MissingExtraError
from byteloom.tasks.speech_lexicon import (
    SimulatedAcoustics,
    build_lexicon,
    read_lexicon,
    word_error_rate,
    write_lexicon,
)
from byteloom.tasks.speech_lexicon.evaluation import Recogniser, count_words, hold_out, whole_words
from byteloom.tasks.speech_lexicon.lexicon import marked_forms
from byteloom.tasks.speech_lexicon.pronunciation import Espeak, cut_phones, grapheme_phones, is_consonant, tamil_phones
from byteloom.tokenize.subword import SubwordDictionary
from byteloom.tokenize.subword_training import train_subwords


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("தமிழ்", "த அ ம இ ழ"),
        ("கொ", "க ஒ"),
        ("கொ", "க ஒ"),  # the two-part sign, not composed
        ("ಕಂಪ್ಯೂಟರ್", "ಕ ಅ ಂ ಪ ಯ ಊ ಟ ಅ ರ"),
        ("क़लम", "क़ अ ल अ म अ"),
        ("കടൽ", "ക അ ട അ ൽ"),
        ("hello", "h e l l o"),
    ],
)
def test_letters_get_their_vowels(word: str, phones: str) -> None:
    assert grapheme_phones(word) == phones.split()


def test_pronunciations_of_aksharas_make_up_that_of_their_word() -> None:
    for pieces in (["பு", "ட்டி", "ல்"], ["ಕಂ", "ಪ್ಯೂ", "ಟ", "ರ್"]):
        assert [phone for piece in pieces for phone in grapheme_phones(piece)] == grapheme_phones("".join(pieces))


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("தங்கம்", "t̪ a ŋ g a m"),  # after a nasal
        ("பக்கம்", "p a k k a m"),  # doubled
        ("பகல்", "p a g a l"),  # between vowels
        ("பேசு", "p eː s u"),
        ("அச்சு", "a tʃ tʃ u"),
        ("அஞ்சு", "a ɲ dʒ u"),
        ("சங்கு", "s a ŋ g u"),
        ("பட்சி", "p a ʈ tʃ i"),
    ],
)
def test_tamil_stops_depend_on_their_neighbours(word: str, phones: str) -> None:
    assert tamil_phones(word, True) == [phones.split()]


def test_a_stop_at_the_beginning_of_a_piece_has_every_pronunciation_it_may_have() -> None:
    assert tamil_phones("கள்", False) == [["k", "a", "ɭ"], ["g", "a", "ɭ"]]
    assert [phones[0] for phones in tamil_phones("சி", False)] == ["s", "dʒ", "tʃ"]
    assert tamil_phones("ட்ட", False) == [["ʈ", "ʈ", "a"]]
    assert tamil_phones("ல்", False) == [["l"]]
    assert tamil_phones("ಕ", False) == [["ಕ", "ಅ"]]


def small(units: Sequence[str], **options: Any) -> SubwordDictionary:
    return SubwordDictionary(units, np.log(np.full(len(units), 1 / len(units))), **options)


def test_a_lexicon_has_every_unit_in_every_place() -> None:
    assert build_lexicon(small(["பு", "ல்"])) == [
        ("பு+", ["ப", "உ"]),
        ("பு", ["ப", "உ"]),
        ("ல்+", ["ல"]),
        ("ல்", ["ல"]),
    ]
    assert marked_forms("a", "both") == ["a+", "+a+", "+a", "a"]
    assert marked_forms("a", "prefix", "_") == ["a", "_a"]
    rules = build_lexicon(small(["கு"]), pronunciation="rules", style="prefix")
    assert rules == [("கு", ["k", "u"]), ("+கு", ["k", "u"]), ("+கு", ["g", "u"])]
    assert build_lexicon(small(["கு"]), pronunciation="letters")[0] == ("கு+", ["க", "ு"])


def test_units_that_may_be_cut_off_from_their_vowel_are_refused() -> None:
    broken = small(["க", "ு"], unit="codepoint")
    with pytest.raises(InvalidInputError, match="akshara"):
        build_lexicon(broken)
    assert len(build_lexicon(broken, pronunciation="letters")) == 4
    with pytest.raises(InvalidInputError, match="choose from"):
        build_lexicon(small(["கு"]), pronunciation="loud")  # type: ignore[arg-type]


def test_lexicon_files_read_back(tmp_path: Path) -> None:
    lexicon = build_lexicon(small(["பு", "ல்"]), pronunciation="rules")
    write_lexicon(tmp_path / "lexicon.txt", lexicon)
    assert (tmp_path / "lexicon.txt").read_text("utf-8").startswith("பு+ p u\n")
    assert read_lexicon(tmp_path / "lexicon.txt") == lexicon
    (tmp_path / "lexicon.txt").write_text("a b\nc\n")
    with pytest.raises(FileError, match="line 2 has no phones"):
        read_lexicon(tmp_path / "lexicon.txt")
    (tmp_path / "lexicon.txt").write_bytes(b"\xff x\n")
    with pytest.raises(FileError, match="UTF-8"):
        read_lexicon(tmp_path / "lexicon.txt")


def test_espeak_pronounces_pieces_as_in_their_words() -> None:
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("phonemizer")
    dictionary = small(["ப", "க", "லில்"])
    lexicon = dict(build_lexicon(dictionary, pronunciation="espeak", words=["பகலில்"]))
    assert list(lexicon) == ["ப+", "ப", "க+", "க", "லில்+", "லில்"]
    whole = Espeak().phones(["பகலில்"])[0]
    assert lexicon["ப+"] + lexicon["க+"] + lexicon["லில்"] == whole
    assert all(lexicon.values())
    with pytest.raises(InvalidInputError, match="no voice"):
        Espeak().phones(["hello"])


def test_espeak_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("espeakng_loader"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"espeakng-loader and phonemizer-fork.*byteloom\[speech\]"):
        build_lexicon(small(["பு"]), pronunciation="espeak")


def test_phones_are_dealt_out_in_order() -> None:
    assert cut_phones(["p", "ʌ", "ɡ", "ʌ", "l", "i", "l"], ["ப", "க", "லில்"]) == [
        ["p", "ʌ"],
        ["ɡ", "ʌ"],
        ["l", "i", "l"],
    ]
    assert cut_phones([], ["ப", "க"]) == [[], []]
    phones = ["m", "ʌ", "ʈ", "r", "ʉ", "m"]
    assert [phone for part in cut_phones(phones, ["ம", "ற்", "று", "ம்"]) for phone in part] == phones


def test_consonants() -> None:
    assert [c for c in "கஅ்ாஃಕಅಂkaéñ1" if is_consonant(c)] == ["க", "ಕ", "k", "ñ"]


def reference_distance(a: Sequence[str], b: Sequence[str]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        reference_distance(a[1:], b[1:]) + (a[0] != b[0]),
        reference_distance(a[1:], b) + 1,
        reference_distance(a, b[1:]) + 1,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=5), st.lists(st.sampled_from("abc"), min_size=1, max_size=5))
def test_the_error_rate_is_the_edit_distance(heard: list[str], said: list[str]) -> None:
    found = word_error_rate([" ".join(heard)], [" ".join(said)])
    assert found.substitutions + found.insertions + found.deletions == reference_distance(heard, said)
    assert found.insertions - found.deletions == len(heard) - len(said)
    assert found.words == len(said)


def test_error_rates_of_what_is_right_and_of_nothing() -> None:
    said = ["a b", "c"]
    assert word_error_rate(said, said).rate == 0
    assert word_error_rate(["", ""], said).rate == 1
    found = word_error_rate(["a x", "c"], said, known={"a"})
    assert (found.unseen, found.unseen_wrong, found.unseen_rate) == (2, 1, 0.5)
    assert word_error_rate(said, said).unseen_rate is None
    for heard, reference in ((["a"], said), ("a b", "a b"), ([""], [""])):
        with pytest.raises(InvalidInputError):
            word_error_rate(heard, reference)  # type: ignore[arg-type]


STEMS = ["kata", "pinu", "moge", "tulir", "sanam", "veroki"]
SUFFIXES = ["ku", "lira", "meno", "tas", ""]


@pytest.mark.parametrize("style", ["suffix", "prefix", "both"])
def test_subwords_recognise_words_that_no_list_has(style: Any) -> None:
    generator = np.random.default_rng(0)
    sentences = [
        " ".join(str(generator.choice(STEMS)) + "".join(generator.choice(SUFFIXES, 2)) for _ in range(4))
        for _ in range(80)
    ]
    train, test = hold_out(sentences, one_in=4, at_most=12)
    known = {word for sentence in train for word in sentence.split()} - {test[0].split()[0]}
    train = [sentence for sentence in train if known.issuperset(sentence.split())]
    acoustics = SimulatedAcoustics(sentences, separation=3)
    networks = [acoustics.network(sentence, generator) for sentence in test]
    dictionary = train_subwords(count_words(train, {}), method="bpe", size=40, unit="codepoint")
    words = Recogniser(train, whole_words, style=style).evaluate(networks, test, known)
    pieces = Recogniser(train, dictionary.segment_corpus, style=style).evaluate(networks, test, known)
    assert words.wer.unseen_rate == 1
    assert pieces.wer.unseen_rate is not None and pieces.wer.unseen_rate < 0.8
    assert pieces.wer.rate < words.wer.rate / 2
    assert words.pieces_per_word == 1 < pieces.pieces_per_word
    assert words.failed > pieces.failed == 0


def test_a_word_list_teaches_words() -> None:
    listed = Recogniser(["a ba"], whole_words, word_list={"dede": 2.0})
    assert listed.recognise([{character: 0.0} for character in "dedea"]) == "dede a"
    assert count_words(["a ba a"], {"ba": 0.5, "c": 2.0}) == {"a": 2.0, "ba": 1.5, "c": 2.0}


def test_two_spellings_of_a_sign_are_one() -> None:
    composed, decomposed = "கொ மா", "கெ\u0bbe மா"
    assert composed != decomposed
    assert count_words([decomposed], {"கொ": 1.0}) == {"கொ": 2.0, "மா": 1.0}
    acoustics = SimulatedAcoustics(["கசடதப அஆஇ ொா", decomposed])
    network = acoustics.network(decomposed, np.random.default_rng(0))
    assert [max(frame, key=lambda c: c in composed) for frame in network] == list("கொமா")
    said = [{character: 0.0} for character in "கொமா"]
    outcome = Recogniser([decomposed], whole_words).evaluate([said], [decomposed], {"கொ"})
    assert (outcome.wer.rate, outcome.wer.unseen) == (0, 1)


def test_held_out_lines_depend_on_their_content_alone() -> None:
    lines = [f"line {i}" for i in range(200)]
    train, test = hold_out(lines, at_most=5)
    assert len(test) == 5 and not set(train) & set(test)
    assert sorted(hold_out(lines[::-1])[1]) == sorted(hold_out(lines)[1])
    with pytest.raises(InvalidInputError, match="too few lines"):
        hold_out(["a"])
