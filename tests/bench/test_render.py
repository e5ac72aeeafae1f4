from pathlib import Path

import pytest

from byteloom.bench import Figure, render_methods, render_results, save_result
from byteloom.bench.render import format_bound, format_value
from tests.bench.test_result import a_result

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("a", "a"),
        (3, "3"),
        (16121, "16,121"),
        (1234.5, "1,234"),
        (41.26, "41.3"),
        (170.0, "170"),
        (0.5, "0.500"),
    ],
)
def test_cells(value: str | float | None, text: str) -> None:
    assert format_value(value) == text


def test_bounds_in_words() -> None:
    assert format_bound(Figure(1, "x")) == ""
    assert format_bound(Figure(1, "x", at_least=40)) == "at least 40"
    assert format_bound(Figure(1, "x", at_least=0.5, at_most=2)) == "at least 0.5, at most 2"


def test_a_page_shows_figures_tables_and_notes(tmp_path: Path) -> None:
    save_result(a_result(numbers={"a|b": Figure(41.0, "x", at_least=40), "c": Figure(1.0, "s", at_most=0.5)}), tmp_path)
    page = render_results(tmp_path)
    assert "| a\\|b | 41.0 x | at least 40 | yes |" in page
    assert "| c | 1.00 s | at most 0.5 | **no** |" in page
    assert "#### Speed\n\n| size | MB/s |\n| --- | --- |\n| 10 | 1.50 |\n| 20 | - |\n" in page
    assert "- On whole files." in page
    assert "arxiv.org/abs/2511.17573" in page


def test_smoke_runs_are_left_out(tmp_path: Path) -> None:
    save_result(a_result(scale="smoke"), tmp_path)
    assert "binary-bpe" not in render_results(tmp_path)


@pytest.mark.parametrize("page", ["results.md", "methods.md"])
def test_generated_pages_are_current(page: str) -> None:
    text = render_results(ROOT / "results") if page == "results.md" else render_methods()
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == text, f"docs/{page} is stale; run: byteloom bench binary-bpe --scale smoke"
