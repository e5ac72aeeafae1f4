"""Vectors of words from their bytes: by attention with learned queries, or by a small Transformer.

The input side of models that read words without a vocabulary (`word_pooled`, `byte2word`): every word has a vector, and
one that is written almost alike has one almost alike. A word's vector depends on nothing but its bytes, so a batch
encodes each distinct word once (`distinct_words`).
Source: attention pooling as in Word-Level Representation From Bytes For Language Modeling, Lee et al. 2022, arXiv
2211.12677; the Transformer as in Learn Your Tokens, Thawani et al. 2023, arXiv 2310.11628.
Cost: 2 W D^2 multiplications a word for attention pooling, W words' bytes of a Transformer layer each for the other.
"""

# Shape suffixes: U words, W bytes of a word, D hidden size, H heads, P vectors of a word, K head width.

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from byteloom.errors import InvalidInputError

SYMBOLS = 260
"""What a table of words holds: bytes 0..255, special words 256..258, and WORD_PADDING behind the end of a word."""
WORD_PADDING = 259
Pooling = Literal["attention", "transformer"]
BUCKETS = (4, 8)  # lengths up to which words are encoded together; the third bucket is the rest


class WordVectors(nn.Module):
    """[U, W] bytes to [U, prefix x hidden_size] floats.

    heads: learned queries of attention pooling, or heads of the Transformer. prefix: vectors of a word. layers: of the
    Transformer. Dropout would make equal words differ, so there is none.
    Raises InvalidInputError when heads do not divide the hidden size, or for another pooling.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        max_word_bytes: int = 16,
        pooling: Pooling = "attention",
        layers: int = 1,
        prefix: int = 1,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise InvalidInputError(f"the pooling is one of {', '.join(get_args(Pooling))}, not {pooling!r}")
        if heads < 1 or hidden_size % heads:
            raise InvalidInputError(f"a hidden size of {hidden_size} is not divisible by {heads} pooling heads")
        self.max_word_bytes, self.prefix, self.heads = max_word_bytes, prefix, heads
        self.bytes = nn.Embedding(SYMBOLS, hidden_size)
        self.places = nn.Embedding(max_word_bytes, hidden_size)
        self.pool: nn.Module
        if pooling == "attention":
            self.pool = _AttentionPooling(hidden_size, heads, prefix)
        else:
            self.pool = _TransformerPooling(hidden_size, heads, layers, prefix)

    def forward(self, table_UW: Tensor) -> Tensor:
        """float [U, prefix x hidden_size] of the words of an int64 table; width does not matter, only bytes do.

        Raises InvalidInputError for symbols outside 0..259, words without bytes, and words that are too long.
        """
        if table_UW.shape[1] > self.max_word_bytes and (table_UW[:, self.max_word_bytes :] != WORD_PADDING).any():
            raise InvalidInputError(f"a word has more than {self.max_word_bytes} bytes; split longer ones")
        table_UW = table_UW[:, : self.max_word_bytes]
        if len(table_UW) and (table_UW.min() < 0 or table_UW.max() >= SYMBOLS):
            raise InvalidInputError(f"a table of words holds 0..{SYMBOLS - 1}; got {int(table_UW.min())} or more")
        length_U = (table_UW != WORD_PADDING).sum(1)
        if (length_U == 0).any():
            raise InvalidInputError(f"word {int((length_U == 0).int().argmax())} of the table has no bytes")
        vectors_UD = self.bytes.weight.new_empty(len(table_UW), self.prefix * self.bytes.embedding_dim)
        rows, found = [], []
        for first, last in zip((0, *BUCKETS), (*BUCKETS, self.max_word_bytes), strict=True):
            row = ((length_U > first) & (length_U <= last)).nonzero()[:, 0]
            if len(row):
                rows.append(row)
                found.append(self._encode(table_UW[row, : min(last, table_UW.shape[1])]))
        if not rows:
            return vectors_UD
        return vectors_UD.to(found[0].dtype).index_copy(0, torch.cat(rows), torch.cat(found))

    def _encode(self, table_UW: Tensor) -> Tensor:
        x_UWD = self.bytes(table_UW) + self.places.weight[: table_UW.shape[1]]
        return self.pool(x_UWD, table_UW != WORD_PADDING)


class _AttentionPooling(nn.Module):
    """One query a head and a vector, the same for all words."""

    def __init__(self, hidden_size: int, heads: int, prefix: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query = nn.Parameter(torch.empty(prefix, heads, hidden_size // heads))
        nn.init.normal_(self.query, std=0.02)

    def forward(self, x_UWD: Tensor, is_byte_UW: Tensor) -> Tensor:
        heads, width = self.query.shape[1:]
        x_UWD = self.norm(x_UWD)
        key_UHWK, value_UHWK = (
            layer(x_UWD).unflatten(-1, (heads, width)).transpose(1, 2) for layer in (self.key, self.value)
        )
        query_UHPK = self.query.transpose(0, 1).expand(len(x_UWD), -1, -1, -1).to(key_UHWK.dtype)
        mask_U11W = is_byte_UW[:, None, None, :]
        pooled_UHPK = F.scaled_dot_product_attention(query_UHPK, key_UHWK, value_UHWK, attn_mask=mask_U11W)
        return self.output(pooled_UHPK.transpose(1, 2).flatten(2)).flatten(1)


class _TransformerPooling(nn.Module):
    """Learned vectors stand before the bytes, and come out of the layers as the word's."""

    def __init__(self, hidden_size: int, heads: int, layers: int, prefix: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(prefix, hidden_size))
        nn.init.normal_(self.first, std=0.02)
        self.layers = nn.ModuleList(_layer(hidden_size, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x_UWD: Tensor, is_byte_UW: Tensor) -> Tensor:
        prefix = len(self.first)
        x_UWD = torch.cat([self.first.expand(len(x_UWD), -1, -1).to(x_UWD.dtype), x_UWD], 1)
        hidden_UW = torch.cat([is_byte_UW.new_zeros(len(x_UWD), prefix), ~is_byte_UW], 1)
        for layer in self.layers:
            x_UWD = layer(x_UWD, src_key_padding_mask=hidden_UW)
        return self.norm(x_UWD[:, :prefix]).flatten(1)


def _layer(hidden_size: int, heads: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        hidden_size, heads, 4 * hidden_size, 0.0, "gelu", batch_first=True, norm_first=True
    )


def byte_layers(hidden_size: int, heads: int, count: int) -> nn.ModuleList:
    """`count` layers of a Transformer over the bytes of words."""
    return nn.ModuleList(_layer(hidden_size, heads) for _ in range(count))


def distinct_words(table_UW: Tensor) -> tuple[Tensor, Tensor]:
    """(the distinct rows int64 [V, W], int64 [U]: which of them each row is)."""
    if table_UW.shape[1] > 16 or table_UW.device.type != "cpu":
        rows_VW, which_U = torch.unique(table_UW, dim=0, return_inverse=True)
        return rows_VW, which_U
    # Rows as three whole numbers of seven digits, which are sorted several times as fast as rows.
    padded_UW = F.pad(table_UW, (0, 16 - table_UW.shape[1]), value=WORD_PADDING)
    digits = SYMBOLS ** torch.arange(7, dtype=torch.int64)  # below 2^63
    parts = [(padded_UW[:, at : at + 7] * digits[: min(7, 16 - at)]).sum(1) for at in (0, 7, 14)]
    _, first = torch.unique(parts[0], return_inverse=True)
    for part in parts[1:]:
        _, other = torch.unique(part, return_inverse=True)
        _, first = torch.unique(first * len(table_UW) + other, return_inverse=True)
    representative = torch.empty(int(first.max()) + 1 if len(first) else 0, dtype=torch.int64)
    representative[first] = torch.arange(len(first))
    return table_UW[representative], first
