import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from byteloom.errors import FileError
from byteloom.tokenize import byte_tokenizer, train_bpe
from byteloom.train.objectives import NextToken, count_flops
from byteloom.train.plan import Backbone, Plan
from byteloom.train.shards import Shards, read_shards, write_shards
from byteloom.train.trainer import last_checkpoint, tokens_per_second, train_model

PLAN = Plan(
    backbone=Backbone(hidden_size=32, layers=2, heads=2, context=32),
    vocab_size=263,
    steps=12,
    micro_batch=2,
    accumulation=2,
    world_size=1,
    learning_rate=3e-3,
    precision="fp32",
    device="cpu",
    threads=1,
    seed=3,
    fsdp=False,
    log_steps=1,
    save_steps=4,
    flops_per_token=1,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Shards:
    data = np.random.default_rng(0).integers(0, 8, 40_000, dtype=np.uint8).tobytes()
    return write_shards([data], byte_tokenizer(), tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def unbroken(shards, tmp_path_factory):
    return train_model(
        PLAN, NextToken(byte_tokenizer(), shards), tmp_path_factory.mktemp("unbroken"), judge=lambda model: 5.0
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def points(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in point.items() if key != "seconds"} for point in curve]


def test_training_learns_and_leaves_a_model_and_its_curves(shards, unbroken):
    model = AutoModelForCausalLM.from_pretrained(unbroken.folder)
    assert model.num_parameters() == PLAN.backbone.parameters(263)
    assert [point["step"] for point in unbroken.curve] == list(range(1, 13))
    first, last = unbroken.curve[0], unbroken.curve[-1]
    assert first["bits_per_byte"] == pytest.approx(np.log2(263), abs=1.5)  # knows nothing yet
    assert last["bits_per_byte"] < first["bits_per_byte"] - 0.5
    assert last["tokens"] == 12 * 2 * 2 * 32
    assert last["bytes"] == round(last["tokens"] * shards.bytes / shards.tokens)
    assert [(point["step"], point["bits_per_byte"]) for point in unbroken.validation_curve] == [
        (3, 5.0),
        (6, 5.0),
        (9, 5.0),
    ]
    seconds = [point["seconds"] for point in unbroken.curve]
    assert seconds == sorted(seconds) and unbroken.seconds >= seconds[-1]
    assert sorted(path.name for path in unbroken.folder.parent.iterdir()) == ["model", "trained.json"]


def test_a_finished_training_is_only_read(shards, unbroken):
    def refuse(*_):
        raise AssertionError("trained again")

    again = train_model(
        PLAN, NextToken(byte_tokenizer(), shards), unbroken.folder.parent, judge=refuse, progress=refuse
    )
    assert again == unbroken


def test_killed_in_mid_training_it_ends_with_the_same_bits(shards, unbroken, tmp_path):
    script = f"""
import json, os, signal, sys
from pathlib import Path
from byteloom.train.objectives import NextToken
from byteloom.train.plan import Plan
from byteloom.train.shards import read_shards
from byteloom.tokenize import byte_tokenizer
from byteloom.train.trainer import train_model

def die(what, step, steps):
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)

plan = Plan.from_json(json.loads({json.dumps(json.dumps(PLAN.to_json()))}))
shards = read_shards(Path({str(shards.folder)!r}))
train_model(plan, NextToken(byte_tokenizer(), shards), Path({str(tmp_path)!r}), judge=lambda m: 5.0, progress=die)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert last_checkpoint(tmp_path / "checkpoints").name == "checkpoint-4"
    steps = []
    resumed = train_model(
        PLAN,
        NextToken(byte_tokenizer(), shards),
        tmp_path,
        judge=lambda model: 5.0,
        progress=lambda what, step, all_: steps.append(step),
    )
    assert steps == list(range(5, 13))
    assert_same(resumed.folder, unbroken.folder)
    assert points(resumed.curve) == points(unbroken.curve)
    assert points(resumed.validation_curve) == points(unbroken.validation_curve)


def test_interrupted_before_and_between_checkpoints(shards, unbroken, tmp_path):
    for stop in (2, 6, 10):

        def interrupt(what, step, steps, stop=stop):
            if step == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_model(
                PLAN, NextToken(byte_tokenizer(), shards), tmp_path, judge=lambda model: 5.0, progress=interrupt
            )
    finished = train_model(PLAN, NextToken(byte_tokenizer(), shards), tmp_path, judge=lambda model: 5.0)
    assert_same(finished.folder, unbroken.folder)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, state in {4: '{"global_step": 4}', 8: '{"global_st', 12: None}.items():
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-old").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_bf16_trains_too(shards, tmp_path):
    trained = train_model(
        replace(PLAN, precision="bf16"), NextToken(byte_tokenizer(), shards), tmp_path, judge=lambda model: 5.0
    )
    assert trained.curve[-1]["bits_per_byte"] < trained.curve[0]["bits_per_byte"] - 0.5
    assert weights(trained.folder)["model.norm.weight"].dtype == torch.float32


def test_a_full_disk_is_one_sentence(shards, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # the model needs more
    try:
        with pytest.raises(FileError, match=r"cannot write the model to .*free some space and run again"):
            train_model(PLAN, NextToken(byte_tokenizer(), shards), tmp_path, judge=lambda model: 5.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_speed_is_measured(shards):
    objective = NextToken(byte_tokenizer(), shards)
    assert tokens_per_second(objective, PLAN.backbone, 2, "fp32", device="cpu", threads=1) > 100


def test_counted_operations_are_those_of_the_formula(shards):
    """But for attention, of which the formula takes the half that a causal mask leaves."""
    objective, backbone = NextToken(byte_tokenizer(), shards), PLAN.backbone
    counted = count_flops(objective, backbone)
    attention = 6 * backbone.layers * backbone.context * backbone.hidden_size
    assert counted == pytest.approx(objective.flops_per_token(backbone) + attention, rel=0.02)


@pytest.mark.parametrize("fsdp", [False, True])
def test_two_processes_train_as_one(shards, unbroken, tmp_path, fsdp):
    plan = replace(PLAN, world_size=2, accumulation=1, fsdp=fsdp)
    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from byteloom.tokenize import byte_tokenizer\n"
        "from byteloom.train.objectives import NextToken\n"
        "from byteloom.train.plan import Plan\n"
        "from byteloom.train.processes import part\n"
        "from byteloom.train.shards import read_shards\n"
        "from byteloom.train.trainer import train_model\n"
        "plan = Plan.from_json(json.loads(sys.argv[1]))\n"
        "shards = read_shards(Path(sys.argv[2]))\n"
        "train_model(plan, NextToken(byte_tokenizer(), shards), Path(sys.argv[3]), judge=lambda model: 5.0)\n"
        "part()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    arguments = [json.dumps(plan.to_json()), str(shards.folder), str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    one, two = weights(unbroken.folder), weights(tmp_path / "run" / "model")
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    assert read_shards(shards.folder) == shards


def test_merged_tokens_begin_as_the_mean_of_their_parts(tmp_path):
    data = np.random.default_rng(0).integers(0, 8, 20_000, dtype=np.uint8).tobytes()
    tokenizer = train_bpe([data], vocab_size=300)
    plan = replace(PLAN, vocab_size=300, steps=1, learning_rate=0.0)
    shards = write_shards([data], tokenizer, tmp_path / "shards")
    trained = train_model(plan, NextToken(tokenizer, shards), tmp_path, judge=lambda model: 5.0)
    table = weights(trained.folder)["model.embed_tokens.weight"]
    for merged, (left, right) in enumerate(tokenizer.merges.tolist(), start=263):
        assert torch.equal(table[merged], (table[left] + table[right]) / 2)
