from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import InvalidInputError
from byteloom.models.byte2word import IGNORED, Byte2WordConfig, Byte2WordForMaskedLM
from byteloom.models.word_batch import MASK, collate_words
from byteloom.tokenize import BPE, byte_tokenizer, train_bpe
from byteloom.tokenize.words import WordSplitter
from byteloom.train.masked_words import MaskedWordCollator

torch.set_num_threads(1)
WORDS = WordSplitter()
TEXT = b"the quality of mercy is not strained; it droppeth as the gentle rain from heaven upon the place beneath. "


@cache
def pieces() -> BPE:
    return train_bpe([TEXT * 5], vocab_size=300, max_token_length=6)


def shown(batch: dict[str, torch.Tensor]) -> list[list[list[int]]]:
    """The symbols that stand at each place."""
    return [[[s for s in row if s != 259] for row in batch["table"][rows].tolist()] for rows in batch["index"]]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=4), st.integers(0, 99))
def test_labels_are_the_pieces_of_chosen_words_and_the_rest_is_left(documents, seed):
    batch = MaskedWordCollator(WORDS, pieces(), 0.3, max_words=12)(documents, np.random.default_rng(seed))
    places = shown(batch)
    assert len(batch["table"]) == len(batch["index"].unique())  # nothing is encoded in vain
    for row, data in enumerate(documents):
        words = WORDS.split(data)[:12]
        assert batch["attention_mask"][row].sum() == 1 + len(words) and places[row][0] == [256]
        asked = 0
        for place, word in enumerate(words, 1):
            labels = batch["labels"][row, place]
            labels = labels[labels != IGNORED].numpy().astype(np.uint32)
            if len(labels):
                expected = pieces().encode(word)[:8]
                assert labels.tolist() == expected.tolist()
                asked += sum(len(pieces().token_bytes(int(label))) for label in labels)
            else:
                assert bytes(places[row][place]) == word
        assert batch["hidden_bytes"][row] == asked
        assert (batch["labels"][row, 1 + len(words) :] == IGNORED).all() and (batch["labels"][row, 0] == IGNORED).all()


def test_shares_are_those_of_bert():
    documents = [TEXT * 3] * 100
    batch = MaskedWordCollator(WORDS, pieces(), 0.15, max_words=60)(documents, np.random.default_rng(0))
    is_chosen = (batch["labels"] != IGNORED).any(-1)
    assert is_chosen.float().sum().item() / (100 * 60) == pytest.approx(0.15, abs=0.015)
    plain = collate_words(documents, WORDS, 60)
    is_mask = batch["table"][:, 0][batch["index"]] == MASK
    assert not is_mask[~is_chosen].any()
    same = torch.tensor(
        [
            [one == [s for s in other if s != 259] for one, other in zip(row, plain.table[index].tolist(), strict=True)]
            for row, index in zip(shown(batch), plain.index, strict=True)
        ]
    )
    assert same[~is_chosen].all()
    assert is_mask[is_chosen].float().mean().item() == pytest.approx(0.8, abs=0.05)
    assert same[is_chosen].float().mean().item() == pytest.approx(0.1, abs=0.05)  # and a tenth shows another word


def test_the_same_numbers_give_the_same_batch():
    collate = MaskedWordCollator(WORDS, pieces())
    one, same, other = (collate([TEXT] * 3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["labels"], other["labels"])


def test_there_is_always_something_to_learn():
    collate = MaskedWordCollator(WORDS, pieces(), 0.001)
    for seed in range(10):
        assert collate([b"one", b""], np.random.default_rng(seed))["hidden_bytes"].tolist() == [3, 0]
    nothing = collate([b"", b""], np.random.default_rng(0))
    assert nothing["index"].shape == (2, 1) and not nothing["hidden_bytes"].any()
    model = Byte2WordForMaskedLM(config(300))
    assert model(**nothing).loss.item() == 0


def config(size: int) -> Byte2WordConfig:
    body = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return Byte2WordConfig(body={**body, "max_position_embeddings": 64}, target_vocab_size=size)


def test_hidden_words_are_learned():
    torch.manual_seed(0)
    model = Byte2WordForMaskedLM(config(pieces().vocab_size)).train()
    collate = MaskedWordCollator(WORDS, pieces(), max_words=63)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(250):
        loss = model(**collate([TEXT * 3] * 8, np.random.default_rng(step))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


def test_bad_input_is_refused():
    for share in (0.0, 1.0, -0.5, 1.5):
        with pytest.raises(InvalidInputError, match="share of hidden words"):
            MaskedWordCollator(WORDS, pieces(), share)
    with pytest.raises(TypeError, match="is a str"):
        MaskedWordCollator(WORDS, pieces())(["text"], np.random.default_rng(0))
    small = Byte2WordForMaskedLM(config(20))
    with pytest.raises(InvalidInputError, match=r"piece \d+ is none of the model's 20"):
        small(**MaskedWordCollator(WORDS, byte_tokenizer())([b"words"], np.random.default_rng(0)))
