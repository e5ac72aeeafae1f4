"""Rows of different lengths in a left-padded batch: what batch speculation does where no ragged cache is to be had.

`PaddedRows` realigns the whole batch after each step (EQSPEC); `GroupedRows` holds more rows than it verifies at once
and batches those of one length, which need no padding (EXSPEC). Use `RaggedRows` instead: it gives the same text and
moves nothing. These are here to be compared with, and for attention that takes no mask of its own.
Source: Batch Speculative Decoding Done Right, arXiv 2510.22876. Cost: besides the pass, a copy of the cache a step.
"""

# Shape suffixes: N layers, B rows of a pass, Q new tokens, T cached tokens, K key-value heads, D head width.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from byteloom.errors import InvalidInputError
from byteloom.generate.rows import padded
from byteloom.models.attention import CACHE_KEYWORD
from byteloom.models.kvcache import attention_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PATIENCE = 8  # turns that a row waits at most before it takes part, whatever its length
ROOM = 64  # columns that a block is made larger than it needs to be


@dataclass
class _Row:
    """One sequence: its keys and values [N, K, T, D]. waited: turns since its last one."""

    keys: torch.Tensor
    values: torch.Tensor
    waited: int = 0

    @property
    def length(self) -> int:
        return self.keys.shape[2]


