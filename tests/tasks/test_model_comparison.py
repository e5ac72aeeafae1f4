from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.errors import InvalidInputError
from byteloom.tasks.model_comparison import compare_models, draw_comparison
from byteloom.tasks.trainees import HIDDEN, NEXT
from byteloom.train.plan import Backbone


@pytest.fixture(scope="module")
def documents() -> list[bytes]:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    words = [bytes(random.integers(97, 123, size, dtype=np.uint8)) for size in random.integers(2, 9, 40)]
    return [b" ".join(words[i] for i in random.integers(0, len(words), 400)) for _ in range(10)]


def test_models_at_equal_operations(documents, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = ["llama:bytes", "word-pooled", "mrt5"]
    options = {"seconds": 1.0, "backbone": Backbone(32, 1, 2, 64)}
    found = compare_models(names, documents[:8], documents[8:], tmp_path, **options)
    assert list(found) == names
    assert [model.measure for model in found.values()] == [NEXT, NEXT, HIDDEN]
    operations = [model.operations for model in found.values()]
    assert max(operations) < 2 * min(operations)  # of one or two steps
    for model in found.values():
        assert 0 < model.bits_per_byte < 14 and model.memory_bytes > 50 << 20
        assert model.read_bytes_per_s > 0 and model.training_bytes_per_s > 0
        assert model.curve[-1] == (model.operations, model.bits_per_byte)
    again = compare_models(names, documents[:8], documents[8:], tmp_path, **options)
    assert again == found  # nothing is trained again
    pytest.importorskip("matplotlib")
    draw_comparison(found, tmp_path / "models.svg")
    assert (tmp_path / "models.svg").stat().st_size > 5000


def test_what_cannot_be_compared_is_told(documents, tmp_path):
    for names, part in (
        (["forest"], "one of llama"),
        (["mrt5:bpe"], "reads bytes"),
        (["mrt5", "mrt5"], "twice"),
        ([], "at least one"),
    ):
        with pytest.raises(InvalidInputError, match=part):
            compare_models(names, documents, documents, tmp_path, seconds=1.0)
    with pytest.raises(InvalidInputError, match="less than one window"):
        compare_models(["llama:bytes"], [b"short"], documents, tmp_path, seconds=1.0)


def test_the_verb_prints_json(documents, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for number, document in enumerate(documents):
        (tmp_path / str(number)).write_bytes(document)
    arguments = [str(tmp_path), "--models", "llama:bytes", "--seconds", "0.5", "--validation", "0.4", "--json"]
    result = CliRunner().invoke(app, ["compare-models", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["name"] == "llama:bytes"
    with pytest.raises(InvalidInputError, match="--size"):
        CliRunner().invoke(app, ["compare-models", str(tmp_path), "--size", "huge"], catch_exceptions=False)
