"""Packed token shards: a corpus as a few memory-mapped files of token ids, read by the window.

Use them to train on a corpus larger than memory: documents are encoded once, one after another, and the trainer
then reads fixed windows of ids straight from the page cache. Cost: 2 bytes a token on disk (4 above 65,536 ids).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from byteloom.errors import FileError, InvalidInputError
from byteloom.files import atomic_write, read_json, write_json
from byteloom.train.progress import Progress, silent

START, END = 0, 1  # ids of <|start|> and <|end|>, which stand around every document
SHARD_TOKENS = 1 << 27  # a shard is closed by the first piece that reaches this many tokens (256 MiB of uint16)
BATCH_BYTES = 32 << 20  # documents are encoded together, on all cores, up to this many bytes
BLOCK_BYTES = 8 << 20  # a longer document is encoded as a stream of blocks of this size


class Encoder(Protocol):
    """What shards need of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    def encode_batch(self, documents: Any, threads: int | None = None) -> list[np.ndarray]: ...

    def encode_blocks(self, blocks: Any) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class Shards:
    """The index of a folder of shards. `tokens` counts the <|start|> and <|end|> of every document too."""

    folder: Path
    files: tuple[str, ...]
    dtype: str  # "uint16" or "uint32", little-endian
    vocab_size: int
    documents: int
    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """Document bytes that one token of the stream stands for, on average over the shards."""
        return self.bytes / self.tokens

    def check(self, context: int) -> None:
        """Raise InvalidInputError when there is no whole window of `context` tokens."""
        if max(len(array) for array in self.arrays()) < context:
            raise InvalidInputError(
                f"the training documents give {self.tokens} tokens, less than one window of {context}; "
                "add files or lower the context"
            )

    def arrays(self) -> list[np.ndarray]:
        """The shards as memory-mapped arrays of ids, in order."""
        try:
            return [
                np.memmap(self.folder / name, dtype=np.dtype(self.dtype).newbyteorder("<"), mode="r")
                for name in self.files
            ]
        except (OSError, ValueError) as error:
            raise FileError(f"cannot map the shards in {self.folder}: {error}; delete the folder") from error


def write_shards(
    documents: Iterable[Any],
    tokenizer: Encoder,
    folder: Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    progress: Progress = silent,
    total_bytes: int = 0,
) -> Shards:
    """Encode `documents` (bytes-like) into `folder` as `<|start|> ids <|end|>`, one after another.

    Memory stays bounded by BATCH_BYTES of documents and their ids. index.json is written last: a folder without it
    is an unfinished one. `total_bytes` is only the end of the progress bar. Raises InvalidInputError when there is
    no document, FileError when the folder cannot be written.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    counts = {"documents": 0, "bytes": 0}

    def pieces() -> Iterator[np.ndarray]:
        for batch in _batches(documents):
            yield from _encode(batch, tokenizer)
            counts["documents"] += len(batch)
            counts["bytes"] += sum(memoryview(document).nbytes for document in batch)
            progress("packing tokens", counts["bytes"], total_bytes)

    stream = pieces()
    files: list[str] = []
    tokens = 0
    for first in stream:
        files.append(f"shard-{len(files):05}.bin")
        written = 0
        with atomic_write(folder / files[-1]) as file:
            for piece in chain([first], stream):
                file.write(piece.astype(dtype, copy=False).data)
                written += len(piece)
                if written >= shard_tokens:
                    break
        tokens += written
    if not files:
        raise InvalidInputError("there is no document to train on; name files or folders that hold some")
    shards = Shards(
        folder=folder,
        files=tuple(files),
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        vocab_size=tokenizer.vocab_size,
        documents=counts["documents"],
        bytes=counts["bytes"],
        tokens=tokens,
    )
    write_json(folder / "index.json", {key: value for key, value in asdict(shards).items() if key != "folder"})
    return shards


def read_shards(folder: Path) -> Shards | None:
    """The shards that `write_shards` finished in `folder`, or None. Raises FileError for a damaged index."""
    if not (folder / "index.json").exists():
        return None
    index = read_json(folder / "index.json")
    try:
        return Shards(folder=folder, **{**index, "files": tuple(index["files"])})
    except (TypeError, KeyError) as error:
        raise FileError(f"{folder / 'index.json'} is not an index of shards; delete {folder}") from error


class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """`count` windows of `context` token ids, in an order that depends on `seed` alone.

    Item i is {"input_ids", "labels"}: the same int64 [context] tensor (a causal model shifts its labels itself).
    Each pass over the shards is a new permutation of their non-overlapping windows, so item i is known without the
    items before it: a resumed run reads exactly what an unbroken one would have read. Raises InvalidInputError
    when no shard holds one whole window.
    """

    def __init__(self, shards: Shards, context: int, count: int, seed: int) -> None:
        shards.check(context)
        self._arrays = shards.arrays()
        self._context = context
        self._count = count
        self._seed = seed
        self._ends = np.cumsum([len(array) // context for array in self._arrays])
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        if not 0 <= item < self._count:
            raise IndexError(item)
        epoch, place = divmod(item, int(self._ends[-1]))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self._seed, epoch)).permutation(self._ends[-1])
            self._epoch = epoch
        window = self._order[place]
        shard = int(np.searchsorted(self._ends, window, side="right"))
        start = (window - (self._ends[shard - 1] if shard else 0)) * self._context
        ids = torch.from_numpy(self._arrays[shard][start : start + self._context].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def _batches(documents: Iterable[Any]) -> Iterator[list[Any]]:
    """Documents in lists of at most BATCH_BYTES; a longer document alone."""
    batch: list[Any] = []
    size = 0
    for document in documents:
        length = memoryview(document).nbytes
        if batch and size + length > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += length
    if batch:
        yield batch


def _encode(batch: list[Any], tokenizer: Encoder) -> Iterator[np.ndarray]:
    """The ids of each document of a batch between <|start|> and <|end|>, in pieces."""
    start, end = np.array([START], np.uint32), np.array([END], np.uint32)
    if len(batch) == 1 and memoryview(batch[0]).nbytes > BATCH_BYTES:
        view = memoryview(batch[0])
        blocks = (view[at : at + BLOCK_BYTES] for at in range(0, len(view), BLOCK_BYTES))
        yield from chain([start], tokenizer.encode_blocks(blocks), [end])
    else:
        for ids in tokenizer.encode_batch(batch):
            yield np.concatenate([start, ids, end])
