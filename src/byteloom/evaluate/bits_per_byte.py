"""Bits per byte: how well a language model predicts held-out bytes, whatever its tokens are.

Use it to compare models with different tokenizers: tokens differ, bytes do not. It is the size to which the model
as an arithmetic coder would compress the documents, in bits, divided by their bytes. Source: the sliding-window
evaluation of Press et al. 2021 (arXiv 2012.15832) and the byte normalisation of Gao et al. 2020 (arXiv 2101.00027).
Cost: context / stride forward passes over every token.
"""

# Shape suffixes: B windows in a batch, T tokens of a window, S scored tokens of a window, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK_BYTES = 16 << 10
IGNORED = -100  # the target of a padded position


class Encoder(Protocol):
    """What a judgement needs of a tokenizer: ids, and the one that stands before a document, <|start|>."""

    @property
    def special_tokens(self) -> Mapping[str, int]: ...

    def encode(self, data: Any) -> np.ndarray: ...


@dataclass(frozen=True)
class BitsPerByte:
    """The judgement: `bits` that the model needs for `bytes` of documents, given as `tokens`."""

    bits: float
    bytes: int
    tokens: int

    @property
    def bits_per_byte(self) -> float:
        """8 for a model that knows nothing; 0 for one that knows everything."""
        return self.bits / self.bytes


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: Encoder,
    documents: Iterable[Any],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch: int = 32,
    max_bytes: int | None = None,
) -> BitsPerByte:
    """The sum of -log2 p over every token of every document, beside the number of their bytes.

    model: any Hugging Face causal LM over the tokenizer's ids. documents: bytes-like. context: tokens of a window
    (default: the model's max_position_embeddings). stride: tokens by which windows advance (default: half the
    context), so every token but the first ones of a document is predicted from at least context - stride tokens.
    The first token of a document is predicted from <|start|>; <|end|> is not counted. With `max_bytes` only
    `sample_blocks(documents, max_bytes)` are judged. The model runs on its own device, under the caller's autocast.
    Raises InvalidInputError when there are no bytes to judge or when a size makes no sense.
    """
    if max_bytes is not None:
        documents = sample_blocks(documents, max_bytes)
    found = document_bits(model, tokenizer, documents, context=context, stride=stride, batch=batch)
    total = BitsPerByte(
        bits=math.fsum(one.bits for one in found),
        bytes=sum(one.bytes for one in found),
        tokens=sum(one.tokens for one in found),
    )
    if total.bytes == 0:
        raise InvalidInputError("there are no bytes to judge the model on; name non-empty documents")
    return total


def document_bits(
    model: PreTrainedModel,
    tokenizer: Encoder,
    documents: Iterable[Any],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch: int = 32,
) -> list[BitsPerByte]:
    """`bits_per_byte` for each of the documents by itself; windows of several are still scored together."""
    context = context or model.config.max_position_embeddings
    stride = stride or max(1, context // 2)
    if not 0 < stride <= context:
        raise InvalidInputError(f"the stride must be from 1 to the context of {context} tokens, not {stride}")
    start = tokenizer.special_tokens["<|start|>"]
    sizes: list[tuple[int, int]] = []
    bits: list[float] = []
    first, later = _Batch(model, batch, bits), _Batch(model, batch, bits)  # apart: a later window scores its end only
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for document in documents:
                ids = tokenizer.encode(document)
                sizes.append((memoryview(document).nbytes, len(ids)))
                bits.append(0.0)
                for number, window in enumerate(_windows(ids, start, context, stride, len(bits) - 1)):
                    (later if number else first).add(window)
            first.score()
            later.score()
    finally:
        model.train(was_training)
    return [BitsPerByte(own, size, tokens) for own, (size, tokens) in zip(bits, sizes, strict=True)]


def sample_blocks(documents: Iterable[Any], max_bytes: int, block_bytes: int = BLOCK_BYTES) -> list[bytes]:
    """At most `max_bytes` of the documents, evenly spread: an even, deterministic sample in bounded memory.

    Documents are cut into blocks of `block_bytes`; of all blocks, counted through, every 2^k-th is kept, with the
    smallest k that fits. So a few large documents are judged all over, not only at their headers. Each block then
    counts as a document of its own. At least one block is kept, however small `max_bytes` is.
    """
    kept: list[bytes] = []
    step, number, size = 1, 0, 0
    for document in documents:
        view = memoryview(document).cast("B")
        for at in range(0, len(view), block_bytes):
            if number % step == 0:
                kept.append(bytes(view[at : at + block_bytes]))
                size += len(kept[-1])
                while size > max_bytes and len(kept) > 1:
                    kept = kept[::2]
                    step *= 2
                    size = sum(map(len, kept))
            number += 1
    return kept


class _Window(NamedTuple):
    """Inputs of at most `context` tokens; the targets belong to the last of them."""

    inputs: np.ndarray
    targets: np.ndarray
    document: int


def _windows(ids: np.ndarray, start: int, context: int, stride: int, document: int) -> Iterator[_Window]:
    """Windows that score every id of one document once; all but the first are `context` long."""
    stream = np.concatenate([np.array([start]), ids]).astype(np.int64)
    done, end = 0, min(context, len(ids))
    while done < end:
        yield _Window(stream[max(0, end - context) : end], stream[done + 1 : end + 1], document)
        done, end = end, min(end + stride, len(ids))


class _Batch:
    """Windows that wait to be scored together; the bits of each are added to those of its document in `bits`."""

    def __init__(self, model: PreTrainedModel, size: int, bits: list[float]) -> None:
        self._model = model
        self._size = size
        self._bits = bits
        self._windows: list[_Window] = []

    def add(self, window: _Window) -> None:
        self._windows.append(window)
        if len(self._windows) == self._size:
            self.score()

    def score(self) -> None:
        if not self._windows:
            return
        # Padding stands on the right, where a causal model does not see it. Windows of one length need none.
        length = max(len(window.inputs) for window in self._windows)
        scored = max(length - len(w.inputs) + len(w.targets) for w in self._windows)
        inputs_BT = torch.zeros((len(self._windows), length), dtype=torch.int64)
        targets_BT = torch.full((len(self._windows), length), IGNORED)
        for row, (inputs, targets, _) in enumerate(self._windows):
            inputs_BT[row, : len(inputs)] = torch.from_numpy(inputs)
            targets_BT[row, len(inputs) - len(targets) : len(inputs)] = torch.from_numpy(targets)
        device = self._model.device
        output = self._model(input_ids=inputs_BT.to(device), use_cache=False, logits_to_keep=scored)
        nats_BS = torch.nn.functional.cross_entropy(
            output.logits.float().transpose(1, 2),
            targets_BT[:, length - scored :].to(device),
            ignore_index=IGNORED,
            reduction="none",
        )
        for window, nats in zip(self._windows, nats_BS.double().sum(1).tolist(), strict=True):
            self._bits[window.document] += nats / math.log(2)
        self._windows.clear()
