"""The objective of word encoders: guess the pieces of words that are hidden (Byte2Word)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from byteloom.models.byte2word import Byte2WordConfig, Byte2WordForMaskedLM
from byteloom.tokenize import Tokenizer
from byteloom.tokenize.words import WordSplitter
from byteloom.train.hidden import NumberedWindows, as_bytes
from byteloom.train.masked_words import MaskedWordCollator
from byteloom.train.objectives import Hooks, Item, Scale, bits_per_byte, count_flops, usual_warmup
from byteloom.train.plan import PASSES, Backbone
from byteloom.train.shards import Shards, Windows


@dataclass(frozen=True)
class HiddenWords:
    """A Byte2Word over the words of windows of bytes.

    shards: of `byte_tokenizer`. pieces: the tokenizer whose tokens are guessed, and thrown away after the training.
    """

    shards: Shards
    pieces: Tokenizer

    passes = PASSES

    @property
    def vocab_size(self) -> int:
        return self.pieces.vocab_size

    @property
    def tokens(self) -> int:
        return self.shards.tokens

    def scale(self, context: int) -> Scale:
        """Approximately: a piece stands for about as many bytes as it has on average in a hundred windows."""
        windows = Windows(self.shards, context, 100, 0)
        text = [as_bytes(windows[number]["input_ids"].numpy()) for number in range(100)]
        pieces = sum(self.pieces.count(each) for each in text)
        return bits_per_byte(self.shards.bytes_per_token, sum(map(len, text)) / max(1, pieces))

    def new_model(self, backbone: Backbone, device: str) -> PreTrainedModel:
        body = {
            "hidden_size": backbone.hidden_size,
            "intermediate_size": backbone.intermediate_size,
            "num_hidden_layers": backbone.layers,
            "num_attention_heads": backbone.heads,
            "max_position_embeddings": backbone.context + 1,  # [CLS] stands before words of one byte at least
        }
        return Byte2WordForMaskedLM(Byte2WordConfig(body=body, target_vocab_size=self.vocab_size))

    def dataset(self, context: int, count: int, seed: int) -> Dataset[Item]:
        return NumberedWindows(Windows(self.shards, context, count, seed), seed)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        documents = [as_bytes(item["ids"]) for item in items]
        return self.collate_held_out(documents, np.random.default_rng(items[0]["draw"]))[0]

    def collate_held_out(self, documents: Sequence[bytes], rng: np.random.Generator) -> tuple[dict[str, Tensor], int]:
        """(a batch, the bytes that are hidden in it)."""
        longest = max(map(len, documents))
        batch = MaskedWordCollator(WordSplitter(), self.pieces, max_words=max(1, longest))(documents, rng)
        return batch, int(batch.pop("hidden_bytes").sum())

    def warmup(self, steps: int) -> int:
        return usual_warmup(steps)

    def hooks(self, steps: int) -> Hooks:
        return Hooks()

    def flops_per_token(self, backbone: Backbone) -> int:
        return count_flops(self, backbone)
