import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.errors import FileError, InvalidInputError
from byteloom.models.byte2word import Byte2WordConfig, Byte2WordForMaskedLM, embed

torch.set_num_threads(1)


def call(*arguments, **options):
    result = CliRunner().invoke(app, ["embed", *map(str, arguments)], catch_exceptions=False, **options)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    body = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Byte2WordForMaskedLM(
        Byte2WordConfig(body={**body, "max_position_embeddings": 32}, target_vocab_size=9)
    ).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    model.save_pretrained(place)
    return place


def test_a_vector_for_each_file(model, folder, tmp_path):
    documents = [b"one file\nof two lines", b"", b"words " * 100]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, data in zip(paths, documents, strict=True):
        path.write_bytes(data)
    facts = json.loads(call(folder, *paths, "-o", tmp_path / "v.npy", "--json").stdout)
    found = np.load(tmp_path / "v.npy")
    assert found.dtype == np.float32 and np.allclose(found, embed(model, documents), atol=1e-6)
    assert facts["documents"] == [str(path) for path in paths] and (facts["vectors"], facts["width"]) == (3, 16)


def test_a_vector_for_each_line_of_standard_input(model, folder, tmp_path):
    text = call(folder, "-", "--lines", "-o", tmp_path / "v.npy", input=b"one\n\nthree \xff\n").stdout
    assert text.startswith("3 vectors of 16 numbers")
    assert np.allclose(np.load(tmp_path / "v.npy"), embed(model, [b"one", b"", b"three \xff"]), atol=1e-6)


def test_bad_input_is_refused(folder, tmp_path):
    with pytest.raises(InvalidInputError, match="no line"):
        call(folder, "-", "--lines", "-o", tmp_path / "v.npy", input=b"")
    with pytest.raises(FileError, match="missing"):
        call(folder, tmp_path / "missing", "-o", tmp_path / "v.npy")
    with pytest.raises(FileError, match="cannot load the model"):
        call(tmp_path / "none", "-", "-o", tmp_path / "v.npy", input=b"x")
    LlamaConfig(vocab_size=9).save_pretrained(tmp_path / "llama")
    with pytest.raises(InvalidInputError, match="holds a llama model"):
        call(tmp_path / "llama", "-", "-o", tmp_path / "v.npy", input=b"x")
    assert not (tmp_path / "v.npy").exists()
