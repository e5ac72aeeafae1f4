"""softmax1 attention: a query may attend to nothing.

softmax1(s)_j = exp(s_j) / (1 + sum_i exp(s_i)) is ordinary softmax with one more key whose score and value are zero,
so a zero column in front of keys, values and bias makes any fused kernel compute it. Registered with transformers as
"softmax1". Source: MrT5, Kallini et al., ICLR 2025, arXiv 2410.20771. Cost: one more key.
"""

# Shape suffixes: B batch, H heads, T queries, S keys, K head width.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NAME = "softmax1"


def softmax1_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """[B, T, H, K] of query [B, H, T, K], key and value [B, H, S, K].

    attention_mask: bool, True where a query may look, or float, added. position_bias: float [1 or B, H, T, S], added.
    """
    queries, keys = query.shape[2], key.shape[2]
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if attention_mask is None and causal and queries > 1:
        # The kernel's own causal mask would be one column off, because of the key in front.
        place_S = torch.arange(keys, device=query.device)
        attention_mask = (place_S <= place_S[keys - queries :, None])[None, None]
    bias = position_bias
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            lowest = torch.finfo(query.dtype).min
            attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
        bias = attention_mask if bias is None else bias + attention_mask
    if bias is not None:
        bias = F.pad(bias.to(query.dtype), (1, 0))
    found = F.scaled_dot_product_attention(
        query,
        F.pad(key, (0, 0, 1, 0)),
        F.pad(value, (0, 0, 1, 0)),
        attn_mask=bias,
        dropout_p=dropout,
        scale=scaling,
    )
    return found.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, softmax1_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
