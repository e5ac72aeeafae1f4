"""Rows of different lengths in a left-padded batch: what batch speculation does where no ragged cache is to be had.

`PaddedRows` realigns the whole batch after each step (EQSPEC); `GroupedRows` holds more rows than it verifies at once
and batches those of one length, which need no padding (EXSPEC). Use `RaggedRows` instead: it gives the same text and
moves nothing. These are here to be compared with, and for attention that takes no mask of its own.
Source: Batch Speculative Decoding Done Right, arXiv 2510.22876. Cost: besides the pass, a copy of the cache a step.
"""

# Shape suffixes: B rows of a pass, Q new tokens, T cached tokens, K key-value heads, D head width, V vocabulary.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache

from byteloom.generate.rows import padded
from byteloom.models.attention import CACHE_KEYWORD
from byteloom.models.kvcache import attention_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PATIENCE = 8  # turns that a row waits at most before it takes part, whatever its length


@dataclass
class _Row:
    """One sequence. states: keys and values [K, T, D] of each layer. waited: turns since its last one."""

    states: list[tuple[torch.Tensor, torch.Tensor]]
    waited: int = 0

    @property
    def length(self) -> int:
        return self.states[0][0].shape[1]


class PaddedRows:
    """EQSPEC: unpad, append, pad again. Columns of the cache are tokens, the last one of every row is the same column.

    Raises InvalidInputError for models that keep something else than keys and values.
    """

    takes_trees = False

    def __init__(self, model: PreTrainedModel) -> None:
        attention_windows(model.config)  # refuses
        self.model = model
        self._cache = DynamicCache()  # keeps all: a window is the business of the mask
        self._lengths: list[int] = []  # cached tokens of each row, the last ones of the columns

    @property
    def _columns(self) -> int:
        return max(self._lengths, default=0)

    def add(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Rows`."""
        width = max(map(len, prompts))
        device = self.model.device
        ids_BQ = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts], device=device)
        mask_BQ = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        cache = DynamicCache()
        logits_B1V: torch.Tensor = self.model(
            input_ids=ids_BQ,
            attention_mask=mask_BQ,
            position_ids=(mask_BQ.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{CACHE_KEYWORD: cache},
        ).logits
        lengths = [len(ids) for ids in prompts]
        new = [
            _Row([_content(layer, row, width - length, width) for layer in cache.layers])
            for row, length in enumerate(lengths)
        ]
        self._hold([*(self.row(at) for at in range(len(self._lengths))), *new])
        return logits_B1V

    def turn(self) -> Sequence[int]:
        """See `Rows`: all."""
        return range(len(self._lengths))

    def forward(self, ids: Sequence[Sequence[int]], parents: Sequence[Sequence[int] | None]) -> torch.Tensor:
        """See `Rows`."""
        device = self.model.device
        ids_BQ = padded(ids).to(device)
        columns, queries = self._columns, ids_BQ.shape[1]
        lengths_B = torch.tensor(self._lengths, device=device)
        more: dict[str, Any] = {CACHE_KEYWORD: self._cache}
        if min(self._lengths) < columns:
            column_T = torch.arange(columns + queries, device=device)
            more["attention_mask"] = (column_T >= columns - lengths_B[:, None]).long()
        logits_BQV: torch.Tensor = self.model(
            input_ids=ids_BQ,
            position_ids=lengths_B[:, None] + torch.arange(queries, device=device),
            use_cache=True,
            **more,
        ).logits
        return logits_BQV

    def keep(self, places: Sequence[Sequence[int]]) -> None:
        """See `Rows`: rows that kept fewer tokens than others move to the right."""
        kept = [len(row) for row in places]
        old, columns = self._columns, self._columns + kept[0]
        lengths = [length + new for length, new in zip(self._lengths, kept, strict=True)]
        if len(set(kept)) == 1:  # nothing moves
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, :columns], layer.values[:, :, :columns]
        else:
            starts = [old - length for length in self._lengths]
            for layer in self._cache.layers:
                contents = [
                    _content(layer, row, start, start + length)
                    for row, (start, length) in enumerate(zip(starts, lengths, strict=True))
                ]
                layer.keys, layer.values = (_stack([content[which] for content in contents]) for which in (0, 1))
        self._lengths = lengths

    def select(self, rows: Sequence[int]) -> None:
        """See `Rows`."""
        self._hold([self.row(row) for row in rows])

    def row(self, row: int, more: int = 0) -> _Row:
        """The cached tokens of a row, and the first `more` of those that it was last given; views."""
        start, stop = self._columns - self._lengths[row], self._columns + more
        return _Row([_content(layer, row, start, stop) for layer in self._cache.layers])

    def _hold(self, rows: Sequence[_Row]) -> None:
        self._lengths = [row.length for row in rows]
        if not rows:
            self._cache = DynamicCache()
            return
        layers = len(rows[0].states)
        self._cache = DynamicCache(
            [
                (_stack([row.states[at][0] for row in rows]), _stack([row.states[at][1] for row in rows]))
                for at in range(layers)
            ]
        )


class GroupedRows:
    """EXSPEC: of all rows, verify `size` at a time, if possible of one length: then nothing is padded or moved.

    Rows that wait for others of their length take part after PATIENCE turns, in a padded batch. turns: steps so far;
    grouped: those whose rows were of one length. Raises InvalidInputError as `PaddedRows` does.
    """

    takes_trees = False

    def __init__(self, model: PreTrainedModel, size: int) -> None:
        self.model = model
        self.size = size
        self.turns = self.grouped = 0
        self._rows: list[_Row] = []
        self._batch = PaddedRows(model)
        self._turn: Sequence[int] = []

    def add(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Rows`. Prompts are read `size` at a time."""
        logits = []
        for start in range(0, len(prompts), self.size):
            batch = PaddedRows(self.model)
            part = prompts[start : start + self.size]
            logits.append(batch.add(part))
            self._rows += [_copy(batch.row(row)) for row in range(len(part))]
        return torch.cat(logits)

    def turn(self) -> Sequence[int]:
        """See `Rows`: `size` rows of one length; or half of that at least; or those that waited longest."""
        self._turn = sorted(self._choose())
        for at, row in enumerate(self._rows):
            row.waited = 0 if at in self._turn else row.waited + 1
        self.turns += 1
        self.grouped += len({self._rows[at].length for at in self._turn}) == 1
        self._batch = PaddedRows(self.model)
        self._batch._hold([self._rows[at] for at in self._turn])
        return self._turn

    def forward(self, ids: Sequence[Sequence[int]], parents: Sequence[Sequence[int] | None]) -> torch.Tensor:
        """See `Rows`."""
        return self._batch.forward(ids, parents)

    def keep(self, places: Sequence[Sequence[int]]) -> None:
        """See `Rows`: the rows part again."""
        for place, (at, kept) in enumerate(zip(self._turn, places, strict=True)):
            self._rows[at].states = _copy(self._batch.row(place, len(kept))).states

    def select(self, rows: Sequence[int]) -> None:
        """See `Rows`."""
        self._rows = [self._rows[row] for row in rows]

    def _choose(self) -> list[int]:
        groups: dict[int, list[int]] = defaultdict(list)
        for at, row in enumerate(self._rows):
            groups[row.length].append(at)
        waiting = sorted(range(len(self._rows)), key=lambda at: -self._rows[at].waited)
        largest = max(groups.values(), key=len)
        if self._rows[waiting[0]].waited < PATIENCE and 2 * len(largest) >= self.size:
            return largest[: self.size]
        return waiting[: self.size]


def _content(layer: Any, row: int, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.keys[row, :, start:stop], layer.values[row, :, start:stop]


def _copy(row: _Row) -> _Row:
    """The row on its own: a view would keep the whole batch in memory."""
    return _Row([(keys.clone(), values.clone()) for keys, values in row.states])


def _stack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """States [K, T, D] side by side, [B, K, longest, D], the shorter ones with zeros in front."""
    if len({part.shape[1] for part in parts}) == 1:
        return torch.stack(list(parts))
    width = max(part.shape[1] for part in parts)
    stacked = parts[0].new_zeros(len(parts), parts[0].shape[0], width, parts[0].shape[2])
    for row, part in enumerate(parts):
        stacked[row, :, width - part.shape[1] :] = part
    return stacked
