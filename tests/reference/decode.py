"""Decoding as its definition reads: every sequence of units, and the best of them; what the beam search is tested
against.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

Entries = Sequence[tuple[str, list[str]]]


def reference_decode(
    network: Sequence[Mapping[str, float]], entries: Entries, lm: object, style: str, lm_weight: float = 1.0
) -> tuple[list[str], float]:
    """The best well-formed sequence of units and its score; no units and minus infinity where there is none."""
    best: tuple[list[str], float] = ([], -math.inf)
    for units, heard in sequences(network, entries):
        if not is_well_formed(units, style):
            continue
        score = heard
        for i, unit in enumerate([*units, "</s>"]):
            score += lm_weight * lm.logp(unit, ["<s>", *units[:i]])  # type: ignore[attr-defined]
        if score > best[1]:
            best = units, score
    return best


def sequences(network: Sequence[Mapping[str, float]], entries: Entries) -> Iterator[tuple[list[str], float]]:
    """All sequences of units whose phones fit the network, with the scores of the phones."""
    if not network:
        yield [], 0.0
        return
    for unit, phones in entries:
        fits = len(phones) <= len(network) and all(p in frame for p, frame in zip(phones, network, strict=False))
        if fits:
            heard = sum(frame[p] for p, frame in zip(phones, network, strict=False))
            for rest, score in sequences(network[len(phones) :], entries):
                yield [unit, *rest], heard + score


def is_well_formed(units: Sequence[str], style: str) -> bool:
    """Whether every word that is begun is ended, and none is gone on with that was not begun."""
    sides = [(unit.startswith("+"), unit.endswith("+")) for unit in units]
    if style == "suffix":
        return not sides[-1][1]
    if style == "prefix":
        return not sides[0][0]
    return not sides[0][0] and not sides[-1][1] and all(a[1] == b[0] for a, b in pairwise(sides))
