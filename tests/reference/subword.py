"""Subwords as their definitions read: slow, obvious, and what native/lattice is tested against.

Words are tuples of atoms; `logp` maps each unit, a string, to its log-probability. `unknown` is that of an atom that is
no unit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

Word = tuple[str, ...]
Logp = Mapping[str, float]


def reference_segmentations(word: Word, logp: Logp, unknown: float) -> Iterator[tuple[list[Word], float]]:
    """All ways to cut a word into units, each with its log-probability; a unit is shown as its atoms."""
    if not word:
        yield [], 0.0
    for end in range(1, len(word) + 1):
        score = logp.get("".join(word[:end]), unknown if end == 1 else None)
        if score is not None:
            for rest, total in reference_segmentations(word[end:], logp, unknown):
                yield [word[:end], *rest], score + total


def reference_nbest(word: Word, logp: Logp, unknown: float) -> list[tuple[list[str], float]]:
    """All segmentations; of equal probability, the one of fewer units, then the one that begins with longer ones."""

    def order(one: tuple[list[Word], float]) -> tuple[float, int, list[int]]:
        return -one[1], len(one[0]), [-len(unit) for unit in one[0]]

    ordered = sorted(reference_segmentations(word, logp, unknown), key=order)
    return [(["".join(unit) for unit in units], score) for units, score in ordered]


def reference_log_likelihood(word: Word, logp: Logp, unknown: float) -> float:
    """ln of the sum of the probabilities of all segmentations."""
    return math.log(math.fsum(math.exp(score) for _, score in reference_segmentations(word, logp, unknown)))


def reference_expected_counts(words: Mapping[Word, float], logp: Logp, unknown: float) -> Counter[str]:
    """How often each unit is expected, over all segmentations of all words by their probability."""
    counts: Counter[str] = Counter()
    for word, weight in words.items():
        every = list(reference_segmentations(word, logp, unknown))
        total = math.fsum(math.exp(score) for _, score in every)
        for units, score in every:
            for unit in units:
                counts["".join(unit)] += weight * math.exp(score) / total
    return counts


def reference_word_bpe(words: Mapping[Word, int], size: int, least: int) -> list[tuple[str, str]]:
    """Merges: again and again the pair with the most windows, of equals the one whose parts became units first."""
    spelled = {word: list(word) for word in words}
    units = sorted({atom for word in words for atom in word})
    merges: list[tuple[str, str]] = []
    while len(units) < size:
        windows: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(spelled[word], spelled[word][1:], strict=False):
                windows[pair] += count
        best = min(windows, key=lambda pair: (-windows[pair], *map(units.index, pair)), default=None)
        if best is None or windows[best] < least:
            break
        merges.append(best)
        if "".join(best) not in units:
            units.append("".join(best))
        for word in words:
            spelled[word] = reference_merge(spelled[word], best)
    return merges


def reference_merge(units: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Join a pair wherever it stands, from the left."""
    joined: list[str] = []
    at = 0
    while at < len(units):
        step = 2 if tuple(units[at : at + 2]) == pair else 1
        joined.append("".join(units[at : at + step]))
        at += step
    return joined


def reference_unigram(text: str, logp: Logp) -> list[str]:
    """The most probable units, of equals those with the longest last one; a code point that is no unit costs more."""
    unknown = min(logp.values()) - 10
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(text) + 1):
        choices = []
        for start in range(end):
            piece = text[start:end]
            score = logp.get(piece, unknown if len(piece) == 1 else None)
            if score is not None:
                choices.append((best[start][0] + score, [*best[start][1], piece]))
        best.append(max(choices, key=lambda choice: choice[0]))  # the first of equals has the longest last unit
    return best[-1][1]
