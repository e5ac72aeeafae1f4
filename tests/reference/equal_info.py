"""Arithmetic coding, equal-info windows and byte models as their definitions read: exact fractions of Python integers,
slow, and what native/coding and byteloom.tokenize.windows are tested against.

`table(prefix)` gives the 257 cumulative counts of the next byte.
Source: Training LLMs over Neurally Compressed Text, TMLR 2024, arXiv 2404.03626.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor

TOTAL = 1 << 14
Table = Callable[[bytes], Sequence[int]]
Interval = tuple[Fraction, Fraction]  # low end and range


def reference_quantise(p: Sequence[Fraction]) -> list[int]:
    """A distribution over bytes as cumulative counts of 2^14."""
    q = [floor(share * (TOTAL - 256)) + 1 for share in p]
    q[p.index(max(p))] += TOTAL - sum(q)
    return [sum(q[:x]) for x in range(257)]


def interval(text: bytes, table: Table) -> Interval:
    """The numbers that stand for texts that begin with `text`."""
    low, size = Fraction(0), Fraction(1)
    for at, byte in enumerate(text):
        c = table(text[:at])
        low, size = low + size * Fraction(c[byte], TOTAL), size * Fraction(c[byte + 1] - c[byte], TOTAL)
    return low, size


def lowest_cell(within: Interval, bits: int) -> int | None:
    """The least m with [m, m + 1) / 2^bits inside an interval."""
    low, size = within
    m = -floor(-low * 2**bits)
    return m if Fraction(m + 1, 2**bits) <= low + size else None


def reference_bits(text: bytes, table: Table) -> str:
    """The arithmetic code of a text: the shortest bit string such that whatever follows stays inside."""
    within = interval(text, table)
    bits = 0
    while (m := lowest_cell(within, bits)) is None:
        bits += 1
    return f"{m:0{bits}b}" if bits else ""


def reference_windows(data: bytes, table: Table, bits: int, rule: str) -> list[tuple[bytes, int]]:
    """The windows of a text, and the code of each."""
    windows = []
    while data:
        size = 1
        while size < len(data) and lowest_cell(interval(data[: size + 1], table), bits) is not None:
            size += 1
        if rule == "greedy":
            code = int(reference_bits(data[:size], table).ljust(bits, "0"), 2)
        else:
            code = lowest_cell(interval(data[:size], table), bits)
            while size > 1 and lowest_cell(interval(data[: size - 1], table), bits) == code:
                size -= 1
        windows.append((data[:size], code))
        data = data[size:]
    return windows


def fitting_strings(table: Table, bits: int, alphabet: bytes) -> list[bytes]:
    """All strings over an alphabet that fit into a window."""
    found, new = [], [b""]
    while new:
        new = [s + bytes([x]) for s in new for x in alphabet]
        new = [s for s in new if lowest_cell(interval(s, table), bits) is not None]
        found += new
    return found


def reference_count_table(documents: Sequence[bytes], order: int, prefix: bytes) -> list[int]:
    """Witten and Bell's blend of the counts of a corpus, in fixed point of 32 bits, rounded down."""
    followers: dict[bytes, Counter[int]] = defaultdict(Counter)
    for document in documents:
        for at, byte in enumerate(document):
            for k in range(min(order, at) + 1):
                followers[document[at - k : at]][byte] += 1
    p = [2**24] * 256
    for k in range(min(order, len(prefix)) + 1):
        n = followers.get(prefix[len(prefix) - k :])
        if n is None:
            break
        unit = 2**63 // (sum(n.values()) + len(n))
        rest = len(n) * unit >> 31
        p = [(share * rest >> 32) + (n[x] * unit >> 31) for x, share in enumerate(p)]
    return reference_quantise([Fraction(share, 2**32) for share in p])


def reference_dictionary(table: Table, size: int) -> set[bytes]:
    """The single bytes and the likeliest longer strings: pop the likeliest, add it, push what goes on from it."""
    import heapq

    singles = [bytes([x]) for x in range(256)]
    heap = [(-interval(s, table)[1], s) for s in singles]
    heapq.heapify(heap)
    found: list[bytes] = []
    while len(found) < size - 256:
        chance, s = heapq.heappop(heap)
        if len(s) > 1:
            found.append(s)
        c = table(s)
        for x in range(256):
            heapq.heappush(heap, (chance * Fraction(c[x + 1] - c[x], TOTAL), s + bytes([x])))
    return {*singles, *found}
