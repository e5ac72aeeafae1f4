from pathlib import Path

import pytest

from byteloom.bench import Plot, render_results, save_result
from byteloom.bench.draw import draw
from tests.bench.test_result import a_result

PLOT = Plot("Speed", "size", "MB/s", "reader", log="xy")


def test_a_table_is_drawn_a_line_for_each_kind(tmp_path: Path) -> None:
    rows = [
        {"table": "Speed", "size": size, "MB/s": speed, "reader": reader}
        for reader in ("ours", "theirs")
        for size, speed in ((1, 2.0), (8, 4.0), (4, None))
    ]
    result = a_result(rows=rows, plots=[PLOT])
    first, second = tmp_path / "pictures/a.svg", tmp_path / "a.svg"
    draw(result, PLOT, first)
    draw(result, PLOT, second)
    assert first.read_bytes() == second.read_bytes()  # nothing in it depends on the hour
    text = first.read_text()
    assert text.count("<!-- ours -->") == text.count("<!-- theirs -->") == 1


def test_the_page_shows_the_picture_behind_its_table(tmp_path: Path) -> None:
    save_result(a_result(plots=[PLOT]), tmp_path)
    page = render_results(tmp_path)
    name = "binary-bpe-cpu-cpu-some-r-cpu-3-ghz-2-1.svg"
    assert f"| 20 | - |\n\n![MB/s over size, by reader](images/results/{name})\n" in page


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("results/*.json")), ids=lambda path: path.stem)
def test_every_picture_of_a_result_is_in_the_docs(path: Path) -> None:
    from byteloom.bench import Result
    from byteloom.files import read_json

    result = Result.from_json(read_json(path))
    for plot in result.plots:
        assert (path.parents[1] / "docs/images/results" / result.picture(plot)).is_file()
