"""Documents as batches of words: a table of the distinct ones, and for each place which of them stands there.

The input of `byteloom.models.byte2word`. Zipf's law makes the table two to six times shorter than the text, and only
the table goes through the network that reads bytes.
Cost: a few numpy passes over the words, and one sort of their 64-bit hashes; no Python loop over words.
"""

# Shape suffixes: B documents, T places of a row ([CLS] and words), R words of all documents, U distinct words, W bytes
# of a word.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from byteloom.errors import InvalidInputError
from byteloom.models.word_encoder import WORD_PADDING
from byteloom.tokenize.words import FIRST, LAST, MAX_BYTES, WordSplitter

if TYPE_CHECKING:
    from typing_extensions import Buffer

CLS, MASK = 256, 258
"""Symbols that are words of their own: before every document, and in the place of a word that is to be guessed."""

Bytes = npt.NDArray[np.uint8]
Lengths = npt.NDArray[np.integer]


@dataclass(frozen=True)
class WordBatch:
    """table: int64 [U, W], the symbols of distinct words; row 0 is [CLS]. index: int64 [B, T], the row of each place.

    attention_mask: int64 [B, T], 0 behind the end. spans: int64 [B, T, 2], where in its document each word begins and
    ends; 0, 0 for [CLS] and behind the end.
    """

    table: Tensor
    index: Tensor
    attention_mask: Tensor
    spans: Tensor

    def inputs(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """What a Byte2Word model takes."""
        tensors = {"table": self.table, "index": self.index, "attention_mask": self.attention_mask}
        return {name: tensor.to(device) for name, tensor in tensors.items()}


def collate_words(documents: Sequence[Buffer], splitter: WordSplitter, max_words: int) -> WordBatch:
    """The first `max_words` words of each document, behind [CLS]; an empty document is [CLS] alone.

    Raises TypeError for anything but bytes.

    >>> batch = collate_words([b"to be or not to be"], WordSplitter(), 100)
    >>> batch.table.shape, batch.index.shape
    (torch.Size([7, 4]), torch.Size([1, 7]))
    """
    parts = [as_bytes(document, number) for number, document in enumerate(documents)]
    return batch_words(parts, [splitter.word_lengths(part.data)[:max_words] for part in parts])


def collate_ids(ids_BN: Tensor, max_word_bytes: int = MAX_BYTES) -> WordBatch:
    """The words of rows of ids of a WordSplitter; special tokens, such as padding, are left out.

    Raises InvalidInputError for ids that are none and words that are too long.
    """
    rows, lengths = [], []
    for number, row_N in enumerate(ids_BN.cpu().numpy()):
        if len(row_N) and not 0 <= row_N.min() <= row_N.max() < FIRST + 2 * LAST:
            raise InvalidInputError(f"row {number} has an id that is none of the {FIRST + 2 * LAST} of a WordSplitter")
        row_N = row_N[row_N >= FIRST] - FIRST
        ends = np.flatnonzero(row_N >= LAST) + 1
        if len(row_N) and (not len(ends) or ends[-1] < len(row_N)):  # the last word is unfinished
            ends = np.append(ends, len(row_N))
        lengths.append(np.diff(ends, prepend=0))
        if len(ends) and lengths[-1].max() > max_word_bytes:
            word = int(lengths[-1].argmax())
            raise InvalidInputError(
                f"word {word} of row {number} has {lengths[-1][word]} bytes; the longest has {max_word_bytes}"
            )
        rows.append((row_N % LAST).astype(np.uint8))
    return batch_words(rows, lengths)


def batch_words(parts: Sequence[Bytes], lengths: Sequence[Lengths]) -> WordBatch:
    """Documents whose first words have these lengths, as a batch."""
    if not parts:
        raise InvalidInputError("there are no documents; give one at least")
    counts_B = np.array([len(some) for some in lengths])
    length_R = np.concatenate(lengths).astype(np.int64)
    used_B = np.array([int(some.sum()) for some in lengths])
    flat = np.concatenate([part[:used] for part, used in zip(parts, used_B, strict=True)])
    start_R = np.cumsum(length_R) - length_R
    table_UW, which_R = distinct_rows(flat, start_R, length_R)
    longest = int(counts_B.max())
    is_word_BT = np.arange(longest + 1) <= counts_B[:, None]
    is_word_BT[:, 0] = False
    index_BT = np.zeros((len(parts), longest + 1), np.int64)
    index_BT[is_word_BT] = which_R + 1
    spans_BT2 = np.zeros((len(parts), longest + 1, 2), np.int64)
    offset_R = np.repeat(np.cumsum(used_B) - used_B, counts_B)
    spans_BT2[is_word_BT] = np.stack([start_R, start_R + length_R], 1) - offset_R[:, None]
    attention_BT = is_word_BT.astype(np.int64)
    attention_BT[:, 0] = 1
    return WordBatch(
        with_symbol(torch.from_numpy(table_UW), CLS),
        torch.from_numpy(index_BT),
        torch.from_numpy(attention_BT),
        torch.from_numpy(spans_BT2),
    )


def table_of(words: Iterable[bytes], max_bytes: int) -> Tensor:
    """int64 [U, W]: the distinct ones of `words`, with [CLS] before and [MASK] behind them.

    Raises InvalidInputError for an empty word and one of more than `max_bytes`.
    """
    listed = list(words)
    for word in listed:
        if not 1 <= len(word) <= max_bytes:
            raise InvalidInputError(f"a word has 1 to {max_bytes} bytes; {word[:40]!r} has {len(word)}")
    length_R = np.array([len(word) for word in listed], np.int64)
    flat = np.frombuffer(b"".join(listed), np.uint8)
    table_UW, _ = distinct_rows(flat, np.cumsum(length_R) - length_R, length_R)
    table = with_symbol(torch.from_numpy(table_UW), CLS)
    return torch.cat([table, with_symbol(table[:0], MASK)])


def with_symbol(table_UW: Tensor, symbol: int) -> Tensor:
    """The table with a row for a word of its own in front."""
    row_1W = table_UW.new_full((1, max(1, table_UW.shape[1])), WORD_PADDING)
    row_1W[0, 0] = symbol
    return torch.cat([row_1W, table_UW.reshape(len(table_UW), row_1W.shape[1])])


def distinct_rows(
    flat: Bytes, start_R: npt.NDArray[np.int64], length_R: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(the distinct words as symbols int64 [U, W], int64 [R]: which of them each word is)."""
    width = int(length_R.max(initial=0))
    bytes_RW = _rows(flat, start_R, length_R, -(-width // 8) * 8)
    hash_R = _hashes(bytes_RW, length_R)
    _, first_U, which_R = np.unique(hash_R, return_index=True, return_inverse=True)
    words_RX, words_UX = bytes_RW.view(np.uint64), bytes_RW[first_U].view(np.uint64)
    if (words_UX[which_R] != words_RX).any() or (length_R[first_U][which_R] != length_R).any():  # two words, one hash
        void_R = np.concatenate([bytes_RW, length_R[:, None].view(np.uint8)], 1).view(f"V{bytes_RW.shape[1] + 8}")
        _, first_U, which_R = np.unique(void_R[:, 0], return_index=True, return_inverse=True)
    is_byte_UW = np.arange(width) < length_R[first_U][:, None]
    return np.where(is_byte_UW, bytes_RW[first_U, :width].astype(np.int64), WORD_PADDING), which_R


def as_bytes(document: Buffer, number: int) -> Bytes:
    """The bytes of a document. Raises TypeError for a str."""
    if isinstance(document, str):
        raise TypeError(f"document {number} is a str; pass its bytes, such as text.encode()")
    return np.frombuffer(memoryview(document), np.uint8)


def _rows(flat: Bytes, start_R: npt.NDArray[np.int64], length_R: npt.NDArray[np.int64], width: int) -> Bytes:
    """uint8 [R, W]: the words with zeros behind them."""
    padded = np.concatenate([flat, np.zeros(width, np.uint8)])
    rows_RW = np.lib.stride_tricks.sliding_window_view(padded, width)[start_R] if width else np.zeros((0, 0), np.uint8)
    return rows_RW * (np.arange(width) < length_R[:, None])


def _hashes(bytes_RW: Bytes, length_R: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """A hash of each word, from its bytes and their number."""
    hash_R = length_R.astype(np.uint64)
    for word_R in bytes_RW.view(np.uint64).T:
        hash_R = (hash_R ^ word_R) * np.uint64(0x9E3779B97F4A7C15)
        hash_R ^= hash_R >> np.uint64(29)
    return hash_R
