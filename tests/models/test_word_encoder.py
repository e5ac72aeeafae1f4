from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from byteloom.errors import InvalidInputError
from byteloom.models.word_encoder import WORD_PADDING, WordVectors, distinct_words
from tests.reference.word_vectors import word_vector

torch.set_num_threads(1)
WORDS = [b"a", b"word", b"words", b"drow", b"\xff\x00", b"sixteen bytes...", b"nine byte"]


def table(words, width=16) -> torch.Tensor:
    return torch.tensor([[*word, *[WORD_PADDING] * (width - len(word))] for word in words])


def build(pooling="attention", prefix=1, **changes) -> WordVectors:
    torch.manual_seed(0)
    vectors = WordVectors(**{"hidden_size": 24, "heads": 4, "pooling": pooling, "prefix": prefix, **changes})
    for parameter in vectors.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.4)
    return vectors


@pytest.mark.parametrize("prefix", [1, 3])
def test_attention_pooling_is_the_literal_loop(prefix):
    vectors = build(prefix=prefix)
    found = vectors(table(WORDS)).detach().numpy()
    for row, word in zip(found, WORDS, strict=True):
        assert np.allclose(row, word_vector(vectors, list(word)), atol=1e-5)


def test_attention_pooling_is_multihead_attention_with_a_fixed_query():
    vectors = build()
    attention = nn.MultiheadAttention(24, 4, bias=False, batch_first=True)
    query = torch.zeros(24, 24)
    query[:, 0] = vectors.pool.query.flatten().detach()  # so that Wq e_0 = Q
    weights = torch.cat([query, vectors.pool.key.weight, vectors.pool.value.weight])
    attention.in_proj_weight.data, attention.out_proj.weight.data = weights.data, vectors.pool.output.weight.data
    words = table(WORDS)
    x = vectors.pool.norm(vectors.bytes(words) + vectors.places.weight)
    first = torch.eye(24)[:1].expand(len(WORDS), 1, 24)
    expected, _ = attention(first, x, x, key_padding_mask=words == WORD_PADDING)
    assert torch.allclose(vectors(words), expected[:, 0], atol=1e-5)


@pytest.mark.parametrize("pooling", ["attention", "transformer"])
@pytest.mark.parametrize("prefix", [1, 2])
def test_padding_and_company_do_not_matter(pooling, prefix):
    vectors = build(pooling, prefix)
    together = vectors(table(WORDS))
    assert together.shape == (len(WORDS), 24 * prefix)
    for row, word in zip(together, WORDS, strict=True):
        for width in (len(word), 16, 20):
            assert torch.allclose(vectors(table([word], width))[0], row, atol=1e-6)


@pytest.mark.parametrize("pooling", ["attention", "transformer"])
def test_every_byte_and_its_place_count(pooling):
    vectors = build(pooling)
    one, other, turned = vectors(table([b"stop", b"stap", b"pots"]))
    assert (one - other).abs().max() > 1e-3 and (one - turned).abs().max() > 1e-3
    vectors.places.weight.data.zero_()
    one, turned = vectors(table([b"stop", b"pots"]))
    assert torch.allclose(one, turned, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 258), min_size=1, max_size=16), min_size=1, max_size=30))
def test_distinct_words_are_found(words):
    rows = table([*words, words[0]])
    found, which = distinct_words(rows)
    assert torch.equal(found[which], rows)
    assert len(found) == len({tuple(row) for row in rows.tolist()})


def test_distinct_words_give_the_same_vectors_and_gradients():
    vectors = build()
    words = table([*WORDS, *WORDS[2:5], WORDS[0]])
    weight = torch.randn(len(words), 24)
    (vectors(words) * weight).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in vectors.named_parameters()}
    vectors.zero_grad()
    found, which = distinct_words(words)
    assert len(found) == len(WORDS)
    assert torch.allclose(vectors(found)[which], vectors(words), atol=1e-6)
    (vectors(found)[which] * weight).sum().backward()
    for name, parameter in vectors.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-4)


def test_bad_input_is_refused():
    with pytest.raises(InvalidInputError, match="not divisible by 5"):
        WordVectors(24, 5)
    with pytest.raises(InvalidInputError, match="pooling is one of"):
        WordVectors(24, 4, pooling="mean")
    vectors = build()
    with pytest.raises(InvalidInputError, match="word 1 of the table has no bytes"):
        vectors(table([b"a", b""]))
    with pytest.raises(InvalidInputError, match=r"holds 0\.\.259"):
        vectors(table([[1, 260]]))
    with pytest.raises(InvalidInputError, match="more than 16 bytes"):
        vectors(table([b"a" * 17], 17))
    assert vectors(table([])[:0].reshape(0, 16)).shape == (0, 24)
