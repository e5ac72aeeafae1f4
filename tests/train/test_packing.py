from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

from byteloom.errors import InvalidInputError
from byteloom.train.packing import IGNORED, PackedDataset, pack_documents

END = 4


def _documents(sizes: list[int]) -> list[np.ndarray]:
    """Documents whose ids are unique over all of them."""
    return np.split(np.arange(10, 10 + sum(sizes), dtype=np.uint32), np.cumsum(sizes)[:-1])


@settings(max_examples=100)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(2, 30), st.integers(0, 9))
def test_rows_are_full_and_give_the_documents_back(sizes: list[int], length: int, seed: int) -> None:
    documents = _documents(sizes)
    packed = pack_documents(documents, length=length, end_id=END, seed=seed)
    assert packed.input_ids.shape == packed.position_ids.shape == packed.labels.shape == (len(packed), length)
    found = []
    for row in range(len(packed)):
        ids, positions, labels = (packed[row][key].tolist() for key in ("input_ids", "position_ids", "labels"))
        starts = [i for i, position in enumerate(positions) if position == 0]
        assert starts[0] == 0
        for start, stop in zip(starts, [*starts[1:], length], strict=True):
            assert positions[start:stop] == list(range(stop - start))
            if row == len(packed) - 1 and stop == length and set(labels[start:stop]) == {IGNORED}:
                continue  # the padding of the last row, or an empty document
            assert labels[start] == IGNORED
            assert labels[start + 1 : stop] == ids[start + 1 : stop]
            assert ids[stop - 1] == END
            found.append(ids[start : stop - 1])
    wholes = {tuple(document.tolist()) for document in documents}
    for part in filter(None, found):
        assert any(tuple(part) == whole[: len(part)] for whole in wholes)
    if sum(sizes) + len(sizes) <= length:
        assert sorted(filter(None, found)) == sorted(d.tolist() for d in documents if len(d))


def test_little_is_lost_and_the_seed_decides() -> None:
    documents = _documents([38] * 2000)
    packed = pack_documents(documents, length=512, end_id=END, seed=1)
    assert (packed.labels[:-1] != IGNORED).float().mean() > 0.97
    assert torch.equal(packed.input_ids, pack_documents(documents, length=512, end_id=END, seed=1).input_ids)
    assert not torch.equal(packed.input_ids, pack_documents(documents, length=512, end_id=END, seed=2).input_ids)


def test_every_row_but_the_last_is_full() -> None:
    packed = pack_documents(_documents([25, 31, 74, 50] * 300), length=128, end_id=END, seed=1)
    assert (packed.input_ids.numel() - _padding(packed)) / packed.input_ids.numel() > 0.995


def _padding(packed: PackedDataset) -> int:
    """Ids behind the last document: the labels ignored at the end, without the start of a document."""
    labels = packed.labels[-1].tolist()
    return len(labels) - max(i + 1 for i, label in enumerate(labels) if label != IGNORED)


def test_boundaries_count_when_asked() -> None:
    documents = _documents([5, 9, 3])
    masked = pack_documents(documents, length=8, end_id=END, seed=0)
    official = pack_documents(documents, length=8, end_id=END, seed=0, mask_boundaries=False)
    assert torch.equal(masked.input_ids, official.input_ids)
    filled = official.labels != IGNORED
    assert torch.equal(official.labels[filled], official.input_ids[filled])
    assert torch.equal(masked.labels, torch.where(masked.position_ids == 0, IGNORED, official.labels))
    assert (~filled).sum() == _padding(official)


def _model(attention: str = "sdpa") -> LlamaForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    config._attn_implementation = attention
    return LlamaForCausalLM(config).eval()


def _rows(packed: PackedDataset, row: int) -> list[tuple[int, int]]:
    """Where each document of a row starts and stops."""
    starts = (packed.position_ids[row] == 0).nonzero().flatten().tolist()
    return list(pairwise([*starts, packed.position_ids.shape[1]]))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_sees_each_document_alone(attention: str) -> None:
    model = _model(attention)
    packed = pack_documents(_documents([5, 9, 3, 12, 7, 8]), length=20, end_id=END, seed=0)
    batch = default_data_collator([packed[row] for row in range(len(packed))])
    logits_BTV = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    for row in range(len(packed)):
        for start, stop in _rows(packed, row):
            alone = model(input_ids=batch["input_ids"][row : row + 1, start:stop], use_cache=False).logits[0]
            assert (alone - logits_BTV[row, start:stop]).abs().max() < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_are_those_of_documents_one_by_one(attention: str) -> None:
    packed = pack_documents(_documents([5, 9, 3, 12, 7, 8]), length=20, end_id=END, seed=0)
    batch = default_data_collator([packed[row] for row in range(len(packed))])
    together, alone = _model(attention), _model(attention)
    together(**batch, use_cache=False, num_items_in_batch=1).loss.backward()  # the sum over all tokens
    for row in range(len(packed)):
        for start, stop in _rows(packed, row):
            labels = batch["labels"][row : row + 1, start:stop]
            if (labels != IGNORED).any():
                ids = batch["input_ids"][row : row + 1, start:stop]
                alone(input_ids=ids, labels=labels, use_cache=False, num_items_in_batch=1).loss.backward()
    for mine, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        assert mine.grad is not None
        assert (mine.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm()


def test_the_trainer_takes_it(tmp_path: Path) -> None:
    packed = pack_documents(_documents([5, 9, 3, 12, 7, 8] * 4), length=20, end_id=END, seed=0)
    packed.input_ids.clamp_(max=199)
    packed.labels.clamp_(max=199)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, learning_rate=1e-2, logging_steps=1,
    )  # fmt: skip
    trainer = Trainer(_model(), arguments, train_dataset=packed, data_collator=default_data_collator)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_bad_input() -> None:
    with pytest.raises(InvalidInputError, match="no document"):
        pack_documents([], length=8, end_id=END, seed=0)
    with pytest.raises(InvalidInputError, match="length of 1"):
        pack_documents(_documents([3]), length=1, end_id=END, seed=0)
