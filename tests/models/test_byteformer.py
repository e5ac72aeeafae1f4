from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from byteloom.errors import InvalidInputError
from byteloom.models.byteformer import (
    PADDING,
    Block,
    ByteFormerConfig,
    ByteFormerForSequenceClassification,
    Merge,
    collate_bytes,
)
from tests.reference import byteformer as reference

torch.set_num_threads(1)

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "kernel_size": 4,
    "window_size": 8,
    "merge_after": (0, 2),
    "max_tokens": 600,
}


@cache
def classifier(**changes: object) -> ByteFormerForSequenceClassification:
    torch.manual_seed(0)
    model = ByteFormerForSequenceClassification(ByteFormerConfig(**{**SHAPE, "num_labels": 3, **changes})).eval()
    for block in model.byteformer.blocks:
        block.qkv.weight.data *= 4  # attention far from uniform
    return model


def random_bytes(length: int, seed: int = 0) -> bytes:
    generator = torch.Generator().manual_seed(seed + length)
    return bytes(torch.randint(256, (length,), generator=generator).tolist())


def logits(model: nn.Module, *documents: bytes) -> torch.Tensor:
    with torch.no_grad():
        return model(**collate_bytes(documents, 1 << 20)).logits


LENGTHS = [*range(1, 15), 31, 33, 34, 35, 127, 128, 129, 130, 255, 256, 257, 511, 513]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_file_alone_is_judged_as_beside_longer_ones(length):
    data = random_bytes(length)
    alone = logits(classifier(), data)[0]
    for longer in (length + 1, length + 7, 2 * length + 40):
        beside = logits(classifier(), random_bytes(longer, seed=9), data)[1]
        assert torch.allclose(alone, beside, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=4))
def test_hidden_states_are_those_of_the_literal_model(documents):
    model = classifier().byteformer
    with torch.no_grad():
        output = model(**collate_bytes(documents, 1 << 20))
        for row, data in enumerate(documents):
            expected = reference.forward(model, data)
            assert output.mask[row].sum() == len(expected)
            assert torch.allclose(output.last_hidden_state[row, : len(expected)], expected, atol=2e-5)


