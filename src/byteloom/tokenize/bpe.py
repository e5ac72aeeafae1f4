"""Byte-pair encoding over arbitrary bytes: trained fast, encoded exactly, in nested vocabularies.

Use it for executables and any other bytes that text tokenizers break on: no words, no normalisation, no escapes;
decode(encode(x)) == x for every byte string.
Source: Binary BPE, Bommarito 2025, arXiv 2511.17573; the merges are those of Sennrich et al. 2016, arXiv 1508.07909.
Cost: training is linear in the tokens replaced (about 10 bytes of memory a byte of input); encoding is one pass.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.entropy import entropy as order0
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath
from byteloom.tokenize.byte_alphabet import BYTE_CHARACTERS
from byteloom.tokenize.tiktoken_ranks import read_tiktoken_ranks
from byteloom.tokenize.tokenizer import Ids, Stream, Tokenizer, Training, available_threads
from byteloom.tokenize.tokenizer_json import (
    SPECIAL_TOKENS,
    TokenizerFile,
    TokenizerTables,
    bpe_tables,
    write_tokenizer_json,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

TRAINING_BYTES_PER_BYTE = 10  # peak memory of training, in bytes a byte of input


class BPE(Tokenizer):
    """A byte-level BPE tokenizer without pre-tokenization; encodes in merge order, exactly.

    `merges` is uint32 [n, 2]: the two public ids that merge i joins. Ids are laid out as special tokens, then the
    256 bytes, then the merges in training order. Foreign layouts come through `load` or `from_tables`.

    >>> BPE([(7 + ord("a"), 7 + ord("b"))]).encode(b"abba")
    array([263, 105, 104], dtype=uint32)
    """

    kind = "bpe"

    def __init__(self, merges: npt.ArrayLike = (), special_tokens: Sequence[str] = SPECIAL_TOKENS) -> None:
        names = tuple(special_tokens)
        if len(set(names)) != len(names):
            raise InvalidInputError(f"special tokens must differ from each other; got {', '.join(names)}")
        pairs = np.asarray(merges, dtype=np.uint32).reshape(-1, 2)
        first = len(names) + 256
        if (pairs >= first + np.arange(len(pairs))[:, None]).any():
            raise InvalidInputError("a merge may only join bytes and the results of earlier merges")
        results = np.arange(first, first + len(pairs), dtype=np.uint32)
        self._setup(
            TokenizerTables(
                byte_ids=np.arange(len(names), first, dtype=np.uint32),
                merges=np.column_stack([pairs, results]).astype(np.uint32),
                special_tokens={name: i for i, name in enumerate(names)},
                vocab_size=first + len(pairs),
            )
        )

    @classmethod
    def from_tables(cls, tables: TokenizerTables) -> Self:
        """A tokenizer with any layout of ids, such as one read from a file."""
        self = cls.__new__(cls)
        self._setup(tables)
        return self

    def _setup(self, tables: TokenizerTables) -> None:
        self.tables = tables
        known = tables.token_bytes()
        texts = [known.get(token, b"") for token in range(tables.vocab_size)]
        self._native = _native.BPEEncoder(tables.byte_ids.tolist(), tables.merges)
        self._set_up(self._native, texts, tables.special_tokens)
        if not self.is_exact_fast:
            warnings.warn(
                "the merge list is not one that BPE training produces; encoding is exact but slow",
                stacklevel=3,
            )

    @property
    def merges(self) -> npt.NDArray[np.uint32]:
        """uint32 [n_merges, 2]: public ids of the parts of each merge, in merge order."""
        return self.tables.merges[:, :2]

    @property
    def compositions(self) -> npt.NDArray[np.uint32]:
        """uint32 [n_merges, 3]: left, right and whole of each merge, in merge order."""
        return self.tables.merges

    @property
    def is_exact_fast(self) -> bool:
        """Whether the fast encoder serves this merge list; the general one gives the same ids, slowly."""
        return self._native.is_exact_fast

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(vocab_size={self.vocab_size}, merges={len(self.merges)}, "
            f"longest={self.max_token_bytes} bytes)"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BPE):
            return NotImplemented
        mine, theirs = self.tables, other.tables
        return (
            np.array_equal(mine.byte_ids, theirs.byte_ids)
            and np.array_equal(mine.merges, theirs.merges)
            and mine.special_tokens == theirs.special_tokens
            and mine.vocab_size == theirs.vocab_size
            and mine.extra_tokens == theirs.extra_tokens
        )

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {"tables": self.tables, "training": self.training}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._setup(state["tables"])
        self.training = state["training"]

    def encode_blocks(self, blocks: Iterable[Buffer]) -> Iterator[Ids]:
        """The ids of one text that comes in blocks, in pieces: together exactly `encode` of the whole.

        Memory does not grow with the text (but see `is_exact_fast`: the general encoder has to hold it).
        """
        return super().encode_blocks(blocks)

    def _stream(self) -> Stream:
        return _native.BPEStream(self._native)

    def truncate(self, vocab_size: int) -> Self:
        """The member of the nested family with `vocab_size` ids: the ids below it keep their meaning."""
        smallest = 1 + max([*self.tables.byte_ids.tolist(), *self.special_tokens.values()])
        if not smallest <= vocab_size <= self.vocab_size:
            raise InvalidInputError(
                f"cannot cut a vocabulary of {self.vocab_size} to {vocab_size}; choose from {smallest} to "
                f"{self.vocab_size}"
            )
        kept = self.tables.merges[:, 2] < vocab_size
        member = self.from_tables(
            TokenizerTables(
                byte_ids=self.tables.byte_ids,
                merges=np.ascontiguousarray(self.tables.merges[kept]),
                special_tokens=self.tables.special_tokens,
                vocab_size=vocab_size,
                extra_tokens={i: text for i, text in self.tables.extra_tokens.items() if i < vocab_size},
            )
        )
        member.training = self.training
        return member

    def save(self, path: StrPath) -> None:
        """Write a Hugging Face tokenizer: a folder, or one file when `path` ends in .json."""
        write_tokenizer_json(path, self.tables)

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read a tokenizer folder, a tokenizer.json (ours, or an official Latin-1 one) or a .tiktoken rank file."""
        if cls is BPE and Path(path).suffix == ".tiktoken":
            return cls.from_tables(read_tiktoken_ranks(path))
        return super().load(path)

    @classmethod
    def from_file(cls, source: TokenizerFile) -> Self:
        """The tokenizer in `source`. Raises InvalidInputError when it is damaged or of another kind."""
        return cls.from_tables(bpe_tables(source))

    def with_special_tokens(self, names: Iterable[str]) -> Self:
        """This tokenizer with more special tokens, behind the last id."""
        new = {name: self.vocab_size + i for i, name in enumerate(names)}
        tables = replace(
            self.tables,
            special_tokens=dict(self.tables.special_tokens) | new,
            vocab_size=self.vocab_size + len(new),
        )
        grown = self.from_tables(tables)
        grown.training = self.training
        return grown


