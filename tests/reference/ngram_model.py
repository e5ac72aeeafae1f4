"""N-gram probabilities from dictionaries, as their formula reads; what NgramModel is tested against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class ReferenceNgramModel:
    def __init__(self, documents: Sequence[Sequence[int]], max_order: int, min_count: int = 1) -> None:
        self.max_order = max_order
        self.counts: Counter[tuple[int, ...]] = Counter()
        for document in documents:
            for n in range(2, max_order + 1):
                self.counts.update(tuple(document[i : i + n]) for i in range(len(document) - n + 1))
        self.counts = Counter({gram: count for gram, count in self.counts.items() if count >= min_count})
        self.totals: Counter[tuple[int, ...]] = Counter()
        for gram, count in self.counts.items():
            self.totals[gram[:-1]] += count

    def of_order(self, n: int, history: Sequence[int], token: int) -> float:
        """P(token | last n - 1 tokens); 0 when the history is too short or was never seen."""
        end = tuple(history[len(history) - (n - 1) :])
        if len(history) < n - 1 or not self.totals[end]:
            return 0.0
        return self.counts[(*end, token)] / self.totals[end]

    def prob(self, history: Sequence[int], token: int, weights: Sequence[float]) -> float:
        return sum(w * self.of_order(n, history, token) for n, w in enumerate(weights, start=2))
