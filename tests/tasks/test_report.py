"""The report is whole, one file, well-formed, and safe against hostile names, whatever a fit has or lacks."""

from __future__ import annotations

import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import read_json, write_json
from byteloom.tasks.report import next_steps, read_samples, write_report
from byteloom.tasks.report.charts import Line, line_chart, round_ticks, short
from byteloom.tasks.report.collect import collect, size
from byteloom.tasks.report.disassembly import disassemble, instruction_starts, purpose
from byteloom.tasks.report.hexdump import WIDTH, short_hex
from tests.tasks.fitted_folder import CANARY, PROLOGUE, make_fitted_folder

HOSTILE = "/tmp/\"><script>alert(1)</script>'&\x1b[31m\u202e"
VOID = {"meta", "link"}
ALWAYS = {"corpus", "model", "speed", "hex", "made", "next"}
OF_BPE = {"compression", "window", "lengths", "tokens"}


class Page(HTMLParser):
    """Checks nesting, and gathers what a page says and refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.references: list[str] = []
        self.scripts = 0
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        for name, value in attributes:
            assert not name.startswith("on"), f"an event handler in the markup: {name}"
            if name == "id":
                assert value not in self.ids
                self.ids.add(value or "")
            if name in ("src", "href", "srcset", "data", "action", "xlink:href"):
                self.references.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def read(folder: Path) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fitted_folder(tmp_path_factory.mktemp("fitted"))


def test_one_whole_file_without_the_network(folder: Path) -> None:
    html, page = read(folder)
    assert page.ids >= ALWAYS | OF_BPE
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html
    assert all(reference.startswith("#") or reference == "data:," for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= page.ids
    assert len(html) < 1_500_000
    for said in ("5 January 2026, 09:30", "A processor", "permission denied", "the corpus is small"):
        assert said in page.text


def test_numbers_are_those_of_the_fit(folder: Path) -> None:
    _, page = read(folder)
    row = next(r for r in read_json(folder / "fit.json")["compression"] if r["vocab_size"] == 300)
    assert f"{row['bytes'] / row['tokens']:.2f}" in page.text
    assert f"{2048 * row['bytes'] / row['tokens']:,.0f} bytes" in page.text
    assert "16.7% fewer bits per byte" in page.text  # 2.5 against 3.0
    words = "byteloom fit /usr/bin /usr/bin/tool -o DIR --sample-mb 2 --family 300,330 --seed 7"
    assert collect(folder).command == words.replace("DIR", str(folder))


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        ({"baseline": False}, ALWAYS | OF_BPE, set()),
        ({"text": True}, ALWAYS | OF_BPE, set()),
        ({"kind": "bytes"}, ALWAYS, OF_BPE),
    ],
    ids=["without a baseline", "of text", "of raw bytes"],
)
def test_whole_whatever_a_fit_lacks(tmp_path: Path, options: dict, present: set[str], absent: set[str]) -> None:
    _, page = read(make_fitted_folder(tmp_path, **options))
    assert present <= page.ids and not absent & page.ids
    assert ("fewer bits per byte" in page.text) == (options == {"text": True})
    assert "None" not in page.text and "nan" not in re.findall(r"[a-z]+", page.text)
    assert "Machine code" not in page.text or options == {"baseline": False}


def test_without_samples_and_without_compression(tmp_path: Path) -> None:
    make_fitted_folder(tmp_path)
    (tmp_path / "samples" / "samples.json").unlink()
    write_json(tmp_path / "fit.json", read_json(tmp_path / "fit.json") | {"compression": [], "models": {}})
    _, page = read(tmp_path)
    assert page.ids >= {"corpus", "lengths", "made"}
    assert not page.ids & {"hex", "tokens", "compression", "window", "model", "next"}


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    html, page = read(make_fitted_folder(tmp_path, name=HOSTILE, section=HOSTILE))
    assert "<script>alert" not in html
    assert page.scripts == 1  # our own
    assert HOSTILE[:30] in page.text


def test_hostile_file_entry_stays_in_the_folder(tmp_path: Path) -> None:
    make_fitted_folder(tmp_path / "fit")
    (tmp_path / "secret").write_bytes(b"secret")
    entries = read_json(tmp_path / "fit" / "samples" / "samples.json")
    entries[0]["file"] = "../../secret"
    write_json(tmp_path / "fit" / "samples" / "samples.json", entries)
    with pytest.raises(FileError, match="does not exist"):
        read_samples(tmp_path / "fit")


def test_sections_that_lie_are_cut_to_the_data(tmp_path: Path) -> None:
    make_fitted_folder(tmp_path)
    index = tmp_path / "samples" / "samples.json"
    entries = read_json(index)
    parts = entries[0]["sections"]
    parts += [{"name": ".far", "offset": 1 << 40, "size": 9, "kind": "data"}]
    parts += [{"name": ".long", "offset": 8, "size": 1 << 40, "kind": "read-only data"}]
    write_json(index, entries)
    sample = read_samples(tmp_path)[0]
    assert {part.name for part in sample.sections} == {".text", ".rodata", ".long"}
    assert all(part.offset + part.size <= len(sample.data) for part in sample.sections)
    read(tmp_path)


def test_learned_tokens_are_told_apart(folder: Path) -> None:
    report = collect(folder)
    kinds = dict(report.tokens)
    assert {"Machine code", "Strings"} <= set(kinds)
    for token in kinds["Machine code"]:
        assert token.instructions == disassemble(token.data, "x86-64")
        assert token.section == ".text"
    assert any(b"open" in token.data or b"OPTION" in token.data for token in kinds["Strings"])
    shown = [token for tokens in kinds.values() for token in tokens]
    assert len({token.id for token in shown}) == len(shown)
    assert all(token.count >= 2 for token in shown)


def test_hex_view_shows_bytes_in_order(folder: Path) -> None:
    view = collect(folder).hex
    assert view is not None
    data = next(sample.data for sample in read_samples(folder) if sample.name == view.name)
    at = 0
    for excerpt in view.excerpts:
        at += excerpt.skipped
        for row in excerpt.rows:
            assert row.offset == at
            shown = bytes.fromhex("".join(piece.hex for piece in row.pieces))
            assert shown == data[at : at + WIDTH]
            at += WIDTH
    headings = [row.heading for excerpt in view.excerpts for row in excerpt.rows if row.heading]
    assert list(dict.fromkeys(headings)) == [".text", ".rodata"]


def test_next_steps_work_as_printed(folder: Path) -> None:
    steps = next_steps(folder, read_json(folder / "fit.json"), read_samples(folder))
    assert len(steps) == 3
    runner = CliRunner()
    for _, command in steps:
        program, *words = shlex.split(command)
        assert program == "byteloom"
        if words[0] != "generate":  # a made-up folder has no model; test_demo runs this one
            result = runner.invoke(app, words)
            assert result.exit_code == 0, result.output


def test_verb_rewrites_the_report(folder: Path) -> None:
    (folder / "report.html").unlink(missing_ok=True)
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0 and (folder / "report.html").exists()


def test_not_a_fitted_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no fit\.json"):
        write_report(tmp_path)
    write_json(tmp_path / "fit.json", {"format": 99})
    with pytest.raises(InvalidInputError, match="format 1"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_disassembly() -> None:
    assert disassemble(PROLOGUE[:8], "x86-64") == ("endbr64", "push rbp", "mov rbp, rsp")
    assert disassemble(PROLOGUE[:6], "x86-64") == ()  # ends inside an instruction
    assert disassemble(b"", "x86-64") == () == disassemble(PROLOGUE, "vax") == disassemble(PROLOGUE, None)
    assert disassemble(bytes.fromhex("e8f0ffffff75f0"), "x86-64") == ("call -0x10", "jne -0x10")
    assert disassemble(bytes.fromhex("e8f0ffffff75f0"), "x86") == ("call -0x10", "jne -0x10")
    assert disassemble(bytes.fromhex("ffffff97c0035fd6"), "aarch64") == ("bl -0x4", "ret")
    assert disassemble(bytes.fromhex("70b57047"), "arm") == ("push {r4, r5, r6, lr}", "bx lr")
    assert purpose(disassemble(CANARY, "x86-64")) == "stack protector"
    assert purpose(()) == ""


def test_instruction_starts() -> None:
    starts = instruction_starts(PROLOGUE[:8] + CANARY[:9], "x86-64")
    assert np.flatnonzero(starts).tolist() == [0, 4, 5, 8]
    assert not instruction_starts(PROLOGUE, None).any()
    thumb = instruction_starts(bytes.fromhex("70b5fee77047") * 20, "arm")
    assert np.flatnonzero(thumb).tolist() == list(range(0, 120, 2))


def test_short_hex() -> None:
    assert short_hex(b"\x12" + bytes(7)) == "12 00\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}7"
    assert short_hex(bytes(4) + b"ab") == "00 00 00 00 61 62"


def test_line_chart() -> None:
    up = Line("up", [(4096, 2.0), (8192, 2.5), (16384, 3.0)], 1)
    same = Line("same", [(4096, 2.0), (16384, 3.0)], 2)
    chart = line_chart([up, same], title="t", x_title="x", y_title="y", log_x=True, y_bottom=1.0)
    assert chart is not None
    assert [mark.x for mark in chart.lines[0].marks] == [0.0, 50.0, 100.0]  # equal steps on a log scale
    assert [mark.y for mark in chart.lines[0].marks] == [50.0, 25.0, 0.0]
    assert [text for _, text in chart.y_ticks] == ["1.0", "1.5", "2.0", "2.5", "3.0"]
    first, second = (line.label_top for line in chart.lines)
    assert first is not None and second is not None and abs(first - second) >= 6  # labels apart
    assert line_chart([Line("dot", [(1, 1.0)], 1)], title="t", x_title="x", y_title="y") is None
    flat = line_chart([Line("flat", [(0, 2.0), (1, 2.0)], 1)], title="t", x_title="x", y_title="y")
    assert flat is not None and all(0 <= mark.y <= 100 for mark in flat.lines[0].marks)


def test_numbers_as_read() -> None:
    assert round_ticks(0.0, 0.27) == [0.0, 0.1, 0.2, 0.3]
    assert round_ticks(3.0, 76.0, inside=True) == [20.0, 40.0, 60.0]
    assert [short(value) for value in (4096, 65536, 0.25, 30.0, 1500)] == ["4K", "64K", "0.25", "30", "1,500"]
    assert [size(value) for value in (12, 1500, 31_234_567, 2.5e9)] == ["12 bytes", "1.50 kB", "31.2 MB", "2.50 GB"]
