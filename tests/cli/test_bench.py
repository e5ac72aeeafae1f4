import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from byteloom.bench import Figure, Result, catalogue, load_results
from byteloom.bench.binary_bpe import CARD
from byteloom.cli.main import app
from byteloom.errors import InvalidInputError
from byteloom.machine import machine_facts


@pytest.fixture
def only_a_quick_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(scale: str, *, data: Path | None = None, progress: object = None) -> Result:
        numbers = {"speed": Figure(50.0, "x", at_least=40), "memory": Figure(15.0, "GB", at_most=14)}
        return Result(CARD.method, scale, numbers, [], machine_facts(), 1.0, [f"data: {data}"])

    quick = {CARD.method: SimpleNamespace(CARD=CARD, run=run)}
    monkeypatch.setattr(catalogue, "benchmarks", lambda: quick)
    monkeypatch.setattr("byteloom.bench.benchmarks", lambda: quick)
    monkeypatch.setattr("byteloom.bench.render.benchmarks", lambda: quick)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("only_a_quick_benchmark")
class TestBench:
    def test_writes_results_and_says_what_was_kept(self, tmp_path: Path) -> None:
        text = call("bench", "binary-bpe", "-o", str(tmp_path / "results"), "--data", "downloads")
        assert "at least 40" in text and "yes" in text
        assert "at most 14" in text and "no" in text
        (result,) = load_results(tmp_path / "results")
        assert result.scale == "cpu"
        assert result.notes == ["data: downloads"]

    def test_json(self, tmp_path: Path) -> None:
        results = json.loads(call("bench", "--scale", "smoke", "-o", str(tmp_path), "--json"))
        assert [result["numbers"]["speed"]["value"] for result in results] == [50.0]

    def test_rewrites_the_pages_of_a_checkout(self, tmp_path: Path) -> None:
        (tmp_path / "docs").mkdir()
        for page in ("results.md", "methods.md"):
            (tmp_path / "docs" / page).write_text("stale")
        call("bench", "-o", str(tmp_path / "results"))
        assert "| speed | 50.0 x | at least 40 | yes |" in (tmp_path / "docs" / "results.md").read_text()
        assert "binary-bpe" in (tmp_path / "docs" / "methods.md").read_text()

    def test_makes_no_pages_elsewhere(self, tmp_path: Path) -> None:
        call("bench", "-o", str(tmp_path / "results"))
        assert [path.name for path in tmp_path.iterdir()] == ["results"]

    def test_a_scale_that_a_method_lacks_is_passed_over(self, tmp_path: Path) -> None:
        assert json.loads(call("bench", "--scale", "gpu", "-o", str(tmp_path), "--json")) == []


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no method 'gzip'"):
        call("bench", "gzip", "-o", str(tmp_path))


def test_methods() -> None:
    assert "bpe-kernels" in call("methods")
    cards = json.loads(call("methods", "--json"))
    assert {"method", "stage", "arxiv", "measures"} <= set(cards[0])
