from pathlib import Path

import numpy as np
import pytest

from byteloom.bench import bpe_kernels
from byteloom.bench.bpe_kernels import _Findings, _fit, _Stream
from byteloom.bench.result import Result


@pytest.fixture(scope="module")
def result() -> Result:
    return bpe_kernels.run("smoke")


def test_results_are_identical_to_the_peers(result: Result) -> None:
    identical = {name: figure.value for name, figure in result.numbers.items() if "identical" in name}
    assert len(identical) == 4
    assert set(identical.values()) == {100.0}


def test_everything_is_measured_and_smoke_promises_nothing(result: Result) -> None:
    tables = [row["table"] for row in result.rows]
    assert tables.count("Training") == 7
    assert tables.count("Encoding, one thread, MB/s") == 3
    assert tables.count("Encoding of hard input") == 5
    assert all(figure.value > 0 and figure.met is None for figure in result.numbers.values())


def test_a_small_machine_measures_less_and_says_so() -> None:
    plan, found = bpe_kernels._PLANS["cpu"], _Findings()
    assert _fit(plan, plan.train + plan.encode_more, found) == plan
    assert found.notes == []
    smaller = _fit(plan, 32_000_000, found)
    assert (smaller.train, smaller.encode_more) == (16_000_000, 16_000_000)
    assert "32,000,000 bytes" in found.notes[0]


def test_a_stream_is_cut_where_documents_begin(tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(b"aaabbccccc")
    stream = _Stream(tmp_path / "stream", (3, 2, 5))
    assert [bytes(document) for document in stream.documents(7)] == [b"aaa", b"bb", b"cc"]
    assert [bytes(document) for document in stream.documents(5)] == [b"aaa", b"bb"]
    assert bytes(stream.data(4, 8)) == b"bccc"


def test_every_three_bytes_once() -> None:
    sequence = np.frombuffer(bpe_kernels._de_bruijn(), np.uint8).astype(np.int32)
    codes = sequence << 16 | np.roll(sequence, -1) << 8 | np.roll(sequence, -2)
    assert len(codes) == 256**3
    assert np.all(np.bincount(codes) == 1)
