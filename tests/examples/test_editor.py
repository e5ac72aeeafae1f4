"""The examples run as they are printed, on a model without training."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from byteloom.tokenize import byte_tokenizer
from byteloom.train.plan import Backbone

EDITOR = Path(__file__).parents[2] / "examples" / "editor.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(Backbone(32, 2, 2, 512).config(263)).save_pretrained(folder)
    byte_tokenizer().save(folder)
    return folder


def test_an_editor_loop_encodes_what_was_typed(folder):
    editor = runpy.run_path(str(EDITOR))
    model, tokenizer = editor["load_model"](folder), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = "def add(first, second):\n    return first + second\n" * 3
    texts = [text, text.replace("def add", "def plus", 1), text.replace("def add", "def plus", 1) + "add("]
    found = list(editor["completions"](model, tokenizer, texts, 8))
    assert len(found) == 3 and all(isinstance(completion, str) for completion, _ in found)
    reports = [report for _, report in found]
    assert reports[0].reused == 0 and reports[0].encoded == len(text)
    assert reports[1].encoded < 40 and reports[1].reused > 100  # the name, and 16 tokens behind it
    assert reports[2].encoded < 8


def test_the_program_follows_a_file_until_it_is_stopped(folder, tmp_path, monkeypatch, capsys):
    file = tmp_path / "notes.py"
    file.write_text("x = 1\n")
    rounds = []

    def sleep(seconds):
        rounds.append(seconds)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        file.write_text(f"x = {len(rounds) + 1}\n")
        os.utime(file, (len(rounds), len(rounds)))

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr(sys, "argv", ["editor.py", str(folder), str(file), "--tokens", "2"])
    runpy.run_path(str(EDITOR), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("tokens encoded" in line for line in lines)
    monkeypatch.setattr(sys, "argv", ["editor.py", str(tmp_path), str(file)])
    with pytest.raises(SystemExit, match="holds no model"):
        runpy.run_path(str(EDITOR), run_name="__main__")
