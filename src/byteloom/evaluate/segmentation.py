"""What another segmentation of the same bytes costs a model: bits per byte and tokens for each inference.

Use it to decide whether a model may be run without its merge list, or on fewer tokens. The bytes are the same for all,
so bits per byte can be compared; perplexity per token cannot.
Source: Train It and Forget It, EMNLP 2025, arXiv 2508.06621. Cost: one judgement of `bits_per_byte` an inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.evaluate.bits_per_byte import BitsPerByte, bits_per_byte
from byteloom.tokenize.inference import INFERENCES, Inference, Segmenter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from byteloom.tokenize import BPE


@dataclass(frozen=True)
class Segmentation:
    """One inference judged: how the model does on it, and how near it is to merge order."""

    inference: Inference
    judgement: BitsPerByte
    kept: float
    """Share of the token boundaries of merge order that it has too."""


def compare_inference(
    model: PreTrainedModel,
    tokenizer: BPE,
    documents: Sequence[Any],
    inferences: Sequence[Inference] = INFERENCES,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch: int = 32,
    seed: int = 0,
) -> list[Segmentation]:
    """Judge `model` on `documents`, bytes-like, segmented by each of `inferences` with the tokens of `tokenizer`.

    Damaged merge lists are those of Segmenter's defaults, drawn by `seed`; the other options are those of
    `bits_per_byte`. Raises InvalidInputError as it and Segmenter do.
    """
    expected = [_boundaries(tokenizer, ids) for ids in tokenizer.encode_batch(documents)]
    found = []
    for inference in inferences:
        segmenter = Segmenter(tokenizer, inference=inference, seed=seed)
        judgement = bits_per_byte(model, segmenter, documents, context=context, stride=stride, batch=batch)
        cuts = [_boundaries(tokenizer, ids) for ids in segmenter.encode_batch(documents)]
        common = sum(len(np.intersect1d(*pair, assume_unique=True)) for pair in zip(cuts, expected, strict=True))
        found.append(Segmentation(inference, judgement, kept=common / sum(map(len, expected))))
    return found


def _boundaries(tokenizer: BPE, ids: np.ndarray) -> np.ndarray:
    """Where each token ends, in bytes."""
    return np.cumsum(tokenizer.token_lengths[ids], dtype=np.int64)