@pytest.mark.parametrize("number", [0, 1])  # unshifted, shifted
@pytest.mark.parametrize("count", [1, 7, 8, 9, 31])
def test_window_attention_is_dense_attention_under_a_mask(count, number):
    torch.manual_seed(count)
    block = Block(ByteFormerConfig(**SHAPE), number)
    x_BTD = torch.randn(2, count, 16)
    lengths = [count, max(1, count - 3)]
    got = block.attend(x_BTD, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        assert torch.allclose(got[row, :length], reference.attend(block, x_BTD[row], length)[:length], atol=1e-5)


def test_one_window_is_a_plain_transformer_block():
    torch.manual_seed(0)
    block = Block(ByteFormerConfig(**SHAPE, dropout=0.0), 0).eval()
    plain = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    pairs = {
        "self_attn.in_proj_weight": block.qkv.weight,
        "self_attn.in_proj_bias": block.qkv.bias,
        "self_attn.out_proj.weight": block.output.weight,
        "self_attn.out_proj.bias": block.output.bias,
        "linear1.weight": block.up.weight,
        "linear1.bias": block.up.bias,
        "linear2.weight": block.down.weight,
        "linear2.bias": block.down.bias,
    }
    plain.load_state_dict(plain.state_dict() | pairs)
    x_BTD = torch.randn(3, 8, 16)
    assert torch.allclose(block(x_BTD, torch.tensor([8, 8, 8])), plain(x_BTD), atol=1e-5)


def test_merging_with_the_left_token_only_takes_every_second_token():
    merge = Merge(4)
    merge.norm = nn.Identity()
    merge.reduction.weight.data = torch.cat([torch.eye(4), torch.zeros(4, 4)], 1)
    x_BTD = torch.randn(2, 5, 4)
    merged, lengths = merge(x_BTD, torch.tensor([5, 2]))
    assert lengths.tolist() == [3, 1]
    assert torch.equal(merged[0], x_BTD[0, ::2])
    assert torch.equal(merged[1, 0], x_BTD[1, 0])
    assert not merged[1, 1:].any()  # padding


def test_renaming_the_byte_values_changes_nothing():
    model, renamed = classifier(), ByteFormerForSequenceClassification(classifier().config).eval()
    renamed.load_state_dict(model.state_dict())
    order = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    renamed.byteformer.tokens.embedding.data[order] = model.byteformer.tokens.embedding.data[:256]
    data = random_bytes(100)
    assert torch.equal(logits(model, data), logits(renamed, bytes(order[list(data)].tolist())))


def test_lengths_and_parameters_are_those_of_the_paper():
    config = ByteFormerConfig.tiny(kernel_size=32, max_tokens=9417, num_labels=1000)
    with torch.device("meta"):
        model = ByteFormerForSequenceClassification(config)
    d, layers, merges = 192, 12, 6
    expected = 257 * d + 32 * d * d + 9417 * d + layers * (12 * d * d + 13 * d) + merges * (2 * d * d + 2 * d)
    assert sum(p.numel() for p in model.parameters()) == expected + 2 * d + d * 1000 + 1000
    count = 1 + -(-(150_668 - 32) // 16)
    assert count == 9416
    for _ in range(merges):
        count = -(-count // 2)
    assert count <= 148


@pytest.mark.parametrize("length, count", [(1, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3), (200, 99)])
def test_every_byte_lies_in_a_token(length, count):
    x_BTD, lengths = classifier().byteformer.tokens(torch.zeros(1, length, dtype=torch.int64), torch.tensor([length]))
    assert x_BTD.shape[1] == lengths.item() == count


def test_padding_gets_no_gradient_and_stays_zero():
    model = ByteFormerForSequenceClassification(classifier().config)
    batch = collate_bytes([random_bytes(5), random_bytes(50)], 100)
    model(**batch, labels=torch.tensor([0, 2])).loss.backward()
    gradient = model.byteformer.tokens.embedding.grad
    assert not gradient[PADDING].any()
    assert gradient[:PADDING].any()
    assert not model.byteformer.tokens.embedding[PADDING].any()


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_the_table_is_embedding_and_convolution(size):
    model = classifier(kernel_size=size).byteformer
    data = random_bytes(77)
    with torch.no_grad():
        assert torch.allclose(
            model(**collate_bytes([data], 100)).last_hidden_state[0], reference.forward(model, data), atol=1e-5
        )


def test_bf16_agrees_with_fp32():
    documents = [random_bytes(100 + n) for n in range(40)]
    model = classifier()
    with torch.autocast("cpu", torch.bfloat16):
        half = logits(model, *documents)
    assert half.isfinite().all()
    assert (half.argmax(-1) == logits(model, *documents).argmax(-1)).float().mean() >= 0.9


def test_save_and_load(tmp_path):
    classifier().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert isinstance(again, ByteFormerForSequenceClassification)
    assert torch.allclose(logits(again, b"some bytes"), logits(classifier(), b"some bytes"), atol=1e-6)
    assert AutoConfig.from_pretrained(tmp_path).merge_after == (0, 2)


def test_files_are_cut_and_padded_on_the_right():
    batch = collate_bytes([bytes(range(200)), b"ab"], 100, "head")
    assert batch["attention_mask"].sum(1).tolist() == [100, 2]
    assert batch["input_ids"][0].tolist() == list(range(100))
    assert batch["input_ids"][1].tolist() == [97, 98, *[PADDING] * 98]


def test_batches_of_a_step_weigh_as_one():
    model = classifier()
    documents, labels = [random_bytes(30 + n) for n in range(3)], torch.tensor([0, 2, 1])
    whole = model(**collate_bytes(documents, 100), labels=labels).loss
    parts = [
        model(**collate_bytes(documents[rows], 100), labels=labels[rows], num_items_in_batch=3).loss
        for rows in (slice(0, 2), slice(2, 3))
    ]
    assert torch.allclose(whole, sum(parts), atol=1e-6)


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"kernel_size": 5}, "kernel_size"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"window_size": 7}, "window_size"),
        ({"merge_after": (0, 4)}, "block 4"),
        ({"num_attention_heads": 3}, "attention heads"),
    ],
)
def test_impossible_shapes_are_refused(changes, part):
    with pytest.raises(ValueError, match=part):
        ByteFormerConfig(**{**SHAPE, **changes})


def ids(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    "input_ids, mask, part",
    [
        (ids([1, 2, 257]), None, "257"),
        (ids([1, -1]), None, "-1"),
        (torch.zeros(1, 0, dtype=torch.int64), None, r"\[1, 0\]"),
        (ids([1, 2], [256, 256]), None, "row 1"),
        (ids([1, 256, 2]), None, "before its end"),
        (ids([1, 2, 3]), ids([1, 0, 1]), "before its end"),
        (ids([1, 2, 3]), ids([1, 2, 1]), "0 and 1"),
        (ids([1, 2, 3]), ids([1, 1]), "attention_mask"),
        (torch.zeros(1, 1300, dtype=torch.int64), None, "649 tokens, the model takes 600"),
    ],
)
def test_bad_input_is_refused(input_ids, mask, part):
    with pytest.raises(InvalidInputError, match=part):
        classifier()(input_ids, mask)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="float32"):
        classifier()(torch.zeros(1, 4))
    with pytest.raises(TypeError, match="str"):
        collate_bytes(["text"], 10)
    with pytest.raises(InvalidInputError, match="document 1 is empty"):
        collate_bytes([b"a", b""], 10)
    with pytest.raises(InvalidInputError, match="cut"):
        collate_bytes([b"a"], 10, "middle")
    with pytest.raises(InvalidInputError, match="label 3"):
        classifier()(ids([1, 2, 3, 4]), labels=torch.tensor([3]))
