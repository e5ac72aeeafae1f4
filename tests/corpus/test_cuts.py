import pytest
from hypothesis import given
from hypothesis import strategies as st

from byteloom.corpus.cuts import PIECES, cut
from byteloom.errors import InvalidInputError

DATA = bytes(range(200))


def test_cuts_keep_what_they_say():
    assert cut(DATA, 10, "head") == DATA[:10]
    assert cut(DATA, 11, "head+tail") == DATA[:6] + DATA[-5:]
    assert cut(DATA, 10, "fragment") == DATA[95:105]
    assert cut(DATA, 10, "fragment", 0.0) == DATA[:10]
    assert cut(DATA, 10, "fragment", 1.0) == DATA[-10:]
    spread = cut(DATA, 2 * PIECES, "strided")
    assert len(spread) == 2 * PIECES and spread[:2] == DATA[:2] and spread[-2:] == DATA[-2:]


@given(st.binary(max_size=100), st.integers(1, 120), st.sampled_from(["head", "head+tail", "strided", "fragment"]))
def test_nothing_longer_than_asked_for(data, size, how):
    kept = cut(memoryview(data), size, how)
    assert len(kept) <= size
    assert kept == data or len(data) > size


def test_an_unknown_cut_is_refused():
    with pytest.raises(InvalidInputError, match="head, head\\+tail, strided, fragment, not 'middle'"):
        cut(DATA, 10, "middle")
