import json
import sys
from pathlib import Path

import pytest
from click.testing import Result
from tests.corpus import samples
from typer.testing import CliRunner

from byteloom.cli.main import app, main
from byteloom.errors import FileError, InvalidInputError


def _stats(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["corpus", "stats", *map(str, arguments)], catch_exceptions=False)


def _report(*arguments: object) -> dict:
    result = _stats(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "program": samples.elf(),
        "copy": samples.elf(),
        "cut": samples.elf()[:300],
        "words[1].txt": b"some words",
        "packed": bytes(range(256)) * 20,
        "package.whl": samples.zipped({"m.so": samples.macho(), "m.py": b"pass"}),
        "broken.gz": b"\x1f\x8b\x08broken",
        "records.jsonl": b'{"text": "one record"}\n',
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_the_table_shows_formats_duplicates_problems_and_what_is_unreadable(folder: Path) -> None:
    text = _stats(folder).stdout
    rows = {line.split("│")[1].strip() + " " + line.split("│")[2].strip() for line in text.splitlines() if "│" in line}
    assert {"elf x86-64", "mach-o aarch64", "text", "other", "all"} <= {row.strip() for row in rows}
    assert "Duplicates              1" in text
    assert "Damaged headers         1 x the section table is damaged or cut off" in text
    assert "Unreadable              1" in text
    assert "broken.gz" in text
    assert "█" in text


def test_json(folder: Path) -> None:
    report = _report(folder)
    rows = {(row["format"], row["architecture"]): row["files"] for row in report["rows"]}
    assert rows == {("elf", "x86-64"): 2, ("mach-o", "aarch64"): 1, ("text", None): 3, ("other", None): 1}
    assert (report["files"], report["duplicates"], len(report["skipped"])) == (7, 1, 1)


def test_filters(folder: Path) -> None:
    assert [row["format"] for row in _report(folder, "--formats", "mach-o, elf")["rows"]] == ["mach-o", "elf"]
    assert _report(folder, "--max-entropy", 7.9)["filtered"]["entropy"] == 1
    assert _report(folder, "--min-size", 11, "--max-size", 1000)["filtered"] == {
        "min_size": 2,
        "max_size": 2,
        "duplicate": 1,
    }
    assert _report(folder, "--no-archives")["files"] == 7
    assert [row["bytes"] for row in _report(folder, "--field", "text")["rows"]] == [len("one record")]


def test_patterns(folder: Path) -> None:
    assert _report(f"{folder}/*.txt")["files"] == 1


def test_nothing_that_matches_is_one_sentence(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no document that fits the filters in .* check the path"):
        _stats(folder, "--formats", "dex")
    with pytest.raises(InvalidInputError, match="unknown format: exe; the formats are elf, pe"):
        _stats(folder, "--formats", "exe")
    with pytest.raises(FileError, match="does not exist"):
        _stats(folder / "missing")


def test_an_error_shows_the_whole_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["byteloom", "corpus", "stats", str(tmp_path / "[red]missing")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "[red]missing" in capsys.readouterr().err
