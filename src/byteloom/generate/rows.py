"""Sequences that a model has read, each with a cache that takes drafts back: what verification runs on.

Cost: a forward pass over the new tokens; what is rejected is cut off without a copy, except that of a tree of drafts,
whose accepted path is moved together.
"""

# Shape suffixes: Q new tokens, T all tokens with keys, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from byteloom.errors import InvalidInputError, UnsupportedPositionError
from byteloom.models.attention import CACHE_KEYWORD, attach
from byteloom.models.kvcache import attention_windows
from byteloom.models.ragged_cache import RaggedCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Rows(Protocol):
    """Sequences that are decoded together. A step is `turn`, `forward` and `keep`; between steps, rows come and go."""

    @property
    def takes_trees(self) -> bool:
        """Whether drafts may branch."""

    def add(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read prompts into new rows behind the others; logits [R, 1, V] after the last token of each."""

    def turn(self) -> Sequence[int]:
        """The rows that take the next step, R of them."""

    def forward(self, ids: Sequence[Sequence[int]], parents: Sequence[Sequence[int] | None]) -> torch.Tensor:
        """Logits [R, Q, V] after each of the new tokens of the rows whose turn it is; what is behind a row's last one
        means nothing.

        parents: for each token of a row the one before it, -1 for the end of what was read; None: a path.
        """

    def keep(self, places: Sequence[Sequence[int]]) -> None:
        """Of the tokens that the rows were last given, keep these: a path in rising order. Forget the others."""

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in rising order."""


class OneRow:
    """One sequence. model: a causal LM. cache: what it has read already, default nothing.

    length: tokens whose keys are cached. Raises InvalidInputError for a cache that cannot be rolled back.
    """

    def __init__(self, model: PreTrainedModel, cache: Cache | None = None) -> None:
        self.model = model
        self.cache = whole_cache(model) if cache is None else cache
        if self.cache.layers and all(self.cache.is_linear):  # such a cache does not even know its length
            self._refuse()
        self.length = int(self.cache.get_seq_length())
        self._device = model.device
        self._has_window = has_window(model)
        self._fed = 0  # tokens of the last forward
        if self.length:
            self._prepare_to_crop()

    @property
    def takes_trees(self) -> bool:
        """Whether drafts may branch."""
        return not self._has_window and takes_trees(self.model, self.cache)

    def forward(self, ids: Sequence[int], parents: Sequence[int] | None = None, *, last: bool = False) -> torch.Tensor:
        """Logits [Q, V] after each of the new tokens, or [1, V] after the last one.

        parents: for each token the one before it, -1 for the end of what was read; None: each follows the other.
        """
        is_first = self.length == 0
        more: dict[str, Any] = {CACHE_KEYWORD: self.cache}
        if parents is not None:
            more |= tree_inputs(self.model, [parents], torch.ones(1, self.length, dtype=torch.bool))
        output = self.model(
            input_ids=torch.tensor([ids], device=self._device), use_cache=True, logits_to_keep=int(last), **more
        )
        self._fed = len(ids)
        self.length += len(ids)
        if is_first:
            self._prepare_to_crop()
        logits_QV: torch.Tensor = output.logits[0]
        return logits_QV

    def keep(self, places: Sequence[int]) -> None:
        """Keep these of the tokens that were last given, a path in rising order, and forget the others."""
        start, kept = self.length - self._fed, len(places)
        if list(places) != list(range(kept)):
            columns = torch.tensor([start + place for place in places], device=self._device)
            for layer in self.cache.layers:
                for states in (layer.keys, layer.values):
                    states[:, :, start : start + kept] = states[:, :, columns]
        self._fed = kept
        self.crop(start + kept)

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        # A layer with a window drops what it no longer needs in crop alone, so it is called for nothing too.
        self.cache.crop(length - self.length)
        self.length = length

    def _prepare_to_crop(self) -> None:
        if not self.cache.is_croppable:
            self._refuse()
        self.cache.activate_past_recording()

    def _refuse(self) -> NoReturn:
        raise InvalidInputError(
            f"the {type(self.cache).__name__} of this {type(self.model).__name__} cannot be rolled back; decode it "
            "without drafts, or give a window some spare tokens and no top_k"
        )


def has_window(model: PreTrainedModel) -> bool:
    """Whether some layer attends to the latest tokens alone."""
    return any(DynamicCache(config=model.config).is_sliding)


def whole_cache(model: PreTrainedModel) -> Cache:
    """An empty cache. A layer with a window keeps all, for the mask hides what is outside: then steps can follow one
    another before it is known what is kept."""
    return DynamicCache() if has_window(model) else DynamicCache(config=model.config)


def takes_trees(model: PreTrainedModel, cache: Cache) -> bool:
    """Whether the attention takes the mask of `tree_inputs` behind this cache, where no layer has a window."""
    return model.config._attn_implementation in ("sdpa", "eager") and all(
        type(layer) is DynamicLayer for layer in cache.layers
    )


def tree_inputs(
    model: PreTrainedModel, parents: Sequence[Sequence[int]], past_BT: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What the model takes beside the ids to read new tokens of which each sees its ancestors and what came before.

    parents: in every row, for each new token the one before it, -1 for the end of what was read; shorter rows are
    filled up. past_BT: bool, on the CPU, which of the cached tokens are not padding.
    """
    size = max(map(len, parents))
    seen_BQQ = torch.eye(size, dtype=torch.bool).repeat(len(parents), 1, 1)
    depths = [[0] * size for _ in parents]
    for before, seen_QQ, deep in zip(parents, seen_BQQ, depths, strict=True):
        for at, parent in enumerate(before):
            if parent >= 0:
                seen_QQ[at] |= seen_QQ[parent]
                deep[at] = deep[parent] + 1
    positions_BQ = torch.tensor(depths) + past_BT.sum(1, keepdim=True)
    mask_BQT = torch.cat([past_BT[:, None].expand(-1, size, -1), seen_BQQ], dim=2).to(model.device)
    if model.config._attn_implementation != "sdpa":
        lowest = torch.finfo(model.dtype).min
        mask_BQT = torch.zeros_like(mask_BQT, dtype=model.dtype).masked_fill_(~mask_BQT, lowest)
    return {"position_ids": positions_BQ.to(model.device), "attention_mask": mask_BQT[:, None]}


class SeparateRows:
    """Rows that are read one after another: a single one, or those of a model that takes no mask for several.

    cache: what the first row has read already, default nothing. is_part: the first prompt begins with what was read;
    else it follows that.
    """

    def __init__(self, model: PreTrainedModel, cache: Cache | None = None, *, is_part: bool = True) -> None:
        self.model = model
        self.rows: list[OneRow] = []
        self._cache = cache
        self._is_part = is_part

    @property
    def takes_trees(self) -> bool:
        """See `Rows`."""
        return all(row.takes_trees for row in self.rows)

    def add(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Rows`. Raises InvalidInputError when the cache holds the first prompt already, or more."""
        logits = []
        for prompt in prompts:
            row, self._cache = OneRow(self.model, self._cache), None
            read = row.length if self._is_part else 0
            if read >= len(prompt):
                raise InvalidInputError(
                    f"the cache holds {row.length} tokens and the prompt has {len(prompt)}; the prompt begins with all "
                    "that is cached, and has at least one token more"
                )
            logits.append(row.forward(prompt[read:], last=True))
            self.rows.append(row)
        return torch.stack(logits)

    def turn(self) -> Sequence[int]:
        """See `Rows`: all."""
        return range(len(self.rows))

    def forward(self, ids: Sequence[Sequence[int]], parents: Sequence[Sequence[int] | None]) -> torch.Tensor:
        """See `Rows`."""
        logits = [row.forward(new, before) for row, new, before in zip(self.rows, ids, parents, strict=True)]
        return logits[0][None] if len(logits) == 1 else torch.nn.utils.rnn.pad_sequence(logits, batch_first=True)

    def keep(self, places: Sequence[Sequence[int]]) -> None:
        """See `Rows`."""
        for row, kept in zip(self.rows, places, strict=True):
            row.keep(kept)

    def select(self, rows: Sequence[int]) -> None:
        """See `Rows`."""
        self.rows = [self.rows[row] for row in rows]


class RaggedRows:
    """Rows of different lengths in one forward pass, none of them padded or moved: the layout to use.

    While there are rows, byteloom's attention is attached to the model where it has plain SDPA attention: with a mask
    that of transformers copies the keys for each head of a group. Raises InvalidInputError as `RaggedCache` does.
    """

    takes_trees = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = RaggedCache(model.config, 0)
        windows = any(attention_windows(model.config))
        self._attaches = model.config._attn_implementation == "sdpa" and not windows
        self._attachment: attach | None = None

    def add(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Rows`."""
        self._attach()
        new = RaggedCache(self.model.config, len(prompts))
        lengths_B = torch.tensor([len(prompt) for prompt in prompts])
        ends_U, end_B = (lengths_B - 1).unique(return_inverse=True)  # the model computes logits for these alone
        inputs = new.inputs(padded(prompts).to(self.model.device), lengths_B)
        logits_BUV = self.model(**inputs, use_cache=True, logits_to_keep=ends_U.to(self.model.device)).logits
        new.commit(lengths_B)
        self.cache.join(new)
        return logits_BUV[torch.arange(len(prompts)), end_B.to(logits_BUV.device), None]

    def turn(self) -> Sequence[int]:
        """See `Rows`: all."""
        return range(len(self.cache.lens))

    def forward(self, ids: Sequence[Sequence[int]], parents: Sequence[Sequence[int] | None]) -> torch.Tensor:
        """See `Rows`."""
        lengths_B = torch.tensor([len(new) for new in ids])
        inputs = self.cache.inputs(padded(ids).to(self.model.device), lengths_B)
        logits_BQV: torch.Tensor = self.model(**inputs, use_cache=True).logits
        return logits_BQV

    def keep(self, places: Sequence[Sequence[int]]) -> None:
        """See `Rows`. The places are the first ones, for no draft branches here."""
        self.cache.commit(torch.tensor([len(kept) for kept in places]))

    def select(self, rows: Sequence[int]) -> None:
        """See `Rows`."""
        self.cache.compact(torch.tensor(rows, dtype=torch.long))
        if not rows and self._attachment is not None:
            self._attachment.detach()
            self._attachment = None

    def _attach(self) -> None:
        if self._attaches and self._attachment is None:
            try:
                self._attachment = attach(self.model)
            except UnsupportedPositionError:  # its own attention serves as well
                self._attaches = False


def padded(ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Ids side by side, int64 [R, longest], the shorter ones with zeros behind them."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in ids], batch_first=True)
