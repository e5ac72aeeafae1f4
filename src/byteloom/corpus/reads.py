"""Simulated sequencing reads: short pieces of known sequences from either strand, with substitution errors.

Use them to train and to judge on data whose origin is known. Source: METAGENE-1, arXiv 2501.02045, for the data that
they stand for. Cost: about 10 million bases a second, one byte a base.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from byteloom.corpus.fasta import SequenceRecord
from byteloom.errors import InvalidInputError

_LETTERS = np.frombuffer(b"ACGT", np.uint8)
_COMPLEMENT = bytes.maketrans(b"ACGTUNRYSWKMBDHVacgtunryswkmbdhv", b"TGCAANYRSWMKVHDBtgcaanyrswmkvhdb")


def reverse_complement(seq: bytes) -> bytes:
    """The other strand, read in its own direction; IUPAC codes and case are kept, other bytes stay.

    >>> reverse_complement(b"AACGN")
    b'NCGTT'
    """
    return seq.translate(_COMPLEMENT)[::-1]


def simulate_reads(
    records: Iterable[SequenceRecord],
    n: int,
    *,
    length: int = 150,
    error_rate: float = 0.005,
    both_strands: bool = True,
    seed: int = 0,
) -> list[bytes]:
    """`n` reads of `length` bases from random places of `records`, a shorter record as a whole.

    Records whose names agree up to the first "|" form a group. All groups give about as many reads; inside a group
    every place is equally likely. Each base is replaced by one of the other three with probability `error_rate`
    (N stays), and with `both_strands` half of the reads come from the other one. The result depends on the arguments
    alone.

    Raises InvalidInputError when there is no base to read or an argument is out of range.
    """
    if length < 1 or n < 0 or not 0.0 <= error_rate <= 1.0:
        raise InvalidInputError(
            f"reads need a length of at least 1, a number of at least 0 and an error rate from 0 to 1; got {length}, "
            f"{n} and {error_rate}"
        )
    found = [(record.name.partition("|")[0] if "|" in record.name else "", record.seq) for record in records]
    found = [(group, seq) for group, seq in found if seq]
    if not found:
        raise InvalidInputError("there is no sequence to take reads from; give records with bases")
    generator = np.random.default_rng(seed)
    sizes = np.array([len(seq) for _, seq in found])
    places = np.maximum(sizes - length + 1, 1)
    _, group = np.unique([name for name, _ in found], return_inverse=True)
    share = places / np.bincount(group, weights=places)[group] / (group.max() + 1)
    chosen = generator.choice(len(found), size=n, p=share)
    start = generator.integers(places[chosen])
    flipped = generator.random(n) < 0.5
    reads = []
    for record, at, flip in zip(chosen.tolist(), start.tolist(), flipped.tolist(), strict=True):
        read = found[record][1][at : at + length]
        reads.append(reverse_complement(read) if flip and both_strands else read)
    return _with_errors(reads, error_rate, generator)


def _with_errors(reads: list[bytes], rate: float, generator: np.random.Generator) -> list[bytes]:
    """Substitute each base with probability `rate` by one of the other three."""
    bases = np.frombuffer(b"".join(reads), np.uint8).copy()
    code = np.full(256, 4, np.uint8)
    code[_LETTERS] = range(4)
    wrong = np.flatnonzero(generator.random(len(bases)) < rate)
    wrong = wrong[code[bases[wrong]] < 4]
    shift = generator.integers(1, 4, len(wrong))
    bases[wrong] = _LETTERS[(code[bases[wrong]] + shift) % 4]
    joined = bases.tobytes()
    ends = np.cumsum([len(read) for read in reads], dtype=np.int64).tolist()
    return [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]
