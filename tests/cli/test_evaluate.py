import json
import sys

import pytest
import torch
from tests.evaluate.text_models import TEXTS, text_model, text_tokenizer
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.errors import FileError, InvalidInputError
from byteloom.evaluate.bits_per_byte import bits_per_byte
from byteloom.tokenize import Segmenter, train_bpe
from byteloom.tokenize.inference import INFERENCES
from byteloom.train.plan import Backbone

DATA = "".join(f"{text}{number}\n" for number in range(30) for text in TEXTS).encode()


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", "segmentation", *map(str, arguments)], catch_exceptions=False)


def call(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([DATA], vocab_size=300, min_frequency=2, threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """An untrained byte model, as `byteloom fit` lays it down."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(Backbone(16, 1, 2, 32).config(300)).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text-model")
    text_model().save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("files") / "text"
    file.write_bytes(DATA)
    return file


def test_a_fitted_folder_is_judged(folder, file, tokenizer):
    found = json.loads(call(folder, file, "--json"))
    assert [one["inference"] for one in found] == list(INFERENCES)
    model = LlamaForCausalLM.from_pretrained(folder)
    for one in found[:3]:
        expected = bits_per_byte(model, Segmenter(tokenizer, inference=one["inference"]), [DATA], batch=8)
        assert one["bits_per_byte"] == pytest.approx(expected.bits_per_byte)
        assert (one["bytes"], one["tokens"]) == (len(DATA), expected.tokens)
    assert {one["pre_tokens_kept"] for one in found} == {one["accuracy"] for one in found} == {None}


def test_the_choice_of_inferences_and_the_table(folder, file):
    text = call(folder, file, "--inference", "minimal, shuffle", "--questions", 3)
    assert [line.split()[1] for line in text.splitlines() if line.startswith("│")] == ["merge", "minimal", "shuffle"]
    assert "Questions" in text and "Pre-tokens" not in text
    assert f"{len(DATA):,} bytes, the same for all." in text


def test_a_model_of_hugging_face_is_judged(text_folder, file):
    found = json.loads(call(text_folder, file, "--inference", "greedy,bytes", "--json", "--questions", 2))
    assert [one["inference"] for one in found] == ["merge", "greedy", "bytes"]
    assert found[0]["pre_tokens_kept"] == 1 > found[2]["pre_tokens_kept"]
    assert {one["bytes"] for one in found} == {len(DATA)}
    assert all(one["accuracy"] in (0, 0.5, 1) for one in found)


def test_the_tokenizer_may_lie_elsewhere(folder, file, tokenizer, tmp_path):
    tokenizer.truncate(280).save(tmp_path / "small.json")
    expected = tokenizer.truncate(280).count(DATA)
    for path in ("small.json", "small"):
        tokenizer.truncate(280).save(tmp_path / path)
        (one,) = json.loads(call(folder, file, "-t", tmp_path / path, "--inference", "merge", "--json"))
        assert one["tokens"] == expected


def test_bad_input(folder, text_folder, file, tmp_path, tokenizer):
    with pytest.raises(InvalidInputError, match=r"--inference takes merge, greedy, .* got 'fast'"):
        run(folder, file, "--inference", "greedy,fast")
    with pytest.raises(InvalidInputError, match="--sample must be above 0"):
        run(folder, file, "--sample", 0)
    with pytest.raises(FileError, match="holds no model"):
        run(tmp_path, file)
    with pytest.raises(FileError, match="nothing"):
        run(folder, tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match="no document"):
        run(folder, tmp_path)
    with pytest.raises(InvalidInputError, match="no document has the 384 bytes"):
        (tmp_path / "short").write_bytes(b"short")
        run(folder, tmp_path / "short", "--questions", 5)
    with pytest.raises(InvalidInputError, match=r"has 400 tokens and the model 300"):
        train_bpe([bytes(range(256)) * 9, DATA], vocab_size=400, min_frequency=1, threads=1).save(tmp_path / "large")
        run(folder, file, "-t", tmp_path / "large")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        run(text_folder, sys.executable, "--sample", 0.01)


def test_help_tells_when_to_use_it():
    text = " ".join(call("--help").split())
    assert "Example: byteloom evaluate segmentation DIR" in text and "longest_first" in text
