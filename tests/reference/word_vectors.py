"""Attention pooling of one word, in float64, head by head."""

from __future__ import annotations

import numpy as np

from byteloom.models.word_encoder import WordVectors


def word_vector(vectors: WordVectors, word: list[int]) -> np.ndarray:
    """float64 [prefix x hidden] of one word, given by its symbols."""
    state = {name: value.detach().double().numpy() for name, value in vectors.state_dict().items()}
    x = state["bytes.weight"][word] + state["places.weight"][: len(word)]
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = x * state["pool.norm.weight"] + state["pool.norm.bias"]
    key, value = x @ state["pool.key.weight"].T, x @ state["pool.value.weight"].T
    prefix, heads, width = state["pool.query"].shape
    found = []
    for vector in range(prefix):
        joined = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            score = key[:, part] @ state["pool.query"][vector, head] / np.sqrt(width)
            weight = np.exp(score - score.max())
            joined.append(weight / weight.sum() @ value[:, part])
        found.append(np.concatenate(joined) @ state["pool.output.weight"].T)
    return np.concatenate(found)
