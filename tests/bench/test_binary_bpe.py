from dataclasses import replace
from pathlib import Path

import pytest

from byteloom.bench import binary_bpe
from byteloom.bench.result import Result
from byteloom.errors import FileError


@pytest.fixture(scope="module")
def result() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("byteloom.tasks.small_models.usable_cores", lambda: 1)
        return binary_bpe.run("smoke")


def test_tokens_hold_more_than_bytes(result: Result) -> None:
    lengths = [row for row in result.rows if row["table"] == "Bytes per token"]
    assert lengths
    for row in lengths:
        assert row["raw bytes"] == 1.0
        assert 1.0 < row["512"] < row["1,024"]
    assert result.numbers["bytes per token at 1,024: lowest of the test sets"].value == min(
        row["1,024"] for row in lengths
    )


def test_the_family_is_nested(result: Result) -> None:
    assert result.numbers["family: merges identical to a training at 512"].value == 100


def test_models_see_equal_bytes(result: Result) -> None:
    tokens, _, same_bytes = (row for row in result.rows if str(row["table"]).startswith("Language models"))
    assert same_bytes["bytes seen"] == pytest.approx(tokens["bytes seen"], abs=2048)
    assert 0 < tokens["bits per byte"] < 9


def test_smoke_promises_nothing(result: Result) -> None:
    assert all(figure.met is None for figure in result.numbers.values())


def test_without_a_network_the_rest_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(tag: str, cache: Path) -> list[Path]:
        raise FileError("no network")

    monkeypatch.setattr(binary_bpe, "download_wheels", offline)
    plan = replace(binary_bpe._PLANS["smoke"], platforms=("win32",))
    samples = binary_bpe._collect(plan, tmp_path)
    assert "PE x86 was not measured: no network." in samples.notes
    assert len(samples.test) == 1


def test_a_test_set_is_cut_to_its_size() -> None:
    pieces = [memoryview(b"abc"), memoryview(b"def"), memoryview(b"ghi")]
    assert b"".join(binary_bpe._first(5, pieces)) == b"abcde"
    assert b"".join(binary_bpe._first(6, pieces)) == b"abcdef"
    assert b"".join(binary_bpe._first(50, pieces)) == b"abcdefghi"
