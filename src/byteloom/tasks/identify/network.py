"""The classifier that comes with byteloom: what a window of bytes is, from its n-grams, without torch.

The mean vector of all n-grams of a window, its byte shares and its length go through two dense layers. Vectors are
int8, in tables that are hashed into but for pairs; a window costs four look-ups a byte. Trained by
scripts/identify/train.py on what scripts/identify/collect.py gathers.
Source: hashed n-grams as in Bag of Tricks for Efficient Text Classification, Joulin et al., EACL 2017, arXiv
1607.01759; the choice of n-grams for machine code, and the byte shares, are ours.
"""

# Shape suffixes: W windows, P pooled numbers, H hidden units, C labels.

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath, atomic_write
from byteloom.machine import usable_cores

if TYPE_CHECKING:
    from typing_extensions import Buffer

WINDOW = 4096  # bytes, the longest window that the network was trained on
SHIPPED = Path(__file__).with_name("network.npz")
TABLES = ("pairs", "triples", "quadruples", "distant pairs")
_PARTS = (*TABLES, "hidden weights", "hidden bias", "output weights", "output bias", "labels", "facts")
_AT_ONCE = 4096  # windows in memory


class NgramNetwork:
    """The network. labels: what it tells apart. facts: how it was trained and how well it does.

    parts: "pairs", "triples", "quadruples", "distant pairs" int8 [rows, 16]; "hidden weights" [P + 1, H], "hidden bias"
    [H], "output weights" [H, C], "output bias" [C], floating; "labels" [C] text; "facts" JSON text.
    Raises InvalidInputError when these do not fit together.
    """

    def __init__(self, parts: dict[str, npt.NDArray[Any]]) -> None:
        try:
            self._tables = [np.ascontiguousarray(parts[name], np.int8) for name in TABLES]
            self._hidden_PH, self._output_HC = (
                parts[f"{name} weights"].astype(np.float32) for name in ("hidden", "output")
            )
            self._hidden_H, self._output_C = (parts[f"{name} bias"].astype(np.float32) for name in ("hidden", "output"))
            self.labels: tuple[str, ...] = tuple(parts["labels"].tolist())
            self.facts: dict[str, Any] = json.loads(str(parts["facts"]))
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidInputError(f"these are not the parts of a network of n-grams: {error}") from error
        hidden, count = len(self._hidden_H), len(self.labels)
        pooled = 256 + sum(table.shape[-1] for table in self._tables)
        if (
            any(table.ndim != 2 or table.shape[1] != 16 for table in self._tables)
            or self._hidden_PH.shape != (pooled + 1, hidden)
            or self._output_HC.shape != (hidden, count)
            or self._output_C.shape != (count,)
        ):
            raise InvalidInputError("the parts of this network of n-grams do not fit together; train it again")
        self._parts = parts

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """The network in an .npz file. Raises FileError or, when it is damaged, InvalidInputError."""
        try:
            with Path(path).open("rb") as handle, np.load(handle, allow_pickle=False) as file:
                parts = {name: file[name] for name in _PARTS if name in file}
        except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
            raise InvalidInputError(f"{path} is not a network of n-grams: {error}") from error
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror or error}") from error
        return cls(parts)

    def save(self, path: StrPath) -> None:
        """Write the network to an .npz file, atomically."""
        with atomic_write(path) as file:
            np.savez(file, allow_pickle=False, **self._parts)

    def probabilities(
        self, windows: Sequence[Buffer], at_start: Sequence[bool] | None = None
    ) -> npt.NDArray[np.float32]:
        """float32 [W, C]: what each window of bytes is; of a longer one than WINDOW, the geometric mean of its parts.

        at_start is not used: beginnings of files are the business of `byteloom.tasks.identify.signatures`.
        Raises InvalidInputError for an empty window.
        """
        views = [memoryview(window).cast("B") for window in windows]
        if empty := [number for number, view in enumerate(views) if not len(view)]:
            raise InvalidInputError(f"window {empty[0]} is empty; there is nothing to identify")
        ends = np.cumsum([0, *map(len, views)])
        parts = [parts_of(len(view), WINDOW) for view in views]
        starts = np.concatenate([start + begin for (start, _), begin in zip(parts, ends[:-1], strict=True)])
        found = self.scan(b"".join(views), starts, np.concatenate([size for _, size in parts]))
        if len(found) == len(views):
            return found
        edges = np.cumsum([len(start) for start, _ in parts])
        return np.stack([joined(own) for own in np.split(found, edges[:-1])])

    def scan(
        self, data: Buffer, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], threads: int | None = None
    ) -> npt.NDArray[np.float32]:
        """float32 [W, C]: what the windows of `data` that begin at `starts` are; int64 [W] each, in bytes.

        Raises ValueError for a window that reaches out of the data.
        """
        found = np.empty((len(starts), len(self.labels)), np.float32)
        for at in range(0, len(starts), _AT_ONCE):
            rows = slice(at, at + _AT_ONCE)
            pooled_WP = np.empty((len(starts[rows]), len(self._hidden_PH) - 1), np.float32)
            _native.pool_windows(data, starts[rows], sizes[rows], self._tables, pooled_WP, threads or usable_cores())
            length_W1 = np.log2(np.maximum(sizes[rows], 1), dtype=np.float32)[:, None] / 16
            hidden_WH = np.concatenate([pooled_WP, length_W1], 1) @ self._hidden_PH + self._hidden_H
            scores_WC = np.maximum(hidden_WH, 0) @ self._output_HC + self._output_C
            scores_WC = np.exp(scores_WC - scores_WC.max(1, keepdims=True))
            found[rows] = scores_WC / scores_WC.sum(1, keepdims=True)
        return found


@cache
def shipped_network() -> NgramNetwork:
    """The network that comes with byteloom."""
    return NgramNetwork.load(SHIPPED)


def parts_of(size: int, window: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(starts, sizes): int64, of windows that lie side by side; the last is as long as what is left, or joins the one
    before where less than half a window is left."""
    count = max(1, (size + window // 2) // window)
    starts = np.arange(count, dtype=np.int64) * window
    sizes = np.full(count, window, np.int64)
    sizes[-1] = size - starts[-1]
    return starts, sizes


def joined(found_WC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 [C]: the geometric mean of what the parts of one thing are said to be."""
    mean_C = np.log(np.maximum(found_WC, 1e-6)).mean(0)
    share_C = np.exp(mean_C - mean_C.max())
    return share_C / share_C.sum()
