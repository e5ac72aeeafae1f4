"""Byte-pair encoding as its definition reads: slow, obvious, and what the fast kernels are tested against.

Everything here speaks of internal ids: 0..255 are the byte values and merge k makes id 256 + k.
Source: Sennrich et al. 2016 (arXiv 1508.07909), without pre-tokenization.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

Merge = tuple[int, int]


def reference_train(
    documents: list[bytes],
    n_merges: int,
    min_frequency: int,
    max_token_length: int | None = None,
) -> list[Merge]:
    """At most `n_merges` merges, in the order in which they were chosen.

    Every step counts all adjacent pairs from scratch, overlapping windows included (`aaa` holds `aa` twice),
    takes the most frequent pair (of equals the one with the smallest left id, then the smallest right id) and
    replaces it in every document from left to right. It stops when no pair occurs `min_frequency` times.
    A pair longer than `max_token_length` bytes is never taken.
    """
    sequences = [list(document) for document in documents]
    length = [1] * 256  # bytes of each id
    merges: list[Merge] = []
    while len(merges) < n_merges:
        windows = Counter(pair for sequence in sequences for pair in pairwise(sequence))
        allowed = {
            pair: count
            for pair, count in windows.items()
            if count >= min_frequency
            and (max_token_length is None or length[pair[0]] + length[pair[1]] <= max_token_length)
        }
        if not allowed:
            break
        best = min(allowed, key=lambda pair: (-allowed[pair], pair))
        sequences = [replace(sequence, best, 256 + len(merges)) for sequence in sequences]
        length.append(length[best[0]] + length[best[1]])
        merges.append(best)
    return merges


def reference_encode(data: bytes, merges: list[Merge]) -> list[int]:
    """The ids of `data`: apply the earliest merge that applies, at its leftmost place, until none applies."""
    rank = {pair: k for k, pair in reversed(list(enumerate(merges)))}
    sequence = list(data)
    while True:
        candidates = [(rank[pair], i) for i, pair in enumerate(pairwise(sequence)) if pair in rank]
        if not candidates:
            return sequence
        k, i = min(candidates)
        sequence[i : i + 2] = [256 + k]


def reference_bytes(token: int, merges: list[Merge]) -> bytes:
    """The bytes that an internal id stands for."""
    if token < 256:
        return bytes([token])
    left, right = merges[token - 256]
    return reference_bytes(left, merges) + reference_bytes(right, merges)


def replace(sequence: list[int], pair: Merge, new: int) -> list[int]:
    """`sequence` with every occurrence of `pair` made `new`, from left to right, without overlap."""
    result: list[int] = []
    i = 0
    while i < len(sequence):
        if tuple(sequence[i : i + 2]) == pair:
            result.append(new)
            i += 2
        else:
            result.append(sequence[i])
            i += 1
    return result
