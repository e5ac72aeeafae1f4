"""LM-Infinite's attention, pair by pair: the definition that the layer is held to."""

from __future__ import annotations

import torch

from byteloom.models import KeyRotation


def lambda_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotation: KeyRotation,
    *,
    window: int,
    sinks: int,
    ceiling: int,
    scaling: float,
) -> torch.Tensor:
    """query [H, n, D], key and value [K, n, D], un-rotated, token i at position i; the output [H, n, D]."""
    heads, count, _ = query.shape
    groups = heads // key.shape[0]
    output = torch.zeros_like(query)
    for head in range(heads):
        for place in range(count):
            scores, values = [], []
            for other in range(place + 1):
                distance = place - other
                if distance >= window:
                    if other >= sinks:
                        continue
                    distance = ceiling
                turned = rotation.shift(query[None, head : head + 1, place : place + 1], distance, 0)[0, 0, 0]
                scores.append(scaling * turned @ key[head // groups, other])
                values.append(value[head // groups, other])
            output[head, place] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return output
