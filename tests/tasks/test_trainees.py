from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

import byteloom.models.architectures
import byteloom.tokenize.hf  # noqa: F401 - registers ByteTokenizer
from byteloom.errors import InvalidInputError
from byteloom.files import read_json
from byteloom.tasks.continuation import continue_bytes
from byteloom.tasks.fit import fit
from byteloom.tasks.prepare import Source
from byteloom.tasks.survivors import survivors
from byteloom.tasks.trainees import HIDDEN, MODELS, NEXT, tokenizer_of
from byteloom.train.plan import Backbone, Wish

BACKBONE = Backbone(32, 2, 4, 96)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(0)
    words = [bytes(random.integers(97, 123, size, dtype=np.uint8)) for size in random.integers(2, 9, 40)]
    for number in range(16):
        (folder / f"{number:02}").write_bytes(b" ".join(words[i] for i in random.integers(0, len(words), 300)))
    return folder


def wish(model: str, **changes) -> Wish:
    options = {"tokens": 20_000, "backbone": BACKBONE, "batch_tokens": 768, "micro_batch": 4, "precision": "fp32"}
    return Wish(**{**options, "model": model, "learning_rate": 3e-3, **changes})


def source(files, model: str, **changes) -> Source:
    options = {
        "paths": (str(files),),
        "validation": 0.3,
        "validation_bytes": 4096,
        "family": (280,),
        "vocab_size": None,
    }
    return Source(**{**options, "tokenizer": tokenizer_of(model), **changes})


@pytest.mark.parametrize(
    "model, auto, measure, names",
    [
        ("word-pooled", AutoModelForCausalLM, NEXT, ["words", "bytes"]),
        ("mrt5", AutoModelForSeq2SeqLM, HIDDEN, ["mrt5", "byt5"]),
        ("byte2word", AutoModelForMaskedLM, HIDDEN, ["byte2word"]),
    ],
)
def test_every_model_is_fitted_judged_and_loads(files, tmp_path, model, auto, measure, names):
    facts = fit(source(files, model), wish(model), tmp_path / "run")
    assert list(facts["models"]) == names
    first = facts["models"][names[0]]
    assert (first["model"], first["measure"]) == (model, measure)
    assert 0 < first["bits_per_byte"] < 14  # hardly trained
    assert first["curve"][-1]["bits_per_byte"] < first["curve"][0]["bits_per_byte"]
    loaded = auto.from_pretrained(tmp_path / "run")
    assert loaded.num_parameters() == first["parameters"]
    assert AutoTokenizer.from_pretrained(tmp_path / "run") is not None
    operations = [each["training"]["flops"] / each["steps"] * each["steps"] for each in facts["models"].values()]
    assert max(operations) <= 1.1 * min(operations)


def test_a_word_pooled_model_writes(files, tmp_path):
    fit(source(files, "word-pooled", baseline=False), wish("word-pooled", tokens=4000), tmp_path / "run")
    written = continue_bytes(tmp_path / "run", (files / "00").read_bytes()[:50], max_new_tokens=12)
    assert len(written.data) == 12


def test_survivors_are_what_mrt5_keeps(files, tmp_path):
    fit(source(files, "mrt5", baseline=False), wish("mrt5", delete=0.6), tmp_path / "run")
    data = (files / "00").read_bytes()[:300]
    found = survivors(tmp_path / "run", data, window=100)
    assert found.kept.shape == (300,) and 0 < found.kept.sum() <= 300
    rates = found.rates()
    assert set(rates) == {"letters", "blanks"}
    letters = sum(byte != 32 for byte in data)
    assert found.deletion_rate == pytest.approx((rates["letters"] * letters + rates["blanks"] * (300 - letters)) / 300)
    with pytest.raises(InvalidInputError, match="no bytes"):
        survivors(tmp_path / "run", b"")


def test_interrupted_an_mrt5_goes_on_with_its_controller(files, tmp_path):
    def interrupt(what: str, step: int, steps: int) -> None:
        if what == "training the model" and step == 15:
            raise KeyboardInterrupt

    options = source(files, "mrt5", baseline=False), wish("mrt5")
    with pytest.raises(KeyboardInterrupt):
        fit(*options, tmp_path / "a", progress=interrupt)
    fit(*options, tmp_path / "a")
    fit(*options, tmp_path / "b")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_json(tmp_path / "a" / "fit.json")["models"]["mrt5"]["steps"] > 15


def test_tokenizers_that_do_not_fit_are_refused():
    assert tokenizer_of("llama", "some/path") == "some/path"
    assert [tokenizer_of(model) for model in MODELS] == ["bpe", "words", "bytes", "bytes", "bpe"]
    with pytest.raises(InvalidInputError, match="one of llama, word-pooled"):
        tokenizer_of("forest")
    with pytest.raises(InvalidInputError, match="mrt5 reads bytes"):
        tokenizer_of("mrt5", "bpe")