def byte_tokenizer() -> BPE:
    """Raw bytes as a tokenizer: the special tokens and one id a byte; the baseline of every comparison."""
    return BPE()


def train_bpe(
    documents: Iterable[Buffer],
    *,
    vocab_size: int = 16384,
    min_frequency: int = 4,
    max_token_length: int | None = 32,
    chunk_size: int | None = None,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    entropy: tuple[float, float] | None = None,
    tie_break: Literal["bytes", "hf"] = "bytes",
    threads: int | None = None,
    memory_limit: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> BPE:
    """Learn merges from documents: the most frequent adjacent pair first, exactly; the result depends on no thread.

    documents: bytes-like, taken one at a time; merges never cross one. vocab_size: ids in all, special tokens and
    bytes included. min_frequency: adjacent windows below which a pair is not merged. max_token_length: bytes.
    chunk_size: cut documents every so many bytes first (8,192 gives the published tokenizers' chunks). entropy: keep
    only chunks (or whole documents) whose order-0 entropy lies between two bounds, in bits a byte. tie_break: among
    equally frequent pairs, the first by byte values, or in the order of Hugging Face `tokenizers`. threads: default
    all cores. memory_limit: bytes; documents are sampled by `seed` so that training stays below it.
    progress: called with ("reading" | "training", done, in all).

    Raises InvalidInputError for arguments out of range and when no document has a byte. Warns, and returns the
    true size, when the documents do not support `vocab_size`.

    >>> train_bpe([b"banana" * 99], vocab_size=265, min_frequency=2).token_bytes(264)
    b'anan'
    """
    smallest = len(special_tokens) + 256 + 1
    if vocab_size < smallest:
        raise InvalidInputError(
            f"vocab_size {vocab_size} is too small: {len(special_tokens)} special tokens and 256 bytes leave room "
            f"for merges from {smallest}"
        )
    for name, value, least in [
        ("min_frequency", min_frequency, 1),
        ("max_token_length", max_token_length, 2),
        ("chunk_size", chunk_size, 2),
    ]:
        if value is not None and value < least:
            raise InvalidInputError(f"{name} must be at least {least}; got {value}")
    report = progress or (lambda what, done, total: None)
    start = time.perf_counter()
    symbol_of_byte = _tie_order(tie_break)
    trainer = _native.BPETrainer(vocab_size - smallest + 1, symbol_of_byte.tolist())
    reader = _Sampler(trainer, memory_limit, seed)
    for piece in _pieces(documents, chunk_size, entropy):
        reader.add(piece)
        report("reading", reader.bytes_seen, 0)
    if reader.bytes_kept == 0:
        raise InvalidInputError("training needs at least one non-empty document")
    forbidden = [name.encode() for name in special_tokens]
    learned = trainer.train(
        min_frequency,
        max_token_length or 0,
        available_threads(threads),
        forbidden,
        lambda done, total: report("training", done, total),
    )
    report("training", 1, 1)
    # Internal ids are 0..255 in tie order and then the merges; public ones have the special tokens in front.
    to_public = np.arange(256 + len(learned), dtype=np.uint32)
    to_public[symbol_of_byte] = np.arange(256, dtype=np.uint32)
    table = np.array(learned, dtype=np.uint64).reshape(-1, 3)
    tokenizer = BPE(to_public[table[:, :2]] + np.uint32(len(special_tokens)), special_tokens)
    tokenizer.training = Training(
        documents=reader.documents_kept,
        bytes=reader.bytes_kept,
        sampled_from=reader.bytes_seen,
        seconds=time.perf_counter() - start,
        counts=table[:, 2],
    )
    if tokenizer.vocab_size < vocab_size:
        last = int(table[-1, 2]) if len(table) else 0
        warnings.warn(
            f"the documents support {tokenizer.vocab_size} tokens, not {vocab_size}: after a last merge of {last} "
            f"windows no pair was left with {min_frequency} or more; give more data or a smaller min_frequency",
            stacklevel=2,
        )
    return tokenizer


def _tie_order(tie_break: str) -> npt.NDArray[np.uint8]:
    """[256] the internal id of each byte: ties between pairs go to the smaller internal ids."""
    if tie_break == "bytes":
        return np.arange(256, dtype=np.uint8)
    if tie_break == "hf":  # Hugging Face numbers its initial alphabet by code point
        rank = np.argsort([ord(character) for character in BYTE_CHARACTERS])
        return np.argsort(rank).astype(np.uint8)
    raise InvalidInputError(f'tie_break must be "bytes" or "hf"; got {tie_break!r}')


def _pieces(
    documents: Iterable[Buffer], chunk_size: int | None, bounds: tuple[float, float] | None
) -> Iterator[Buffer]:
    """The documents, or the chunks of them, that pass the entropy filter."""
    if chunk_size is None and bounds is None:
        yield from documents
        return
    for document in documents:
        view = memoryview(document)
        step = chunk_size or max(1, len(view))
        for start in range(0, len(view), step):
            piece = view[start : start + step]
            if bounds is None or bounds[0] <= order0(piece) <= bounds[1]:
                yield piece


class _Sampler:
    """Feeds a trainer and keeps it below a memory limit by a uniform, seeded choice of documents.

    Every document has a number drawn from its place and the seed; those below a bar are kept. When memory runs out
    the bar is lowered, which drops some of the documents taken before.
    """

    def __init__(self, trainer: _native.BPETrainer, memory_limit: int | None, seed: int) -> None:
        self.trainer = trainer
        self.budget = None if memory_limit is None else memory_limit // TRAINING_BYTES_PER_BYTE
        if self.budget is not None and self.budget < 1 << 20:
            raise InvalidInputError(f"a memory limit of {memory_limit} bytes is too small; training needs 10 MiB")
        self.seed = seed
        self.bar = 1.0
        self.kept: list[tuple[float, int]] = []  # draw and size of each document in the trainer
        self.bytes_seen = self.bytes_kept = self.documents_kept = 0

    def add(self, document: Buffer) -> None:
        size = memoryview(document).nbytes
        index = self.bytes_seen
        self.bytes_seen += size
        if self.budget is None:
            self.trainer.add(document)
            self.bytes_kept += size
            self.documents_kept += 1
            return
        draw = self._draw(index)
        if draw >= self.bar:
            return
        self.trainer.add(document)
        self.kept.append((draw, size))
        self.bytes_kept += size
        if self.bytes_kept > self.budget:
            self._make_room(self.budget)
        self.documents_kept = len(self.kept)

    def _make_room(self, budget: int) -> None:
        """Lower the bar until three quarters of the budget are used, so that it need not be lowered often."""
        room = budget * 3 // 4
        for draw, size in sorted(self.kept):
            room -= size
            if room < 0 and draw > min(self.kept)[0]:  # one document stays, however large
                self.bar = draw
                break
        keep = [draw < self.bar for draw, _ in self.kept]
        self.trainer.retain(keep)
        self.kept = [one for one, wanted in zip(self.kept, keep, strict=True) if wanted]
        self.bytes_kept = sum(size for _, size in self.kept)

    def _draw(self, index: int) -> float:
        digest = hashlib.blake2b(f"{self.seed}:{index}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
