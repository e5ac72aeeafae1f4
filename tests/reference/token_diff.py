"""What two sequences have in common at most: the slow measure of how good a diff is."""

from __future__ import annotations

from collections.abc import Sequence


def longest_common(old: Sequence[int], new: Sequence[int]) -> int:
    """The length of a longest common subsequence, in O(len(old) len(new))."""
    best = [0] * (len(new) + 1)
    for token in old:
        diagonal = 0
        for at, other in enumerate(new, 1):
            diagonal, best[at] = best[at], diagonal + 1 if token == other else max(best[at], best[at - 1])
    return best[-1]
