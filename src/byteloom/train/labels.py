"""The objective of a classifier: tell the label of a file, or of a fragment of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaForSequenceClassification, PreTrainedModel

from byteloom.corpus.cuts import Cut, cut
from byteloom.corpus.labels import LabelledDocuments
from byteloom.models.byteformer import ByteFormerConfig, ByteFormerForSequenceClassification, collate_bytes
from byteloom.tokenize import byte_tokenizer
from byteloom.train.objectives import Hooks, Item, Scale, count_flops
from byteloom.train.plan import Backbone

Collate = Callable[[Sequence[bytes]], dict[str, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """A classifier that can be trained.

    backbone: the shape where none is wished for; its context counts bytes. new: the model, for a shape and label names.
    collate: files to its inputs.
    """

    backbone: Backbone
    vocab_size: int
    new: Callable[[Backbone, tuple[str, ...]], PreTrainedModel]
    collate: Collate


@dataclass(frozen=True)
class TellLabel:
    """A classifier of `documents`, each cut to the `context` of the backbone, which counts bytes.

    cut: "fragment" takes another piece of a file each time; see `byteloom.corpus.cuts`.
    """

    architecture: Architecture
    documents: LabelledDocuments
    cut: Cut
    context: int

    passes = 32  # a label teaches less than the bytes themselves

    @property
    def vocab_size(self) -> int:
        return self.architecture.vocab_size

    @property
    def tokens(self) -> int:
        return len(self.documents.documents) * self.context

    def scale(self, context: int) -> Scale:
        return Scale(bytes_per_token=1.0, unit="nats", per_nat=1.0)

    def new_model(self, backbone: Backbone, device: str) -> PreTrainedModel:
        return self.architecture.new(backbone, self.documents.labels)

    def dataset(self, context: int, count: int, seed: int) -> Dataset[Item]:
        return _Draws(self.documents, self.cut, context, count, seed)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        labels_B = torch.tensor([item["label"] for item in items])
        return self.architecture.collate([item["document"] for item in items]) | {"labels": labels_B}

    def warmup(self, steps: int) -> int:
        """Nearly a third: in short trainings ByteFormer leaves its plateau later with less."""
        return math.ceil(0.3 * steps)

    def hooks(self, steps: int) -> Hooks:
        return Hooks()

    def flops_per_token(self, backbone: Backbone) -> int:
        return count_flops(self, backbone)


class _Draws(Dataset[Item]):
    """`count` draws of documents, every pass in another order; item i is known without the items before it."""

    def __init__(self, documents: LabelledDocuments, how: Cut, context: int, count: int, seed: int) -> None:
        self._documents = documents.documents
        self._how, self._context, self._count, self._seed = how, context, count, seed
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, item: int) -> Item:
        if not 0 <= item < self._count:
            raise IndexError(item)
        epoch, place = divmod(item, len(self._documents))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._documents))
            self._epoch = epoch
        document, label = self._documents[self._order[place]]
        where = np.random.default_rng((self._seed, item, 1)).random() if self._how == "fragment" else 0.0
        return {"document": cut(document.data, self._context, self._how, where), "label": label}


def _new_byteformer(backbone: Backbone, labels: tuple[str, ...]) -> PreTrainedModel:
    """Merging after the first block and then after every second one but the last, as published for twelve."""
    kernel = 8 if backbone.context <= 8192 else 16 if backbone.context <= 65_536 else 32
    config = ByteFormerConfig(
        hidden_size=backbone.hidden_size,
        num_hidden_layers=backbone.layers,
        num_attention_heads=backbone.heads,
        kernel_size=kernel,
        merge_after=(0, *range(1, backbone.layers - 2, 2)),
        max_tokens=1 + -(-max(0, backbone.context - kernel) // (kernel // 2)),
        **_names(labels),
    )
    return ByteFormerForSequenceClassification(config)


def _new_llama(backbone: Backbone, labels: tuple[str, ...]) -> PreTrainedModel:
    config = backbone.config(byte_tokenizer().vocab_size)
    config.update({"max_position_embeddings": backbone.context + 1, **_names(labels)})  # one more for <|start|>
    return LlamaForSequenceClassification(config)


def _names(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def _collate_byteformer(documents: Sequence[bytes]) -> dict[str, Tensor]:
    return collate_bytes(documents, max(map(len, documents)))


def _collate_llama(documents: Sequence[bytes]) -> dict[str, Tensor]:
    """<|start|> and the bytes, padded on the right: the model judges at the last byte."""
    tokenizer = byte_tokenizer()
    start, pad = tokenizer.special_tokens["<|start|>"], tokenizer.special_tokens["<|pad|>"]
    rows = tokenizer.encode_batch(documents)
    input_ids_BT = np.full((len(rows), 1 + max(map(len, rows))), pad, np.int64)
    input_ids_BT[:, 0] = start
    for number, row in enumerate(rows):
        input_ids_BT[number, 1 : 1 + len(row)] = row
    ids_BT = torch.from_numpy(input_ids_BT)
    return {"input_ids": ids_BT, "attention_mask": (ids_BT != pad).long()}


ARCHITECTURES = {
    "byteformer": Architecture(Backbone(96, 6, 4, 4096), 257, _new_byteformer, _collate_byteformer),
    "llama": Architecture(Backbone(128, 4, 4, 512), byte_tokenizer().vocab_size, _new_llama, _collate_llama),
}
"""The classifiers of `byteloom fit --task classify`, by name."""
