"""The objective of encoder-decoders over bytes: fill in the spans of a window that are hidden (MrT5, ByT5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from byteloom.models.mrt5 import BYTE_0, SENTINEL_0, VOCABULARY, MrT5Config, MrT5ForConditionalGeneration
from byteloom.tokenize import byte_tokenizer
from byteloom.train.mrt5 import DeletionControl, DeletionTarget, SpanCorruption
from byteloom.train.objectives import Hooks, Item, Scale, bits_per_byte, count_flops, usual_warmup
from byteloom.train.plan import PASSES, Backbone
from byteloom.train.shards import Shards, Windows

DENSITY = 0.15  # of the bytes are hidden


@dataclass(frozen=True)
class HiddenSpans:
    """An MrT5 that deletes the share `delete` of its input bytes, or a ByT5 without a gate.

    shards: of `byte_tokenizer`, so that a token of a window is a byte.
    """

    shards: Shards
    gate: Literal["learned", "none"] = "learned"
    delete: float = 0.5

    passes = PASSES
    vocab_size = VOCABULARY

    @property
    def tokens(self) -> int:
        return self.shards.tokens

    def scale(self, context: int) -> Scale:
        """Approximately: targets also hold a sentinel for each span, and the end."""
        hidden = max(1, round(context * DENSITY))
        spans = max(1, round(hidden / _corruption(context).mean_span))
        return bits_per_byte(self.shards.bytes_per_token, hidden / (hidden + spans + 1))

    def new_model(self, backbone: Backbone, device: str) -> PreTrainedModel:
        """The layers of the backbone for the encoder, the gate in their middle or behind three, a third to decode."""
        config = MrT5Config(
            d_model=backbone.hidden_size,
            d_kv=backbone.hidden_size // backbone.heads,
            d_ff=backbone.intermediate_size,
            num_layers=backbone.layers,
            num_decoder_layers=max(1, round(backbone.layers / 3)),
            num_heads=backbone.heads,
            delete_gate_layer=min(3, max(1, backbone.layers // 2)),
            gate=self.gate,
            dropout_rate=0.0,
        )
        return MrT5ForConditionalGeneration(config)

    def dataset(self, context: int, count: int, seed: int) -> Dataset[Item]:
        return NumberedWindows(Windows(self.shards, context, count, seed), seed)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        documents = [as_bytes(item["ids"]) for item in items]
        return _corruption(len(items[0]["ids"]))(documents, np.random.default_rng(items[0]["draw"]))

    def collate_held_out(self, documents: Sequence[bytes], rng: np.random.Generator) -> tuple[dict[str, Tensor], int]:
        """(a batch, the bytes that are hidden in it)."""
        batch = _corruption(max(map(len, documents)))(documents, rng)
        is_byte_BT = (batch["labels"] >= BYTE_0) & (batch["labels"] < SENTINEL_0)
        return batch, int(is_byte_BT.sum())

    def warmup(self, steps: int) -> int:
        return usual_warmup(steps)

    def hooks(self, steps: int) -> Hooks:
        if self.gate == "none":
            return Hooks()
        control = DeletionControl(DeletionTarget(self.delete, ki=max(1e-5, 0.05 / steps)))
        return Hooks(control.loss, (control,))

    def flops_per_token(self, backbone: Backbone) -> int:
        return count_flops(self, backbone)


def _corruption(window: int) -> SpanCorruption:
    """For windows of so many bytes: spans of 20 in long ones, as published, shorter ones where there is less to see."""
    return SpanCorruption(window, DENSITY, min(20.0, max(3.0, window / 64)))


class NumberedWindows(Dataset[Item]):
    """Windows of ids, each with the seed of what is drawn for the batch that it begins."""

    def __init__(self, windows: Windows, seed: int) -> None:
        self._windows, self._seed = windows, seed

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, item: int) -> Item:
        return {"ids": self._windows[item]["input_ids"].numpy(), "draw": (self._seed, item)}


def as_bytes(ids: np.ndarray[Any, Any]) -> bytes:
    """The bytes of a window of `byte_tokenizer`, without special tokens."""
    return byte_tokenizer().decode(ids)
