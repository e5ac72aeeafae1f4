"""Several short completions of real bytes at once, and the n-grams that tell them apart.

Use it as an editor would: `complete_bytes` takes what stands before the cursor. Source: Superposed Decoding, NeurIPS
2024, arXiv 2405.18400. Cost: one forward pass a token for all completions together, and one to score them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

from byteloom.corpus import Corpus
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath
from byteloom.generate import NgramModel, SuperposedConfig, superposed_generate
from byteloom.generate.texts import end_ids
from byteloom.tasks.continuation import (
    control_ids,
    encoded,
    load_model,
    load_model_tokenizer,
    vocabulary_digest,
)
from byteloom.tokenize import load_tokenizer
from byteloom.tokenize.hf import ByteTokenizer
from byteloom.train.progress import Progress, silent

CONTEXT = 2048  # tokens before the cursor that are read at most: more would only be slower
TOKEN_BYTES = 64  # no token of a text tokenizer is assumed to be longer
BEFORE = 8  # tokens that new ones are decoded with
BATCH_BYTES = 8 << 20  # encoded at a time


@dataclass(frozen=True)
class Completion:
    """One way to go on. data: its bytes. tokens: how many they are, an end included. log_prob: what the model gives
    them all together, nats. ended: whether the document ends here."""

    data: bytes
    tokens: int
    log_prob: float
    ended: bool

    @property
    def probability(self) -> float:
        """Of exactly this completion."""
        return math.exp(self.log_prob)

    @property
    def token_probability(self) -> float:
        """The geometric mean over its tokens."""
        return math.exp(self.log_prob / self.tokens)


@dataclass(frozen=True)
class Completions:
    """The completions of a prompt, best first. used_tokens: of the prompt. forwards: passes of the model."""

    completions: list[Completion]
    used_tokens: int
    forwards: int
    seconds: float


def complete_bytes(
    folder: StrPath,
    prompt: bytes,
    *,
    max_new_tokens: int = 10,
    ngrams: StrPath | None = None,
    config: SuperposedConfig = SuperposedConfig(),
) -> Completions:
    """Ways in which the model in `folder` would go on after `prompt`, of which the last 2,048 tokens at most are read.

    ngrams: a file of `build_ngrams`, made with the tokenizer of the model. Raises FileError when `folder` holds no
    model, InvalidInputError for n-grams of another tokenizer, numbers out of range, and a prompt that a text tokenizer
    cannot take.
    """
    model, tokenizer = load_model(folder), load_model_tokenizer(Path(folder))
    grams = None if ngrams is None else NgramModel.load(ngrams, vocabulary_digest(tokenizer))
    window = getattr(model.config, "max_position_embeddings", None) or CONTEXT + max_new_tokens
    if not 1 <= max_new_tokens < window:
        raise InvalidInputError(f"max_new_tokens is 1 to {window - 1:,}, for the model's window; got {max_new_tokens}")
    room = min(CONTEXT, window - max_new_tokens)
    used = encoded(tokenizer, _tail(prompt, room, tokenizer), folder)[-room:]
    only_bytes, ends = control_ids(tokenizer), end_ids(model)
    began = time.perf_counter()
    drafts = superposed_generate(
        model,
        torch.tensor([used], device=model.device),
        max_new_tokens=max_new_tokens,
        ngrams=grams,
        config=config,
        eos_token_id=sorted(ends),
        logits_processor=LogitsProcessorList([SuppressTokensLogitsProcessor(only_bytes)]) if only_bytes else None,
    )
    seconds = time.perf_counter() - began
    assert drafts.log_probs is not None
    completions = []
    for ids_L, tokens, log_prob in zip(
        drafts.sequences[0, :, len(used) :].tolist(),
        drafts.lengths[0].tolist(),
        drafts.log_probs[0].tolist(),
        strict=True,
    ):
        ended = ids_L[tokens - 1] in ends
        data = _decoded(tokenizer, used[-BEFORE:], ids_L[: tokens - ended])
        completions.append(Completion(data, tokens, log_prob, ended))
    return Completions(completions, len(used), drafts.forwards, seconds)


def build_ngrams(
    corpus: Corpus, tokenizer: StrPath, *, max_order: int = 6, min_count: int = 1, progress: Progress = silent
) -> NgramModel:
    """Count the n-grams of a corpus. tokenizer: a folder of a model, or a tokenizer, folder or file.

    Raises FileError when the tokenizer cannot be read, InvalidInputError when the corpus is empty.
    """
    made = load_model_tokenizer(Path(tokenizer)) if Path(tokenizer).is_dir() else None
    if made is None:
        made = ByteTokenizer(tokenizer=load_tokenizer(tokenizer))
    ngrams = NgramModel.from_documents(
        _encoded_documents(corpus, made, progress),
        vocab_size=len(made),
        max_order=max_order,
        min_count=min_count,
        tokenizer=vocabulary_digest(made),
    )
    if not any(ngrams.sizes.values()):
        raise corpus.nothing_found("with n-grams")
    return ngrams


def _encoded_documents(
    corpus: Corpus, tokenizer: transformers.PreTrainedTokenizerBase, progress: Progress
) -> Iterator[Sequence[int] | np.ndarray]:
    total = corpus.size_on_disk()
    batch: list[bytes] = []
    size = 0
    for document in corpus:
        batch.append(bytes(document.data))
        size += len(batch[-1])
        if size >= BATCH_BYTES:
            yield from _encoded_batch(batch, tokenizer)
            progress("counting", corpus.visited_bytes, total)
            batch, size = [], 0
    yield from _encoded_batch(batch, tokenizer)
    progress("counting", total, total)


def _encoded_batch(
    documents: list[bytes], tokenizer: transformers.PreTrainedTokenizerBase
) -> Iterable[Sequence[int] | np.ndarray]:
    """Ids of each document with what the tokenizer puts around it: n-grams know then how documents begin and end."""
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if isinstance(tokenizer, ByteTokenizer):
        wrapped = start is not None and end is not None
        yield from tokenizer.tokenizer.encode_batch(documents, add_special_tokens=wrapped)
        return
    for document in documents:
        ids = tokenizer(document.decode("utf-8", "replace"), verbose=False)["input_ids"]
        yield ids if end is None or ids[-1:] == [end] else [*ids, end]


def _tail(prompt: bytes, room: int, tokenizer: transformers.PreTrainedTokenizerBase) -> bytes:
    """The end of the prompt, enough of it for `room` tokens: a long file is not encoded whole."""
    if isinstance(tokenizer, ByteTokenizer):
        return prompt[-room * tokenizer.tokenizer.max_token_bytes :]
    tail = prompt[-room * TOKEN_BYTES :]
    if len(tail) < len(prompt):  # not in the middle of a character
        tail = tail[next((at for at, byte in enumerate(tail[:4]) if byte & 0xC0 != 0x80), 0) :]
    return tail


def _decoded(tokenizer: transformers.PreTrainedTokenizerBase, before: list[int], ids: list[int]) -> bytes:
    """The bytes that the ids add behind others."""
    if isinstance(tokenizer, ByteTokenizer):
        return tokenizer.decode_bytes(ids)
    # Behind others, for text tokenizers drop a space at the beginning of a text.
    texts = [tokenizer.decode(some, skip_special_tokens=True) for some in (before, [*before, *ids])]
    return texts[1].removeprefix(texts[0]).encode()
