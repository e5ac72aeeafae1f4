"""What a training run will do, decided before it starts: model size, steps, batch, precision.

A plan is a file. A run that was killed goes on by the plan it began with, so it takes exactly the steps that an
unbroken run would have taken, whatever the clock says. Two models with one backbone are given equal compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import LlamaConfig

Precision = Literal["fp32", "bf16"]

TOKENS_PER_PARAMETER = 20  # compute-optimal training, Hoffmann et al. 2022 (Chinchilla), arXiv 2203.15556
PASSES = 4  # over the corpus: as good as fresh data up to here, Muennighoff et al. 2023, arXiv 2305.16264
BUSY_CPU, BUSY_GPU = 2048, 32_768  # tokens at once that keep a device busy
CHECKPOINT_SECONDS = 30
CURVE_POINTS = 60
EVALUATIONS = 4


@dataclass(frozen=True)
class Backbone:
    """The shape of a Llama model without its vocabulary; `context` is its window in tokens."""

    hidden_size: int
    layers: int
    heads: int
    context: int

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 1 or self.hidden_size % (2 * self.heads):
            raise InvalidInputError(
                f"a model with hidden size {self.hidden_size}, {self.layers} layers, {self.heads} heads and context "
                f"{self.context} cannot be built; all must be positive and the hidden size a multiple of 2 x heads"
            )
        if self.context < 2:
            raise InvalidInputError("the context must be at least 2 tokens")

    @property
    def intermediate_size(self) -> int:
        """Width of the gated feed-forward layer: 8/3 of the hidden size, as in Llama, in whole 32s."""
        return max(32, round(self.hidden_size * 8 / 3 / 32) * 32)

    def config(self, vocab_size: int) -> LlamaConfig:
        """The transformers configuration; embeddings are tied, <|start|>, <|end|>, <|pad|> are ids 0, 1, 2."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            initializer_range=self.hidden_size**-0.5,  # keeps lengths at any width; the usual 0.02 is for thousands
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )

    def parameters(self, vocab_size: int) -> int:
        """Trained numbers: tied embeddings, and a layer's attention, feed-forward and norms."""
        width = self.hidden_size
        layer = 4 * width * width + 3 * width * self.intermediate_size + 2 * width
        return vocab_size * width + self.layers * layer + width

    def flops_per_token(self, vocab_size: int) -> int:
        """Training cost of a token: 6 operations a parameter (the output layer is the tied embedding), and causal
        attention, which meets half of the window on average."""
        return 6 * self.parameters(vocab_size) + 6 * self.layers * self.context * self.hidden_size


SIZES = {
    "nano": Backbone(hidden_size=128, layers=2, heads=2, context=256),
    "tiny": Backbone(hidden_size=192, layers=4, heads=3, context=256),
    "mini": Backbone(hidden_size=384, layers=6, heads=6, context=512),
    "small": Backbone(hidden_size=512, layers=8, heads=8, context=1024),
    "base": Backbone(hidden_size=768, layers=12, heads=12, context=2048),
    "medium": Backbone(hidden_size=1024, layers=24, heads=16, context=2048),
    "large": Backbone(hidden_size=2048, layers=24, heads=32, context=2048),
}


