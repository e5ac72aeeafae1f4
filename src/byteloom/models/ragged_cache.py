"""The key-value cache of rows of different lengths: nothing is padded, realigned or moved.

It is a cache of transformers, for any step that accepts another number of tokens in each row, such as the verification
of several drafts at once. Source: ours; it answers Batch Speculative Decoding Done Right, arXiv 2510.22876. Cost: new
tokens are written in place; a buffer grows by a quarter when it is full.
"""

# Shape suffixes: B batch, K key-value heads, T key slots, Q queries, D head width.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from byteloom.errors import InvalidInputError
from byteloom.models.attention import CACHE_KEYWORD
from byteloom.models.kvcache import MIN_SLACK, attention_windows, grown

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class RaggedLayer(CacheLayerMixin):
    """The keys and values [B, K, capacity, D] of rows that begin at slot 0 and end where each of them ends.

    The lengths belong to the `RaggedCache`, which all layers share.
    """

    is_sliding = False

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, cache: RaggedCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take shape, type and device from the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        with torch.inference_mode(False):
            self.keys, self.values = (
                states.new_zeros(len(self._cache.lens), states.shape[1], self._cache.capacity, states.shape[3])
                for states in (key_states.detach(), value_states.detach())
            )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write row b behind its last committed token; returns the slots that some row uses."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, queries = self.keys.shape[0], key_states.shape[2]
        if key_states.shape[0] != rows:
            raise InvalidInputError(f"the cache has {rows} rows and the input {key_states.shape[0]}; give as many")
        used, row_BQ, slot_BQ = self._cache.places(queries, self.device)
        self.reserve(used + queries)
        self.keys[row_BQ, :, slot_BQ] = key_states.detach().transpose(1, 2)
        self.values[row_BQ, :, slot_BQ] = value_states.detach().transpose(1, 2)
        return self.keys[:, :, : used + queries], self.values[:, :, : used + queries]

    def take(self, other: RaggedLayer) -> None:
        """Hold what `other` does, which is not to be used again."""
        self.is_initialized = other.is_initialized
        if other.is_initialized:
            self.dtype, self.device, self.keys, self.values = other.dtype, other.device, other.keys, other.values

    def extend(self, other: RaggedLayer) -> None:
        """Hold the rows of `other` too, behind the own ones."""
        for one, another in ((self, other), (other, self)):
            if not one.is_initialized:
                one.lazy_initialization(another.keys, another.values)
        slots = max(self.keys.shape[2], other.keys.shape[2])
        with torch.inference_mode(False), torch.no_grad():
            self.keys, self.values = (
                torch.cat([_widened(states, slots) for states in pair])
                for pair in ((self.keys, other.keys), (self.values, other.values))
            )

    def reserve(self, slots: int) -> None:
        """Have room for `slots` slots a row."""
        if slots > self.keys.shape[2]:
            used = self.keys.shape[2]
            self.keys, self.values = grown(self.keys, used, slots), grown(self.values, used, slots)

    def get_seq_length(self) -> int:
        """The length of the longest row."""
        return int(self._cache.lens.max())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many key slots the next `query_length` queries may see, and 0."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """-1: no row has a maximum."""
        return -1


class RaggedCache(Cache):
    """Rows of different lengths, each beginning at slot 0: nothing is padded, realigned or moved.

        cache = RaggedCache(model.config, batch_size=2)
        logits = model(**cache.inputs(ids, lengths)).logits   # ids int64 [2, T], the rest of a row is ignored
        cache.commit(lengths)                                 # how many of them stay; the others are overwritten

    lens: int64 [B] on the CPU, committed tokens of each row; batch_size may be 0, for rows that join later. Use it for
    any step that accepts another number of tokens in each row. Works with eager and SDPA attention and under `attach`.
    Raises InvalidInputError for models that keep something else than keys and values, and for attention that takes no
    mask.
    """

    def __init__(self, config: PretrainedConfig, batch_size: int, capacity: int = MIN_SLACK) -> None:
        if batch_size < 0 or capacity < 1:
            raise InvalidInputError(
                f"batch_size is at least 0 and capacity at least 1; got {batch_size} and {capacity}"
            )
        self._windows = attention_windows(config)
        self._config = config
        self._pending = 0  # tokens of the last step that may be committed
        self.capacity = capacity
        self.lens = torch.zeros(batch_size, dtype=torch.long)  # replaced, never written to: `places` tells by identity
        self._places: tuple[torch.Tensor, int, torch.Tensor, torch.Tensor, int] | None = None
        super().__init__(layers=[RaggedLayer(self) for _ in self._windows])

    def inputs(self, ids_BQ: torch.Tensor, lengths_B: torch.Tensor | None = None) -> dict[str, Any]:
        """The arguments of the next forward: ids, positions, masks and this cache.

        ids: int64 [B, Q] on the device of the model, row b's new tokens first; lengths: how many each row has, default
        all. What lies behind them is computed and never seen.
        """
        batch, queries = ids_BQ.shape
        if batch != len(self.lens) or queries == 0:
            raise InvalidInputError(
                f"give one or more new tokens for each of {len(self.lens)} rows; got {batch}x{queries}"
            )
        if lengths_B is not None and not (int(lengths_B.min()) >= 0 and int(lengths_B.max()) <= queries):
            raise InvalidInputError(f"a row has 0 to {queries} new tokens here; got lengths {lengths_B.tolist()}")
        self._pending = queries
        position_BQ = (self.lens[:, None] + torch.arange(queries)).to(ids_BQ.device)
        if bool((self.lens == self.lens[0]).all()):  # then the model's own mask is right, and often none is needed
            return {"input_ids": ids_BQ, "position_ids": position_BQ, CACHE_KEYWORD: self}
        masks = {window: self._mask(position_BQ, window) for window in set(self._windows)}
        types = getattr(self._config, "layer_types", None)
        mask: torch.Tensor | dict[str, torch.Tensor] = next(iter(masks.values()))
        if types is not None and len(set(types)) > 1:
            mask = {kind: masks[window] for kind, window in zip(types, self._windows, strict=True)}
        return {"input_ids": ids_BQ, "position_ids": position_BQ, "attention_mask": mask, CACHE_KEYWORD: self}

    def places(self, queries: int, device: torch.device) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Where the next tokens are written: slots in use at most, and int64 rows [B, 1] and slots [B, Q].

        All layers of a step write there, so it is computed once.
        """
        known = self._places
        if known is None or known[0] is not self.lens or known[1] != queries or known[2].device != device:
            rows = torch.arange(len(self.lens), device=device)[:, None]
            slots = self.lens.to(device)[:, None] + torch.arange(queries, device=device)
            self._places = known = (self.lens, queries, rows, slots, int(self.lens.max()))
        return known[4], known[2], known[3]

    def commit(self, tokens_B: torch.Tensor) -> None:
        """Keep the first `tokens[b]` of the tokens that row b was last given; the next step overwrites the others."""
        tokens_B = tokens_B.to(self.lens)
        if tokens_B.shape != self.lens.shape or int(tokens_B.min()) < 0 or int(tokens_B.max()) > self._pending:
            raise InvalidInputError(
                f"each of {len(self.lens)} rows keeps 0 to {self._pending} tokens; got {tokens_B.tolist()}"
            )
        self._pending -= int(tokens_B.max())
        self.lens = self.lens + tokens_B

    def truncate(self, lens_B: torch.Tensor) -> None:
        """Forget what is behind the first `lens[b]` tokens of each row; int64 [B]."""
        if lens_B.shape != self.lens.shape or bool((lens_B < 0).any()) or bool((lens_B > self.lens).any()):
            raise InvalidInputError(f"rows of {self.lens.tolist()} tokens cannot be cut to {lens_B.tolist()}")
        self.lens = lens_B.to(self.lens, copy=True)

    def join(self, other: RaggedCache) -> None:
        """Take over the rows of `other`, a cache of the same model, behind the own ones; it is not to be used again."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if not len(self.lens):
                mine.take(theirs)
            elif mine.is_initialized or theirs.is_initialized:
                mine.extend(theirs)
        self.lens = torch.cat([self.lens, other.lens])

    def compact(self, rows_B: torch.Tensor) -> None:
        """Keep these rows, in this order; int64 [n]. A row may be given twice."""
        for layer in self.layers:
            if layer.is_initialized:
                with torch.inference_mode(False), torch.no_grad():
                    index = rows_B.to(layer.keys.device)
                    layer.keys, layer.values = layer.keys.index_select(0, index), layer.values.index_select(0, index)
        self.lens = self.lens[rows_B.cpu()]

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let row i be what row `beam_idx[i]` was."""
        self.compact(beam_idx)

    def nbytes(self) -> int:
        """Bytes held, spare room included."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers if layer.is_initialized)

    def _mask(self, position_BQ: torch.Tensor, window: int | None) -> torch.Tensor:
        slot_T = torch.arange(int(self.lens.max()) + position_BQ.shape[1], device=position_BQ.device)
        seen_BQT = slot_T <= position_BQ[..., None]
        if window is not None:
            seen_BQT &= slot_T > position_BQ[..., None] - window
        seen_B1QT = seen_BQT[:, None]
        implementation = self._config._attn_implementation
        if implementation == "eager":  # adds what it is given
            lowest = torch.finfo(torch.float32).min
            return torch.zeros(seen_B1QT.shape, device=seen_B1QT.device).masked_fill_(~seen_B1QT, lowest)
        if implementation not in ("sdpa", "byteloom"):
            raise InvalidInputError(
                f"{implementation} attention takes no mask for rows of different lengths; "
                'call model.set_attn_implementation("sdpa")'
            )
        return seen_B1QT


def _widened(states: torch.Tensor, slots: int) -> torch.Tensor:
    """`states` [B, K, T, D] with zeros behind them up to `slots`."""
    missing = slots - states.shape[2]
    return torch.nn.functional.pad(states, (0, 0, 0, missing)) if missing else states
