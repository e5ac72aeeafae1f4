import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.models.embeddings import compose_embeddings, permute_embeddings, resize_embeddings
from byteloom.tokenize import BPE, byte_tokenizer, export_unordered, train_bpe

DATA = np.random.default_rng(0).integers(0, 4, 20_000, dtype=np.uint8).tobytes()


@pytest.fixture(scope="module")
def large() -> BPE:
    return train_bpe([DATA], vocab_size=300, min_frequency=2)


def build(vocab_size: int, tied: bool) -> LlamaForCausalLM:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
        )
    )


@pytest.mark.parametrize("tied", [True, False])
def test_old_logits_stay_and_new_rows_are_means_of_their_parts(large, tied):
    small = large.truncate(280)
    model = build(small.vocab_size, tied)
    ids_BT = torch.from_numpy(small.encode(DATA[:60]).astype(np.int64))[None]
    with torch.no_grad():
        before_BTV = model(input_ids=ids_BT).logits
        resize_embeddings(model, small, large)
        after_BTV = model(input_ids=ids_BT).logits
    assert after_BTV.shape[-1] == model.config.vocab_size == large.vocab_size
    assert (after_BTV[..., : small.vocab_size] - before_BTV).abs().max() == 0
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        for row in range(small.vocab_size, large.vocab_size):
            left, right = large.merges[row - byte_tokenizer().vocab_size].tolist()
            assert torch.equal(table[row], (table[left] + table[right]) / 2)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_an_output_bias_grows_too(large):
    small = large.truncate(270)
    model = build(small.vocab_size, tied=False)
    model.lm_head = torch.nn.Linear(16, small.vocab_size, bias=True)
    bias = model.lm_head.bias.detach().clone()
    resize_embeddings(model, small, large)
    assert torch.equal(model.lm_head.bias[: small.vocab_size], bias)
    left, right = large.merges[270 - 263].tolist()
    assert model.lm_head.bias[270] == (model.lm_head.bias[left] + model.lm_head.bias[right]) / 2


def test_foreign_tokenizers_and_models_are_refused(large):
    small = large.truncate(280)
    other = train_bpe([DATA[::-1] + b"other" * 3000], vocab_size=300, min_frequency=2)
    with pytest.raises(InvalidInputError, match="does not begin with the old one's tokens"):
        resize_embeddings(build(280, True), small, other)
    with pytest.raises(InvalidInputError, match="does not begin with the old one's tokens"):
        resize_embeddings(build(300, True), large, small)
    with pytest.raises(InvalidInputError, match="290 token embeddings, but the tokenizer 280"):
        resize_embeddings(build(290, True), small, large)


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_model_composed_is_one_that_was_grown_from_bytes(large, tied):
    composed, grown = build(large.vocab_size, tied), build(263, tied)
    grown.get_input_embeddings().weight.data.copy_(composed.get_input_embeddings().weight[:263])
    grown.get_output_embeddings().weight.data.copy_(composed.get_output_embeddings().weight[:263])
    compose_embeddings(composed, large)
    resize_embeddings(grown, byte_tokenizer(), large)
    for table in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(composed, table)().weight, getattr(grown, table)().weight)
    with pytest.raises(InvalidInputError, match="300 token embeddings, but the tokenizer 280"):
        compose_embeddings(composed, large.truncate(280))


@pytest.mark.parametrize("tied", [True, False])
def test_logits_for_permuted_ids_are_the_permuted_logits(large, tied):
    _, permutation = export_unordered(large, seed=3)
    new_ids = torch.from_numpy(permutation.astype(np.int64))
    model = build(large.vocab_size, tied)
    ids_BT = torch.from_numpy(large.encode(DATA[:60]).astype(np.int64))[None]
    with torch.no_grad():
        before_BTV = model(input_ids=ids_BT).logits
        permute_embeddings(model, permutation)
        after_BTV = model(input_ids=new_ids[ids_BT]).logits
    assert (after_BTV[..., new_ids] - before_BTV).abs().max() == 0
    assert not torch.equal(after_BTV, before_BTV)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_what_is_no_permutation_is_refused(large):
    model = build(300, tied=True)
    for wrong in (np.arange(299), np.arange(300) // 2, np.arange(300)[None]):
        with pytest.raises(InvalidInputError, match="give a permutation of the model's 300 ids"):
            permute_embeddings(model, wrong)
    model.config.eos_token_id = 299
    with pytest.raises(InvalidInputError, match="moves the eos_token_id"):
        permute_embeddings(model, np.r_[np.arange(290), np.arange(290, 300)[::-1]])
