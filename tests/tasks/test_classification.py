from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from byteloom.corpus.labels import labelled_documents
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import read_json
from byteloom.tasks.classification import Classifier, LabelledSource, fit_classifier
from byteloom.train.plan import Backbone, Wish

WISH = Wish(tokens=60_000, backbone=Backbone(16, 2, 2, 64), batch_tokens=1024, precision="fp32", learning_rate=3e-3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two labels: low bytes and high bytes, files of 20 to 300 bytes."""
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(0)
    for label, low in (("high", 128), ("low", 0)):
        (folder / label).mkdir()
        for number in range(40):
            data = random.integers(low, low + 128, random.integers(20, 300), dtype=np.uint8)
            (folder / label / str(number)).write_bytes(data.tobytes())
    return folder


def fitted(files, folder, **changes):
    return fit_classifier(LabelledSource(str(files), **{"validation": 0.2, **changes}), WISH, folder)


@pytest.mark.parametrize("model, cut", [("byteformer", "head+tail"), ("llama", "fragment")])
def test_labels_are_learned_and_told(files, tmp_path, model, cut):
    facts = fitted(files, tmp_path, model=model, cut=cut)
    assert facts["labels"] == ["high", "low"]
    assert facts["held_out"] == 16 and facts["train"] == 64
    assert facts["accuracy"] == 1.0 and facts["recall"] == {"high": 1.0, "low": 1.0}
    assert np.array(facts["confusion"]).tolist() == [[8, 0], [0, 8]]
    assert facts == read_json(tmp_path / "fit.json")
    assert facts["curve"][-1]["nats"] < facts["curve"][0]["nats"]
    classifier = Classifier.load(tmp_path)
    assert classifier.labels == ("high", "low")
    high, low = (np.random.default_rng(1).integers(at, at + 128, 200, dtype=np.uint8).tobytes() for at in (128, 0))
    found = classifier.probabilities([high[:50], low, memoryview(high)])
    assert found.shape == (3, 2) and found.dtype == np.float32
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    assert found.argmax(1).tolist() == [0, 1, 0]
    _, held_out = labelled_documents(files).split(0.2)
    assert classifier.judge(held_out).accuracy == 1.0
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.id2label == {0: "high", 1: "low"}


def test_whole_files_are_seen_all_over(files, tmp_path):
    fitted(files, tmp_path, cut="fragment")
    classifier = Classifier.load(tmp_path)
    random = np.random.default_rng(1)
    mixed = random.integers(128, 256, 64, np.uint8).tobytes() + random.integers(0, 128, 6400, np.uint8).tobytes()
    assert classifier.probabilities([mixed[:64]]).argmax() == 0
    assert classifier.classify([mixed]).argmax() == 1


def test_interrupted_it_goes_on_to_the_same_weights(files, tmp_path):
    def interrupt(what: str, step: int, steps: int) -> None:
        if step == 20:
            raise KeyboardInterrupt

    source = LabelledSource(str(files), validation=0.2, cut="fragment")
    with pytest.raises(KeyboardInterrupt):
        fit_classifier(source, WISH, tmp_path / "a", progress=interrupt)
    fit_classifier(source, WISH, tmp_path / "a")
    fit_classifier(source, WISH, tmp_path / "b")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InvalidInputError, match="finished run"):
        fit_classifier(source, WISH, tmp_path / "a")


def test_bad_wishes_are_told(files, tmp_path):
    with pytest.raises(InvalidInputError, match="byteformer, llama"):
        LabelledSource(str(files), model="forest")
    with pytest.raises(InvalidInputError, match="a cut is one of"):
        LabelledSource(str(files), cut="middle")
    with pytest.raises(FileError, match="no classifier"):
        Classifier.load(files)
    fitted(files, tmp_path)
    with pytest.raises(InvalidInputError, match="window 1 is empty"):
        Classifier.load(tmp_path).probabilities([b"a", b""])
