"""ByteFormer: classify a file from its bytes, whatever they encode, with one Transformer.

Use it for labels of your own over files or fragments of any format: which sensor, which compiler, which class.
Attention sees windows only and every merging halves the sequence, so that time and memory grow linearly with the file.
Source: Bytes Are All You Need, Horton et al., TMLR 2024, arXiv 2306.00238. Padding and window borders are masked, as
the paper says and its code does not: what is said of a file does not depend on the files beside it in the batch.
Cost: a block on n tokens n (12 D^2 + 2 w D) multiplications; the bytes themselves are sums of rows of a table.
"""

# Shape suffixes: B files, N bytes of the longest, T tokens, W windows, K tokens of a window, D hidden size, H heads,
# C labels, X byte values and padding, O offsets in a kernel.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput

from byteloom.corpus.cuts import Cut, cut
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

PADDING = 256  # the id behind the last byte of a file


class ByteFormerConfig(PretrainedConfig):
    """The shape of a ByteFormer.

    kernel_size: bytes that a token sees; tokens begin every kernel_size / 2 bytes. window_size: tokens that attend to
    each other. merge_after: the blocks behind which neighbouring tokens are merged. max_tokens: positions, before any
    merging. intermediate_size: of the feed-forward part, default 4 x hidden_size.
    Raises InvalidInputError for a shape that cannot be built.
    """

    model_type = "byteformer"

    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 3
    intermediate_size: int | None = None
    kernel_size: int = 16
    window_size: int = 128
    merge_after: tuple[int, ...] | list[int] = (0, 1, 3, 5, 7, 9)
    max_tokens: int = 10_000
    dropout: float = 0.0
    pad_token_id: int | None = PADDING

    def __post_init__(self, **kwargs: Any) -> None:
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        self.merge_after = tuple(self.merge_after)
        if self.kernel_size < 2 or self.kernel_size % 2:
            raise InvalidInputError(f"kernel_size is an even number from 2 on; got {self.kernel_size}")
        if self.window_size < 2 or self.window_size % 2:
            raise InvalidInputError(f"window_size is an even number from 2 on; got {self.window_size}")
        if self.hidden_size % self.num_attention_heads:
            raise InvalidInputError(
                f"hidden_size {self.hidden_size} is no multiple of the {self.num_attention_heads} attention heads"
            )
        if outside := [block for block in self.merge_after if not 0 <= block < self.num_hidden_layers]:
            raise InvalidInputError(
                f"merge_after names block {outside[0]}; the {self.num_hidden_layers} blocks are counted from 0"
            )
        super().__post_init__(**kwargs)

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """The paper's smallest: 8.8 million parameters with kernel_size 32, without the classifier."""
        return cls(**{"hidden_size": 192, "num_attention_heads": 3, **changes})

    @classmethod
    def small(cls, **changes: Any) -> Self:
        """Twice as wide as `tiny`."""
        return cls(**{"hidden_size": 384, "num_attention_heads": 6, **changes})

    @classmethod
    def base(cls, **changes: Any) -> Self:
        """Four times as wide as `tiny`."""
        return cls(**{"hidden_size": 768, "num_attention_heads": 12, **changes})

    @property
    def max_bytes(self) -> int:
        """The longest file that the positions suffice for."""
        return self.kernel_size + (self.max_tokens - 1) * (self.kernel_size // 2)


@dataclass
class ByteFormerOutput(ModelOutput):
    """last_hidden_state: float [B, T, D], after the last norm. mask: bool [B, T], where there is a token."""

    last_hidden_state: Tensor | None = None
    mask: Tensor | None = None


class ByteFormerPreTrainedModel(PreTrainedModel):
    """How ByteFormers begin: truncated normal weights, and the padding byte at zero.

    Linear layers begin at 0.02, as published, for a width of 768, and larger for narrow models, which otherwise learn
    several times as slowly.
    """

    config_class = ByteFormerConfig
    base_model_prefix = "byteformer"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ByteTokens):
            for parameter in (module.embedding, module.positions):
                nn.init.trunc_normal_(parameter, std=self.config.hidden_size**-0.5)
            nn.init.kaiming_uniform_(module.kernel, a=5**0.5)
            nn.init.zeros_(module.embedding[PADDING])
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=(3 * module.in_features) ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class ByteFormerModel(ByteFormerPreTrainedModel):
    """The body: bytes in, the hidden states of merged tokens out."""

    def __init__(self, config: ByteFormerConfig) -> None:
        super().__init__(config)
        self.tokens = ByteTokens(config)
        self.blocks = nn.ModuleList(Block(config, number) for number in range(config.num_hidden_layers))
        self.merges = nn.ModuleDict({str(block): Merge(config.hidden_size) for block in config.merge_after})
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> ByteFormerOutput:
        """input_ids: int64 [B, N], bytes 0..255, and 256 (or a 0 in attention_mask) behind the end of a file.

        Raises InvalidInputError for other ids, holes in the mask, a row without bytes, and files too long.
        """
        lengths_B = _byte_lengths(input_ids, attention_mask)
        x_BTD, lengths_B = self.tokens(input_ids, lengths_B)
        x_BTD = self.dropout(x_BTD)
        for number, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, lengths_B)
            if number in self.config.merge_after:
                x_BTD, lengths_B = self.merges[str(number)](x_BTD, lengths_B)
        return ByteFormerOutput(last_hidden_state=self.norm(x_BTD), mask=_prefix(lengths_B, x_BTD.shape[1]))


