"""What another segmentation of the same bytes costs a model: bits per byte, tokens and decisions for each inference.

Use it to decide whether a model may be run without its merge list, or on fewer tokens. The bytes are the same for all,
so bits per byte can be compared; perplexity per token cannot.
Source: Train It and Forget It, EMNLP 2025, arXiv 2508.06621. Cost: one judgement of `bits_per_byte` an inference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.evaluate.bits_per_byte import BitsPerByte, bits_per_byte
from byteloom.evaluate.choices import Question, choice_accuracy
from byteloom.evaluate.text_tokenizer import Cuts, TextTokenizer
from byteloom.tokenize import BPE
from byteloom.tokenize.inference import INFERENCES, Inference, Segmenter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Segmentation:
    """One inference judged: how the model does on it, and how near it is to merge order."""

    inference: Inference
    judgement: BitsPerByte
    kept: float
    """Share of the token boundaries of merge order that it has too."""
    same_words: float | None
    """Share of pre-tokens that are cut as in merge order; None where the tokenizer makes no pre-tokens."""
    accuracy: float | None
    """Share of questions that the model answers; None when none were asked."""


def compare_inference(
    model: PreTrainedModel,
    tokenizer: BPE | PreTrainedTokenizerBase,
    documents: Sequence[Any],
    inferences: Sequence[Inference] = INFERENCES,
    *,
    questions: Sequence[Question] = (),
    context: int | None = None,
    stride: int | None = None,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Segmentation]:
    """Judge `model` on `documents`, bytes-like, segmented by each of `inferences` with the tokens of `tokenizer`.

    tokenizer: a BPE, or any fast tokenizer that `swap_inference` takes; its documents must be UTF-8, and boundaries
    are told between characters. questions: of `continuation_questions`. Damaged merge lists are those of Segmenter's
    defaults, drawn by `seed`; context, stride and batch are those of `bits_per_byte`. `progress` is told how many
    inferences are done. Raises InvalidInputError as these do.
    """
    expected = _cuts(_segmented(tokenizer, "merge", seed), documents)
    boundaries = sum(len(cuts.tokens) for cuts in expected)
    found = []
    for inference in inferences:
        encoder = _segmented(tokenizer, inference, seed)
        judgement = bits_per_byte(model, encoder, documents, context=context, stride=stride, batch=batch)
        pairs = list(zip(_cuts(encoder, documents), expected, strict=True))
        common = sum(len(np.intersect1d(cuts.tokens, merge.tokens, assume_unique=True)) for cuts, merge in pairs)
        accuracy = None
        if questions:
            accuracy = choice_accuracy(model, encoder, questions, context=context, batch=batch)
        found.append(Segmentation(inference, judgement, common / boundaries, _same_words(pairs), accuracy))
        progress(len(found))
    return found


def _segmented(tokenizer: BPE | PreTrainedTokenizerBase, inference: Inference, seed: int) -> Segmenter | TextTokenizer:
    if isinstance(tokenizer, BPE):
        return Segmenter(tokenizer, inference=inference, seed=seed)
    from byteloom.tokenize.swap import swap_inference

    return TextTokenizer(swap_inference(tokenizer, inference, seed=seed))


def _cuts(encoder: Segmenter | TextTokenizer, documents: Sequence[Any]) -> list[Cuts]:
    """Where tokens and pre-tokens end: in bytes, or in characters of a text tokenizer."""
    if isinstance(encoder, TextTokenizer):
        return encoder.cuts(documents)
    lengths = encoder.token_lengths
    return [Cuts(np.cumsum(lengths[ids], dtype=np.int64), None) for ids in encoder.encode_batch(documents)]


def _same_words(pairs: Sequence[tuple[Cuts, Cuts]]) -> float | None:
    """Share of the pre-tokens of merge order, the second of each pair, that hold the same boundaries in the first."""
    words = other = 0
    for cuts, merge in pairs:
        if merge.words is None:
            return None
        moved = np.setxor1d(cuts.tokens, merge.tokens, assume_unique=True)
        words += len(merge.words)
        other += len(np.unique(np.searchsorted(merge.words, moved)))
    return 1 - other / words if words else None
