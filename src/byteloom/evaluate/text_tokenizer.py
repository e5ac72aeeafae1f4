"""A Hugging Face tokenizer of text where a judge expects a tokenizer of bytes.

Use it to judge a model whose tokenizer splits words or normalises, on documents that are UTF-8 text; what is counted
stays bytes. Cost: that of the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Cuts(NamedTuple):
    """Where the tokens of a text end, and where its pre-tokens do: int64, rising, in characters."""

    tokens: np.ndarray
    words: np.ndarray | None
    """None for a tokenizer without pre-tokenization."""


class TextTokenizer:
    """`tokenizer`, a fast one, for `bits_per_byte`, shards and comparisons: ids of documents that are UTF-8.

    A document is predicted from the tokenizer's token for the beginning or, where it has none, for the end of a text.
    Raises InvalidInputError when it has neither or is slow, and later for a document that is not UTF-8.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise InvalidInputError(f"give a fast tokenizer, one of the library tokenizers; {_name(tokenizer)} is slow")
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise InvalidInputError(
                f"this {_name(tokenizer)} has no token for the beginning or end of a text; set its bos_token"
            )
        self.tokenizer = tokenizer
        self.special_tokens = {"<|start|>": int(start)}
        self.vocab_size = len(tokenizer)

    def encode(self, document: Any) -> np.ndarray:
        """Ids of one document: uint32 [n], without special tokens around them."""
        return self.encode_batch([document])[0]

    def encode_batch(self, documents: Sequence[Any], threads: int | None = None) -> list[np.ndarray]:
        """`encode` for many documents; `tokenizers` decides on the threads."""
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in self._encodings(documents)]

    def encode_blocks(self, blocks: Iterable[Any]) -> Iterator[np.ndarray]:
        """The ids of one text that comes in blocks; they are joined first."""
        yield self.encode(b"".join(blocks))

    def cuts(self, documents: Sequence[Any]) -> list[Cuts]:
        """Where tokens and pre-tokens of each document end; of cuts inside a character only its end is told."""
        split = self.tokenizer.backend_tokenizer.pre_tokenizer is not None
        found = []
        for encoding in self._encodings(documents):
            ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
            words = encoding.word_ids
            last = [word != after for word, after in zip(words, [*words[1:], object()], strict=True)]
            found.append(Cuts(np.unique(ends), np.unique(ends[last]) if split else None))
        return found

    def _encodings(self, documents: Sequence[Any]) -> list[Any]:
        if not documents:
            return []
        return self.tokenizer([_text(d) for d in documents], add_special_tokens=False, verbose=False).encodings


def whole_characters(block: bytes) -> bytes:
    """`block` without the pieces of characters that were cut through at its ends; binary data may lose 3 bytes each."""
    start = next((at for at, byte in enumerate(block[:3]) if not _continues(byte)), min(3, len(block)))
    last = range(len(block) - 1, max(start, len(block) - 4) - 1, -1)
    lead = next((at for at in last if not _continues(block[at])), start)
    # The first byte of a character tells how many it has: one below 0xC0, then two, three from 0xE0, four from 0xF0.
    whole = sum(byte >= least for byte in block[lead : lead + 1] for least in (0, 0xC0, 0xE0, 0xF0))
    return block[start:] if lead + whole <= len(block) else block[start:lead]


def _continues(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _text(document: Any) -> str:
    try:
        return str(memoryview(document), "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"this tokenizer takes text, and a document is not UTF-8 ({error.reason} at byte {error.start}); name text "
            "files only, or judge a model whose tokenizer takes bytes"
        ) from None


def _name(tokenizer: Any) -> str:
    return type(tokenizer).__name__
