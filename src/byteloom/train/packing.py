"""Packing: several short documents in each row of a batch, with positions that begin again at each of them.

Use it where documents are much shorter than the context, as reads of DNA are: no row has padding but the last. Given
`position_ids` that restart and no attention mask, transformers keeps documents of one row apart, for any model.
Source: "context stuffing" of METAGENE-1, arXiv 2501.02045. Cost: a few microseconds a row, memory of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from byteloom.errors import InvalidInputError

IGNORED = -100  # a label that the loss leaves out


class PackedDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of packed documents: `input_ids`, `position_ids` and `labels`, each int64 [n, length]."""

    def __init__(self, input_ids: np.ndarray, position_ids: np.ndarray, labels: np.ndarray) -> None:
        self.input_ids = torch.from_numpy(input_ids)
        self.position_ids = torch.from_numpy(position_ids)
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self.input_ids[item],
            "position_ids": self.position_ids[item],
            "labels": self.labels[item],
        }


def pack_documents(documents: Sequence[np.ndarray], *, length: int, end_id: int, seed: int) -> PackedDataset:
    """Put the ids of `documents` (uint32 [n] each) into rows of `length` ids, in an order drawn from `seed`.

    Each document is followed by `end_id`; one that reaches past the end of its row is cut so that its `end_id` is the
    last id there. Labels are the ids themselves, since models of transformers shift them, but for the first of each
    document, which nothing before it can tell. The last row is filled up with `end_id` whose labels are ignored.
    Raises InvalidInputError when there is no document or no room for one.
    """
    if length < 2:
        raise InvalidInputError(f"a row needs room for an id and the end of its document; got a length of {length}")
    if not len(documents):
        raise InvalidInputError("there is no document to pack; give at least one")
    order = np.random.default_rng(seed).permutation(len(documents))
    sizes = np.array([len(document) for document in documents], np.int64)[order] + 1
    ends = np.cumsum(sizes)
    kept = sizes.copy()
    rows = done = first = 0
    while first < len(sizes):  # a row holds the documents [first, last], the last of them cut
        last = int(np.searchsorted(ends, done + length))
        if last < len(sizes):
            kept[last] -= ends[last] - done - length
            done = int(ends[last])
        first = last + 1
        rows += 1

    stops = np.cumsum(kept)
    starts = stops - kept
    ids = np.full(rows * length, end_id, np.int64)
    positions = np.arange(rows * length, dtype=np.int64)
    used = int(stops[-1])
    positions[:used] -= np.repeat(starts, kept)
    positions[used:] -= used
    text = np.concatenate([*(documents[i] for i in order.tolist()), np.zeros(1, np.uint32)])
    ids[:used] = text[positions[:used] + np.repeat(ends - sizes - np.arange(len(sizes)), kept)]
    ids[stops - 1] = end_id
    labels = ids.copy()
    labels[starts] = IGNORED
    labels[used:] = IGNORED
    return PackedDataset(*(array.reshape(rows, length) for array in (ids, positions, labels)))
