"""Grow a model from one member of a nested tokenizer family to a larger one.

Use it to start with a small vocabulary and to go on with a larger one without losing what was learned: ids of the
small vocabulary keep their meaning, and each new token starts as the mean of the two tokens it is made of.
Source: Binary BPE, arXiv 2511.17573 (nested vocabularies); the initialisation is ours. Cost: one pass over the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from byteloom.tokenize import BPE


def resize_embeddings(model: PreTrainedModel, old: BPE, new: BPE) -> None:
    """Give `model`, trained with `old`, the vocabulary of `new`, in place.

    Input and output embeddings grow together, tied or not; the rows of old ids, and so their logits, stay exactly as
    they are. An output bias grows likewise. Raises InvalidInputError when `old` is not a prefix of `new` or when the
    model has another vocabulary than `old`.
    """
    if new.special_tokens != old.special_tokens or not _is_prefix(old.merges, new.merges):
        raise InvalidInputError(
            "the new tokenizer does not begin with the old one's tokens; take both from one family (truncate)"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if rows != old.vocab_size:
        raise InvalidInputError(
            f"the model has {rows} token embeddings, but the old tokenizer {old.vocab_size} tokens; "
            "give the tokenizer that the model was trained with"
        )
    model.resize_token_embeddings(new.vocab_size, mean_resizing=False)
    tables = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None:
        if output.weight is not tables[0]:
            tables.append(output.weight)
        if getattr(output, "bias", None) is not None:
            tables.append(output.bias)
    parts = torch.from_numpy(new.merges[len(old.merges) :].astype(np.int64))
    with torch.no_grad():
        for table in tables:
            # In order: a part may itself be a new token.
            for row, (left, right) in enumerate(parts.tolist(), start=old.vocab_size):
                table[row] = (table[left] + table[right]) / 2


def _is_prefix(short: np.ndarray, long: np.ndarray) -> bool:
    return len(short) <= len(long) and np.array_equal(short, long[: len(short)])
