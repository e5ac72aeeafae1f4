"""A causal language model as a ByteModel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.models.byte_model import CausalByteModel
from byteloom.tokenize import EqualInfoTokenizer, byte_tokenizer, train_equal_info
from byteloom.tokenize.arithmetic import compress, decompress
from byteloom.tokenize.byte_model import checked_cumulative, quantise
from byteloom.tokenize.windows import WindowCoder

WINDOW = 8


@pytest.fixture(scope="module")
def model() -> CausalByteModel:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=263, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=WINDOW, initializer_range=0.5,
    )  # fmt: skip
    return CausalByteModel(LlamaForCausalLM(config), batch=3)


def test_tables_are_the_softmax_over_bytes(model: CausalByteModel) -> None:
    text = b"abcdefghijkl"
    prefixes = [text[:size] for size in (0, 3, 7, 8, 12, 3, 3, 3)]
    tables = checked_cumulative(model, prefixes)
    for prefix, table in zip(prefixes, tables, strict=True):
        ids = [0, *byte_tokenizer().encode(prefix).tolist()][-WINDOW:]
        with torch.no_grad():
            logits = model.model.eval()(torch.tensor([ids])).logits[0, -1, 7:].double()
        expected = quantise(logits.softmax(-1)[None].numpy())[0]
        assert np.abs(table.astype(int) - expected.astype(int)).max() <= 8  # a batch changes last bits
    assert np.array_equal(tables[3][1:], model.cumulative([text[:8]])[0][1:])


def test_a_prefix_counts_no_farther_than_the_context(model: CausalByteModel) -> None:
    assert model.context == WINDOW
    assert np.array_equal(model.cumulative([b"x" + b"abcdefgh"]), model.cumulative([b"abcdefgh"]))


def test_the_mode_of_the_model_is_kept(model: CausalByteModel) -> None:
    model.model.train()
    model.cumulative([b""])
    assert model.model.training


def test_files_windows_and_dictionaries(model: CausalByteModel) -> None:
    text = b"some text, \xff\x00 and more"
    assert decompress(compress(text, model), model) == text
    coder = WindowCoder(model)
    assert coder.decode(coder.encode(text)) == text
    tokenizer = train_equal_info([text], vocab_size=400, model=model, prune=False)
    assert tokenizer.vocab_size == 400
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bad_input(model: CausalByteModel) -> None:
    with pytest.raises(InvalidInputError, match="263 token embeddings"):
        CausalByteModel(model.model, byte_tokenizer().with_special_tokens(["<|more|>"]))
    with pytest.raises(InvalidInputError, match="an id for every byte"):
        CausalByteModel(model.model, EqualInfoTokenizer([bytes([b]) for b in range(256)], []))
