"""A key-value cache that shrinks by averaging similar neighbours, so that no token is thrown away.

    model.generate(ids, cache=merging_cache(model, ratio=0.2))      # inside `with attach(model):`

Use it for long prompts and long answers where memory or the speed of decoding is short and the text is redundant, as
prose, code and logs are. Do not use it to look up facts in text without redundancy: what is averaged is often lost, as
it would be if it were evicted.
Source: Efficient Long-Context LLM Inference via KV Cache Clustering (Chelsea, later CentroidKV), arXiv 2506.11418; the
matching is that of Token Merging, arXiv 2210.09461. Cost: O(n c d) to merge n slots with chunks of c; a slot takes the
bytes of a token and 4 for its size.
"""

# Shape suffixes: B batch, K key-value heads, T key slots, Q queries, D head width; R rows and heads together, C chunks,
# I and J the even and the odd slots of a chunk.

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.nn.functional import normalize, pad

from byteloom import _native
from byteloom.errors import CacheStateError, InvalidInputError
from byteloom.models.attention import AttentionCall
from byteloom.models.kvcache import KVCache, KVLayer, attention_windows, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from byteloom.models.rotary import KeyRotation

CHUNK = 256  # slots
VALUE_WEIGHT = 0.5  # of the values against the keys in the similarity
WATCHED = 32  # last queries that say what is guarded
WORK = 1 << 24  # similarities that are held at a time where torch merges

_Slots = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # keys, values and logarithms of the sizes


def soft_match(
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    log_size_BKT: torch.Tensor,
    remove: int,
    *,
    chunk: int = CHUNK,
    value_weight: float = VALUE_WEIGHT,
) -> _Slots:
    """One pass: the `remove` even slots of each head that resemble an odd slot of their chunk most are merged into it.

    A centroid is the mean of all tokens in it and stands where the odd slot stood; other slots stay as they are, in
    their order. log_size: float32, the logarithms of how many tokens each slot stands for; scores of attention need it
    as their bias. chunk: slots in which a partner is sought, even. value_weight: how much the cosine of the values
    counts against that of the keys, squared; 0 as in the paper.
    Raises InvalidInputError when `remove` is more than half, or for an odd chunk.
    """
    slots = key_BKTD.shape[2]
    if not 0 <= remove <= slots // 2:
        raise InvalidInputError(f"one pass removes 0 to {slots // 2} of {slots} slots; got {remove}, use merge_to")
    return merge_to(key_BKTD, value_BKTD, log_size_BKT, slots - remove, chunk=chunk, value_weight=value_weight)


def merge_to(
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    log_size_BKT: torch.Tensor,
    target: int,
    *,
    chunk: int = CHUNK,
    value_weight: float = VALUE_WEIGHT,
) -> _Slots:
    """Passes of `soft_match` until `target` slots are left; each of them halves at most.

    Raises InvalidInputError for a target out of range or an odd chunk.
    """
    slots, _ = _merged(key_BKTD, value_BKTD, log_size_BKT, target, chunk, value_weight)
    return slots


@dataclass(frozen=True)
class MergeReport:
    """What merging did to a layer, or to all layers of a cache together.

    tokens: read. slots: that stand for them. similarity: mean over all pairs that were merged, 1 for equal ones; NaN
    where none were. seconds: that merging took. skipped: the layers that keep every slot because they slide.
    """

    tokens: int
    slots: int
    similarity: float
    seconds: float
    skipped: tuple[int, ...] = ()


