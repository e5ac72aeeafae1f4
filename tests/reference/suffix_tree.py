"""Counts of all windows in dictionaries, and drafts as their definitions read; what SuffixTree is tested against."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

BRANCHES = 16  # most continuations that a draft asks a node for


@dataclass
class ReferenceDraft:
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    score: float = 0.0
    match: int = 0


class ReferenceSuffixTree:
    """Every window of at most `depth` tokens; which follows which context how often, and when it last did."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.sequences: dict[int, list[int]] = {}
        self.followers: dict[tuple[int, ...], dict[int, list[int]]] = defaultdict(dict)
        self.clock = 0

    def extend(self, id: int, tokens: Sequence[int]) -> None:
        sequence = self.sequences.setdefault(id, [])
        for token in tokens:
            self.clock += 1
            for length in range(min(self.depth, len(sequence) + 1)):
                entry = self.followers[tuple(sequence[len(sequence) - length :])].setdefault(token, [0, 0])
                entry[0] += 1
                entry[1] = self.clock
            sequence.append(token)

    def remove(self, id: int) -> None:
        sequence = self.sequences.pop(id)
        for end, token in enumerate(sequence):
            for length in range(min(self.depth, end + 1)):
                followers = self.followers[tuple(sequence[end - length : end])]
                followers[token][0] -= 1
                if followers[token][0] == 0:
                    del followers[token]

    def count(self, pattern: Sequence[int]) -> int:
        return self.followers[tuple(pattern[:-1])].get(pattern[-1], [0])[0] if pattern else 0

    def next(self, context: Sequence[int]) -> list[tuple[int, float]]:
        """Continuations and their probabilities: the most frequent first, of equals the one last met."""
        if len(context) >= self.depth:
            return []
        followers = self.followers[tuple(context)]
        total = sum(count for count, _ in followers.values())
        ranked = sorted(followers, key=lambda token: followers[token], reverse=True)
        return [(token, followers[token][0] / total) for token in ranked[:BRANCHES]]

    def propose(
        self, context: Sequence[int], limit: int, factor: float, offset: float, least: float, branching: bool
    ) -> ReferenceDraft:
        best = ReferenceDraft()
        for length in range(1, min(self.depth, len(context)) + 1):
            pattern = tuple(context[-length:])
            if not self.count(pattern):
                break
            budget = max(0, min(limit, int(factor * length + offset + 1e-6)))
            draft = self.draft(pattern, budget, least, 1 if not branching else BRANCHES)
            if draft.score >= best.score - 1e-9 and draft.tokens:
                best = draft
        return best

    def draft(self, pattern: tuple[int, ...], budget: int, least: float, width: int) -> ReferenceDraft:
        draft = ReferenceDraft(match=len(pattern))
        order = 0
        heap = [(-1.0, order, pattern, -1, None)]
        while heap and len(draft.tokens) < budget:
            negative, own, context, parent, token = heapq.heappop(heap)
            if token is not None:
                draft.tokens.append(token)
                draft.parents.append(parent)
                draft.probabilities.append(-negative)
                parent = len(draft.tokens) - 1
            following = self.next(context)
            if len(following) == 1:
                heapq.heappush(heap, (negative, own, (*context, following[0][0]), parent, following[0][0]))
                continue
            for token, share in following[:width]:
                if -negative * share < least:
                    break
                order += 1
                heapq.heappush(heap, (negative * share, order, (*context, token), parent, token))
        draft.score = sum(draft.probabilities)
        return draft
