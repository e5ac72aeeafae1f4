import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.errors import FileError, InvalidInputError

SOURCE = Path(sysconfig.get_path("stdlib")) / "argparse.py"


def run(*arguments, data=None):
    return CliRunner().invoke(app, ["identify", *map(str, arguments)], input=data, catch_exceptions=False)


def test_one_line_a_file():
    result = run(SOURCE, sys.executable)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{SOURCE}: python") and len(lines) == 2


def test_a_fragment_from_standard_input_and_guesses():
    result = run("-", "--top", 3, data=SOURCE.read_bytes()[5000:7000])
    assert result.stdout.startswith("-: python") and "%" in result.stdout.splitlines()[1]


def test_map_and_json(tmp_path):
    (tmp_path / "mixed").write_bytes(SOURCE.read_bytes() + bytes(20_000))
    result = run(tmp_path / "mixed", "--map")
    assert "zeros" in result.stdout and "Offset" in result.stdout
    facts = json.loads(run(tmp_path / "mixed", "--map", "--window", 1024, "--json").stdout)
    assert facts[0]["file"].endswith("mixed") and facts[0]["map"][-1]["label"] == "zeros"
    assert facts[0]["map"][0]["offset"] == 0


def test_a_picture_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    result = run(SOURCE, "--plot", tmp_path / "map.svg")
    assert result.exit_code == 0 and (tmp_path / "map.svg").exists()


def test_it_needs_no_torch():
    hidden = "import sys; sys.modules.update(torch=None, transformers=None)"
    script = f"{hidden}; from byteloom.cli.main import main; main()"
    command = [sys.executable, "-c", script, "identify", str(SOURCE)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "python" in result.stdout, result.stderr


def test_what_cannot_be_identified_is_told(tmp_path):
    for arguments, part in (
        ([tmp_path], "folder"),
        ([tmp_path / "missing"], "does not exist"),
        (["/dev/null"], "regular file|empty|device"),
    ):
        try:
            result = run(*arguments)
        except FileError as error:
            assert str(error)
        else:
            assert part and "empty" in result.stdout
    with pytest.raises(InvalidInputError, match="--top"):
        run(SOURCE, "--top", 0)
    with pytest.raises(InvalidInputError, match="one file"):
        run(SOURCE, SOURCE, "--plot", tmp_path / "a.svg")
    with pytest.raises(FileError, match="no classifier"):
        run(SOURCE, "--model", tmp_path)
    mixed = run(tmp_path / "missing", SOURCE)
    assert mixed.exit_code == 2 and "python" in mixed.stdout
