import json
from pathlib import Path

import pytest

from byteloom.bench import Card, Figure, Result, load_results, save_result
from byteloom.errors import FileError

MACHINE = {
    "cpu": "Some (R) CPU @ 3 GHz",
    "cores": 2,
    "device": "cpu",
    "memory_gib": 8,
    "platform": "an OS",
    "python": "3.11",
}


def a_result(**changes: object) -> Result:
    fields = {
        "method": "binary-bpe",
        "scale": "cpu",
        "numbers": {"speed": Figure(41.23456789, "x", at_least=40), "files": Figure(3, "")},
        "rows": [{"table": "Speed", "size": 10, "MB/s": 1.5}, {"table": "Speed", "size": 20, "MB/s": None}],
        "machine": MACHINE,
        "seconds": 12.345,
        "notes": ["On whole files."],
    }
    return Result(**(fields | changes))


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure(1.0, "x"), None),
        (Figure(1.0, "x", at_least=1), True),
        (Figure(0.9, "x", at_least=1), False),
        (Figure(1.0, "s", at_most=1), True),
        (Figure(1.1, "s", at_most=1), False),
        (Figure(2.0, "x", at_least=1, at_most=3), True),
        (Figure(4.0, "x", at_least=1, at_most=3), False),
        (Figure(float("nan"), "x", at_least=1), False),
    ],
)
def test_a_bound_is_met_or_not(figure: Figure, met: bool | None) -> None:
    assert figure.met is met


def test_a_saved_result_is_loaded_again(tmp_path: Path) -> None:
    path = save_result(a_result(), tmp_path)
    assert path.name == "binary-bpe-cpu-cpu-some-r-cpu-3-ghz-2.json"
    (loaded,) = load_results(tmp_path)
    assert loaded == Result.from_json(a_result().to_json())
    assert loaded.numbers["speed"] == Figure(41.2346, "x", at_least=40)
    assert loaded.numbers["files"] == Figure(3, "")
    assert loaded.rows == a_result().rows


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    save_result(a_result(), tmp_path)
    save_result(a_result(seconds=1.0), tmp_path)
    assert [result.seconds for result in load_results(tmp_path)] == [1.0]


@pytest.mark.parametrize("text", ["[]", "{}", '{"numbers": {}}', '{"numbers": {"a": {"worth": 1}}}', "not JSON"])
def test_a_foreign_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "foreign.json").write_text(text)
    with pytest.raises(FileError, match=r"foreign\.json"):
        load_results(tmp_path)


def test_json_is_plain(tmp_path: Path) -> None:
    fields = json.loads(save_result(a_result(), tmp_path).read_text())
    assert fields["numbers"]["files"] == {"value": 3, "unit": ""}
    assert list(fields) == ["method", "scale", "numbers", "rows", "machine", "seconds", "notes", "plots"]


def test_cards_have_the_scales_that_tests_and_laptops_run() -> None:
    card = Card("m", "t", "p", "", "tokenize", "byteloom.tokenize", "h", "x")
    assert card.scales == ("smoke", "cpu")
