"""Counts of token n-grams of a corpus, and the probabilities that follow from them.

Use it where a cheap second opinion on the next token is needed, as in `byteloom.generate.superposed`: a model of a
corpus that is counted in seconds, needs no device, and is mapped from its file.

    ngrams = NgramModel.from_documents(documents, vocab_size=tokenizer.vocab_size)
    ngrams.prob([17, 4], [9, 3])   # float32 [2]

Source: Superposed Decoding, NeurIPS 2024, arXiv 2405.18400, section 4. Departure: sorted tables of all orders in one
file instead of a dictionary for each. Cost: about 0.1 us a token to count, at most 12 bytes a distinct n-gram, some
microseconds a query.
"""

# Shape suffixes: K histories, S candidates, N tokens of a history.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath, read_sealed, write_sealed

FORMAT = "byteloom n-grams 1"
REMEDY = "make it with `byteloom ngrams build`"
WEIGHTS = (0.01, 0.04, 0.15, 0.18, 0.12)  # of orders 2 to 6, as published
MAX_ORDER = 6
_NOTHING = 0xFFFFFFFF  # in a history: there is no token before


class NgramModel:
    """P(token | history), interpolated over orders 2 to `max_order`; made by `from_documents` or `load`.

    The probability of order n is count(history, token) / count(history) over the last n - 1 tokens of the history, and
    0 where these were never seen. Safe to use from several threads at once.

    weights: float32 [max_order - 1], the shares of orders 2, 3, ...; they need not sum to 1, and may be replaced.
    tokenizer: a name or digest of what made the ids; empty when unknown. table: the native counts.
    """

    weights: npt.NDArray[np.float32]

    def __init__(self, table: _native.NgramTable, weights: Sequence[float] | None = None, tokenizer: str = "") -> None:
        self.table = table
        self.tokenizer = tokenizer
        if weights is None:
            weights = WEIGHTS[: table.order - 1]
        self.weights = np.array(weights, np.float32)
        if self.weights.shape != (table.order - 1,) or not (self.weights >= 0).all():
            raise InvalidInputError(
                f"n-grams of orders 2 to {table.order} take {table.order - 1} weights of at least 0; got {weights}"
            )

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Sequence[int] | npt.NDArray[np.integer]],
        *,
        vocab_size: int,
        max_order: int = MAX_ORDER,
        min_count: int = 1,
        weights: Sequence[float] | None = None,
        tokenizer: str = "",
    ) -> Self:
        """Count the n-grams within each document of token ids; none crosses the end of one.

        vocab_size: ids are below it. max_order: 2 to 6. min_count: n-grams that occur less often are left out, as if
        they had not occurred. Memory while counting: 8 bytes a token and twice the finished table.
        Raises InvalidInputError for numbers out of range and ids outside the vocabulary.
        """
        if not 2 <= max_order <= MAX_ORDER or min_count < 1:
            raise InvalidInputError(
                f"max_order is 2 to {MAX_ORDER} and min_count at least 1; got {max_order} and {min_count}"
            )
        if not 1 <= vocab_size < 1 << 25:
            raise InvalidInputError(f"vocab_size is 1 to 2^25 - 1; got {vocab_size}")
        builder = _native.NgramBuilder(max_order, vocab_size)
        for at, document in enumerate(documents):
            ids = np.asarray(document)
            if ids.size == 0:
                continue
            if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= vocab_size:
                raise InvalidInputError(
                    f"document {at} is not one row of token ids below {vocab_size:,}; encode it with the tokenizer of "
                    "the model"
                )
            builder.add(np.ascontiguousarray(ids, np.uint32))
        return cls(_native.NgramTable(builder.freeze(min_count).view(np.uint8)), weights, tokenizer)

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return int(self.table.vocabulary)

    @property
    def max_order(self) -> int:
        """Tokens of the longest n-grams."""
        return int(self.table.order)

    @property
    def sizes(self) -> dict[int, int]:
        """Distinct n-grams of each order."""
        return dict(enumerate(self.table.sizes, start=2))

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return int(self.table.nbytes)

    def prob(self, history: Sequence[int], candidates: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Interpolated probabilities of the candidates, float32 [S], after a history of any length."""
        probabilities_S: npt.NDArray[np.float32] = self.prob_batch([history], candidates)[0]
        return probabilities_S

    def prob_batch(
        self, histories: Sequence[Sequence[int]] | npt.NDArray[np.integer], candidates: npt.ArrayLike
    ) -> npt.NDArray[np.float32]:
        """Interpolated probabilities, float32 [K, S], in one call.

        histories: K of any length, or an array [K, N] in which -1 stands where there is no token. candidates: ids [S]
        for all histories, or [G, S] where the first K / G histories have the first row, and so on.
        """
        last = self.max_order - 1
        histories_KN = np.full((len(histories), last), _NOTHING, np.uint32)
        if isinstance(histories, np.ndarray):
            used_KN = histories[:, -last:].astype(np.uint32)  # -1 becomes _NOTHING
            histories_KN[:, last - used_KN.shape[1] :] = used_KN
        else:
            for row, history in zip(histories_KN, histories, strict=True):
                used = np.asarray(history[-last:], np.int64).astype(np.uint32)
                row[last - len(used) :] = used
        candidates_GS = np.atleast_2d(np.ascontiguousarray(candidates)).astype(np.uint32)
        probabilities_KS: npt.NDArray[np.float32] = self.table.query(histories_KN, candidates_GS, self.weights)
        return probabilities_KS

    def save(self, path: StrPath) -> None:
        """Write a file for `load`. Raises FileError."""
        header = {"format": FORMAT, "tokenizer": self.tokenizer, "weights": self.weights.tolist()}
        write_sealed(path, header, [self.table.data])

    @classmethod
    def load(cls, path: StrPath, tokenizer: str = "") -> Self:
        """Read a file that `save` wrote; a large one is mapped, and only what is asked for is read.

        tokenizer: compared with that of the file where both are known. Raises FileError when the file cannot be read,
        is damaged or is no such file, InvalidInputError when it was made with another tokenizer.
        """
        header, data = read_sealed(path, FORMAT, "n-grams", REMEDY)
        try:
            model = cls(_native.NgramTable(data), header["weights"], str(header["tokenizer"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{Path(path)} is damaged or cut off; {REMEDY}") from error
        if tokenizer and model.tokenizer and tokenizer != model.tokenizer:
            raise InvalidInputError(
                f"{path} was made with the tokenizer {model.tokenizer!r}, not {tokenizer!r}; build n-grams with the "
                "tokenizer of the model"
            )
        return model