class ByteFormerForSequenceClassification(ByteFormerPreTrainedModel):
    """A label for a file: the mean of its tokens through a linear layer."""

    def __init__(self, config: ByteFormerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.byteformer = ByteFormerModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """logits: float32 [B, C]. labels: int64 [B]; then the output has the mean cross entropy as its loss.

        num_items_in_batch: files in all batches of an optimiser step, when there are several.
        """
        body = self.byteformer(input_ids, attention_mask)
        mask_BT1 = body.mask[..., None]
        mean_BD = (body.last_hidden_state * mask_BT1).sum(1) / mask_BT1.sum(1)
        logits_BC = self.classifier(mean_BD).float()
        loss = None
        if labels is not None:
            if labels.min() < 0 or labels.max() >= self.num_labels:
                wrong = labels[(labels < 0) | (labels >= self.num_labels)][0].item()
                raise InvalidInputError(f"label {wrong} is none of the model's {self.num_labels}, counted from 0")
            loss = F.cross_entropy(logits_BC, labels, reduction="sum") / (num_items_in_batch or len(labels))
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)


def collate_bytes(documents: Sequence[Buffer], max_bytes: int, how: Cut = "head+tail") -> dict[str, Tensor]:
    """Files as one batch: input_ids int64 [B, N] and attention_mask int64 [B, N], of at most `max_bytes` a file.

    Raises TypeError for anything but bytes, InvalidInputError for an empty file and an unknown cut.
    """
    rows = []
    for number, document in enumerate(documents):
        if isinstance(document, str):
            raise TypeError(f"document {number} is a str; give its bytes, such as text.encode()")
        rows.append(np.frombuffer(cut(document, max_bytes, how), np.uint8))
        if not len(rows[-1]):
            raise InvalidInputError(f"document {number} is empty; there is nothing to classify")
    input_ids_BN = np.full((len(rows), max(map(len, rows))), PADDING, np.int64)
    for number, row in enumerate(rows):
        input_ids_BN[number, : len(row)] = row
    ids_BN = torch.from_numpy(input_ids_BN)
    return {"input_ids": ids_BN, "attention_mask": (ids_BN != PADDING).long()}


