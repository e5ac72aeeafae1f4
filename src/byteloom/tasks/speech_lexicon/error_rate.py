"""The word error rate of a recogniser, also on the words that its training data lacked.

Use it on the joined words, never on pieces. Source: the minimum edit distance over words, Levenshtein 1966.
Cost: the product of the two lengths for each sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from byteloom.errors import InvalidInputError


@dataclass(frozen=True)
class WER:
    """Errors of a recogniser in words."""

    substitutions: int
    insertions: int
    deletions: int
    words: int
    """Words of the reference."""
    unseen: int = 0
    """Words of the reference that were not among the known ones."""
    unseen_wrong: int = 0
    """Those of them that were not recognised."""

    @property
    def rate(self) -> float:
        """Errors over the words of the reference; above 1 where many words were inserted."""
        return (self.substitutions + self.insertions + self.deletions) / self.words

    @property
    def unseen_rate(self) -> float | None:
        """The share of the unseen words that was not recognised; None where there are none."""
        return self.unseen_wrong / self.unseen if self.unseen else None


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str], known: Collection[str] | None = None) -> WER:
    """Compare sentences word by word. `known` are the words of the training data; without them none is unseen.

    Raises InvalidInputError when the two have different lengths, are single strings, or the references no word.

    >>> word_error_rate(["a x c"], ["a b c d"]).rate
    0.5
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise InvalidInputError("word_error_rate takes lists of sentences; put a single sentence into a list")
    if len(hypotheses) != len(references):
        raise InvalidInputError(f"there are {len(hypotheses)} hypotheses for {len(references)} references")
    substitutions = insertions = deletions = words = unseen = unseen_wrong = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        heard, said = hypothesis.split(), reference.split()
        matched = _matched(heard, said)
        substitutions += sum(got is not None and got != word for got, word in zip(matched, said, strict=True))
        deletions += sum(got is None for got in matched)
        insertions += len(heard) - sum(got is not None for got in matched)
        words += len(said)
        if known is not None:
            strange = [got == word for got, word in zip(matched, said, strict=True) if word not in known]
            unseen += len(strange)
            unseen_wrong += len(strange) - sum(strange)
    if not words:
        raise InvalidInputError("the references have no words; an error rate needs some")
    return WER(substitutions, insertions, deletions, words, unseen, unseen_wrong)


def _matched(heard: Sequence[str], said: Sequence[str]) -> list[str | None]:
    """For each word that was said the one that was heard for it, or None, in an alignment with the fewest errors."""
    costs = [list(range(len(heard) + 1))]
    for i, word in enumerate(said, 1):
        row = [i]
        for j, got in enumerate(heard, 1):
            row.append(min(costs[-1][j - 1] + (got != word), costs[-1][j] + 1, row[-1] + 1))
        costs.append(row)
    matched: list[str | None] = [None] * len(said)
    i, j = len(said), len(heard)
    while i:
        if j and costs[i][j] == costs[i - 1][j - 1] + (heard[j - 1] != said[i - 1]):
            i, j = i - 1, j - 1
            matched[i] = heard[j]
        elif costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return matched
