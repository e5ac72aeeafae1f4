import pytest

from byteloom.bench import Result, superposed


@pytest.fixture(scope="module")
def result() -> Result:
    return superposed.run("smoke")


def test_every_decoder_is_measured_with_what_it_costs(result: Result) -> None:
    rows = {row["decoder"]: row for row in result.rows if "decoder" in row}
    assert {"greedy, 1 draft", "nucleus, in turn", "nucleus, in a batch", "beam", "superposed"} <= set(rows)
    assert rows["nucleus, in turn"]["passes x rows"] == rows["nucleus, in a batch"]["passes x rows"] == 30
    assert rows["superposed"]["passes x rows"] == 10 and rows["superposed, rescored"]["passes x rows"] == 11
    assert 3 * rows["superposed"]["keys (kB)"] == rows["beam"]["keys (kB)"]  # type: ignore[operator]
    assert rows["superposed"]["distinct"] == 3
    assert rows["superposed, rescored"]["of the best"] == rows["superposed, rescored"]["perplexity of the first"]


def test_smoke_promises_nothing_and_batches_are_plotted(result: Result) -> None:
    assert result.numbers and all(figure.met is None for figure in result.numbers.values())
    assert any(row["table"] == result.plots[0].table and result.plots[0].y in row for row in result.rows)


def test_self_bleu() -> None:
    assert superposed.self_bleu([[1, 2, 3, 4, 5]] * 3) == pytest.approx(1)
    assert superposed.self_bleu([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]) < 1e-6
    alike = superposed.self_bleu([[1, 2, 3, 4, 5], [1, 2, 3, 4, 9]])
    assert alike == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert superposed.self_bleu([[1, 2]]) == 0


def test_the_next_word() -> None:
    assert superposed._first_word(b"  hello world") == b"  hello"
    assert superposed._first_word(b"() -> x") == b"()"
    assert superposed._first_word(b"") == superposed._first_word(b" ")[:0] == b""
