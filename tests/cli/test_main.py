"""The entry point: what a user sees instead of a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from byteloom.cli import main as entry


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from byteloom.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_an_error_is_one_sentence_and_exit_2() -> None:
    result = run("tokenizer", "info", "no-such-folder")
    assert result.returncode == 2
    assert result.stderr.startswith("error:")
    assert "Traceback" not in result.stderr
    assert "no-such-folder" in result.stderr


def test_a_package_of_an_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def without_torch() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(entry, "app", without_torch)
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 2
    assert "pip install 'byteloom[models,tasks]'" in capsys.readouterr().err.replace("\n", "")


def test_other_missing_modules_are_our_own_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ModuleNotFoundError("No module named 'byteloom.nowhere'", name="byteloom.nowhere")

    monkeypatch.setattr(entry, "app", broken)
    with pytest.raises(ModuleNotFoundError):
        entry.main()


def test_help_needs_no_torch() -> None:
    code = "import sys; import byteloom.cli.main; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
