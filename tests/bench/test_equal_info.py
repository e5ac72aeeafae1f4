import math

import pytest

from byteloom.bench import equal_info
from byteloom.bench.result import Result


@pytest.fixture(scope="module")
def result() -> Result:
    return equal_info.run("smoke")


def test_every_code_has_a_length_and_a_uniform_line(result: Result) -> None:
    lengths = [row for row in result.rows if row["table"] == "Bytes per token"]
    assert len(lengths) == 15
    assert all(row["bytes per token"] > 1 for row in lengths)
    models = [row for row in result.rows if str(row["table"]).startswith("Small models")]
    assert [str(row["code"]).rpartition(", ")[0] for row in models] == [
        equal_info.BYTES,
        equal_info.DICTIONARY,
        equal_info.BPE,
        equal_info.PLAIN,
    ]
    for row in models:
        line = row["uniform line (nats per token)"]
        assert row["uniform line (bits per byte)"] * row["bytes per token"] == pytest.approx(line / math.log(2))
        assert row["bits per byte"] / row["uniform line (bits per byte)"] == pytest.approx(row["nats per token"] / line)


def test_greedy_windows_are_the_longest(result: Result) -> None:
    length = {str(row["code and vocabulary"]): row["bytes per token"] for row in result.rows[:15]}
    greedy, minimal = (next(v for k, v in length.items() if f", {rule}" in k) for rule in ("greedy", "minimal"))
    assert greedy > minimal


def test_smoke_promises_nothing(result: Result) -> None:
    assert all(figure.met is None for figure in result.numbers.values())
