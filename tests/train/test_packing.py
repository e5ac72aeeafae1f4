import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.train.packing import IGNORED, pack_documents

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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_sees_each_document_alone(attention: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    config._attn_implementation = attention
    model = LlamaForCausalLM(config).eval()
    packed = pack_documents(_documents([5, 9, 3, 12, 7, 8]), length=20, end_id=END, seed=0)
    logits_BTV = model(input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False).logits
    for row in range(len(packed)):
        starts = (packed.position_ids[row] == 0).nonzero().flatten().tolist()
        for start, stop in zip(starts, [*starts[1:], 20], strict=True):
            alone = model(input_ids=packed.input_ids[row : row + 1, start:stop], use_cache=False).logits[0]
            assert (alone - logits_BTV[row, start:stop]).abs().max() < 1e-5


def test_bad_input() -> None:
    with pytest.raises(InvalidInputError, match="no document"):
        pack_documents([], length=8, end_id=END, seed=0)
    with pytest.raises(InvalidInputError, match="length of 1"):
        pack_documents(_documents([3]), length=1, end_id=END, seed=0)