class MergedLayer(KVLayer):
    """Merges its slots whenever they are more than it may have, right after the attention that needed them all.

    ratio: slots for each token read; budget: slots, however many tokens are read; give one of them. Decoded tokens may
    exceed either by a quarter until they are merged; a prompt is merged at once. The first `sinks` and the last
    `recent` tokens are never merged, and a ratio leaves as many slots for the others. guard: the share of these that
    goes to whichever slots the last 32 queries attend to most, which then are not merged; 0 as in the paper. chunk: as
    in `soft_match`. As few tokens as `recent` may be cropped, and edited, at the end.
    """

    def __init__(
        self,
        *,
        ratio: float | None = None,
        budget: int | None = None,
        chunk: int = CHUNK,
        sinks: int = 4,
        recent: int = 64,
        guard: float = 0.5,
        index: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(index=index, **kwargs)
        if (ratio is None) == (budget is None):
            raise InvalidInputError("give either a ratio or a budget of slots")
        if ratio is not None and not 0 < ratio <= 1:
            raise InvalidInputError(f"a ratio is above 0 and at most 1; got {ratio:g}")
        if sinks < 0 or recent < 1:
            raise InvalidInputError(f"sinks are at least 0 and recent tokens at least 1; got {sinks} and {recent}")
        if budget is not None and budget < sinks + recent + 2:
            raise InvalidInputError(
                f"a budget is at least {sinks + recent + 2} slots, for {sinks} sinks, {recent} recent tokens and 2 "
                f"centroids; got {budget}"
            )
        if not 0 <= guard < 1:
            raise InvalidInputError(f"the guarded share is at least 0 and below 1; got {guard:g}")
        _check_chunk(chunk)
        self.ratio, self.budget, self.chunk = ratio, budget, chunk
        self.sinks, self.recent, self.guard = sinks, recent, guard
        self._query_BHQD = torch.empty(0)  # the last ones
        self._scaling = 1.0
        self._merged = 0  # slots at the front that may stand for several tokens, or for other tokens in each head
        self._pairs = 0
        self._similarity = self._seconds = 0.0

    @property
    def takes_back(self) -> int:
        """The recent tokens."""
        return self.recent

    @property
    def target(self) -> int:
        """How many slots there may be now."""
        if self.budget is not None:
            return self.budget
        assert self.ratio is not None
        return max(round(self.ratio * self.logical), 2 * (self.sinks + self.recent))

    @property
    def report(self) -> MergeReport:
        """What all merging since the first token did."""
        similarity = self._similarity / self._pairs if self._pairs else float("nan")
        return MergeReport(self.logical, self.physical, similarity, self._seconds)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Attention over all slots, a centroid of N tokens weighing as N; then merge."""
        if call.mask is not None and call.mask.dim() == 2 and self.ratio != 1:
            raise InvalidInputError("rows of unequal length cannot be merged together; give each row alone")
        output_BHQD = super().attend(call)
        if self.guard and self.ratio != 1:
            self.watch(call.query_BHQD, call.scaling)
        extra = self.physical - self.target
        is_prompt = call.query_BHQD.shape[2] > self.recent
        if extra > (0 if is_prompt else self.target // 4):
            self.compress()
        return output_BHQD

    def compress(self) -> MergeReport:
        """Merge down to what is allowed now; nothing happens when there are no more slots than that."""
        target = self.target
        if self.physical > target:
            began = time.perf_counter()
            middle = slice(self.sinks, self.physical - self.recent)
            size_BKT = torch.zeros(self.keys.shape[:3], device=self.device) if self.bias is None else self.bias
            held = self.keys, self.values, size_BKT
            keys, values, sizes = (part[:, :, middle] for part in held)
            left = target - self.sinks - self.recent
            guarded = [part[:, :, :0] for part in held]
            if self._query_BHQD.numel():
                count = min(round(self.guard * left), left - 1)
                order_BKT = self._attention()[:, :, self.sinks :].argsort(dim=2, descending=True, stable=True)
                guarded_BKT, other_BKT = (
                    order.sort(dim=2).values for order in order_BKT.split((count, order_BKT.shape[2] - count), dim=2)
                )
                guarded = [_picked(part, guarded_BKT) for part in (keys, values, sizes)]
                keys, values, sizes = (_picked(part, other_BKT) for part in (keys, values, sizes))
                left -= count
            merged, similarity = _merged(keys, values, sizes, left, self.chunk, VALUE_WEIGHT)
            self._pairs += (self.physical - target) * size_BKT.shape[0] * size_BKT.shape[1]
            key_BKTD, value_BKTD, bias_BKT = (
                torch.cat((part[:, :, : middle.start], spared, new, part[:, :, middle.stop :]), dim=2)
                for part, spared, new in zip(held, guarded, merged, strict=True)
            )
            self.replace(key_BKTD, value_BKTD, bias=bias_BKT)
            self._merged = target - self.recent
            self._similarity += similarity
            self._seconds += time.perf_counter() - began
        return self.report

    def watch(self, query_BHQD: torch.Tensor, scaling: float) -> None:
        """Take these queries [B, H, Q, D] for the last ones, which say what is guarded; `attend` does so itself."""
        self._scaling = scaling
        last_BHQD = query_BHQD[:, :, -min(WATCHED, self.recent) :].detach()
        missing = min(WATCHED, self.recent) - last_BHQD.shape[2]
        if missing and self._query_BHQD.numel():
            last_BHQD = torch.cat((self._query_BHQD[:, :, -missing:], last_BHQD), dim=2)
        with torch.inference_mode(False), torch.no_grad():
            self._query_BHQD = last_BHQD.clone()

    def truncate(self, physical: int, logical: int) -> None:
        """Forget the last tokens. Raises CacheStateError when some of them were merged."""
        if self._merged and (physical < self._merged or self.physical - physical != self.logical - logical):
            raise CacheStateError(
                f"only the last {self.physical - self._merged} tokens can be taken back, those before are merged; "
                "give more recent tokens"
            )
        super().truncate(physical, logical)

    def splice(self, start: int, stop: int, keys: torch.Tensor, values: torch.Tensor, *, shift: int = 0) -> None:
        """As in KVLayer; raises InvalidInputError before the end of what is merged."""
        if start < self._merged:
            raise InvalidInputError(
                f"slot {start} is merged and cannot be edited; edit slots from {self._merged} on, or give more recent "
                "tokens"
            )
        super().splice(start, stop, keys, values, shift=shift)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._merged = self._pairs = 0
        self._similarity = self._seconds = 0.0
        self._query_BHQD = torch.empty(0)

    def state(self) -> dict[str, torch.Tensor]:
        """What `KVCache.save` writes of this layer, by name; nothing before the first token."""
        state = super().state()
        return state | {"merged": torch.tensor(self._merged)} if state else state

    def restore(self, state: dict[str, torch.Tensor], logical: int) -> None:
        """Hold what `state` gave, the next token at position `logical`."""
        super().restore(state, logical)
        self._merged = int(state["merged"]) if state else 0

    def _attention(self) -> torch.Tensor:
        """[B, K, T]: how much of the attention of the watched queries each slot before the recent ones gets."""
        key_BKTD = self.keys[:, :, : self.physical - self.recent]
        query_BKND = self._query_BHQD.unflatten(1, (key_BKTD.shape[1], -1)).flatten(2, 3)
        score_BKNT = (query_BKND @ key_BKTD.mT).float() * self._scaling
        if self.bias is not None:
            score_BKNT += self.bias[:, :, None, : key_BKTD.shape[2]]
        return score_BKNT.softmax(-1).mean(2)

    def _rows(self, select: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super()._rows(select)
        if self._query_BHQD.numel():
            with torch.inference_mode(False), torch.no_grad():
                self._query_BHQD = select(self._query_BHQD)


class MergingCache(KVCache):
    """A `KVCache` whose layers merge by themselves; make it with `merging_cache`."""

    @classmethod
    def for_model(cls, model: PreTrainedModel, layer: type[KVLayer] = MergedLayer, **layer_kwargs: Any) -> Self:
        """An empty cache, its layers `layer(**layer_kwargs)`; those that slide keep every slot.

        A ratio or budget may be a list with one for each layer. Raises InvalidInputError for a list of another length,
        and when every layer slides.
        """
        windows = attention_windows(model.config)
        if None not in windows:
            raise InvalidInputError(
                f"every layer of this {type(model).__name__} attends to the last {windows[0]} tokens alone, so none is "
                "merged; set config.sliding_window to None if no text exceeds them"
            )
        lists = {name: value for name, value in layer_kwargs.items() if isinstance(value, Sequence)}
        for name, value in lists.items():
            if len(value) != len(windows):
                raise InvalidInputError(f"a {name} for each of {len(windows)} layers is needed; got {len(value)}")
        layers = [
            layer(index=index, **layer_kwargs | {name: value[index] for name, value in lists.items()})
            if window is None
            else KVLayer(index=index)
            for index, window in enumerate(windows)
        ]
        return cls(layers, fingerprint(model))

    @property
    def report(self) -> MergeReport:
        """What merging did so far: tokens, slots and seconds of all merging layers together."""
        merging = [layer for layer in self.layers if isinstance(layer, MergedLayer)]
        pairs = sum(layer._pairs for layer in merging)
        return MergeReport(
            sum(layer.logical for layer in merging),
            sum(layer.physical for layer in merging),
            sum(layer._similarity for layer in merging) / pairs if pairs else float("nan"),
            sum(layer._seconds for layer in merging),
            tuple(layer.index for layer in self.layers if not isinstance(layer, MergedLayer)),
        )

    def rebase(self, rotation: KeyRotation, delta: int) -> None:
        """As in KVCache; what says which slots are guarded moves along."""
        super().rebase(rotation, delta)
        for layer in self.layers:
            if isinstance(layer, MergedLayer) and layer._query_BHQD.numel():
                layer._query_BHQD = rotation.shift(layer._query_BHQD, delta, layer.index)

    def compress(self) -> MergeReport:
        """Merge every layer down to what it is allowed now, without waiting for more tokens."""
        for layer in self.layers:
            if isinstance(layer, MergedLayer):
                layer.compress()
        return self.report


def merging_cache(
    model: PreTrainedModel,
    *,
    ratio: float | Sequence[float] | None = None,
    budget: int | Sequence[int] | None = None,
    chunk: int = CHUNK,
    sinks: int = 4,
    recent: int = 64,
    guard: float = 0.5,
) -> MergingCache:
    """An empty cache for `model` that keeps `ratio` of the tokens as slots, or `budget` slots.

        with attach(model):
            model.generate(ids, cache=merging_cache(model, ratio=0.2), prefill_chunk_size=2048)

    The attention of a prompt is exact and each layer is merged right after it, so only one layer is ever whole; with
    `prefill_chunk_size` none is, and later chunks see what is merged of the earlier ones. ratio, budget: one number, or
    one for each layer. chunk, sinks, recent, guard: see `MergedLayer`. A batch has rows of one length.
    Raises InvalidInputError for both or neither of ratio and budget, for numbers out of range, and for a model whose
    every layer slides.
    """
    limits: dict[str, Any] = {
        name: value for name, value in (("ratio", ratio), ("budget", budget)) if value is not None
    }
    return MergingCache.for_model(model, MergedLayer, chunk=chunk, sinks=sinks, recent=recent, guard=guard, **limits)


def _picked(part_BKT: torch.Tensor, index_BKT: torch.Tensor) -> torch.Tensor:
    """The slots of `index` of [B, K, T] or [B, K, T, D]."""
    if part_BKT.dim() == 4:
        index_BKT = index_BKT[..., None].expand(-1, -1, -1, part_BKT.shape[3])
    return part_BKT.gather(2, index_BKT)


def _check_chunk(chunk: int) -> None:
    if chunk < 2 or chunk % 2:
        raise InvalidInputError(f"a chunk has an even number of slots, 2 or more; got {chunk}")


def _merged(
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    log_size_BKT: torch.Tensor,
    target: int,
    chunk: int,
    value_weight: float,
) -> tuple[_Slots, float]:
    """`target` slots, and the sum of the similarities of all pairs that were merged."""
    slots = key_BKTD.shape[2]
    if not min(slots, 1) <= target <= slots:
        raise InvalidInputError(f"{slots} slots cannot be merged to {target}; give a number from 1 to {slots}")
    _check_chunk(chunk)
    if key_BKTD.device.type == "cpu" and key_BKTD.dtype in (torch.float32, torch.bfloat16):
        return _merged_natively((key_BKTD, value_BKTD, log_size_BKT), target, chunk, value_weight)
    return _merged_by_torch((key_BKTD, value_BKTD, log_size_BKT), target, chunk, value_weight)


def _merged_natively(slots: _Slots, target: int, chunk: int, value_weight: float) -> tuple[_Slots, float]:
    old = [part if part.stride(-1) == 1 else part.contiguous() for part in (part.detach() for part in slots)]
    new = [part.new_empty((*part.shape[:2], target, *part.shape[3:])) for part in old]
    arrays = [part.view(torch.int16) if part.dtype == torch.bfloat16 else part for part in (*old, *new)]
    similarity = _native.merge_slots(*arrays, chunk, value_weight, torch.get_num_threads())
    return (new[0], new[1], new[2]), similarity


def _merged_by_torch(slots: _Slots, target: int, chunk: int, value_weight: float) -> tuple[_Slots, float]:
    shape, count = slots[0].shape[:2], slots[0].shape[2]
    rows = max(1, 4 * WORK // (max(count, 1) * chunk))
    parts, total = [], 0.0
    for key_RTD, value_RTD, log_size_RT in zip(*(part.flatten(0, 1).split(rows) for part in slots), strict=True):
        # Means are rounded once, behind the last pass.
        part: _Slots = _wide(key_RTD), _wide(value_RTD), log_size_RT
        while part[0].shape[1] > target:
            left = part[0].shape[1]
            part, similarity = _pass(part, min(left - target, left // 2), chunk, value_weight)
            total += similarity
        parts.append(part)
    key_BKTD, value_BKTD, log_size_BKT = (
        torch.cat(part).to(old.dtype).unflatten(0, shape)
        for part, old in zip(zip(*parts, strict=True), slots, strict=True)
    )
    return (key_BKTD, value_BKTD, log_size_BKT), total


def _pass(slots: _Slots, remove: int, chunk: int, value_weight: float) -> tuple[_Slots, float]:
    """One pass over [R, T, ...]."""
    key_RTD, value_RTD, log_size_RT = slots
    rows, count = log_size_RT.shape
    chunk = min(chunk, count + count % 2)
    chunks = -(-count // chunk)
    # Vectors that hold both, so that their products are means of the cosines of the keys and of the values.
    parts = [(key_RTD, 1.0)] + ([(value_RTD, value_weight)] if value_weight else [])
    norm = (1 + value_weight**2) ** 0.5
    unit_RTD = torch.cat([normalize(part, dim=-1, eps=1e-18) * (weight / norm) for part, weight in parts], dim=-1)
    unit_RTD = pad(unit_RTD, (0, 0, 0, chunks * chunk - count))
    even_RCID, odd_RCJD = (unit_RTD[:, start::2].unflatten(1, (chunks, chunk // 2)) for start in (0, 1))
    cosine_RCIJ = (even_RCID @ odd_RCJD.mT).nan_to_num(nan=-2.0)
    slot_CI = torch.arange(0, chunks * chunk, 2, device=key_RTD.device).unflatten(0, (chunks, chunk // 2))
    cosine_RCIJ.masked_fill_((slot_CI + 1 >= count)[:, None, :], -torch.inf)
    best_RCI, odd_RCI = cosine_RCIJ.max(-1)
    into_RE = (slot_CI[:, :1] + 2 * odd_RCI + 1).flatten(1)
    best_RE = best_RCI.flatten(1).masked_fill(slot_CI.flatten() >= count, -torch.inf)
    best_RE, edge_RE = best_RE.sort(dim=1, descending=True, stable=True)
    edge_RE = edge_RE[:, :remove]
    from_RE, into_RE = 2 * edge_RE, into_RE.gather(1, edge_RE)

    size_RT = log_size_RT.exp()
    joined_RT = size_RT.scatter_add(1, into_RE, size_RT.gather(1, from_RE))
    kept_RT = torch.ones_like(size_RT, dtype=torch.bool).scatter_(1, from_RE, False)
    kept_RT = kept_RT.nonzero()[:, 1].unflatten(0, (rows, count - remove))
    is_same_RT = (joined_RT == size_RT).gather(1, kept_RT)
    means = []
    for states_RTD in (key_RTD, value_RTD):
        from_RED, into_RED, kept_RTD = (
            index[..., None].expand(-1, -1, states_RTD.shape[2]) for index in (from_RE, into_RE, kept_RT)
        )
        sum_RTD = states_RTD * size_RT[..., None]
        sum_RTD.scatter_add_(1, into_RED, sum_RTD.gather(1, from_RED))
        mean_RTD = (sum_RTD / joined_RT[..., None]).gather(1, kept_RTD)
        # Slots that nothing joined keep every bit.
        means.append(torch.where(is_same_RT[..., None], states_RTD.gather(1, kept_RTD), mean_RTD))
    log_size_RT = torch.where(is_same_RT, log_size_RT.gather(1, kept_RT), joined_RT.log().gather(1, kept_RT))
    return (means[0], means[1], log_size_RT), float(best_RE[:, :remove].sum())


def _wide(states: torch.Tensor) -> torch.Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))
