"""Small language models that compare tokenizers: one backbone for all, trained at equal compute or for a time.

Use `try_tokenizers` before a large training, on a sample of its data: bytes per token alone do not tell which tokens
a model learns from. Source: the protocol of Equal-Info Windows, arXiv 2404.03626, at equal operations instead of equal
tokens. Cost: the given seconds a tokenizer, on the processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import LlamaForCausalLM

from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import Encoder, bits_per_byte
from byteloom.evaluate.text_tokenizer import TextTokenizer
from byteloom.files import StrPath, atomic_write
from byteloom.machine import usable_cores
from byteloom.tasks.plots import check_plot
from byteloom.tokenize import Codec, Tokenizer, byte_tokenizer
from byteloom.train.objectives import NextToken
from byteloom.train.plan import SIZES, Backbone, Plan, Wish
from byteloom.train.progress import Progress, silent
from byteloom.train.shards import write_shards
from byteloom.train.trainer import plan_training, quiet_transformers, train_model

if TYPE_CHECKING:
    from typing_extensions import Buffer

WINDOWS = 8  # a step; of the backbone's context each
GLIMPSE = 16 << 10  # bytes judged during a training, when only the end matters
RAW_BYTES = "raw bytes"


@dataclass(frozen=True)
class SmallModel:
    """One trained model: what it cost and how well it predicts held-out bytes."""

    parameters: int
    tokens: int
    """Seen in training."""
    bytes: int
    """Seen in training."""
    operations: int
    """Floating-point, of the training."""
    seconds: float
    bits_per_byte: float
    curve: tuple[tuple[float, float], ...]
    """(operations, bits per byte) on held-out bytes, during the training and at its end."""


def try_tokenizers(
    tokenizers: Mapping[str, Tokenizer],
    train: Sequence[Buffer],
    held_out: Sequence[bytes],
    folder: Path,
    *,
    seconds: float,
    backbone: Backbone = SIZES["nano"],
    progress: Progress = silent,
) -> dict[str, SmallModel]:
    """One model for each tokenizer and one for raw bytes (RAW_BYTES, the first), all at the same operations.

    `seconds` are what the training on raw bytes takes on this machine, at most four passes over `train`; the others
    get the operations of that one. folder: for shards and models, a folder for each.
    Raises InvalidInputError when the documents are shorter than a window of `backbone`.
    """
    if RAW_BYTES in tokenizers:
        raise InvalidInputError(f'"{RAW_BYTES}" is the name of the baseline; give the tokenizer another one')
    models: dict[str, SmallModel] = {}
    base: Plan | None = None
    for number, (name, tokenizer) in enumerate({RAW_BYTES: byte_tokenizer(), **tokenizers}.items()):
        place = folder / str(number)
        shards = write_shards(train, tokenizer, place / "shards")
        shards.check(backbone.context)
        objective = NextToken(tokenizer, shards)
        if base is None:
            plan = base = _plan(objective, backbone, seconds=seconds, tokens=None)
        else:
            plan = base.with_equal_compute(tokenizer.vocab_size, objective.flops_per_token(backbone))
        models[name] = _train(
            plan,
            objective,
            tokenizer,
            held_out,
            place,
            progress=progress,
            label=f"model of {name}",
            glimpse=None,
        )
    return models


def train_small_model(
    tokenizer: Codec,
    backbone: Backbone,
    train: Sequence[Buffer],
    held_out: Sequence[bytes],
    folder: Path,
    *,
    seconds: float = 0.0,
    bytes_seen: int | None = None,
    text: TextTokenizer | None = None,
    progress: Progress,
) -> SmallModel:
    """Train `backbone` for about `seconds`, or until it has seen `bytes_seen`; at most four passes over `train`.

    On the processor in fp32, AdamW at 1e-3 with warm-up and cosine decay. `text` encodes instead of `tokenizer`, which
    then only tells what the ids mean.
    """
    encoder = text or tokenizer
    shards = write_shards(train, encoder, folder / "shards")
    tokens = None if bytes_seen is None else round(bytes_seen / shards.bytes_per_token)
    objective = NextToken(tokenizer, shards)
    plan = _plan(objective, backbone, seconds=seconds, tokens=tokens)
    label = f"model of {tokenizer.vocab_size:,} tokens"
    return _train(plan, objective, encoder, held_out, folder, progress=progress, label=label, glimpse=GLIMPSE)


def draw_models(models: Mapping[str, SmallModel], path: StrPath) -> None:
    """Draw bits per byte over operations, a line for each model, into an .svg, .pdf or .png file, atomically."""
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, model in models.items():
        operations, bits = zip(*model.curve, strict=True)
        (line,) = axes.plot(operations, bits, marker="o", markersize=3, label=f"{name}: {model.bits_per_byte:.3f}")
        axes.annotate(name, (operations[-1], bits[-1]), (6, 0), textcoords="offset points", color=line.get_color())
    axes.set_xlabel("training operations")
    axes.set_ylabel("bits per byte, held out")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="at the end")
    with atomic_write(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:], dpi=150)


def _plan(objective: NextToken, backbone: Backbone, *, seconds: float, tokens: int | None) -> Plan:
    wish = Wish(
        minutes=seconds / 60,
        tokens=tokens,
        backbone=backbone,
        batch_tokens=WINDOWS * backbone.context,
        micro_batch=WINDOWS,
        learning_rate=1e-3,
        precision="fp32",
    )
    return plan_training(objective, wish, device="cpu", threads=usable_cores())


def _train(
    plan: Plan,
    objective: NextToken,
    encoder: Encoder,
    held_out: Sequence[bytes],
    folder: Path,
    *,
    progress: Progress,
    label: str,
    glimpse: int | None,
) -> SmallModel:
    """Train by `plan` on what `encoder` made of the tokens of the objective's tokenizer.

    During the training the model is judged on `glimpse` bytes (None: all of them).
    """
    trained = train_model(
        plan,
        objective,
        folder,
        judge=lambda model: bits_per_byte(model, encoder, held_out, max_bytes=glimpse).bits_per_byte,
        progress=progress,
        label=label,
    )
    with quiet_transformers():
        model = LlamaForCausalLM.from_pretrained(trained.folder)
    bits = bits_per_byte(model, encoder, held_out).bits_per_byte
    cost = plan.tokens_per_step * plan.flops_per_token  # of a step
    tokens = plan.steps * plan.tokens_per_step
    return SmallModel(
        parameters=model.num_parameters(),
        tokens=tokens,
        bytes=round(tokens * objective.scale(plan.backbone.context).bytes_per_token),
        operations=plan.flops,
        seconds=trained.seconds,
        bits_per_byte=bits,
        curve=(
            *((point["step"] * cost, point["bits_per_byte"]) for point in trained.validation_curve),
            (plan.flops, bits),
        ),
    )
