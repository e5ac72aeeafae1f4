"""Soft matching by two loops over the slots of one head, in float64; what the fast passes are tested against."""

from __future__ import annotations

import numpy as np


def soft_match(keys, values, sizes, remove, *, chunk, value_weight):
    """keys [n, d], values [n, d], sizes [n]: what is left of them, and for each slot left which old ones are in it."""
    count = len(keys)
    edges = []
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        for even in range(start, stop, 2):
            best = None
            for odd in range(start + 1, stop, 2):
                similarity = cosine(keys[even], keys[odd]) + value_weight**2 * cosine(values[even], values[odd])
                if best is None or similarity > best[0]:
                    best = similarity, odd
            if best is not None:
                edges.append((-best[0], even, best[1]))
    into = {even: odd for _, even, odd in sorted(edges)[:remove]}
    groups = [[slot, *(even for even in into if into[even] == slot)] for slot in range(count) if slot not in into]
    sums = [sizes[group].sum() for group in groups]
    mean = lambda states: np.stack(  # noqa: E731
        [sizes[group] @ states[group] / total for group, total in zip(groups, sums, strict=True)]
    )
    return mean(keys), mean(values), np.array(sums), groups


def merge_to(keys, values, sizes, target, *, chunk, value_weight):
    """Passes until `target` slots are left."""
    members = [[slot] for slot in range(len(keys))]
    while len(keys) > target:
        remove = min(len(keys) - target, len(keys) // 2)
        keys, values, sizes, groups = soft_match(keys, values, sizes, remove, chunk=chunk, value_weight=value_weight)
        members = [[token for slot in group for token in members[slot]] for group in groups]
    return keys, values, sizes, members


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