class ByteTokens(nn.Module):
    """Embedded bytes through a strided convolution, and learned positions.

    The convolution of an embedded byte is a row of a table [O x X, D], the same for every place; a token is the sum of
    its bytes' rows. So the embedding of every byte, [B, N, D], never exists.
    """

    def __init__(self, config: ByteFormerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.kernel_size, self.max_tokens, self.max_bytes = config.kernel_size, config.max_tokens, config.max_bytes
        self.embedding = nn.Parameter(torch.empty(PADDING + 1, width))
        self.kernel = nn.Parameter(torch.empty(width, width, config.kernel_size))  # as of a Conv1d
        self.positions = nn.Parameter(torch.empty(config.max_tokens, width))

    def forward(self, input_ids_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, T, D], and how many of T tokens each file has: so many that every byte is in one."""
        size, stride = self.kernel_size, self.kernel_size // 2
        lengths_B = 1 + (lengths_B - size).clamp(min=0).add(stride - 1).div(stride, rounding_mode="floor")
        count = int(lengths_B.max())
        if count > self.max_tokens:
            raise InvalidInputError(
                f"{input_ids_BN.shape[1]} bytes give {count} tokens, the model takes {self.max_tokens} "
                f"({self.max_bytes} bytes); choose a cut or a larger kernel_size"
            )
        needed = size + (count - 1) * stride
        padded_BN = F.pad(input_ids_BN[:, :needed], (0, max(0, needed - input_ids_BN.shape[1])), value=PADDING)
        kernels_TO = padded_BN.int().unfold(1, size, stride).reshape(-1, size)
        offsets_O = torch.arange(size, device=kernels_TO.device, dtype=torch.int32) * (PADDING + 1)
        x_BTD = F.embedding_bag(kernels_TO + offsets_O, self._table(), mode="sum")
        x_BTD = x_BTD.view(len(lengths_B), count, -1)
        return x_BTD + self.positions[:count], lengths_B

    def _table(self) -> Tensor:
        """float32 [O x X, D]: what each byte value adds to a token, by its offset in the kernel."""
        values_X = torch.arange(PADDING + 1, device=self.embedding.device)
        embedding_XD = F.embedding(values_X, self.embedding, padding_idx=PADDING)  # no gradient for padding
        return torch.einsum("xi,dio->oxd", embedding_XD, self.kernel).flatten(0, 1).float()


class Block(nn.Module):
    """A pre-norm Transformer block whose attention stays inside windows; every second block shifts them by a half."""

    def __init__(self, config: ByteFormerConfig, number: int) -> None:
        super().__init__()
        width = config.hidden_size
        assert config.intermediate_size is not None
        self.window, self.shift = config.window_size, config.window_size // 2 * (number % 2)
        self.heads, self.dropout = config.num_attention_heads, config.dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.intermediate_size), nn.Linear(config.intermediate_size, width)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        x_BTD = x_BTD + self._drop(self.attend(self.attention_norm(x_BTD), lengths_B))
        return x_BTD + self._drop(self.down(F.gelu(self.up(self.mlp_norm(x_BTD)))))

    def attend(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Attention of the (normed) tokens inside their windows: float [B, T, D]."""
        batch, count, width = x_BTD.shape
        padded = -(-count // self.window) * self.window
        x_BTD = F.pad(x_BTD, (0, 0, 0, padded - count)).roll(-self.shift, 1)
        qkv = self.qkv(x_BTD).view(batch * padded // self.window, self.window, 3, self.heads, -1)
        query_WHKD, key_WHKD, value_WHKD = qkv.permute(2, 0, 3, 1, 4)
        y_WHKD = F.scaled_dot_product_attention(
            query_WHKD, key_WHKD, value_WHKD, attn_mask=self._mask(lengths_B, padded)
        )
        y_BTD = y_WHKD.transpose(1, 2).reshape(batch, padded, width)
        return self.output(y_BTD.roll(self.shift, 1)[:, :count])

    def _mask(self, lengths_B: Tensor, padded: int) -> Tensor | None:
        """bool [W, 1, K or 1, K]: where a token of a window may look; None where everywhere.

        In the last window of a shifted block, the front of the file, which came round, and the end do not meet. A
        token that may look nowhere looks everywhere: it is padding, and nobody reads it.
        """
        if not self.shift and int(lengths_B.min()) == padded:
            return None
        valid_BT = _prefix(lengths_B, padded).roll(-self.shift, 1)
        allowed = valid_BT.view(-1, 1, 1, self.window)
        if self.shift:
            front_T = torch.arange(padded, device=lengths_B.device) >= padded - self.shift
            front_WK = front_T.view(-1, self.window).repeat(len(lengths_B), 1)
            allowed = allowed & (front_WK[:, None, :, None] == front_WK[:, None, None, :])
        return allowed | ~allowed.any(-1, keepdim=True)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Merge(nn.Module):
    """Two neighbouring tokens become one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(2 * width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, T / 2, D] (rounded up), and the lengths."""
        batch, count, width = x_BTD.shape
        x_BTD = F.pad(x_BTD * _prefix(lengths_B, count)[..., None], (0, 0, 0, count % 2))
        return self.norm(self.reduction(x_BTD.view(batch, -1, 2 * width))), (lengths_B + 1) // 2


def _prefix(lengths_B: Tensor, count: int) -> Tensor:
    """bool [B, T]: the first `lengths_B` of `count` places."""
    return torch.arange(count, device=lengths_B.device) < lengths_B[:, None]


def _byte_lengths(input_ids_BN: Tensor, mask_BN: Tensor | None) -> Tensor:
    """int64 [B]: bytes of each file, from its ids and the mask."""
    if not isinstance(input_ids_BN, Tensor) or input_ids_BN.is_floating_point():
        got = input_ids_BN.dtype if isinstance(input_ids_BN, Tensor) else type(input_ids_BN).__name__
        raise TypeError(f"input_ids are an integer tensor of bytes, not {got}; see collate_bytes")
    if input_ids_BN.ndim != 2 or not input_ids_BN.numel():
        raise InvalidInputError(f"input_ids are [files, bytes] with one byte at least; got {list(input_ids_BN.shape)}")
    outside_BN = (input_ids_BN < 0) | (input_ids_BN > PADDING)
    if outside_BN.any():
        raise InvalidInputError(f"id {input_ids_BN[outside_BN][0].item()} is no byte (0..255) and no padding (256)")
    valid_BN = input_ids_BN != PADDING
    if mask_BN is not None:
        if mask_BN.shape != input_ids_BN.shape:
            raise InvalidInputError(
                f"the attention_mask is {list(mask_BN.shape)}, but input_ids are {list(input_ids_BN.shape)}"
            )
        if ((mask_BN != 0) & (mask_BN != 1)).any():
            raise InvalidInputError("an attention_mask holds 0 and 1 only")
        valid_BN = valid_BN & mask_BN.bool()
    lengths_B = valid_BN.sum(1)
    if (valid_BN != _prefix(lengths_B, valid_BN.shape[1])).any():
        row = int((valid_BN != _prefix(lengths_B, valid_BN.shape[1])).any(1).int().argmax())
        raise InvalidInputError(f"row {row} has padding before its end; bytes come first, padding behind them")
    if not int(lengths_B.min()):
        raise InvalidInputError(f"row {int(lengths_B.argmin())} holds padding only; give every file a byte at least")
    return lengths_B


AutoConfig.register(ByteFormerConfig.model_type, ByteFormerConfig, exist_ok=True)
AutoModel.register(ByteFormerConfig, ByteFormerModel, exist_ok=True)
AutoModelForSequenceClassification.register(ByteFormerConfig, ByteFormerForSequenceClassification, exist_ok=True)
