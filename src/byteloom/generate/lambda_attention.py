"""Read and generate far beyond the length that a model was trained for, in constant memory and without retraining.

Use it for endless streams and for scoring files of any length with a short-context model. What has left the window is
forgotten: this keeps a model fluent, it does not let it look things up in the distance. With `top_k` it does, for the
price of all keys in memory.
Source: LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models, NAACL 2024, arXiv 2308.16137.
Cost: O(window + sinks) time and memory a token; a prompt of n tokens takes O(n (window + sinks)).
"""

# Shape suffixes: B batch, H query heads, K key-value heads, G query heads a key-value head, T key slots, Q queries,
# S sinks, V vocabulary, D head width.

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from byteloom.errors import CacheStateError, InvalidInputError
from byteloom.generate.texts import Sampling, end_ids
from byteloom.models import CACHE_KEYWORD, AttentionCall, KeyRotation, KVCache, KVLayer, attach, attend_lse, merge_lse
from byteloom.models.kvcache import MIN_SLACK, attention_windows, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FEED_TOKENS = 1024  # of a stream that go through the model at once
LOGITS = 1 << 25  # that are held at once


class LambdaLayer(KVLayer):
    """Keeps the first `sinks` tokens and the last `window` - 1; a query sees a sink outside its window at `ceiling`.

    window: tokens that a query sees as they are, itself included. ceiling: the distance at which it sees the sinks
    that have left the window, default `window`. chunk: queries that share one mask. spare: tokens kept behind the
    window, so that as many can be cropped again after the first eviction (drafts that are rejected). top_k: how many
    of all evicted tokens the last query of a call sees as well, the best for each head, as if they stood `insert_at`
    positions back, default half a window; they then all stay in memory.
    keys, values: those of the window; the sinks are held apart, un-rotated. Until a text exceeds the window nothing
    differs from the plain model.
    """

    def __init__(
        self,
        *,
        rotation: KeyRotation,
        window: int,
        sinks: int = 10,
        ceiling: int | None = None,
        chunk: int = 128,
        spare: int = 0,
        top_k: int = 0,
        insert_at: int | None = None,
        index: int = 0,
    ) -> None:
        super().__init__(index=index, rotation=rotation)
        self.window, self.sinks, self.chunk, self.spare, self.top_k = window, sinks, chunk, spare, top_k
        self.ceiling = window if ceiling is None else ceiling
        self.insert_at = window // 2 if insert_at is None else insert_at
        self._history = KVLayer()  # with top_k: all tokens but the sinks, un-rotated
        self._sink_keys = self._sink_values = torch.empty(0)

    @property
    def takes_back(self) -> int:
        """The spare tokens."""
        return self.spare

    @property
    def is_croppable(self) -> bool:
        """Whether drafts can be verified on it: there is `spare` room to take them back, and no `top_k`, which serves
        the last query of a call alone."""
        return self.spare > 0 and not self.top_k

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take shape, type and device from the first keys and values."""
        super().lazy_initialization(key_states, value_states)
        self._sink_keys, self._sink_values = self._key_store, self._value_store

    def append(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Fill slots behind the last; of the first tokens of a text also those of the sinks."""
        super().append(key_states, value_states)
        new = min(max(0, self.sinks - self._sink_keys.shape[2]), key_states.shape[2])
        if new == 0 and not self.top_k:
            return
        assert self.rotation is not None
        back_Q = -torch.arange(self.logical, self.logical + key_states.shape[2], device=key_states.device)
        kept = slice(0, None if self.top_k else new)
        raw_BKQD = self.rotation.shift(key_states[:, :, kept].detach(), back_Q[kept], self.index)
        if new:
            # Outside of inference mode, so that later calls may be in any mode.
            with torch.inference_mode(False), torch.no_grad():
                self._sink_keys = torch.cat((self._sink_keys, raw_BKQD[:, :, :new]), dim=2)
                self._sink_values = torch.cat((self._sink_values, value_states[:, :, :new]), dim=2)
        if self.top_k:
            self._history.append(raw_BKQD[:, :, new:], value_states[:, :, new:])

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Each query over its window and over the sinks outside of it, in one softmax; then evict."""
        if self.bias is not None:
            raise CacheStateError("a cache with a window takes no bias; merge slots in a KVCache of plain layers")
        if self.logical <= self.window:
            output_BHQD = super().attend(call)
            self._evict()
            return output_BHQD
        if call.mask is not None:
            raise InvalidInputError(
                f"rows of unequal length and custom masks end at the window of {self.window} tokens; "
                "give one sequence, or rows of one length"
            )
        query_BHQD, key_BKTD, value_BKTD = call.query_BHQD, call.key_BKTD, call.value_BKTD
        scaling, softcap = call.scaling, call.softcap
        queries, slots = query_BHQD.shape[2], key_BKTD.shape[2]
        outputs = []
        for start in range(0, queries, self.chunk):
            stop = min(start + self.chunk, queries)
            # Slot t holds position `logical - slots + t`; the queries are the last slots.
            first, last = max(0, slots - queries + start - self.window + 1), slots - queries + stop
            part_BHQD = query_BHQD[:, :, start:stop]
            position_Q = torch.arange(start, stop, device=query_BHQD.device) + self.logical - queries
            slot_T = torch.arange(first, last, device=query_BHQD.device) + self.logical - slots
            distance_QT = position_Q[:, None] - slot_T
            near_QT = (distance_QT >= 0) & (distance_QT < self.window) if stop - start > 1 else None
            local = attend_lse(
                part_BHQD,
                key_BKTD[:, :, first:last],
                value_BKTD[:, :, first:last],
                scaling=scaling,
                mask_BHQT=None if near_QT is None else near_QT[None, None],
                softcap=softcap,
            )
            groups = [local]
            if self.sinks:
                groups.append(self._attend_sinks(part_BHQD, position_Q, scaling, softcap))
            outputs.append(merge_lse(groups))
        if self.top_k and self._history.physical - self.window >= self.top_k:
            groups = [(output_BHQD[:, :, -1:], lse_BHQ[:, :, -1:]) for output_BHQD, lse_BHQ in groups]
            groups.append(self._attend_best(query_BHQD[:, :, -1:], scaling, softcap))
            outputs[-1] = torch.cat((outputs[-1][:, :, :-1], merge_lse(groups)), dim=2)
        self._evict()
        return torch.cat(outputs, dim=2)

    def truncate(self, physical: int, logical: int) -> None:
        """Forget the last tokens, as `crop` does. Raises CacheStateError when slots would be missing that are gone."""
        drop = self.logical - logical
        if drop > 0 and self.top_k and self.logical > self.window:
            raise CacheStateError(
                f"{drop} tokens cannot be taken back: with top_k the last token of a pass alone looks up what left the "
                "window; decode without drafts"
            )
        if drop != self.physical - physical or (drop > 0 and physical < min(logical, self.window - 1)):
            raise CacheStateError(
                f"{drop} tokens cannot be taken back: what stood before the window of {self.window} is gone; "
                f"give the layer {drop} spare slots"
            )
        super().truncate(physical, logical)
        self._sink_keys, self._sink_values = self._sink_keys[:, :, :logical], self._sink_values[:, :, :logical]
        self._history.truncate(max(0, self._history.physical - drop), 0)

    def splice(self, start: int, stop: int, keys: torch.Tensor, values: torch.Tensor, *, shift: int = 0) -> None:
        """Raises CacheStateError: a window has no middle to edit."""
        raise CacheStateError("a cache with a window cannot be edited in the middle; edit a KVCache of plain layers")

    def gather(self, index: torch.Tensor) -> None:
        """Raises CacheStateError: the window is contiguous."""
        raise CacheStateError(
            "slots of a cache with a window cannot be picked or merged; use a KVCache of plain layers"
        )

    def state(self) -> dict[str, torch.Tensor]:
        """What `KVCache.save` writes of this layer, by name; nothing before the first token."""
        if not self.is_initialized:
            return {}
        history = {f"history.{name}": tensor for name, tensor in self._history.state().items()}
        return super().state() | {"sink_keys": self._sink_keys, "sink_values": self._sink_values} | history

    def restore(self, state: dict[str, torch.Tensor], logical: int) -> None:
        """Hold what `state` gave, the next token at position `logical`."""
        super().restore(state, logical)
        if state:
            self._sink_keys, self._sink_values = state["sink_keys"], state["sink_values"]
            start = "history."
            self._history.restore(
                {name[len(start) :]: tensor for name, tensor in state.items() if name.startswith(start)}, 0
            )

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._sink_keys = self._sink_values = torch.empty(0)
        self._history.reset()

    def nbytes(self) -> int:
        """Bytes held, spare room, sinks and history included."""
        return super().nbytes() + self._sink_keys.nbytes + self._sink_values.nbytes + self._history.nbytes()

    def _attend_sinks(
        self, query_BHQD: torch.Tensor, position_Q: torch.Tensor, scaling: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.rotation is not None
        # Turned as if it stood `ceiling` positions behind keys that stand at 0.
        far_BHQD = self.rotation.shift(query_BHQD, self.ceiling - position_Q, self.index)
        sink_S = torch.arange(self._sink_keys.shape[2], device=query_BHQD.device)
        outside_QS = position_Q[:, None] - sink_S >= self.window
        return attend_lse(
            far_BHQD,
            self._sink_keys,
            self._sink_values,
            scaling=scaling,
            mask_BHQT=outside_QS[None, None],
            softcap=softcap,
        )

    def _attend_best(
        self, query_BHQD: torch.Tensor, scaling: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.rotation is not None
        evicted = self._history.physical - self.window
        key_BKTD, value_BKTD = self._history.keys[:, :, :evicted], self._history.values[:, :, :evicted]
        turned_BHQD = self.rotation.shift(query_BHQD, self.insert_at - self.logical + 1, self.index)
        heads, kv_heads = query_BHQD.shape[1], key_BKTD.shape[1]
        scores_BKGT = turned_BHQD.unflatten(1, (kv_heads, -1))[..., 0, :] @ key_BKTD.mT
        best_BKT = scores_BKGT.topk(self.top_k, dim=-1).indices.flatten(2)
        index_BKTD = best_BKT[..., None].expand(-1, -1, -1, key_BKTD.shape[3])
        # Every query head has tokens of its own, and so becomes a key-value head.
        chosen = [
            part.gather(2, index_BKTD).unflatten(2, (heads // kv_heads, self.top_k)).flatten(1, 2)
            for part in (key_BKTD, value_BKTD)
        ]
        return attend_lse(turned_BHQD, *chosen, scaling=scaling, softcap=softcap)

    def _rows(self, select: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super()._rows(select)
        self._history._rows(select)
        if self.is_initialized:
            with torch.inference_mode(False), torch.no_grad():
                self._sink_keys, self._sink_values = select(self._sink_keys), select(self._sink_values)

    def _evict(self) -> None:
        kept = self.window - 1 + self.spare
        extra = self.physical - kept
        if extra <= 0:
            return
        # The front of the buffer is given up; when its end is reached, what is in use moves to a new one.
        self._key_store, self._value_store = self._key_store[:, :, extra:], self._value_store[:, :, extra:]
        if extra > kept + MIN_SLACK:  # a long prompt, whose buffer would live on
            self._key_store = self._sized(self._key_store[:, :, :kept])
            self._value_store = self._sized(self._value_store[:, :, :kept])
        self._use(kept)


class LambdaCacheFactory:
    """What `extend` returns: call it for a fresh cache of the attached model; `detach()`, or leave a `with` block.

    window, sinks: in tokens. own_windows: the layers that already slide, by their index, and how far; they go on so.
    """

    def __init__(
        self, model: PreTrainedModel, window: int, sinks: int, spare: int, top_k: int, top_k_from_layer: int
    ) -> None:
        self.window, self.sinks, self._spare = window, sinks, spare
        self._top_k, self._top_k_from_layer = top_k, top_k_from_layer
        windows = attention_windows(model.config)
        self.own_windows = {layer: own for layer, own in enumerate(windows) if own is not None and own <= window}
        self._layers = len(windows)
        self._rotation = KeyRotation.from_model(model)
        self._fingerprint = fingerprint(model)
        self._attached = attach(model)

    def __call__(self) -> KVCache:
        """An empty cache, for `model(...)`, `generate(...)` or a loop of your own."""
        layers: list[KVLayer] = [
            LambdaLayer(
                rotation=self._rotation,
                window=self.own_windows.get(layer, self.window),
                sinks=0 if layer in self.own_windows else self.sinks,
                spare=self._spare,
                top_k=0 if layer in self.own_windows or layer < self._top_k_from_layer else self._top_k,
                index=layer,
            )
            for layer in range(self._layers)
        ]
        return KVCache(layers, self._fingerprint)

    def detach(self) -> None:
        """Give the model its own attention back."""
        self._attached.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def extend(
    model: PreTrainedModel,
    window: int | None = None,
    sinks: int = 10,
    *,
    spare: int = 0,
    top_k: int = 0,
    top_k_from_layer: int = 4,
) -> LambdaCacheFactory:
    """Attach LM-Infinite to a rotary causal language model.

        with extend(model, window=512) as fresh_cache:
            model.generate(ids, cache=fresh_cache(), max_new_tokens=100_000)

    window: tokens, default the length that the model was trained at; sinks: first tokens that stay visible, 10 to 100
    give about the same. spare: how many tokens may be cropped from a cache once it is full, as drafts need. top_k: how
    many evicted tokens each decoded token may look up, 5 in the paper, in layers from `top_k_from_layer` on; memory and
    time then grow with the text.
    Raises UnsupportedPositionError for a model without rotary positions, InvalidInputError for numbers out of range.
    """
    trained = _trained_length(model)
    window = trained if window is None else window
    if window is None:
        raise InvalidInputError(f"{type(model).__name__} does not say its training length; give a window")
    if window < 2 or not 0 <= sinks < window or spare < 0 or top_k < 0:
        raise InvalidInputError(
            f"a window has 2 tokens or more, and fewer sinks than that, and nothing is negative; got window {window}, "
            f"sinks {sinks}, spare {spare}, top_k {top_k}"
        )
    if trained is not None and window > trained:
        warnings.warn(
            f"the window of {window} tokens exceeds the {trained} that the model was trained at", stacklevel=2
        )
    return LambdaCacheFactory(model, window, sinks, spare, top_k, top_k_from_layer)


class LambdaStream:
    """One endless sequence through a short-context model, in constant memory.

    The model is attached until `close()` or the end of a `with` block. rebase_at: position at which everything moves
    back towards 0, so that rotary phases stay exact however long the stream is.
    """

    def __init__(
        self, model: PreTrainedModel, window: int | None = None, sinks: int = 10, *, rebase_at: int = 65536
    ) -> None:
        self._factory = extend(model, window, sinks)
        self._model = model
        self._rebase_at = max(rebase_at, 2 * self._factory.window + 1)
        self._rotation = KeyRotation.from_model(model)
        self.cache = self._factory()
        self._block = max(64, min(FEED_TOKENS, LOGITS // model.config.get_text_config().vocab_size))
        self._last_1V: torch.Tensor | None = None  # logits after the last token fed

    @property
    def window(self) -> int:
        """Tokens that the model sees at once."""
        return self._factory.window

    def feed(self, ids_BT: torch.Tensor, *, last_only: bool = False) -> torch.Tensor:
        """Read int64 ids [1, n], n at least 1; returns the logits [1, n, V], with last_only those of the last token.

        Raises InvalidInputError for another shape.
        """
        if ids_BT.dim() != 2 or ids_BT.shape[0] != 1 or ids_BT.shape[1] == 0:
            raise InvalidInputError(f"a stream takes ids of the shape [1, n], n at least 1; got {list(ids_BT.shape)}")
        blocks = [self._forward(block_BT, last_only) for block_BT in ids_BT.split(self._block, dim=1)]
        return blocks[-1] if last_only else torch.cat(blocks, dim=1)

    def nll(self, ids: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The loss in nats of every token of blocks of ids [1, n] or [n], block by block, float32.

        The first token that a stream reads is predicted by nothing and has none, so the first block is one shorter.
        """
        for block in ids:
            for ids_BT in block.reshape(1, -1).to(self._model.device).split(self._block, dim=1):
                if ids_BT.shape[1] == 0:
                    continue
                before_1V = self._last_1V
                logits_TV = self._forward(ids_BT, last_only=False)[0, :-1]
                target_T = ids_BT[0, 1:]
                if before_1V is not None:
                    logits_TV, target_T = torch.cat((before_1V, logits_TV)), ids_BT[0]
                yield torch.nn.functional.cross_entropy(logits_TV.float(), target_T, reduction="none")

    def generate(
        self,
        ids_BT: torch.Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """Read `ids`, then yield new tokens one by one, up to the end token of the model if it has one.

        temperature 0 takes the most probable token; top_k 0 and top_p 1 leave all tokens in.
        """
        warpers = Sampling(temperature, top_k, top_p).processors()
        generator = torch.Generator(self._model.device).manual_seed(seed)
        ends = end_ids(self._model)
        logits_1V = self.feed(ids_BT, last_only=True)[:, -1]
        for _ in range(max_new_tokens):
            if temperature > 0:
                chances_1V = warpers(ids_BT, logits_1V.float()).softmax(-1)
                new_BT = torch.multinomial(chances_1V, 1, generator=generator)
            else:
                new_BT = logits_1V.argmax(-1, keepdim=True)
            token = int(new_BT)
            yield token
            if token in ends:
                return
            logits_1V = self.feed(new_BT, last_only=True)[:, -1]

    def close(self) -> None:
        """Give the model its own attention back."""
        self._factory.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forward(self, ids_BT: torch.Tensor, last_only: bool) -> torch.Tensor:
        position = self.cache.get_seq_length()
        if position > self._rebase_at:
            self.cache.rebase(self._rotation, 2 * self._factory.window - position)
        with torch.no_grad():
            logits_BTV = self._model(
                input_ids=ids_BT, logits_to_keep=1 if last_only else 0, **{CACHE_KEYWORD: self.cache}
            ).logits
        self._last_1V = logits_BTV[:, -1]
        return logits_BTV


def _trained_length(model: PreTrainedModel) -> int | None:
    """Positions seen in training, before any rotary scaling."""
    rotary = getattr(model.config, "rope_parameters", None) or {}
    return rotary.get("original_max_position_embeddings") or getattr(model.config, "max_position_embeddings", None)
