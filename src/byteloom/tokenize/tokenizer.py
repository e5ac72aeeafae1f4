"""What every tokenizer is: `Codec`, bytes to ids and back, and `Tokenizer`, a codec with a file.

A kind of tokenizer brings a native encoder and the bytes of its ids; encoding in batches and streams, decoding and the
errors are here, once. `load_tokenizer` in `byteloom.tokenize.loading` reads any kind.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath
from byteloom.tokenize.tokenizer_json import ROLES, TokenizerFile, roles

if TYPE_CHECKING:
    from typing_extensions import Buffer

Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Training:
    """How a tokenizer was trained."""

    documents: int
    """Documents trained on, after filters and sampling."""
    bytes: int
    """Bytes in them."""
    sampled_from: int
    """Bytes offered before documents were sampled to fit the memory limit."""
    seconds: float
    """Wall time, reading included."""
    counts: npt.NDArray[np.uint64] | None = None
    """For BPE, [n_merges] windows of each merged pair when it was chosen."""


class Encoder(Protocol):
    """A native encoder."""

    def encode(self, data: Buffer) -> Ids: ...
    def encode_batch(self, documents: Sequence[Buffer], threads: int) -> list[Ids]: ...
    def count(self, data: Buffer) -> int: ...


class Stream(Protocol):
    """A native encoder of one text that comes in pieces."""

    def feed(self, data: Buffer) -> Ids: ...
    def finish(self) -> Ids: ...


class Codec(ABC):
    """Bytes to token ids and back: decode(encode(x)) == x for every byte string, unless the kind folds letters."""

    special_tokens: Mapping[str, int]
    """Name and id of each special token."""

    def _set_up(self, encoder: Encoder, texts: Sequence[bytes], special_tokens: Mapping[str, int]) -> None:
        """`texts`: the bytes of each id, empty for ids without bytes, such as special tokens."""
        self._encoder = encoder
        self._texts = texts
        self._decoder = _native.Decoder(texts)
        self.special_tokens = special_tokens

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self._texts)

    @cached_property
    def token_lengths(self) -> npt.NDArray[np.uint32]:
        """uint32 [vocab_size]: bytes that each id stands for; 0 for special tokens."""
        return np.array([len(text) for text in self._texts], dtype=np.uint32)

    @property
    def max_token_bytes(self) -> int:
        """Length of the longest token, in bytes."""
        return int(self.token_lengths.max())

    def encode(self, data: Buffer, *, add_special_tokens: bool = False) -> Ids:
        """Token ids of `data`: uint32 [n]. `add_special_tokens` wraps them in <|start|> ... <|end|>.

        Raises TypeError for a str or for anything that is not contiguous unsigned bytes.
        """
        ids = self._encoder.encode(data)
        return self._wrap(ids) if add_special_tokens else ids

    def encode_batch(
        self, documents: Sequence[Buffer], threads: int | None = None, *, add_special_tokens: bool = False
    ) -> list[Ids]:
        """`encode` for many documents, on `threads` threads (default: all cores)."""
        batch = self._encoder.encode_batch(documents, available_threads(threads))
        return [self._wrap(ids) for ids in batch] if add_special_tokens else batch

    def encode_blocks(self, blocks: Iterable[Buffer]) -> Iterator[Ids]:
        """The ids of one text that comes in blocks, in pieces: together exactly `encode` of the whole.

        Memory does not grow with the text, but where the kind of tokenizer says so.
        """
        stream = self._stream()
        for block in blocks:
            ids = stream.feed(block)
            if len(ids):
                yield ids
        ids = stream.finish()
        if len(ids):
            yield ids

    @abstractmethod
    def _stream(self) -> Stream:
        """A new stream of this encoder."""

    def count(self, data: Buffer) -> int:
        """Number of tokens of `data`, without building their ids."""
        return self._encoder.count(data)

    def decode(self, ids: npt.ArrayLike, *, skip_special_tokens: bool = True) -> bytes:
        """The bytes that `ids` stand for. Special tokens give nothing, or their names in UTF-8 when not skipped.

        Raises InvalidInputError naming the first id outside the vocabulary and its position.
        """
        array = np.asarray(ids)
        if array.size == 0:
            return b""
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InvalidInputError(
                f"decode takes a one-dimensional array of integers; got {array.ndim} dimensions of {array.dtype}"
            )
        out_of_range = (array < 0) | (array >= self.vocab_size)
        if out_of_range.any():
            position = int(out_of_range.argmax())
            raise InvalidInputError(
                f"id {array[position]} at position {position} is not in the vocabulary of {self.vocab_size} tokens"
            )
        own = np.ascontiguousarray(array, dtype=np.uint32)
        if skip_special_tokens:
            return self._decoder.decode(own)
        names = {token: name.encode() for name, token in self.special_tokens.items()}
        parts, start = [], 0
        for i in np.flatnonzero(np.isin(own, list(names))).tolist():
            parts += [self._decoder.decode(own[start:i]), names[int(own[i])]]
            start = i + 1
        return b"".join([*parts, self._decoder.decode(own[start:])])

    def decode_blocks(self, blocks: Iterable[npt.ArrayLike]) -> Iterator[bytes]:
        """`decode` for ids that come in blocks."""
        for ids in blocks:
            yield self.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id; a special token gives its name in UTF-8."""
        if not 0 <= token < self.vocab_size:
            raise InvalidInputError(f"id {token} is not in the vocabulary of {self.vocab_size} tokens")
        return self._texts[token] or self._special_name.get(token, "").encode()

    @cached_property
    def compositions(self) -> npt.NDArray[np.uint32]:
        """uint32 [n, 3]: left, right and whole ids of tokens that two others make up, parts before wholes.

        The left part is the longest that leaves a token on its right. A token that no two make up is not listed.
        """
        ids = {text: token for token, text in enumerate(self._texts) if text}
        found = []
        for whole in sorted((text for text in ids if len(text) > 1), key=len):
            cuts = range(len(whole) - 1, 0, -1)
            if at := next((at for at in cuts if whole[:at] in ids and whole[at:] in ids), None):
                found.append((ids[whole[:at]], ids[whole[at:]], ids[whole]))
        return np.array(found, np.uint32).reshape(-1, 3)

    @cached_property
    def _special_name(self) -> dict[int, str]:
        return {token: name for name, token in self.special_tokens.items()}

    def _wrap(self, ids: Ids) -> Ids:
        names = roles(self.special_tokens)
        for role in ("bos_token", "eos_token"):
            if role not in names:
                raise InvalidInputError(f"this tokenizer has no {ROLES[role]} token; encode without add_special_tokens")
        start, end = self.special_tokens[names["bos_token"]], self.special_tokens[names["eos_token"]]
        return np.concatenate([[start], ids, [end]]).astype(np.uint32)


class Tokenizer(Codec):
    """A codec that lies in a Hugging Face tokenizer.json, and comes back from it with the same ids."""

    kind: ClassVar[str]
    """What `byteloom tokenizer train --method` calls it."""
    training: Training | None = None
    """None for a loaded one."""

    @abstractmethod
    def save(self, path: StrPath) -> None:
        """Write a Hugging Face tokenizer: a folder, or one file when `path` ends in .json."""

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read a tokenizer of this kind: a folder, or a tokenizer.json.

        Raises FileError when it cannot be read, InvalidInputError when it is damaged or of another kind.
        """
        return cls.from_file(TokenizerFile.read(path))

    @classmethod
    @abstractmethod
    def from_file(cls, source: TokenizerFile) -> Self:
        """The tokenizer in `source`. Raises InvalidInputError when it is damaged or of another kind."""

    @abstractmethod
    def with_special_tokens(self, names: Iterable[str]) -> Self:
        """This tokenizer with more special tokens, behind the last id."""


def available_threads(threads: int | None = None) -> int:
    """`threads`, or the number of cores that this process may use."""
    if threads is not None:
        if threads < 1:
            raise InvalidInputError(f"threads must be at least 1; got {threads}")
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
