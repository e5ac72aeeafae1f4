"""The models that `byteloom fit` and `byteloom compare-models` train on bytes, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    ByT5Tokenizer,
    PreTrainedModel,
)

from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import BitsPerByte, bits_per_byte
from byteloom.evaluate.hidden_bytes import hidden_bits_per_byte
from byteloom.tokenize import Tokenizer
from byteloom.tokenize.words import WordSplitter
from byteloom.train.hidden import HiddenSpans
from byteloom.train.hidden_words import HiddenWords
from byteloom.train.objectives import NextByteOfWord, NextToken, Objective
from byteloom.train.shards import Shards

NEXT, HIDDEN = "bits per byte", "bits per hidden byte"

MODELS = {
    "llama": "a Llama that predicts the next token, of any tokenizer",
    "word-pooled": "a Llama over words, whose bytes a small model reads and writes",
    "mrt5": "a byte encoder-decoder that fills in hidden spans, and drops most bytes on the way",
    "byt5": "the same without dropping",
    "byte2word": "an encoder over words, which reads their bytes and guesses the pieces of hidden words",
}
"""What each model is, in some words."""


@dataclass(frozen=True)
class Trainee:
    """One model to train. measure: NEXT or HIDDEN, in which alone its figures can be compared.

    judge: its figure on held-out documents, of a window in bytes or tokens. load: from the folder of a training.
    save_tokenizer: into a folder, what AutoTokenizer reads beside the model.
    """

    model: str
    objective: Objective
    measure: str
    judge: Callable[[PreTrainedModel, Sequence[bytes]], BitsPerByte]
    load: Callable[[Path], PreTrainedModel]
    save_tokenizer: Callable[[Path], Any]


def tokenizer_of(model: str, wanted: str | None = None) -> str:
    """The tokenizer that a model is trained with: a name or a path of `load_tokenizer`, or "bpe" for a new one.

    Raises InvalidInputError for an unknown model, and for a tokenizer that it cannot be trained with.
    """
    if model not in MODELS:
        raise InvalidInputError(f"the model is one of {', '.join(MODELS)}, not {model!r}")
    own = {"llama": "bpe", "byte2word": "bpe", "word-pooled": "words"}.get(model, "bytes")
    if wanted not in (None, own) and model != "llama":
        raise InvalidInputError(f"the model {model} reads {own}; leave the tokenizer out")
    return wanted or own


def trainee(
    model: str, tokenizer: Tokenizer, shards: Shards, context: int, *, delete: float = 0.5, stride: int | None = None
) -> Trainee:
    """The model called `model`, for windows of `context` tokens of `shards`, which `tokenizer` made.

    Shards of byte2word are of bytes, and `tokenizer` makes the pieces that it guesses. delete: the share of bytes that
    MrT5 drops. stride: of the windows in which a causal model is judged.
    """
    if model in ("mrt5", "byt5"):
        spans = HiddenSpans(shards, "learned" if model == "mrt5" else "none", delete)
        return Trainee(
            model,
            spans,
            HIDDEN,
            lambda trained, blocks: hidden_bits_per_byte(trained, spans.collate_held_out, blocks, window=context),
            AutoModelForSeq2SeqLM.from_pretrained,
            lambda folder: ByT5Tokenizer().save_pretrained(folder),
        )
    if model == "byte2word":
        words = HiddenWords(shards, tokenizer)
        return Trainee(
            model,
            words,
            HIDDEN,
            lambda trained, blocks: hidden_bits_per_byte(trained, words.collate_held_out, blocks, window=context),
            AutoModelForMaskedLM.from_pretrained,
            WordSplitter().save,
        )
    kind = NextByteOfWord if model == "word-pooled" else NextToken
    return Trainee(
        model,
        kind(tokenizer, shards),
        NEXT,
        lambda trained, blocks: bits_per_byte(trained, tokenizer, blocks, stride=stride),
        AutoModelForCausalLM.from_pretrained,
        tokenizer.save,
    )
