import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from byteloom.errors import FileError, InvalidInputError
from byteloom.evaluate.bits_per_byte import bits_per_byte, sample_blocks
from byteloom.files import read_json, write_json
from byteloom.tasks import fit as module
from byteloom.tasks.fit import fit
from byteloom.tasks.prepare import Source
from byteloom.tokenize import byte_tokenizer, load_tokenizer, train_bpe
from byteloom.train.plan import Backbone, Wish

WISH = Wish(tokens=4096, backbone=Backbone(32, 1, 2, 32), batch_tokens=256, micro_batch=4, precision="fp32", seed=5)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(0)
    words = [random.integers(0, 256, size, dtype=np.uint8).tobytes() for size in random.integers(2, 9, 40)]
    for number in range(16):
        text = b"".join(words[i] for i in random.integers(0, len(words), 400))
        (folder / f"{number:02}").write_bytes(text)
    return folder


@pytest.fixture(scope="module")
def source(files) -> Source:
    return Source(paths=(str(files),), validation=0.3, validation_bytes=4096, family=(280, 300), vocab_size=290, seed=5)


@pytest.fixture(scope="module")
def fitted(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "model"
    fit(source, WISH, folder)
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def assert_same_result(one: Path, other: Path) -> None:
    assert weights(one) == weights(other)
    assert weights(one / "baseline") == weights(other / "baseline")
    first, second = read_json(one / "fit.json"), read_json(other / "fit.json")
    for kind in ("bpe", "bytes"):
        assert first["models"][kind]["bits_per_byte"] == second["models"][kind]["bits_per_byte"]
    assert first["compression"] == second["compression"]
    assert first["corpus"] == second["corpus"]


def test_what_a_fit_leaves(fitted, source):
    assert {path.name for path in fitted.iterdir()} == {
        *("fit.json", "report.html", "tokenizer.json", "tokenizer_config.json", "tokenizers", "samples"),
        *("config.json", "generation_config.json", "model.safetensors", "baseline"),
    }
    facts = read_json(fitted / "fit.json")
    assert facts["format"] == 1 and facts["seed"] == 5 and facts["paths"] == list(source.paths)
    corpus, tokenizer, models = facts["corpus"], facts["tokenizer"], facts["models"]
    assert corpus["files"] == corpus["train"]["files"] + corpus["validation"]["files"] == 16
    assert corpus["bytes"] == corpus["train"]["bytes"] + corpus["validation"]["bytes"]
    assert len(corpus["validation"]["names"]) == corpus["validation"]["files"] > 0
    assert (tokenizer["kind"], tokenizer["vocab_size"], tokenizer["family"]) == ("bpe", 290, [280, 290, 300])
    assert {row["vocab_size"] for row in facts["compression"]} == {263, 280, 290, 300}
    assert all(row["bytes"] == corpus["validation"]["bytes"] for row in facts["compression"] if row["group"] == "all")
    assert (models["bpe"]["folder"], models["bytes"]["folder"]) == (".", "baseline")
    for model in models.values():
        assert model["bytes_seen"] == round(model["tokens_seen"] * model["bytes_per_token"])
        assert model["validation_curve"][-1]["bits_per_byte"] == model["bits_per_byte"]
        assert 0 < model["bits_per_byte"] < 9


def test_both_models_have_one_backbone_and_equal_compute(fitted):
    models = read_json(fitted / "fit.json")["models"]
    assert models["bpe"]["config"] == models["bytes"]["config"]
    step = models["bytes"]["training"]["flops"] / models["bytes"]["steps"]
    assert abs(models["bpe"]["training"]["flops"] - models["bytes"]["training"]["flops"]) <= step / 2


def test_the_folder_loads_and_generates(fitted):
    import byteloom.tokenize.hf  # noqa: F401 - registers ByteTokenizer

    for folder, size in ((fitted, 290), (fitted / "baseline", 263)):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert len(tokenizer) == model.config.vocab_size == size
        ids = model.generate(**tokenizer(b"\x00\xff\x80", return_tensors="pt"), max_new_tokens=5, do_sample=False)
        assert tokenizer.decode_bytes(ids[0]).startswith(b"\x00\xff\x80")


def test_the_figure_is_that_of_the_saved_model_on_held_out_bytes(fitted):
    facts = read_json(fitted / "fit.json")
    documents = [Path(name).read_bytes() for name in facts["corpus"]["validation"]["names"]]
    blocks = sample_blocks(documents, 4096)
    for model, tokenizer in ((fitted, load_tokenizer(fitted)), (fitted / "baseline", byte_tokenizer())):
        judged = bits_per_byte(AutoModelForCausalLM.from_pretrained(model), tokenizer, blocks, stride=24)
        kind = "bytes" if model.name == "baseline" else "bpe"
        assert judged.bits_per_byte == facts["models"][kind]["bits_per_byte"]
        assert judged.bytes == facts["models"][kind]["validation_bytes"]


def test_the_family_is_nested_and_trained_on_the_training_part_alone(fitted, source):
    facts = read_json(fitted / "fit.json")
    held_out = set(facts["corpus"]["validation"]["names"])
    training = [path.read_bytes() for path in sorted(Path(source.paths[0]).iterdir()) if str(path) not in held_out]
    expected = train_bpe(training, vocab_size=300, seed=5)
    for size in (280, 290, 300):
        assert load_tokenizer(fitted / "tokenizers" / str(size)) == expected.truncate(size)
    assert load_tokenizer(fitted) == expected.truncate(290)


def test_samples_are_held_out_documents(fitted):
    samples = read_json(fitted / "samples" / "samples.json")
    names = read_json(fitted / "fit.json")["corpus"]["validation"]["names"]
    assert 0 < len(samples) <= 8
    for sample in samples:
        assert sample["name"] in names
        assert (fitted / "samples" / sample["file"]).read_bytes() == Path(sample["name"]).read_bytes()


def test_interrupted_anywhere_it_goes_on_to_the_same_result(fitted, source, tmp_path):
    seen: set[str] = set()

    def interrupt(what: str, done: int, total: int) -> None:
        if what not in seen and (total == 0 or done >= total / 2):
            seen.add(what)
            raise KeyboardInterrupt

    for _ in range(20):
        try:
            fit(source, WISH, tmp_path / "model", progress=interrupt)
            break
        except KeyboardInterrupt:
            assert not (tmp_path / "model" / "fit.json").exists()
    assert {"training the tokenizer", "packing tokens", "packing bytes", module.LABEL, module.LABELS["bytes"]} <= seen
    assert_same_result(tmp_path / "model", fitted)


def test_killed_in_mid_training_the_same_command_gives_the_same_result(fitted, source, tmp_path):
    folder = tmp_path / "model"
    options = ["--validation", "0.3", "--validation-kb", "4", "--family", "280,300", "--vocab-size", "290"]
    options += ["--tokens", "4096", "--hidden-size", "32", "--layers", "1", "--heads", "2", "--context", "32"]
    options += ["--batch-tokens", "256", "--micro-batch", "4", "--precision", "fp32", "--seed", "5"]
    command = [sys.executable, "-m", "byteloom", "fit", *source.paths, "-o", str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    with pytest.raises(KeyboardInterrupt):  # leaves a plan, into which frequent checkpoints are written

        def interrupt(what: str, done: int, total: int) -> None:
            if what in (module.LABEL, *module.LABELS.values()):
                raise KeyboardInterrupt

        fit(source, WISH, folder, progress=interrupt)
    plans = read_json(folder / ".work" / "plan.json")
    write_json(folder / ".work" / "plan.json", {kind: {**plan, "save_steps": 1} for kind, plan in plans.items()})

    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    checkpoints = folder / ".work" / "bpe" / "checkpoints"
    while process.poll() is None and not any(checkpoints.glob("checkpoint-[3-9]/trainer_state.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert not (folder / ".work" / "bpe" / "trained.json").exists()

    resumed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "raw bytes" in resumed.stdout and "report.html" in resumed.stdout
    assert_same_result(folder, fitted)


def test_a_folder_that_holds_something_else_is_refused(fitted, source, tmp_path):
    with pytest.raises(InvalidInputError, match="holds a finished run; name another folder or add --overwrite"):
        fit(source, WISH, fitted)
    (tmp_path / "notes").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InvalidInputError, match="holds other files"):
            fit(source, WISH, tmp_path, overwrite=overwrite)
    with pytest.raises(FileError, match="is a file, not a folder"):
        fit(source, WISH, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"


def test_other_options_are_refused_and_overwrite_clears_only_our_files(source, tmp_path):
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(source, WISH, tmp_path / "run", progress=interrupt)
    other = replace(source, vocab_size=280)
    with pytest.raises(InvalidInputError, match="unfinished run with another vocab_size, tokens"):
        fit(other, replace(WISH, tokens=512), tmp_path / "run")
    (tmp_path / "run" / "notes").write_text("mine")
    facts = fit(other, replace(WISH, tokens=512), tmp_path / "run", overwrite=True, keep_work=True)
    assert facts["models"]["bpe"]["vocab_size"] == 280
    assert (tmp_path / "run" / "notes").read_text() == "mine"
    assert (tmp_path / "run" / ".work" / "plan.json").exists()
    with pytest.raises(InvalidInputError, match="holds a finished run"):
        fit(other, replace(WISH, tokens=512), tmp_path / "run")


def test_raw_bytes_alone(source, tmp_path):
    facts = fit(replace(source, tokenizer="bytes", vocab_size=None), replace(WISH, tokens=512), tmp_path / "run")
    assert facts["tokenizer"]["kind"] == "bytes"
    assert list(facts["models"]) == ["bytes"] and facts["models"]["bytes"]["folder"] == "."
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").config.vocab_size == 263
    assert not (tmp_path / "run" / "baseline").exists() and not (tmp_path / "run" / "tokenizers").exists()


def test_a_given_tokenizer_without_a_baseline(fitted, source, tmp_path):
    path = tmp_path / "tokenizer"
    shutil.copytree(fitted / "tokenizers" / "300", path)
    given = replace(source, tokenizer=str(path), vocab_size=None, baseline=False)
    facts = fit(given, replace(WISH, tokens=512), tmp_path / "run")
    assert list(facts["models"]) == ["bpe"]
    assert load_tokenizer(tmp_path / "run") == load_tokenizer(path)
    assert facts["tokenizer"]["training_mb_per_s"] is None and facts["tokenizer"]["encode_mb_per_s"] > 0


def test_a_tokenizer_without_our_special_tokens_is_refused(source, tmp_path):
    train_bpe([b"abab" * 99], vocab_size=260, special_tokens=["<|other|>"]).save(tmp_path / "other")
    with pytest.raises(InvalidInputError, match=r"does not begin with <\|start\|>, <\|end\|>, <\|pad\|>"):
        fit(replace(source, tokenizer=str(tmp_path / "other"), vocab_size=None), WISH, tmp_path / "run")


def test_a_corpus_that_supports_fewer_tokens_gives_what_it_supports(source, tmp_path):
    large = replace(source, family=(60_000,), vocab_size=60_000, baseline=False)
    facts = fit(large, replace(WISH, tokens=512), tmp_path / "run")
    reached = facts["tokenizer"]["vocab_size"]
    assert facts["tokenizer"]["family"] == [reached]
    assert 263 < reached < 60_000
    assert facts["notes"] == [f"the corpus supports {reached:,} tokens, so the vocabulary has {reached:,}"]


def test_a_wished_time_ends_after_a_few_passes_over_a_small_corpus(source, tmp_path):
    facts = fit(replace(source, baseline=False), replace(WISH, tokens=None, minutes=1000.0), tmp_path / "run")
    assert facts["notes"] == ["training stopped after 4 passes over the corpus; more data, not more time, would help"]


def test_too_little_to_train_on(files, source, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no document"):
        fit(replace(source, paths=(str(tmp_path / "empty"),)), WISH, tmp_path / "a")
    one = str(files / "00")
    with pytest.raises(InvalidInputError, match="of the 1 documents found none fell to"):
        fit(replace(source, paths=(one,)), WISH, tmp_path / "b")
    wide = replace(WISH, backbone=Backbone(32, 1, 2, 1 << 17))
    with pytest.raises(InvalidInputError, match="less than one window of 131072"):
        fit(source, wide, tmp_path / "c")


def test_it_runs_under_torchrun(fitted, source, tmp_path):
    options = ["--validation", "0.3", "--validation-kb", "4", "--family", "280,300", "--vocab-size", "290"]
    options += ["--tokens", "4096", "--hidden-size", "32", "--layers", "1", "--heads", "2", "--context", "32"]
    options += ["--batch-tokens", "256", "--micro-batch", "4", "--precision", "fp32", "--seed", "5", "--json"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "byteloom"]
    run = subprocess.run(
        [*command, "fit", *source.paths, "-o", str(tmp_path / "run"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert facts["models"]["bpe"]["training"]["processes"] == 2
    one = read_json(fitted / "fit.json")["models"]
    for kind, model in facts["models"].items():  # the same windows in each step, added in another order
        assert model["bits_per_byte"] == pytest.approx(one[kind]["bits_per_byte"], abs=1e-3)
