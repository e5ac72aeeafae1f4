"""What a model learns, and from which data: all that a training needs to know of models.

`train_model` takes one of these beside its plan. The siblings for models that fill in what is hidden or that tell
labels lie in `byteloom.train.hidden`, `byteloom.train.hidden_words` and `byteloom.train.labels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM, PreTrainedModel, TrainerCallback, default_data_collator

from byteloom.models.embeddings import compose_embeddings
from byteloom.models.word_pooled import NO_VOCABULARY, WordPooledConfig, WordPooledForCausalLM
from byteloom.tokenize import Codec
from byteloom.train.plan import PASSES, Backbone
from byteloom.train.shards import Shards, Windows

Item = dict[str, Any]
Loss = Callable[..., Tensor]  # (outputs, labels, num_items_in_batch=...) -> loss
SHORT_CONTEXT = 512  # tokens, up to which plain attention trains faster on a CPU than the fused kernel, by 10 to 30%


@dataclass(frozen=True)
class Hooks:
    """What a training hands to the Trainer besides model and data. loss: instead of the model's own."""

    loss: Loss | None = None
    callbacks: tuple[TrainerCallback, ...] = ()


@dataclass(frozen=True)
class Scale:
    """What the numbers of a training curve mean.

    bytes_per_token: input bytes that one token of a window stands for. unit: the key of a point of the curve;
    per_nat: what one nat of the loss is in that unit.
    """

    bytes_per_token: float
    unit: str
    per_nat: float


class Objective(Protocol):
    """One training's model and data."""

    @property
    def vocab_size(self) -> int:
        """Ids that the model reads."""

    @property
    def passes(self) -> int:
        """Over the data, that are worth their time."""

    @property
    def tokens(self) -> int:
        """In all of the training data."""

    def scale(self, context: int) -> Scale:
        """What loss and tokens mean, in windows of `context` tokens."""

    def new_model(self, backbone: Backbone, device: str) -> PreTrainedModel:
        """An untrained model for windows of `backbone.context` tokens, still on the CPU, to be trained on `device`."""

    def dataset(self, context: int, count: int, seed: int) -> Dataset[Item]:
        """`count` windows, in an order that depends on `seed` alone; raises InvalidInputError without a whole one."""

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """A batch for the model, with labels; the same for the same items."""

    def warmup(self, steps: int) -> int:
        """Of `steps` optimiser steps, those in which the rate grows."""

    def hooks(self, steps: int) -> Hooks:
        """Fresh hooks for a training of `steps` optimiser steps."""

    def flops_per_token(self, backbone: Backbone) -> int:
        """Floating-point operations that training takes for a token of a window."""


@dataclass(frozen=True)
class NextToken:
    """A Llama that predicts the next token of `shards`, which `tokenizer` made."""

    tokenizer: Codec
    shards: Shards

    passes = PASSES

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def tokens(self) -> int:
        return self.shards.tokens

    def scale(self, context: int) -> Scale:
        return bits_per_byte(self.shards.bytes_per_token, self.shards.bytes_per_token)

    def new_model(self, backbone: Backbone, device: str) -> PreTrainedModel:
        model = LlamaForCausalLM(backbone.config(self.vocab_size))
        if device == "cpu" and backbone.context <= SHORT_CONTEXT:
            model.set_attn_implementation("eager")
        compose_embeddings(model, self.tokenizer)
        return model

    def dataset(self, context: int, count: int, seed: int) -> Dataset[Item]:
        return Windows(self.shards, context, count, seed)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return default_data_collator(list(items))

    def warmup(self, steps: int) -> int:
        return usual_warmup(steps)

    def hooks(self, steps: int) -> Hooks:
        return Hooks()

    def flops_per_token(self, backbone: Backbone) -> int:
        return backbone.flops_per_token(self.vocab_size)


@dataclass(frozen=True)
class NextByteOfWord(NextToken):
    """A WordPooled model over the ids of a WordSplitter; the backbone's context counts them."""

    def new_model(self, backbone: Backbone, device: str) -> PreTrainedModel:
        body = backbone.config(self.vocab_size).to_dict() | NO_VOCABULARY
        width = max(32, backbone.hidden_size // 2)
        heads = next(heads for heads in (4, 3, 2, 1) if width % heads == 0)
        config = WordPooledConfig(backbone=body, byte_hidden_size=width, num_heads=heads)
        return WordPooledForCausalLM(config)

    def flops_per_token(self, backbone: Backbone) -> int:
        return count_flops(self, backbone)


def usual_warmup(steps: int) -> int:
    """A twentieth of the steps, 200 at most."""
    return min(200, math.ceil(steps / 20))


def bits_per_byte(bytes_per_token: float, bytes_per_target: float) -> Scale:
    """The scale of a loss in nats a target, where a target stands for so many bytes."""
    return Scale(bytes_per_token, "bits_per_byte", 1 / (math.log(2) * bytes_per_target))


def count_flops(objective: Objective, backbone: Backbone, windows: int = 8) -> int:
    """Operations of matrix products that training takes for a token, counted in a step on `windows` real windows."""
    model = objective.new_model(backbone, "cpu").train()
    dataset = objective.dataset(backbone.context, windows, 0)
    batch = objective.collate([dataset[item] for item in range(windows)])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # which has countable products
        model(**batch).loss.backward()
    return round(counter.get_total_flops() / (windows * backbone.context))
