"""Models of the next byte for arithmetic coding and equal-info tokenizers: one protocol, exact integers.

Use `CountModel` for bytes like those of a corpus; `AdaptiveModel` for a file of any kind, with nothing to fit or
keep; `StaticModel` as a baseline; `models.byte_model.CausalByteModel` for a language model over bytes.
Source: the quantisation of Training LLMs over Neurally Compressed Text, Lester et al., TMLR 2024, arXiv 2404.03626
(its rounding is ours); the blending of contexts of Witten and Bell 1991. Cost: a microsecond or two a byte.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath, atomic_write, open_bytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

TOTAL = 1 << 14
"""What a table gives out in all."""

MAX_ORDER = 6
_BATCH = 8 << 20  # strings sorted at once: 64 MB
_FORMAT = "byteloom-count-model-1"

Tables = npt.NDArray[np.uint32]


class ByteModel(Protocol):
    """What may be said about the next byte. Any object with these two works wherever byteloom takes a model."""

    @property
    def context(self) -> int | None:
        """How many bytes at the end of a prefix matter; None when all do."""
        ...

    def cumulative(self, prefixes: Sequence[bytes]) -> Tables:
        """uint32 [n, 257]: after each prefix, byte x gets the share from entry x to entry x + 1 of `TOTAL`.

        Every table rises from 0 to TOTAL and gives every byte at least 1. Equal prefixes must get equal tables.
        """
        ...


def quantise(probabilities: npt.ArrayLike) -> Tables:
    """The tables of distributions over bytes: float [n, 256], not negative, each with the sum 1, to uint32 [n, 257].

    Byte x gets floor(p TOTAL') + 1 with TOTAL' = 2^14 - 256; what is left goes to the likeliest byte (the first).
    Raises InvalidInputError for another shape, negative or undefined numbers, and sums above 1.

    >>> quantise(np.full((1, 256), 1 / 256))[0, :3].tolist()
    [0, 64, 128]
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or p.shape[1] != 256 or not (p >= 0).all() or (p.sum(1) > 1 + 1e-4).any():
        raise InvalidInputError("probabilities must be rows of 256 numbers that are not negative and sum to 1")
    share = np.floor(p * (TOTAL - 256)).astype(np.int64) + 1
    # In single precision a sum may be above 1 by a little, which the likeliest byte can spare.
    share[np.arange(len(p)), p.argmax(1)] += TOTAL - share.sum(1)
    tables = np.zeros((len(p), 257), np.uint32)
    tables[:, 1:] = share.cumsum(1)
    return tables


def checked_cumulative(model: ByteModel, prefixes: Sequence[bytes]) -> Tables:
    """`model.cumulative(prefixes)`. Raises InvalidInputError when the model breaks the protocol."""
    tables = np.asarray(model.cumulative(prefixes))
    if tables.shape != (len(prefixes), 257):
        raise InvalidInputError(
            f"the model must give a table of 257 numbers for each of {len(prefixes)} prefixes; got {tables.shape}"
        )
    if tables.dtype.kind not in "iu" or (tables[:, 0] != 0).any() or (tables[:, -1] != TOTAL).any():
        raise InvalidInputError(f"every table of the model must be integers that begin with 0 and end with {TOTAL}")
    if (np.diff(tables.astype(np.int64), axis=1) < 1).any():
        raise InvalidInputError(f"every table of the model must give every byte at least 1 of {TOTAL}")
    return np.ascontiguousarray(tables, np.uint32)


class NativeModel:
    """What the models of this file share: tables and coding in C++."""

    _native: _native.FixedByteModel | _native.CountByteModel | _native.AdaptiveByteModel

    def cumulative(self, prefixes: Sequence[bytes]) -> Tables:
        """uint32 [n, 257]: the table after each prefix; see `ByteModel`."""
        return self._native.cumulative(list(prefixes))

    def encode_bits(self, data: Buffer) -> tuple[bytes, int]:
        """The arithmetic code of `data`, zeros up to a whole byte, and its length in bits; about 0.8 MB/s."""
        return self._native.encode(data)

    def decode_bits(self, stream: Buffer, size: int) -> bytes:
        """The `size` bytes that `encode_bits` coded. Raises ValueError when the stream is not one of them."""
        return self._native.decode(stream, size)


class StaticModel(NativeModel):
    """The same table everywhere, in proportion to `weights`: float [256]; uniform without them.

    With the byte counts of a corpus it is the StaticAC baseline of the paper.

    >>> StaticModel().cumulative([b"", b"any"])[:, 1].tolist()
    [64, 64]
    """

    context = 0

    def __init__(self, weights: npt.ArrayLike | None = None) -> None:
        table = np.ones(256) if weights is None else np.asarray(weights, np.float64)
        if table.shape != (256,) or not np.isfinite(table).all() or (table < 0).any() or not table.any():
            raise InvalidInputError("weights must be 256 numbers that are not negative and not all zero")
        self._native = _native.FixedByteModel(quantise([table / table.sum()]))

    @classmethod
    def fit(cls, data: Iterable[Buffer]) -> StaticModel:
        """In proportion to the bytes of documents. Raises InvalidInputError when they have none."""
        counts = np.zeros(256, np.int64)
        for document in data:
            counts += np.bincount(np.frombuffer(memoryview(document), np.uint8), minlength=256)
        if not counts.any():
            raise InvalidInputError("the model needs at least one non-empty document")
        return cls(counts)


class AdaptiveModel(NativeModel):
    """Learns from nothing but the prefix itself: counts after contexts of 0 to `order` bytes, updated as it codes.

    Use it to compress a file of an unknown kind. Memory: up to 100 bytes a byte and order, at most about 600 MB; then
    it forgets all and starts afresh. `cumulative` reads each whole prefix.
    Raises InvalidInputError for an order that is not from 0 to 6.
    """

    context = None

    def __init__(self, order: int = 4) -> None:
        self.order = _checked_order(order)
        self._native = _native.AdaptiveByteModel(order)


class CountModel(NativeModel):
    """How often bytes followed contexts of 0 to `order` bytes in a corpus, blended by Witten and Bell's rule.

    `CountModel.fit` makes one. The start of a window uses the short contexts that exist.

    >>> model = CountModel.fit([b"abracadabra"], order=2)
    >>> table = model.cumulative([b"abr"])[0]
    >>> int(np.diff(table).argmax()) == ord("a")
    True
    """

    def __init__(self, grams: npt.NDArray[np.uint64], counts: npt.NDArray[np.uint32], order: int) -> None:
        self.order = _checked_order(order)
        self._grams = grams  # each different string at any byte of the corpus, as the native model takes them
        self._counts = counts
        self._native = _native.CountByteModel(grams, counts, order)

    @property
    def context(self) -> int:
        """How many bytes at the end of a prefix matter: the order."""
        return self.order

    @classmethod
    def fit(cls, data: Iterable[Buffer], order: int = 5) -> CountModel:
        """Count documents, one at a time. About 10 MB a second; memory: 12 bytes a different string, and 300 MB.

        Raises InvalidInputError for an order that is not from 0 to 6 and when no document has a byte.
        """
        order = _checked_order(order)
        grams, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        for batch in _batches(data, order):
            more, how_often = _count(np.sort(batch), np.ones(len(batch), np.int64))
            both = np.concatenate([grams, more])
            in_order = np.argsort(both, kind="stable")
            grams, counts = _count(both[in_order], np.concatenate([counts, how_often])[in_order])
        if not len(grams):
            raise InvalidInputError("the model needs at least one non-empty document")
        return cls(grams, np.minimum(counts, 0xFFFF_FFFF).astype(np.uint32), order)

    def save(self, path: StrPath) -> None:
        """Write the counts to one file, atomically."""
        with atomic_write(path) as file:
            np.savez_compressed(
                file, format=np.array(_FORMAT), order=np.array(self.order), grams=self._grams, counts=self._counts
            )

    @classmethod
    def load(cls, path: StrPath) -> CountModel:
        """Read what `save` wrote. Raises FileError when the file is missing, cut off or of another kind."""
        data = io.BytesIO(open_bytes(path))
        try:
            with np.load(data, allow_pickle=False) as file:
                if str(file["format"]) != _FORMAT:
                    raise ValueError("another format")
                grams, counts = file["grams"], file["counts"]
                if grams.dtype != np.uint64 or counts.dtype != np.uint32:
                    raise ValueError("other types")
                return cls(grams, counts, int(file["order"]))
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise FileError(
                f"cannot load the model {path}: it is cut off or was not written by CountModel.save"
            ) from error


def _checked_order(order: int) -> int:
    if not 0 <= order <= MAX_ORDER:
        raise InvalidInputError(f"order must be from 0 to {MAX_ORDER} bytes; got {order}")
    return order


def _batches(data: Iterable[Buffer], order: int) -> Iterator[npt.NDArray[np.uint64]]:
    """The strings of at most order + 1 bytes at every byte of every document: left-aligned, the length lowest."""
    held: list[npt.NDArray[np.uint64]] = []
    size = 0
    for document in data:
        values = np.frombuffer(memoryview(document), np.uint8)
        for start in range(0, len(values), _BATCH):
            piece = values[start : start + _BATCH + order].astype(np.uint64)
            begins = min(_BATCH, len(values) - start)
            keys = np.zeros(begins, np.uint64)
            for i in range(order + 1):
                part = piece[i : i + begins]
                keys[: len(part)] |= part << np.uint64(8 * (7 - i))
            lengths = np.minimum(len(piece) - np.arange(begins), order + 1)
            held.append(keys | lengths.astype(np.uint64))
            size += begins
            if size >= _BATCH:
                yield np.concatenate(held)
                held, size = [], 0
    if held:
        yield np.concatenate(held)


def _count(
    grams: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Each different one of sorted strings once, with the sum of its counts."""
    if not len(grams):
        return grams, counts
    first = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]]))
    return grams[first], cast("npt.NDArray[np.int64]", np.add.reduceat(counts, first))
