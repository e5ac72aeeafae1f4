"""ByteFormer, slow and literal: embedded bytes through a convolution, and attention under one mask of all tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from byteloom.models.byteformer import PADDING, Block, ByteFormerModel


def allowed(length: int, count: int, window: int, shift: int) -> Tensor:
    """bool [count, count]: whether token q may look at token k, from the definition alone.

    Windows begin at `shift`, every `window` tokens, and those before it are a window of their own; both tokens lie in
    one window and k lies before the end of the file.
    """
    place = [(token - shift) // window for token in range(count)]
    return torch.tensor([[place[q] == place[k] and k < length for k in range(count)] for q in range(count)])


def attend(block: Block, x_TD: Tensor, length: int) -> Tensor:
    """`Block.attend` of one file, head by head; only the first `length` rows mean something."""
    query_TD, key_TD, value_TD = block.qkv(x_TD).chunk(3, -1)
    width = x_TD.shape[1] // block.heads
    mask_TT = allowed(length, len(x_TD), block.window, block.shift)
    mask_TT = mask_TT | ~mask_TT.any(1, keepdim=True)
    heads = []
    for head in range(block.heads):
        part = slice(head * width, (head + 1) * width)
        score_TT = query_TD[:, part] @ key_TD[:, part].T / width**0.5
        heads.append(score_TT.masked_fill(~mask_TT, -torch.inf).softmax(-1) @ value_TD[:, part])
    return block.output(torch.cat(heads, -1))


def forward(model: ByteFormerModel, data: bytes) -> Tensor:
    """The last hidden states of one file: float [tokens, hidden]."""
    size = model.config.kernel_size
    count = 1 + max(0, -(-(len(data) - size) // (size // 2)))
    ids = list(data) + [PADDING] * (size + (count - 1) * (size // 2) - len(data))
    x_TD = F.conv1d(model.tokens.embedding[ids].T[None], model.tokens.kernel, stride=size // 2)[0].T
    x_TD = x_TD + model.tokens.positions[:count]
    for number, block in enumerate(model.blocks):
        x_TD = x_TD + attend(block, block.attention_norm(x_TD), len(x_TD))
        x_TD = x_TD + block.down(F.gelu(block.up(block.mlp_norm(x_TD))))
        if number in model.config.merge_after:
            merge = model.merges[str(number)]
            pairs = [
                torch.cat([*x_TD[at : at + 2], *[torch.zeros_like(x_TD[0])] * (2 - len(x_TD[at : at + 2]))])
                for at in range(0, len(x_TD), 2)
            ]
            x_TD = merge.norm(merge.reduction(torch.stack(pairs)))
    return model.norm(x_TD)
