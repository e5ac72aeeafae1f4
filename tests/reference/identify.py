"""The pooling of n-grams, slow and obvious."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SPANS = (2, 3, 4, 5)
ODD = (1, 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)


def row(window: bytes, at: int, table: int, rows: int) -> int:
    """Which row of a table with `rows` rows the n-gram at `at` has."""
    grams = window[at : at + SPANS[table]]
    key = int.from_bytes(grams, "little")
    if table == 0:
        key <<= 16
    if table == 3:
        key = grams[0] | grams[4] << 8
    return (key * ODD[table]) % (1 << 32) * rows >> 32


def pool(window: bytes, tables: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [256 + tables x width]: roots of the byte shares, and the mean vector of each table."""
    counts = np.bincount(np.frombuffer(window, np.uint8), minlength=256)
    parts = [np.sqrt(counts / max(1, len(window)))]
    for table, vectors in enumerate(tables):
        places = range(len(window) - SPANS[table] + 1)
        found = [vectors[row(window, at, table, len(vectors))].astype(float) for at in places]
        parts.append(np.mean(found, 0) if found else np.zeros(vectors.shape[1]))
    return np.concatenate(parts)
