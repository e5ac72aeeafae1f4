"""The demo in small: a folder of this machine's programs stands for the machine, seconds for minutes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.corpus import machine_format, recognise
from byteloom.errors import InvalidInputError
from byteloom.files import read_json
from byteloom.tasks import demo as module
from byteloom.tasks.demo import demo
from byteloom.tasks.report import next_steps, read_samples
from byteloom.train.plan import Backbone, Wish
from tests.tasks.fitted_folder import make_fitted_folder

SMALL = Wish(tokens=2048, backbone=Backbone(32, 1, 2, 32), batch_tokens=256, micro_batch=4, precision="fp32")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty small programs: pieces of the running interpreter and its libraries, each with a header of its own."""
    folder = tmp_path_factory.mktemp("bin")
    programs = [Path(sys.executable).resolve(), *sorted(Path("/usr/bin").glob("*"))]
    data = [path.read_bytes()[: 40 << 10] for path in programs[:120] if path.is_file()]
    executables = [content for content in dict.fromkeys(data) if recognise(content) == machine_format()][:20]
    if len(executables) < 20:
        pytest.skip("too few executables on this machine")
    for number, content in enumerate(executables):
        (folder / f"program-{number:02}").write_bytes(content)
    return folder


@pytest.fixture
def small(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(module, "machine_executables", lambda: [machine])
    monkeypatch.setattr(module, "SAMPLE_BYTES", 600_000)
    monkeypatch.setattr(module, "Wish", lambda minutes: SMALL)


def test_demo_from_start_to_next_steps(small: None, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    runner = CliRunner()
    first = runner.invoke(app, ["demo", "-o", str(folder)])
    assert first.exit_code == 0, first.output
    facts = read_json(folder / "fit.json")
    assert set(facts["models"]) == {"bpe", "bytes"}
    assert 0 < facts["corpus"]["bytes"] <= 600_000
    assert "raw bytes" in first.output and f"{facts['models']['bpe']['bits_per_byte']:.3f}" in first.output
    assert (folder / "report.html").exists()

    for _, command in next_steps(folder, facts, read_samples(folder)):
        assert command in first.output.replace("\n", "")
        result = runner.invoke(app, [*shlex.split(command)[1:]])
        assert result.exit_code == 0, (command, result.output)

    (folder / "report.html").unlink()
    again = runner.invoke(app, ["demo", "-o", str(folder)])  # finished: shown again, not made again
    assert again.output == first.output
    assert read_json(folder / "fit.json") == facts and (folder / "report.html").exists()

    anew = demo(folder, overwrite=True)
    assert anew["made"] >= facts["made"] and anew["compression"] == facts["compression"]


def test_another_fit_is_left_alone(small: None, tmp_path: Path) -> None:
    folder = make_fitted_folder(tmp_path / "fit")
    before = (folder / "fit.json").read_bytes()
    with pytest.raises(InvalidInputError, match="another fit"):
        demo(folder)
    assert (folder / "fit.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="other files"):
        demo(tmp_path / "mine")
