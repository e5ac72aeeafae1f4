"""Embeddings that follow the vocabulary: when it begins, when it grows, and when its ids are permuted.

Use `compose_embeddings` on a new model before it is trained, and `resize_embeddings` to go on with a larger member of
a nested tokenizer family without losing what was learned. In both a merged token begins as the mean of the two tokens
it is made of, so that it means something before it was ever seen. Use `permute_embeddings` to release a model with a
vocabulary that `tokenize.export_unordered` wrote.
Source: Binary BPE, arXiv 2511.17573 (nested vocabularies); the mean is ours. Cost: one pass over the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from byteloom.tokenize import BPE, Codec


def compose_embeddings(model: PreTrainedModel, tokenizer: Codec) -> None:
    """Let every token of an untrained `model` that two others make up begin as their mean, in place.

    In a training of two million tokens this saves a good tenth of a bit per byte: docs/train.md has the figures.
    Raises InvalidInputError when the model has another vocabulary than `tokenizer`.
    """
    _check_rows(model, tokenizer)
    _fill(model, tokenizer.compositions)


def resize_embeddings(model: PreTrainedModel, old: BPE, new: BPE) -> None:
    """Give `model`, trained with `old`, the vocabulary of `new`, in place.

    Input and output embeddings grow together, tied or not; the rows of old ids, and so their logits, stay exactly as
    they are. An output bias grows likewise. Raises InvalidInputError when `old` is not a prefix of `new` or when the
    model has another vocabulary than `old`.
    """
    if new.special_tokens != old.special_tokens or not _is_prefix(old.tables.merges, new.tables.merges):
        raise InvalidInputError(
            "the new tokenizer does not begin with the old one's tokens; take both from one family (truncate)"
        )
    _check_rows(model, old)
    model.resize_token_embeddings(new.vocab_size, mean_resizing=False)
    _fill(model, new.tables.merges[len(old.tables.merges) :])


def permute_embeddings(model: PreTrainedModel, permutation: np.ndarray) -> None:
    """Give token i of `model` the id permutation[i], in place: its logits for permuted ids are the old ones, permuted.

    permutation: integers [vocabulary], as from `export_unordered`. Input and output embeddings, tied or not, and an
    output bias move together; ids that the configuration names must keep their place, as special tokens do.
    Raises InvalidInputError when it is no permutation of the model's ids or moves an id of the configuration.
    """
    tables = _tables(model)
    order = np.asarray(permutation)
    rows = len(tables[0])
    if order.shape != (rows,) or not np.array_equal(np.sort(order), np.arange(rows)):
        raise InvalidInputError(
            f"give a permutation of the model's {rows} ids: each of them once; got {order.size} numbers"
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        named = getattr(model.config, name, None)
        ids = np.atleast_1d([] if named is None else named).astype(np.int64)
        if (order[ids] != ids).any():
            raise InvalidInputError(
                f"the permutation moves the {name} of the model; special tokens must keep their ids"
            )
    index = torch.from_numpy(order.astype(np.int64)).to(tables[0].device)
    with torch.no_grad():
        for table in tables:
            table[index] = table.clone()


def _check_rows(model: PreTrainedModel, tokenizer: Codec) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if rows != tokenizer.vocab_size:
        raise InvalidInputError(
            f"the model has {rows} token embeddings, but the tokenizer {tokenizer.vocab_size} tokens; "
            "give the tokenizer that belongs to the model"
        )


def _fill(model: PreTrainedModel, compositions: np.ndarray) -> None:
    """Set the rows of whole tokens; `compositions` is uint32 [n, 3]: left part, right part, whole."""
    with torch.no_grad():
        for table in _tables(model):
            # Parts before wholes: a part may itself be one of these tokens.
            for left, right, whole in compositions.tolist():
                table[whole] = (table[left] + table[right]) / 2


def _tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """What has a row, or an entry, for every id: input embeddings, output embeddings unless tied, output bias."""
    tables = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None:
        if output.weight is not tables[0]:
            tables.append(output.weight)
        if getattr(output, "bias", None) is not None:
            tables.append(output.bias)
    return tables


def _is_prefix(short: np.ndarray, long: np.ndarray) -> bool:
    return len(short) <= len(long) and np.array_equal(short, long[: len(short)])
