import numpy as np
import pytest
import torch

from byteloom.bench.models import code_model, sampled, stories, trained


def silent(what: str, done: int, total: int) -> None:
    pass


def test_a_recipe_is_followed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def train(folder):
        calls.append(folder)
        (folder / "weights").write_bytes(b"1")

    first = trained("name", {"steps": 1}, train)
    assert (first / "weights").read_bytes() == b"1"
    assert trained("name", {"steps": 1}, train) == first and len(calls) == 1
    assert trained("name", {"steps": 2}, train) != first and len(calls) == 2


def test_a_training_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def train(folder):
        (folder / "half").write_bytes(b"1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained("name", {}, train)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_code_model_reads_and_writes_python():
    torch.set_num_threads(1)
    code = code_model("smoke", silent)
    assert code.train and code.held_out and code.train[0].dtype == np.uint32
    assert b"import" in b"".join(code.tokenizer.decode(ids) for ids in code.held_out)
    texts = sampled(code.model, [0], 2, 12, seed=1)
    assert texts.shape == (2, 12) and texts.dtype == torch.int64
    assert torch.equal(texts, sampled(code.model, [0], 2, 12, seed=1))


def test_without_data_there_are_no_stories(tmp_path):
    assert stories(None) is None and stories(tmp_path) is None
