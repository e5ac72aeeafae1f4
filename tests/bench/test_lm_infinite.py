import pytest

from byteloom.bench import Result, lm_infinite


@pytest.fixture(scope="module")
def result() -> Result:
    return lm_infinite.run("smoke")


def test_nothing_changes_within_the_window(result: Result) -> None:
    name = next(name for name in result.numbers if "within the trained length" in name)
    assert result.numbers[name].value < 1e-4


def test_time_and_memory_are_measured_beside_plain_attention(result: Result) -> None:
    rows = [row for row in result.rows if row["table"] == lm_infinite.SPEED]
    assert len({row["attention"] for row in rows}) == 3 and len({row["tokens before"] for row in rows}) == 2
    sizes = {(row["attention"], row["tokens before"]): row["MB of cache"] for row in rows}
    assert sizes["window 64, 4 sinks", 2048] < sizes["plain, our cache", 2048]


def test_every_plot_has_points(result: Result) -> None:
    for plot in result.plots:
        assert len([row for row in result.rows if row["table"] == plot.table and plot.y in row]) >= 4
