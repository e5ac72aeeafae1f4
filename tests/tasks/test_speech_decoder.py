"""The decoder against the search of everything, and the rule that no broken word comes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import InvalidInputError
from byteloom.tasks.speech_lexicon import Decoder, Lexicon, NGram, SimulatedAcoustics, decode
from byteloom.tasks.speech_lexicon.lexicon import Style, marked_forms
from tests.reference.decode import is_well_formed, reference_decode

STYLES: list[Style] = ["suffix", "prefix", "both"]


def one_hot(text: str) -> list[dict[str, float]]:
    return [{character: 0.0} for character in text]


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_it_finds_what_the_search_of_everything_finds(style: Style, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10**6))
    order = data.draw(st.integers(1, 3))
    weight = data.draw(st.sampled_from([0.5, 1.0, 2.0]))
    generator = np.random.default_rng(seed)
    units = data.draw(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4, unique=True))
    entries = [(form, list(unit)) for unit in units for form in marked_forms(unit, style)]
    forms = [form for form, _ in entries]
    sentences = [list(generator.choice(forms, generator.integers(0, 5))) for _ in range(4)]
    lm = NGram.train(sentences, order, vocabulary=forms)
    network = [
        {phone: float(generator.normal()) for phone in generator.choice(list("abc"), 2, replace=False)}
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    expected, score = reference_decode(network, entries, lm, style, weight)
    found = decode(network, Lexicon(entries, style), lm, beam=10_000, lm_weight=weight)
    assert bool(found) == bool(expected)
    if found:
        assert is_well_formed(found, style)
        assert reference_score(network, entries, lm, found, weight) == pytest.approx(score)


def reference_score(
    network: list[dict[str, float]], entries: list, lm: NGram, units: list[str], weight: float
) -> float:
    """The score of one sequence: the only one that a lexicon of its units in their order allows is itself."""
    phones = dict(entries)
    heard = [phone for unit in units for phone in phones[unit]]
    total = sum(frame[phone] for frame, phone in zip(network, heard, strict=True))
    tokens = [*units, "</s>"]
    return total + weight * sum(lm.logp(token, ["<s>", *tokens[:i]]) for i, token in enumerate(tokens))


def test_what_is_heard_for_certain_comes_out() -> None:
    sentences = [["pu+", "tti+", "l"], ["a", "pu"], ["l"]]
    lm = NGram.train(sentences)
    lexicon = Lexicon((unit, list(unit.removesuffix("+"))) for unit in lm.units)
    assert decode(one_hot("puttil"), lexicon, lm) == ["pu+", "tti+", "l"]
    assert decode(one_hot("apu"), lexicon, lm) == ["a", "pu"]


def test_no_broken_word_comes_out_even_if_it_is_likelier() -> None:
    lm = NGram.train([["a+", "b+"]] * 50, vocabulary=["b"])
    lexicon = Lexicon([("a+", ["a"]), ("b+", ["b"]), ("b", ["b"])])
    assert lm.logp("b+", ["a+"]) > lm.logp("b", ["a+"])
    assert decode(one_hot("ab"), lexicon, lm) == ["a+", "b"]


def test_nothing_fits() -> None:
    lm = NGram.train([["a"]])
    decoder = Decoder(Lexicon([("a", ["a"])]), lm)
    assert decoder.decode(one_hot("ax")) == []
    assert decoder.decode([]) == []


def test_a_unit_may_have_two_pronunciations() -> None:
    lm = NGram.train([["pa"], ["ba"]])
    lexicon = Lexicon([("pa", ["p", "a"]), ("pa", ["b", "a"]), ("ba", ["v", "a"])])
    assert decode(one_hot("ba"), lexicon, lm) == ["pa"]
    assert lexicon.units == ["pa", "ba"]


def test_lexicon_and_language_model_must_fit() -> None:
    lm = NGram.train([[chr(ord("a") + i) for i in range(12)]])
    with pytest.raises(InvalidInputError, match="1 units are missing from the language model, such as x"):
        Decoder(Lexicon([("x", ["x"])]), lm)
    with pytest.raises(InvalidInputError, match=r"11 units are missing from the lexicon, such as b, c, d, .*, k; make"):
        Decoder(Lexicon([("a", ["a"])]), lm)
    with pytest.raises(InvalidInputError, match="beam"):
        Decoder(Lexicon([("a", ["a"])]), lm, beam=0)
    with pytest.raises(InvalidInputError, match="no phones"):
        Lexicon([("a", [])])
    with pytest.raises(InvalidInputError, match="style"):
        Lexicon([("a", ["a"])], "boundary")  # type: ignore[arg-type]


def test_simulated_acoustics_hear_what_their_definition_says() -> None:
    text = ["kata pinu moge"] * 3
    acoustics = SimulatedAcoustics(text, separation=2)
    generator = np.random.default_rng(0)
    right = total = 0
    for _ in range(150):
        network = acoustics.network("kata pinu", generator)
        assert len(network) == 8
        for character, frame in zip("katapinu", network, strict=True):
            assert len(frame) == 3 and character in frame
            assert len({other in "aeiou" for other in frame}) == 1
            assert sum(np.exp(list(frame.values()))) == pytest.approx(1)
            right += max(frame, key=frame.__getitem__) == character
            total += 1
    assert right / total == pytest.approx(0.868, abs=0.03)  # of three normal variables, by integration
    assert acoustics.network("ka", np.random.default_rng(1)) == acoustics.network("ka", np.random.default_rng(1))


def test_too_few_characters_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="only 1 other"):
        SimulatedAcoustics(["ka ta pa na"])
