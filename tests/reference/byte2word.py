"""Byte2Word, slow and literal: every place of a document is encoded by itself, and pieces are told one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from byteloom.models.byte2word import Byte2WordForMaskedLM, Byte2WordModel


def states(model: Byte2WordModel, words: Sequence[bytes]) -> Tensor:
    """float [1 + words, D]: the hidden states of [CLS] and the words of one document."""
    vectors = [model.words(torch.tensor([list(word)])) for word in ([256], *words)]
    return model.body(inputs_embeds=torch.cat(vectors)[None]).last_hidden_state[0]


def piece_logits(model: Byte2WordForMaskedLM, states_TD: Tensor, asked: Sequence[tuple[int, int]]) -> Tensor:
    """float [asked, V]: for each (place, number of the piece)."""
    rows = []
    for place, piece in asked:
        inner = model.dense.weight @ (states_TD[place] + model.which.weight[piece]) + model.dense.bias
        inner = torch.nn.functional.gelu(inner)
        inner = (inner - inner.mean()) / (inner.var(unbiased=False) + model.norm.eps).sqrt()
        rows.append(model.decoder.weight @ (inner * model.norm.weight + model.norm.bias) + model.decoder.bias)
    return torch.stack(rows)
