import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import bits_per_byte, sample_blocks
from byteloom.tokenize import byte_tokenizer, train_bpe

CONTEXT = 8
DOCUMENTS = [b"abcabcabcabcxyzabc" * 3, b"q", b"", b"abcabcab", b"zzzzzzzzz", bytes(range(40))]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(DOCUMENTS, vocab_size=268, min_frequency=2)


@pytest.fixture(scope="module")
def model(bpe):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=bpe.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,  # far from uniform
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def slow_bits(model, ids, context, stride) -> float:
    """One token at a time: which tokens it sees follows from the definition alone."""
    stream, bits = [0, *ids], 0.0
    for target in range(1, len(stream)):
        end = min(context, len(ids))  # the window that scores this token ends before stream[end + 1]
        while end < target:
            end = min(end + stride, len(ids))
        seen = stream[max(0, end - context) : target]
        logits = model(input_ids=torch.tensor([seen])).logits[0, -1].double()
        bits -= torch.log_softmax(logits, -1)[stream[target]].item() / math.log(2)
    return bits


@pytest.mark.parametrize(("context", "stride", "batch"), [(None, None, 3), (8, 8, 4), (8, 1, 64), (5, 2, 1)])
def test_equals_the_slow_definition(model, bpe, context, stride, batch):
    result = bits_per_byte(model, bpe, DOCUMENTS, context=context, stride=stride, batch=batch)
    encoded = [bpe.encode(document).tolist() for document in DOCUMENTS]
    expected = sum(slow_bits(model, ids, context or CONTEXT, stride or CONTEXT // 2) for ids in encoded)
    assert result.bits == pytest.approx(expected, rel=1e-5)
    assert result.tokens == sum(map(len, encoded))
    assert result.bytes == sum(map(len, DOCUMENTS))
    assert result.bits_per_byte == pytest.approx(expected / result.bytes, rel=1e-5)


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_token(model, bpe):
    uniform = LlamaForCausalLM(model.config)
    torch.nn.init.zeros_(uniform.lm_head.weight)
    result = bits_per_byte(uniform, bpe, DOCUMENTS)
    assert result.bits_per_byte == pytest.approx(math.log2(bpe.vocab_size) * result.tokens / result.bytes)
    assert result.tokens < result.bytes


def test_the_model_is_left_in_its_mode_and_judged_without_dropout(model, bpe):
    config = LlamaConfig(**{**model.config.to_dict(), "attention_dropout": 0.5})
    dropping = LlamaForCausalLM(config)
    dropping.train()
    assert bits_per_byte(dropping, bpe, DOCUMENTS) == bits_per_byte(dropping, bpe, DOCUMENTS)
    assert dropping.training


def test_bad_sizes_and_nothing_to_judge(model, bpe):
    with pytest.raises(InvalidInputError, match="no bytes to judge"):
        bits_per_byte(model, bpe, [b"", b""])
    with pytest.raises(InvalidInputError, match="stride"):
        bits_per_byte(model, bpe, DOCUMENTS, stride=CONTEXT + 1)


def test_sampled_blocks_are_every_2_to_the_k_th():
    documents = [bytes([i]) * size for i, size in enumerate([1000, 10, 64, 0, 3000, 130])]
    blocks = [d[at : at + 64] for d in documents for at in range(0, len(d), 64)]
    assert sample_blocks(documents, 1 << 20, 64) == blocks
    for limit in (3000, 1500, 700, 64, 1):
        sample = sample_blocks(iter(documents), limit, 64)
        step = next(k for k in (1 << i for i in range(20)) if sum(map(len, blocks[::k])) <= limit or k >= len(blocks))
        assert sample == blocks[::step]
    assert sample_blocks([], 10) == []


def test_max_bytes_judges_the_sampled_blocks(model):
    tokenizer = byte_tokenizer()
    data = np.random.default_rng(0).integers(0, 256, 60_000, dtype=np.uint8).tobytes()
    small = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "max_position_embeddings": 256}))
    result = bits_per_byte(small, tokenizer, [data], max_bytes=20_000)
    assert result == bits_per_byte(small, tokenizer, [data[:16384]])
    assert result.bytes == 16384
