"""Training data of Byte2Word: some words of each document are hidden, and their sub-word pieces are to be told.

The pieces are those of any tokenizer; it serves training alone. Its size does not burden the input, and no table of
whole words is needed on either side.
Source: as `byteloom.models.byte2word`; which words are hidden, and by what, as BERT (arXiv 1810.04805).
"""

# Shape suffixes: B documents, T places of a row ([CLS] and words), H chosen words, J pieces of a word, M pieces of all.

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byteloom.errors import InvalidInputError
from byteloom.models.byte2word import IGNORED
from byteloom.models.word_batch import MASK, collate_words, with_symbol
from byteloom.tokenize.words import WordSplitter

SHOWN_AS_MASK, SHOWN_AS_ANOTHER = 0.8, 0.1
"""Shares of the chosen words; the rest is shown as it is."""
MASK_SHARE = 0.15
MAX_PIECES = 8


class Pieces(Protocol):
    """What is asked of the tokenizer of the pieces."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def token_lengths(self) -> npt.NDArray[np.integer]: ...

    def encode_batch(self, documents: Sequence[bytes], /) -> Sequence[npt.NDArray[np.integer]]: ...


class MaskedWordCollator:
    """Documents to a batch for Byte2WordForMaskedLM, with labels int64 [B, T, J].

    targets: the tokenizer of the pieces. mask: the share of words that are chosen. max_words: of a document that are
    read; max_pieces: of a word that are asked for.
    Raises InvalidInputError for a share outside (0, 1).
    """

    def __init__(
        self,
        splitter: WordSplitter,
        targets: Pieces,
        mask: float = MASK_SHARE,
        max_words: int = 512,
        max_pieces: int = MAX_PIECES,
    ) -> None:
        if not 0 < mask < 1:
            raise InvalidInputError(f"the share of hidden words lies between 0 and 1; got {mask}")
        self._splitter, self._targets, self._mask = splitter, targets, mask
        self._max_words, self._max_pieces = max_words, max_pieces
        self._sizes = np.append(targets.token_lengths, 0)  # the last is that of IGNORED

    def __call__(self, documents: Sequence[bytes], rng: np.random.Generator) -> dict[str, Tensor]:
        """table, index, attention_mask, labels; and hidden_bytes: int64 [B], the bytes of the pieces asked for.

        At least one word is chosen if there is any.
        """
        batch = collate_words(documents, self._splitter, self._max_words)
        is_word_BT = batch.attention_mask.numpy().astype(bool)
        is_word_BT[:, 0] = False
        words_H = np.flatnonzero(is_word_BT)
        chosen_H = words_H[rng.random(len(words_H)) < self._mask]
        if not len(chosen_H) and len(words_H):
            chosen_H = rng.choice(words_H, 1)
        labels_BTJ = self._labels(documents, batch.spans.numpy(), chosen_H)
        index_BT = batch.index.numpy().copy()
        how_H = rng.random(len(chosen_H))
        other_H = index_BT.flat[rng.choice(words_H, len(chosen_H))] if len(words_H) else chosen_H
        is_other_H = (how_H >= SHOWN_AS_MASK) & (how_H < SHOWN_AS_MASK + SHOWN_AS_ANOTHER)
        index_BT.flat[chosen_H[is_other_H]] = other_H[is_other_H]
        index_BT.flat[chosen_H[how_H < SHOWN_AS_MASK]] = len(batch.table)
        table = torch.cat([batch.table, with_symbol(batch.table[:0], MASK)])
        used, index = np.unique(index_BT, return_inverse=True)  # a word that is hidden everywhere is not encoded
        sizes_BTJ = self._sizes[np.where(labels_BTJ == IGNORED, -1, labels_BTJ)]
        return {
            "table": table[torch.from_numpy(used)],
            "index": torch.from_numpy(index.reshape(index_BT.shape)),
            "attention_mask": batch.attention_mask,
            "labels": torch.from_numpy(labels_BTJ),
            "hidden_bytes": torch.from_numpy(sizes_BTJ.sum((1, 2), dtype=np.int64)),
        }

    def _labels(
        self, documents: Sequence[bytes], spans_BT2: npt.NDArray[np.int64], chosen_H: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """int64 [B, T, J]: the first pieces of the chosen words."""
        batch, count, _ = spans_BT2.shape
        row_H, place_H = np.divmod(chosen_H, count)
        spans_H = spans_BT2[row_H, place_H].tolist()
        words = [documents[row][first:last] for row, (first, last) in zip(row_H.tolist(), spans_H, strict=True)]
        labels_BTJ = np.full((batch, count, self._max_pieces), IGNORED, np.int64)
        if words:
            pieces = self._targets.encode_batch(words)
            length_H = np.array([len(some) for some in pieces])
            piece_M = np.arange(length_H.sum()) - np.repeat(np.cumsum(length_H) - length_H, length_H)
            is_asked_M = piece_M < self._max_pieces
            word_M = np.repeat(np.arange(len(words)), length_H)[is_asked_M]
            labels_BTJ[row_H[word_M], place_H[word_M], piece_M[is_asked_M]] = np.concatenate(pieces)[is_asked_M]
        return labels_BTJ
