"""Interpolated Witten-Bell as its formula reads; what NGram is tested against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def reference_witten_bell(
    runs: Sequence[tuple[Sequence[str], float]], vocabulary: int, token: str, history: Sequence[str]
) -> float:
    """p(token | history) from weighted runs of tokens, of which "<s>" is never predicted.

    A follower that was seen less than once counts as new only as much as it was seen.
    """
    below = reference_witten_bell(runs, vocabulary, token, history[1:]) if len(history) else 1 / vocabulary
    followers: Counter[str] = Counter()
    n = len(history)
    for run, weight in runs:
        for i in range(n, len(run)):
            if run[i] != "<s>" and tuple(run[i - n : i]) == tuple(history):
                followers[run[i]] += weight
    new = sum(min(count, 1) for count in followers.values())
    if not followers:
        return below
    return (followers[token] + new * below) / (sum(followers.values()) + new)
