"""The word-pooled model, one word at a time: every word is encoded and spelled alone."""

from __future__ import annotations

import torch
from torch import Tensor

from byteloom.models.word_encoder import WORD_PADDING
from byteloom.models.word_pooled import WordPooledForCausalLM
from byteloom.tokenize.words import FIRST, LAST


def words_of(ids: list[int]) -> list[list[int]]:
    """The words of a row; the last may be unfinished."""
    words: list[list[int]] = [[]]
    for token in ids:
        if words[-1] and (token < FIRST or ends(words[-1][-1])):
            words.append([])
        words[-1].append(token)
    return words


def ends(token: int) -> bool:
    """Whether an id ends its word."""
    return token < FIRST or token >= FIRST + LAST


def symbols(word: list[int]) -> list[int]:
    """A word as `WordVectors` takes it."""
    return [256 + min(token, 2) if token < FIRST else (token - FIRST) % LAST for token in word]


def logits(model: WordPooledForCausalLM, ids: list[int]) -> Tensor:
    """float [N, V] of one row without padding."""
    prefix, width = model.config.num_prefix, model.begin.shape[1]
    words = words_of(ids)
    vectors = [model.begin]
    for word in words:
        if ends(word[-1]):
            table = torch.full((1, 16), WORD_PADDING)
            table[0, : len(word)] = torch.tensor(symbols(word))
            vectors.append(model.up(model.encoder(table).view(prefix, -1)))
    states = model.backbone(inputs_embeds=torch.cat(vectors)[None]).last_hidden_state.view(-1, prefix, width)
    found = []
    for place, word in enumerate(words):
        known = symbols(word)[: -1 if ends(word[-1]) else None]
        bytes_1W = torch.tensor([known], dtype=torch.int64).clamp(max=255)
        found.append(model.decode(states[place : place + 1], bytes_1W)[0])
    if ends(words[-1][-1]):
        found.append(model.decode(states[-1:], torch.zeros(1, 0, dtype=torch.int64))[0])
    return torch.cat(found)[1:]
