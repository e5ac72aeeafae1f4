"""Segmentation by a set of tokens as its definitions read: slow, obvious, and what native/bpe/segment.hpp is tested
against.

`tokens` maps the bytes of each token to its id and holds every single byte that occurs.
Source: Train It and Forget It, EMNLP 2025, arXiv 2508.06621.
"""

from __future__ import annotations

from collections.abc import Iterator

Tokens = dict[bytes, int]


def reference_greedy(data: bytes, tokens: Tokens) -> list[int]:
    """The longest token that is a prefix, again and again."""
    ids = []
    while data:
        longest = max((text for text in tokens if data.startswith(text)), key=len)
        ids.append(tokens[longest])
        data = data[len(longest) :]
    return ids


def reference_greedy_right(data: bytes, tokens: Tokens) -> list[int]:
    """The longest token that is a suffix, again and again."""
    ids: list[int] = []
    while data:
        longest = max((text for text in tokens if data.endswith(text)), key=len)
        ids.insert(0, tokens[longest])
        data = data[: len(data) - len(longest)]
    return ids


def reference_minimal(data: bytes, tokens: Tokens, tie: str = "longest") -> list[int]:
    """Of all segmentations with the fewest tokens, the one that `tie` prefers at the first place they differ."""
    every = list(segmentations(data, {text: token for text, token in tokens.items() if text in data}))
    fewest = min(map(len, every))
    lengths = {token: len(text) for text, token in tokens.items()}
    prefer = {
        "longest": lambda ids: [-lengths[i] for i in ids],
        "shortest": lambda ids: [lengths[i] for i in ids],
        "lowest_id": lambda ids: ids,
    }[tie]
    return min((ids for ids in every if len(ids) == fewest), key=prefer)


def reference_longest_first(data: bytes, tokens: Tokens) -> list[int]:
    """Take the longest token that occurs, at its first place; do the same to what is left and right of it."""
    for text in sorted(tokens, key=len, reverse=True):
        # Of the same length, the one that comes first in the data.
        found = [(data.find(same), same) for same in tokens if len(same) == len(text) and same in data]
        if found:
            at, same = min(found)
            left, right = data[:at], data[at + len(same) :]
            return [*reference_longest_first(left, tokens), tokens[same], *reference_longest_first(right, tokens)]
    return []


def segmentations(data: bytes, tokens: Tokens) -> Iterator[list[int]]:
    """All ways to cut `data` into tokens."""
    if not data:
        yield []
    for text, token in tokens.items():
        if data and data.startswith(text):
            for rest in segmentations(data[len(text) :], tokens):
                yield [token, *rest]