@dataclass(frozen=True)
class Plan:
    """All that decides the result of one training, beside the shards.

    micro_batch: windows that one device holds at once; a step is micro_batch x accumulation x world_size windows.
    threads: of torch on a CPU (another number adds in another order). save_steps: optimiser steps between
    checkpoints, a multiple of log_steps. flops_per_token: operations that training takes.
    """

    backbone: Backbone
    vocab_size: int
    steps: int
    micro_batch: int
    accumulation: int
    world_size: int
    learning_rate: float
    precision: Precision
    device: str
    threads: int
    seed: int
    fsdp: bool
    log_steps: int
    save_steps: int
    flops_per_token: int

    @property
    def windows_per_step(self) -> int:
        return self.micro_batch * self.accumulation * self.world_size

    @property
    def tokens_per_step(self) -> int:
        return self.windows_per_step * self.backbone.context

    @property
    def evaluate_steps(self) -> int:
        """Steps between judgements on held-out bytes."""
        return math.ceil(self.steps / EVALUATIONS / self.log_steps) * self.log_steps

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        return cls(**{**value, "backbone": Backbone(**value["backbone"])})

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole training."""
        return self.steps * self.tokens_per_step * self.flops_per_token

    def with_equal_compute(self, vocab_size: int, flops_per_token: int) -> Plan:
        """The same backbone, batch and rate for another model or vocabulary, and steps that cost as many operations."""
        other = replace(self, vocab_size=vocab_size, flops_per_token=flops_per_token)
        return other.with_operations(self.flops)

    def with_operations(self, flops: int) -> Plan:
        """The same plan with the steps that cost about `flops` operations."""
        steps = max(1, round(flops / (self.tokens_per_step * self.flops_per_token)))
        log_steps, save_steps = _intervals(steps, self.save_steps * steps / self.steps)
        return replace(self, steps=steps, log_steps=log_steps, save_steps=save_steps)


@dataclass(frozen=True)
class Wish:
    """What the user asks of a training; None leaves the choice to `make_plan`.

    minutes: of training, on this machine. tokens: to see in training; wins over minutes.
    batch_tokens: of an optimiser step, over all devices. micro_batch: windows that a device holds at once.
    model: its name. delete: the share of bytes that an MrT5 learns to drop.
    """

    minutes: float = 2.0
    tokens: int | None = None
    backbone: Backbone | None = None
    batch_tokens: int | None = None
    micro_batch: int | None = None
    learning_rate: float | None = None
    precision: Precision | None = None
    fsdp: bool = False
    seed: int = 0
    model: str = "llama"
    delete: float = 0.5


Measure = Callable[[Backbone, int, Precision], float]  # -> tokens a second of one device; see tokens_per_second


def make_plan(
    wish: Wish,
    *,
    vocab_size: int,
    corpus_tokens: int,
    device: str,
    threads: int,
    world_size: int,
    passes: int = PASSES,
    flops_per_token: Callable[[Backbone], int],
    measure: Measure,
) -> Plan:
    """Turn a wish into a plan for `corpus_tokens` of training data.

    A given time buys tokens at the rate that `measure` finds, at most `passes` over the corpus. Without a given
    backbone it is the largest of SIZES that these tokens train well (TOKENS_PER_PARAMETER), and never less than the
    smallest, even where minutes on a CPU train that too short.
    """
    if (wish.minutes if wish.tokens is None else wish.tokens) <= 0:
        raise InvalidInputError("the time and the tokens to train for must be positive")

    def enough(backbone: Backbone, tokens: float) -> bool:
        return tokens >= TOKENS_PER_PARAMETER * backbone.parameters(vocab_size)

    def tokens_at(rate: float) -> int:
        return wish.tokens or int(min(wish.minutes * 60 * rate * world_size, passes * corpus_tokens))

    smallest, *larger = list(SIZES.values()) if wish.backbone is None else [wish.backbone]
    speed = _measure(smallest, wish, device, measure)
    backbone = smallest
    for candidate in larger:
        # Measuring takes seconds: only what would do if it were used twice as well as the smaller one.
        ratio = backbone.flops_per_token(vocab_size) / candidate.flops_per_token(vocab_size)
        if not enough(candidate, tokens_at(2 * ratio * speed.rate)):
            break
        faster = _measure(candidate, wish, device, measure)
        if not enough(candidate, tokens_at(faster.rate)):
            break
        backbone, speed = candidate, faster

    tokens = tokens_at(speed.rate)
    micro_tokens = speed.micro_batch * backbone.context * world_size
    accumulation = max(1, round((wish.batch_tokens or _batch_tokens(tokens)) / micro_tokens))
    step_tokens = accumulation * micro_tokens
    steps = max(1, round(tokens / step_tokens))
    log_steps, save_steps = _intervals(steps, CHECKPOINT_SECONDS * speed.rate * world_size / step_tokens)
    return Plan(
        backbone=backbone,
        vocab_size=vocab_size,
        steps=steps,
        micro_batch=speed.micro_batch,
        accumulation=accumulation,
        world_size=world_size,
        learning_rate=wish.learning_rate or min(3e-3, 0.6 / backbone.hidden_size),
        precision=speed.precision,
        device=device,
        threads=threads,
        seed=wish.seed,
        fsdp=wish.fsdp,
        log_steps=log_steps,
        save_steps=save_steps,
        flops_per_token=flops_per_token(backbone),
    )


class _Speed(NamedTuple):
    """How one device trains a backbone best: tokens a second, precision, windows at once."""

    rate: float
    precision: Precision
    micro_batch: int


def _measure(backbone: Backbone, wish: Wish, device: str, measure: Measure) -> _Speed:
    """The faster precision and its speed. On a CPU bf16 has to pay clearly, on a GPU it is the rule."""
    precisions: list[Precision] = ["fp32", "bf16"]
    if wish.precision is not None:
        precisions = [wish.precision]
    elif device == "cuda" and torch.cuda.is_bf16_supported():
        precisions = ["bf16"]
    elif device != "cpu":
        precisions = ["fp32"]
    micro_batch = wish.micro_batch or max(1, (BUSY_CPU if device == "cpu" else BUSY_GPU) // backbone.context)
    while True:
        try:
            speeds = [_Speed(measure(backbone, micro_batch, p), p, micro_batch) for p in precisions]
        except torch.OutOfMemoryError:
            if micro_batch == 1 or wish.micro_batch:
                raise InvalidInputError(
                    f"a model with hidden size {backbone.hidden_size} and {backbone.layers} layers does not fit into "
                    f"the memory of the device with {micro_batch} windows; choose fewer windows or a smaller model"
                ) from None
            micro_batch //= 2
            continue
        return max(speeds, key=lambda speed: speed.rate / (1.2 if speed.precision == "bf16" else 1))


def _batch_tokens(tokens: int) -> int:
    """Tokens of a step: 2,048 for two million tokens of training, growing with their square root, as the critical
    batch size does (Zhang et al. 2024, arXiv 2410.21676); a power of two."""
    return max(2048, 1 << round(math.log2(2048 * math.sqrt(max(tokens, 1) / 2e6))))


def _intervals(steps: int, save_steps: float) -> tuple[int, int]:
    """(log_steps, save_steps): a checkpoint falls on a point of the curve, so that a resumed curve is whole."""
    log_steps = math.ceil(steps / CURVE_POINTS)
    return log_steps, max(1, round(save_steps / log_steps)) * log_steps
