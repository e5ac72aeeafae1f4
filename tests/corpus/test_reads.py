import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byteloom.corpus import SequenceRecord, reverse_complement, simulate_reads
from byteloom.errors import InvalidInputError


def _record(name: str, seq: bytes) -> SequenceRecord:
    return SequenceRecord(name, seq, None, 1)


def _random(size: int, seed: int) -> bytes:
    return np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, size)].tobytes()


@given(st.text("ACGTNRYKMBVDHSWacgtnrykmbvdhsw-.").map(str.encode))
def test_the_other_strand_of_the_other_strand(seq: bytes) -> None:
    assert reverse_complement(reverse_complement(seq)) == seq


def test_reads_lie_in_their_record_on_either_strand() -> None:
    genome = _random(5000, 1)
    reads = simulate_reads([_record("g", genome)], 400, length=60, error_rate=0, seed=3)
    forward = [read in genome for read in reads]
    assert all(here or reverse_complement(read) in genome for here, read in zip(forward, reads, strict=True))
    assert 150 < sum(forward) < 250
    assert all(read in genome for read in simulate_reads([_record("g", genome)], 50, error_rate=0, both_strands=False))


def test_the_error_rate_holds_within_three_sigma() -> None:
    rate, bases = 0.02, 100 * 2000
    genome = _random(100, 2)
    reads = simulate_reads([_record("g", genome)], 2000, length=100, error_rate=rate, both_strands=False)
    wrong = sum(int((np.frombuffer(read, np.uint8) != np.frombuffer(genome, np.uint8)).sum()) for read in reads)
    assert abs(wrong - rate * bases) < 3 * (bases * rate * (1 - rate)) ** 0.5
    assert set(b"".join(reads)) == set(b"ACGT")


def test_every_error_is_another_base_and_n_stays() -> None:
    (read,) = simulate_reads([_record("g", b"ACGTN")], 1, error_rate=1, both_strands=False)
    assert read[4:] == b"N"
    assert all(a != b for a, b in zip(read[:4], b"ACGT", strict=True))


def test_groups_come_equally_often_whatever_their_size() -> None:
    records = [_record("small|1", b"A" * 50), _record("large|1", b"C" * 5000), _record("large|2", b"G" * 5000)]
    reads = simulate_reads(records, 3000, length=20, error_rate=0, both_strands=False)
    counts = {letter: sum(read == letter * 20 for read in reads) for letter in (b"A", b"C", b"G")}
    assert abs(counts[b"A"] - 1500) < 90
    assert abs(counts[b"C"] - 750) < 90


def test_the_seed_decides() -> None:
    records = [_record("g", _random(1000, 4))]
    assert simulate_reads(records, 20, seed=1) == simulate_reads(iter(records), 20, seed=1)
    assert simulate_reads(records, 20, seed=1) != simulate_reads(records, 20, seed=2)
    assert simulate_reads(records, 0) == []


def test_a_short_record_is_read_whole() -> None:
    assert simulate_reads([_record("g", b"ACGT"), _record("empty", b"")], 2, error_rate=0, both_strands=False) == [
        b"ACGT",
        b"ACGT",
    ]


@pytest.mark.parametrize("options", [{"length": 0}, {"error_rate": 1.5}, {"error_rate": float("nan")}])
def test_arguments_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="reads need a length"):
        simulate_reads([_record("g", b"ACGT")], 1, **options)


def test_nothing_to_read() -> None:
    with pytest.raises(InvalidInputError, match="no sequence"):
        simulate_reads([_record("g", b"")], 1)
