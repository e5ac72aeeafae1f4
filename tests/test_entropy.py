import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byteloom.entropy import _BLOCK, entropy


def _plain_entropy(data: bytes) -> float:
    shares = [data.count(value) / len(data) for value in set(data)]
    return -sum(share * math.log2(share) for share in shares)


@pytest.mark.parametrize(
    ("data", "bits"), [(b"", 0.0), (b"a", 0.0), (bytes(5000), 0.0), (b"abab", 1.0), (bytes(range(256)) * 3, 8.0)]
)
def test_known_values(data: bytes, bits: float) -> None:
    assert entropy(data) == bits


@given(st.binary(min_size=1, max_size=400))
def test_it_is_the_textbook_sum(data: bytes) -> None:
    assert entropy(data) == pytest.approx(_plain_entropy(data), abs=1e-12)


@pytest.mark.parametrize("extra", [0, 1])
def test_counting_in_pairs_gives_the_same(extra: int) -> None:
    data = bytes(range(251)) * (_BLOCK // 100) + b"\xff" * extra
    assert len(data) % 2 == (_BLOCK // 100 + extra) % 2 and len(data) > _BLOCK
    assert entropy(data) == pytest.approx(_plain_entropy(data), abs=1e-12)
    assert entropy(memoryview(data)[1:]) == pytest.approx(_plain_entropy(data[1:]), abs=1e-12)
