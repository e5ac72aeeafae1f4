"""Small language models that compare tokenizers: one backbone, trained for a time or for a number of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import LlamaForCausalLM

from byteloom.bench.catalogue import Progress
from byteloom.evaluate.bits_per_byte import bits_per_byte
from byteloom.machine import usable_cores
from byteloom.tokenize import Tokenizer
from byteloom.train.plan import Backbone, Wish, make_plan
from byteloom.train.shards import write_shards
from byteloom.train.trainer import quiet_transformers, tokens_per_second, train_model

WINDOWS = 8  # a step; of the backbone's context each
GLIMPSE = 16 << 10  # bytes judged during a training, when only the end matters


@dataclass(frozen=True)
class SmallModel:
    """One trained model: what it cost and how well it predicts held-out bytes."""

    parameters: int
    tokens: int  # seen
    bytes: int  # seen
    seconds: float
    bits_per_byte: float


def train_small_model(
    tokenizer: Tokenizer,
    backbone: Backbone,
    train: Sequence[memoryview],
    held_out: Sequence[bytes],
    folder: Path,
    *,
    seconds: float = 0.0,
    bytes_seen: int | None = None,
    progress: Progress,
) -> SmallModel:
    """Train `backbone` for about `seconds`, or until it has seen `bytes_seen`; at most four passes over `train`.

    On the processor in fp32, AdamW at 1e-3 with warm-up and cosine decay.
    """
    shards = write_shards(train, tokenizer, folder / "shards")
    wish = Wish(
        minutes=seconds / 60,
        tokens=None if bytes_seen is None else round(bytes_seen / shards.bytes_per_token),
        backbone=backbone,
        batch_tokens=WINDOWS * backbone.context,
        micro_batch=WINDOWS,
        learning_rate=1e-3,
        precision="fp32",
    )
    threads = usable_cores()
    plan = make_plan(
        wish,
        vocab_size=tokenizer.vocab_size,
        corpus_tokens=shards.tokens,
        device="cpu",
        threads=threads,
        world_size=1,
        measure=partial(tokens_per_second, device="cpu", threads=threads),
    )
    trained = train_model(
        plan,
        tokenizer,
        shards,
        folder,
        judge=lambda model: bits_per_byte(model, tokenizer, held_out, max_bytes=GLIMPSE).bits_per_byte,
        progress=progress,
        label=f"model of {tokenizer.vocab_size:,} tokens",
    )
    with quiet_transformers():
        model = LlamaForCausalLM.from_pretrained(trained.folder)
    tokens = plan.steps * plan.tokens_per_step
    return SmallModel(
        parameters=model.num_parameters(),
        tokens=tokens,
        bytes=round(tokens * shards.bytes_per_token),
        seconds=trained.seconds,
        bits_per_byte=bits_per_byte(model, tokenizer, held_out).bits_per_byte,
    )