class _Block(Cache):
    """A left-padded batch: keys and values of all layers in two tensors [N, B, K, T, D], so that a row moves at once.

    lengths: cached tokens of each row; they are the last ones of the first `columns`. A pass writes behind these.
    """

    def __init__(self, rows: Sequence[_Row]) -> None:
        self.lengths = [row.length for row in rows]
        self.columns = max(self.lengths)
        self.keys, self.values = (
            self._store([getattr(row, name) for row in rows], self.columns) for name in ("keys", "values")
        )
        super().__init__(layers=[_BlockLayer(self, at) for at in range(len(self.keys))])

    def row(self, row: int, more: int = 0) -> _Row:
        """The tokens of a row, and the first `more` of those that it was last given; views."""
        start, stop = self.columns - self.lengths[row], self.columns + more
        return _Row(self.keys[:, row, :, start:stop], self.values[:, row, :, start:stop])

    def realign(self, kept: Sequence[int]) -> None:
        """Rows keep the first of the tokens that they were last given, and move so that all end in one column again."""
        lengths = [length + more for length, more in zip(self.lengths, kept, strict=True)]
        columns = max(lengths)
        for row, (length, more) in enumerate(zip(lengths, kept, strict=True)):
            if columns != self.columns + more:
                part = self.row(row, more)
                # Copied aside: old and new place overlap. A new block each time would cost more, in fresh pages.
                self.keys[:, row, :, columns - length : columns] = part.keys.clone()
                self.values[:, row, :, columns - length : columns] = part.values.clone()
        self.lengths, self.columns = lengths, columns

    def reserve(self, columns: int) -> None:
        """Have room for so many columns."""
        more = columns - self.keys.shape[3]
        if more > 0:
            widen = (0, 0, 0, more + ROOM)
            self.keys, self.values = (torch.nn.functional.pad(store, widen) for store in (self.keys, self.values))

    @staticmethod
    def _store(parts: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
        layers, heads, _, width = parts[0].shape
        # Zeros: what is masked must not be a NaN by chance.
        store = parts[0].new_zeros(layers, len(parts), heads, columns + ROOM, width)
        for row, part in enumerate(parts):
            store[:, row, :, columns - part.shape[2] : columns] = part
        return store


class _BlockLayer(CacheLayerMixin):
    is_sliding = False

    def __init__(self, block: _Block, index: int) -> None:
        super().__init__()
        self._block = block
        self._index = index
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: a block is made of rows."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns; returns those of all."""
        block, start = self._block, self._block.columns
        stop = start + key_states.shape[2]
        block.reserve(stop)
        keys, values = block.keys[self._index], block.values[self._index]
        keys[:, :, start:stop], values[:, :, start:stop] = key_states, value_states
        return keys[:, :, :stop], values[:, :, :stop]

    def get_seq_length(self) -> int:
        """How many columns there are."""
        return self._block.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many columns the next queries may see, and 0."""
        return self._block.columns + query_length, 0

    def get_max_length(self) -> int:
        """-1: there is no maximum."""
        return -1


class PaddedRows:
    """EQSPEC: unpad, append, pad again. Raises InvalidInputError for models that keep something else than keys and
    values of one shape in all layers."""

    takes_trees = False

    def __init__(self, model: PreTrainedModel, rows: Sequence[_Row] = ()) -> None:
        attention_windows(model.config)  # refuses
        self.model = model
        self._block = _Block(rows) if rows else None

    def add(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Rows`."""
        width = max(map(len, prompts))
        device = self.model.device
        ids_BQ = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts], device=device)
        mask_BQ = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        cache = DynamicCache()  # keeps all: a window is the business of the mask
        logits_B1V: torch.Tensor = self.model(
            input_ids=ids_BQ,
            attention_mask=mask_BQ,
            position_ids=(mask_BQ.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{CACHE_KEYWORD: cache},
        ).logits
        if len({(layer.keys.shape, layer.values.shape) for layer in cache.layers}) > 1:
            raise InvalidInputError(
                f"the layers of {type(self.model).__name__} keep keys of several shapes, which cannot be padded "
                'together; use layout="ragged"'
            )
        keys, values = (torch.stack([getattr(layer, name) for layer in cache.layers]) for name in ("keys", "values"))
        starts = [width - len(ids) for ids in prompts]
        new = [_Row(keys[:, row, :, start:], values[:, row, :, start:]) for row, start in enumerate(starts)]
        self._block = _Block([*(self.row(row) for row in self.turn()), *new])
        return logits_B1V

    def turn(self) -> Sequence[int]:
        """See `Rows`: all."""
        return range(len(self._block.lengths)) if self._block else ()

    def forward(self, ids: Sequence[Sequence[int]], parents: Sequence[Sequence[int] | None]) -> torch.Tensor:
        """See `Rows`."""
        block = self._held()
        device = self.model.device
        ids_BQ = padded(ids).to(device)
        queries = ids_BQ.shape[1]
        lengths_B = torch.tensor(block.lengths, device=device)
        more: dict[str, Any] = {CACHE_KEYWORD: block}
        if min(block.lengths) < block.columns:
            column_T = torch.arange(block.columns + queries, device=device)
            more["attention_mask"] = (column_T >= block.columns - lengths_B[:, None]).long()
        logits_BQV: torch.Tensor = self.model(
            input_ids=ids_BQ,
            position_ids=lengths_B[:, None] + torch.arange(queries, device=device),
            use_cache=True,
            **more,
        ).logits
        return logits_BQV

    def keep(self, places: Sequence[Sequence[int]]) -> None:
        """See `Rows`: rows move, so that all end in one column again."""
        self._held().realign([len(row) for row in places])

    def select(self, rows: Sequence[int]) -> None:
        """See `Rows`."""
        self._block = _Block([self.row(row) for row in rows]) if rows else None

    def row(self, row: int, more: int = 0) -> _Row:
        """The tokens of a row, and the first `more` of those that it was last given; views."""
        return self._held().row(row, more)

    def _held(self) -> _Block:
        assert self._block is not None, "rows are added first"
        return self._block


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
        self._batch = PaddedRows(self.model, [self._rows[at] for at in self._turn])
        return self._turn

    def forward(self, ids: Sequence[Sequence[int]], parents: Sequence[Sequence[int] | None]) -> torch.Tensor:
        """See `Rows`."""
        return self._batch.forward(ids, parents)

    def keep(self, places: Sequence[Sequence[int]]) -> None:
        """See `Rows`: the rows part again."""
        for place, (at, kept) in enumerate(zip(self._turn, places, strict=True)):
            self._rows[at] = _copy(self._batch.row(place, len(kept)))

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


def _copy(row: _Row) -> _Row:
    """The row on its own: a view would keep the whole batch in memory."""
    return _Row(row.keys.clone(), row.values.clone())
