import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.errors import FileError, InvalidInputError

TINY = ["--tokens", "512", "--hidden-size", "16", "--layers", "1", "--heads", "2", "--context", "16"]
SMALL = [
    "--family",
    "270,280",
    "--vocab-size",
    "270",
    "--validation",
    "0.3",
    "--validation-kb",
    "1",
    "--precision",
    "fp32",
]


def run(*arguments):
    torch.set_num_threads(1)
    return CliRunner().invoke(app, ["fit", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(0)
    for number in range(12):
        (folder / f"{number:02}").write_bytes(random.integers(0, 4, 2000, dtype=np.uint8).tobytes())
    return folder


def test_a_fit_ends_with_a_table_and_where_to_look(files, tmp_path):
    result = run(files, "-o", tmp_path / "run", *TINY, *SMALL)
    assert result.exit_code == 0, result.output
    for words in ("Bits/byte", "bpe 270", "raw bytes", str(tmp_path / "run" / "report.html"), "byteloom generate"):
        assert words in result.stdout


def test_json_is_what_fit_json_holds(files, tmp_path):
    result = run(files, "-o", tmp_path / "run", *TINY, *SMALL, "--no-baseline", "--sample-mb", 0.02, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts == json.loads((tmp_path / "run" / "fit.json").read_text())
    assert list(facts["models"]) == ["bpe"]
    assert facts["models"]["bpe"]["config"] == {"hidden_size": 16, "layers": 1, "heads": 2, "context": 16}
    assert facts["corpus"]["bytes"] <= 20_000


def test_one_changed_number_keeps_the_rest_of_the_size(files, tmp_path):
    options = ["--tokenizer", "bytes", "--size", "tiny", "--layers", "1", "--context", "32", "--tokens", "64", "--json"]
    result = run(files, "-o", tmp_path / "run", *options, "--validation", "0.3", "--validation-kb", "1")
    config = json.loads(result.stdout)["models"]["bytes"]["config"]
    assert config["layers"] == 1 and config["context"] == 32 and config["hidden_size"] > 32


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--family", "4k"], "--family takes vocabulary sizes"),
        (["--size", "huge"], "--size is one of nano, tiny"),
        (["--hidden-size", "10", "--heads", "3"], "cannot be built"),
        (["--minutes", "0"], "must be positive"),
        (["--formats", "exe"], "unknown format"),
        (["--validation", "2"], "validation must lie between 0 and 1"),
        (["--validation-kb", "0"], "at least one byte of validation"),
        (["--vocab-size", "100"], "at least 264 ids"),
        (["--family", "4"], "at least 264 ids"),
        (["--sample-mb", "0"], "no document"),
        (["--formats", "elf"], "no document"),
    ],
)
def test_what_a_user_can_get_wrong(files, tmp_path, options, sentence):
    with pytest.raises(InvalidInputError, match=sentence):
        run(files, "-o", tmp_path / "run", *options)


def test_an_interruption_is_one_sentence_and_the_rest_is_kept(files, tmp_path):
    options = [*SMALL, *TINY, "--tokens", "10000000", "-o", str(tmp_path / "run")]
    # Where the tests run in the background (nohup, some CI), children inherit an ignored SIGINT; a terminal's do not.
    main = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from byteloom.cli.main import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", main, "fit", str(files), *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not (tmp_path / "run" / ".work" / "bpe" / "checkpoints").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate()
    assert process.returncode == 130
    assert " ".join(shown.split()) == "interrupted; finished parts are kept, run the same command again to go on"
    assert (tmp_path / "run" / ".work" / "plan.json").exists()


def test_no_path_and_no_such_path(tmp_path):
    assert run("-o", tmp_path / "run").exit_code == 2
    with pytest.raises(FileError, match="does not exist"):
        run(tmp_path / "nothing", "-o", tmp_path / "run")


def test_a_classifier_ends_with_a_table_of_labels(tmp_path):
    random = np.random.default_rng(0)
    for label, low in (("low", 0), ("high", 128)):
        (tmp_path / "files" / label).mkdir(parents=True)
        for number in range(12):
            data = random.integers(low, low + 128, 100, dtype=np.uint8).tobytes()
            (tmp_path / "files" / label / str(number)).write_bytes(data)
    result = run(tmp_path / "files", "-o", tmp_path / "run", "--task", "classify", *TINY, "--precision", "fp32")
    assert result.exit_code == 0, result.output
    for words in ("Told right", "high", "low", "held-out files told right", "byteloom identify --model"):
        assert words in result.stdout
    facts = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert facts["task"] == "classify" and facts["window"] == 16
    arguments = ["identify", "--model", str(tmp_path / "run"), str(tmp_path / "files" / "low" / "0")]
    identified = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "low" in identified.stdout or "high" in identified.stdout
    with pytest.raises(InvalidInputError, match="there is no report"):
        CliRunner().invoke(app, ["report", str(tmp_path / "run")], catch_exceptions=False)


def test_options_of_the_other_task_are_refused(files, tmp_path):
    with pytest.raises(InvalidInputError, match="--formats belongs to --task language"):
        run(files, "-o", tmp_path, "--task", "classify", "--formats", "elf")
    with pytest.raises(InvalidInputError, match="--cut belongs to --task classify"):
        run(files, "-o", tmp_path, "--cut", "head")
    with pytest.raises(InvalidInputError, match="name one folder"):
        run(files, files, "-o", tmp_path, "--task", "classify")
    with pytest.raises(InvalidInputError, match="the model is one of"):
        run(files, "-o", tmp_path, "--model", "forest")
    with pytest.raises(InvalidInputError, match="a classifier is one of"):
        run(files, "-o", tmp_path, "--task", "classify", "--model", "mrt5")
