"""What a dictionary is worth to a recogniser: word error rates on sentences heard by simulated acoustics.

Use it to choose a method and a size on your own text, before there are recordings. All systems hear the same networks;
they differ in the pieces that their words are cut into, and so in the words that they can say at all.
Source: arXiv 2207.13331, whose acoustics are real. Cost: seconds a system for 200 sentences.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5

from byteloom.errors import InvalidInputError
from byteloom.tasks.speech_lexicon.decoder import Decoder, Network
from byteloom.tasks.speech_lexicon.error_rate import WER, word_error_rate
from byteloom.tasks.speech_lexicon.lexicon import Lexicon, Style
from byteloom.tasks.speech_lexicon.ngram import NGram
from byteloom.tokenize.akshara import normalise
from byteloom.tokenize.marks import join, mark

Segment = Callable[[Sequence[str]], list[list[str]]]  # the pieces of each word


@dataclass(frozen=True)
class Outcome:
    """One system on one set of networks."""

    units: int
    """Tokens of its language model and entries of its lexicon: units as they are marked."""
    pieces_per_word: float
    """Of the words of the test, if they were cut."""
    wer: WER
    failed: int
    """Utterances that no sequence of units fits; nothing is recognised there."""
    utterances_per_second: float


class Recogniser:
    """A lexicon, a language model and a decoder made from text and a way to cut its words.

    sentences: what the language model counts. segment: the pieces of each of some words, such as the method
    `segment_corpus` of a dictionary, or `whole_words`. word_list: words with weights, which count alone and in
    their inside. order: of the n-grams. style: of the marks; with "both", the decoder knows which units may begin a
    word. The lexicon has the marked pieces that occur in these words, spelled.
    Raises InvalidInputError when there are neither sentences nor words, or a word holds the mark.
    """

    def __init__(
        self,
        sentences: Iterable[str],
        segment: Segment,
        *,
        word_list: Mapping[str, float] | None = None,
        order: int = 2,
        beam: int = 30,
        lm_weight: float = 1.0,
        style: Style = "both",
        symbol: str = "+",
    ) -> None:
        texts = [normalise(sentence).split() for sentence in sentences]
        listed = {normalise(word): weight for word, weight in (word_list or {}).items()}
        words = list(dict.fromkeys([*(word for text in texts for word in text), *listed]))
        self._segment, self._style, self._symbol = segment, style, symbol
        tokens = {word: mark(pieces, style, symbol) for word, pieces in zip(words, segment(words), strict=True)}
        self.lm = NGram.train(
            ([token for word in text for token in tokens[word]] for text in texts),
            order,
            fragments=((tokens[word], weight) for word, weight in listed.items()),
        )
        spelled = ((token, list(token.removeprefix(symbol).removesuffix(symbol))) for token in self.lm.units)
        self.lexicon = Lexicon(spelled, style, symbol)
        self._decoder = Decoder(self.lexicon, self.lm, beam=beam, lm_weight=lm_weight)

    def recognise(self, network: Network) -> str:
        """The best sentence for what was heard; empty where no sequence of units fits."""
        return join(self._decoder.decode(network), self._style, self._symbol)

    def evaluate(
        self, networks: Sequence[Network], sentences: Sequence[str], known: Collection[str], *,
        progress: Callable[[int], None] | None = None,
    ) -> Outcome:  # fmt: skip
        """Recognise what was heard of `sentences`; `known` are the words that are not unseen.

        `progress` is called with the number of utterances that are done.
        """
        began = time.perf_counter()
        heard = []
        for network in networks:
            heard.append(self.recognise(network))
            if progress:
                progress(len(heard))
        seconds = time.perf_counter() - began
        references = [normalise(sentence) for sentence in sentences]
        words = [word for sentence in references for word in sentence.split()]
        return Outcome(
            len(self.lexicon.units),
            sum(map(len, self._segment(words))) / len(words),
            word_error_rate(heard, references, known),
            sum(not sentence for sentence in heard),
            len(heard) / seconds,
        )


def whole_words(words: Sequence[str]) -> list[list[str]]:
    """The baseline: a word is its only piece, and a recogniser knows the words that it has seen."""
    return [[word] for word in words]


def hold_out(lines: Iterable[str], *, one_in: int = 10, at_most: int = 200) -> tuple[list[str], list[str]]:
    """Split lines by their content alone: (the rest, the first `at_most` of those whose MD5 modulo `one_in` is 1).

    Raises InvalidInputError when either part is empty.
    """
    rest: list[str] = []
    held: list[str] = []
    for line in dict.fromkeys(lines):
        chosen = int(md5(line.encode(), usedforsecurity=False).hexdigest(), 16) % one_in == 1
        (held if chosen else rest).append(line)
    if not held or not rest:
        raise InvalidInputError(
            f"there are too few lines to hold out one in {one_in} of them; give more, or a file of test sentences"
        )
    return rest, held[:at_most]


def count_words(sentences: Iterable[str], word_list: Mapping[str, float]) -> dict[str, float]:
    """What a dictionary is trained on: words (in NFC) with their counts in sentences, and a list's weights on top."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(normalise(sentence).split())
    totals: dict[str, float] = dict(counts)
    for word, weight in word_list.items():
        totals[normalise(word)] = totals.get(normalise(word), 0.0) + weight
    return totals
