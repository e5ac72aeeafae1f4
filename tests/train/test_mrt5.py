from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments

from byteloom.errors import InvalidInputError
from byteloom.models.mrt5 import BYTE_0, END, SENTINEL_0, MrT5Config, MrT5ForConditionalGeneration
from byteloom.train.mrt5 import (
    DeletionControl,
    DeletionController,
    DeletionTarget,
    SpanCorruption,
    raw_length,
    span_corruption,
)

torch.set_num_threads(1)


def restored(inputs: np.ndarray, targets: np.ndarray) -> bytes:
    """The bytes that span corruption took: each sentinel replaced by what follows it in the targets."""
    assert inputs[-1] == targets[-1] == END
    spans: dict[int, list[int]] = {}
    for token in targets[:-1].tolist():
        if token >= SENTINEL_0:
            spans[token] = []
            last = token
        else:
            spans[last].append(token)
    found = []
    for token in inputs[:-1].tolist():
        found += spans[token] if token >= SENTINEL_0 else [token]
    return bytes(token - BYTE_0 for token in found)


@settings(deadline=None)
@given(st.binary(min_size=30, max_size=400), st.sampled_from([0.15, 0.4]), st.sampled_from([1.5, 4.0, 20.0]))
def test_what_is_hidden_is_in_the_targets(data, density, mean_span):
    inputs, targets = span_corruption(data, 128, density, mean_span, np.random.default_rng(0))
    whole = restored(inputs, targets)
    assert data.startswith(whole) and len(inputs) <= 128
    assert len(whole) == min(len(data), raw_length(128, density, mean_span))


def test_lengths_are_those_of_the_paper():
    data = bytes(range(256)) * 6
    inputs, targets = span_corruption(data, 1024, 0.15, 20, np.random.default_rng(0))
    assert (len(inputs), len(targets)) == (1024, 189)
    assert raw_length(1024, 0.15, 20) == 1193


def test_impossible_corruption_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidInputError, match="shorten the sequence or lengthen mean_span"):
        span_corruption(bytes(4000), 4000, 0.15, 1.0, rng)
    with pytest.raises(InvalidInputError, match="too few"):
        span_corruption(b"a", 100, 0.15, 4, rng)
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        SpanCorruption(100, 1.0)


def test_the_controller_reaches_its_target():
    controller = DeletionController(DeletionTarget(0.6, ki=1e-3))
    total = 0.0
    for _ in range(4000):
        rate = 1 / (1 + math.exp(-0.1 * total + 2))
        total += controller.update(rate) if rate < 0.6 else controller.update(rate) - 0.05
        assert controller.alpha >= 0
    assert rate == pytest.approx(0.6, abs=0.01)


def test_a_controller_goes_on_where_another_was():
    rates = np.random.default_rng(0).random(60).tolist()
    whole, first = (DeletionController(DeletionTarget(0.5, ki=1e-2, delay=10)) for _ in range(2))
    expected = [whole.update(rate) for rate in rates]
    assert expected[:10] == [0.0] * 10
    for rate in rates[:25]:
        first.update(rate)
    second = DeletionController(DeletionTarget(0.5, ki=1e-2, delay=10))
    second.load_state_dict(first.state_dict())
    assert [second.update(rate) for rate in rates[25:]] == expected[25:]
    with pytest.raises(InvalidInputError, match="from 0 to below 1"):
        DeletionTarget(1.0)


class _Documents(torch.utils.data.Dataset):
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, item: int) -> dict:
        words = np.random.default_rng(item).choice([b"some ", b"words ", b"again "], 20)
        return {"document": b"".join(words.tolist()), "item": item}


def trained(folder, steps: int, stop: int | None = None, resume: bool = False, evaluate: bool = False):
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
    model = MrT5ForConditionalGeneration(MrT5Config(**shape, delete_gate_layer=1, dropout_rate=0.0))
    control = DeletionControl(DeletionTarget(0.5, ki=0.02))
    collator = SpanCorruption(48, 0.15, 3.0)

    def collate(items):
        return collator([item["document"] for item in items], np.random.default_rng(items[0]["item"]))

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        save_steps=6,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_strategy="no",
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=_Documents(400),
        eval_dataset=_Documents(4),
        data_collator=collate,
        compute_loss_func=control.loss,
        callbacks=[control],
    )
    trainer.train(resume_from_checkpoint=True if resume else None)
    return control.controller.state_dict(), model


def test_in_the_trainer_it_moves_once_a_step_and_survives_a_checkpoint(tmp_path):
    whole, model = trained(tmp_path / "whole", 12)
    assert whole["steps"] == 12 and whole["alpha"] > 0
    judged, _ = trained(tmp_path / "judged", 12, evaluate=True)
    assert judged == whole  # evaluation does not move it
    trained(tmp_path / "broken", 6)
    resumed, again = trained(tmp_path / "broken", 12, resume=True)
    assert resumed == whole
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_hard_deletion_cannot_be_trained():
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
    model = MrT5ForConditionalGeneration(MrT5Config(**shape, delete_gate_layer=1))
    batch = SpanCorruption(48, 0.15, 3.0)([b"some words again " * 5], np.random.default_rng(0))
    gate = torch.zeros(1, batch["input_ids"].shape[1])
    gate[0, ::2] = -30
    with pytest.raises(InvalidInputError, match="learns nothing from hard deletion"):
        DeletionControl(DeletionTarget(0.5)).loss(model(**batch, hard_delete=True, gate=gate), batch["labels"])
