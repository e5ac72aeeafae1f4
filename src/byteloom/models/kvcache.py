"""The key-value cache that all decoding methods share: slots that can be cut, joined, moved, weighted and rolled back.

`KVCache` holds one sequence, or rows of one length: subclass `KVLayer` for a method that edits positions, evicts or
merges. It is a cache of transformers: `model(...)`, chunked prefill, `generate`, prompt lookup and beam search need not
know which method is at work. Rows of different lengths are the business of `byteloom.models.ragged_cache`.
Source: ours. Cost: new tokens are written in place; a buffer grows by a quarter when it is full, so that appending n
tokens copies O(n) in all.
"""

# Shape suffixes: B batch, K key-value heads, T key slots, Q queries, D head width.

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from byteloom.errors import CacheMismatchError, CacheStateError, FileError, InvalidInputError
from byteloom.files import StrPath, atomic_write
from byteloom.models.attention import AttentionCall, attend

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from byteloom.models.rotary import KeyRotation

MIN_SLACK = 256  # slots
SAMPLED = 64  # numbers of each weight that go into a fingerprint


def grown(store: torch.Tensor, used: int, needed: int) -> torch.Tensor:
    """A copy of `store` [B, K, T, ...] with room for `needed` slots and a quarter more; `used` of them are filled."""
    # A tensor that was made in inference mode could not be written to outside of it.
    with torch.inference_mode(False), torch.no_grad():
        shape = (*store.shape[:2], needed + max(MIN_SLACK, needed // 4), *store.shape[3:])
        # Zeros: a ragged row has slots that are masked, and 0 times an uninitialised NaN is a NaN.
        larger = torch.zeros(shape, dtype=store.dtype, device=store.device)
        larger[:, :, :used] = store[:, :, :used]
        return larger


class KVLayer(DynamicLayer):
    """The keys and values of one attention layer, in slots. For inference: no gradient flows through it.

    `get_seq_length()` is the rotary position of the next token, and `get_mask_sizes()` describes the slots: the two may
    differ, and that is how a method joins contexts (fewer positions than slots), evicts or merges (more).

    keys, values: [B, K, T, D] views of the slots in use, None before the first token; do not keep one across an
    `update`. logical: the position of the next token. bias: None, or float32 [B, K, T], added to the scaled scores of
    each key (new tokens get 0); assign it to set it. index: the place of the layer in the model. rotation: that of the
    model, for methods that move keys.
    A subclass overrides `attend`, or `update` for what it keeps. With a bias or an `attend` of its own a layer works
    under `attach(model)` alone.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, *, index: int = 0, rotation: KeyRotation | None = None) -> None:
        super().__init__()
        self.index = index
        self.rotation = rotation
        self.logical = 0
        self.expected = False  # set by the hook of `attach` for the update that follows
        self._key_store = self._value_store = torch.empty(0)
        self._bias_store: torch.Tensor | None = None

    @property
    def takes_back(self) -> int | None:
        """How many of the last tokens `crop` can drop at any time; None: all of them."""
        return None

    @property
    def physical(self) -> int:
        """How many slots are in use."""
        return self.keys.shape[2] if self.is_initialized else 0

    @property
    def bias(self) -> torch.Tensor | None:
        return None if self._bias_store is None else self._bias_store[:, :, : self.physical]

    @bias.setter
    def bias(self, bias_BKT: torch.Tensor | None) -> None:
        shape = tuple(self.keys.shape[:3]) if self.is_initialized else ()
        if bias_BKT is not None and bias_BKT.shape != shape:
            raise InvalidInputError(
                f"a bias has one number for each row, key-value head and slot, {shape}; got {tuple(bias_BKT.shape)}"
            )
        self._bias_store = None if bias_BKT is None else self._sized(bias_BKT.float())

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take shape, type and device from the first keys and values; no slot is used yet."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._key_store, self._value_store = (
            states.new_empty((*states.shape[:2], 0, states.shape[3])) for states in (key_states, value_states)
        )
        self._use(0)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new keys and values [B, K, Q, D]; returns those of all slots.

        Raises CacheMismatchError for states of another shape, CacheStateError when the layer has its own attention and
        `attach` is missing.
        """
        if not self.expected and (self._bias_store is not None or type(self).attend is not KVLayer.attend):
            raise CacheStateError(
                f"{type(self).__name__} has its own attention, which the model does not ask; "
                "call attach(model) first, or use generate_from"
            )
        self.expected = False
        self.append(key_states, value_states)
        self.logical += key_states.shape[2]
        return self.keys, self.values

    def append(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Fill slots behind the last; `logical` stays. Raises CacheMismatchError for states of another shape."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._check(key_states, value_states)
        old, new = self.physical, self.physical + key_states.shape[2]
        if new > self._key_store.shape[2]:
            self._key_store = grown(self._key_store, old, new)
            self._value_store = grown(self._value_store, old, new)
        self._key_store[:, :, old:new] = key_states.detach()
        self._value_store[:, :, old:new] = value_states.detach()
        if self._bias_store is not None:
            if new > self._bias_store.shape[2]:
                self._bias_store = grown(self._bias_store, old, new)
            self._bias_store[:, :, old:new] = 0
        self._use(new)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """The attention of this layer, [B, H, Q, D]; the override point. It is that of byteloom.models.attention, with
        the bias.

        Raises InvalidInputError for a padded batch after slots were evicted, joined or merged.
        """
        if call.mask is not None and call.mask.dim() == 2 and self.logical != self.physical:
            raise InvalidInputError("padded batches cannot follow cache surgery; encode rows separately")
        return attend(
            call.query_BHQD,
            call.key_BKTD,
            call.value_BKTD,
            scaling=call.scaling,
            mask=call.mask,
            bias_BKT=self.bias,
            window=call.window,
            softcap=call.softcap,
        )

    def get_seq_length(self) -> int:
        """The rotary position of the next token."""
        return self.logical

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many key slots the next `query_length` queries see, and the position of the first of them."""
        return self.physical + query_length, self.logical - self.physical

    def splice(self, start: int, stop: int, keys: torch.Tensor, values: torch.Tensor, *, shift: int = 0) -> None:
        """Put slots in the place of [start, stop), the keys turned by `shift` positions; `logical` moves along.

        keys, values: [B, K, n, D], n of any size, rotated as the cache's own are, and no views of them. Slots behind
        `stop` stay as they are: shift them yourself if their positions change. New slots have bias 0. A shift needs
        `rotation`. Raises InvalidInputError for a range outside the slots.
        """
        old = self.physical
        if not 0 <= start <= stop <= old:
            raise InvalidInputError(f"slots {start} to {stop} do not lie in a cache of {old}; give a range inside it")
        if shift:
            if self.rotation is None:
                raise InvalidInputError("keys cannot be shifted without a rotation; give one to KVCache.for_model")
            keys = self.rotation.shift(keys, shift, self.index)
        tail = (self.keys[:, :, stop:].clone(), self.values[:, :, stop:].clone()) if stop < old else None
        bias_tail = None if self._bias_store is None else self._bias_store[:, :, stop:old].clone()
        if self.is_initialized:
            self._use(start)
        self.append(keys, values)
        if tail is not None:
            self.append(*tail)
        if self._bias_store is not None and bias_tail is not None:
            self._bias_store[:, :, start + keys.shape[2] : self.physical] = bias_tail
        self.logical += self.physical - old

    def gather(self, index: torch.Tensor) -> None:
        """Keep the slots of `index`, in its order; `logical` stays. Spare room is given back.

        index: int64 [n], or [B, K, n] for slots that differ by head.
        """
        bias = self.bias
        if index.dim() == 1:
            keys, values = self.keys.index_select(2, index), self.values.index_select(2, index)
            bias = None if bias is None else bias.index_select(2, index)
        else:
            wide = index[..., None]
            keys = self.keys.gather(2, wide.expand(-1, -1, -1, self.keys.shape[3]))
            values = self.values.gather(2, wide.expand(-1, -1, -1, self.values.shape[3]))
            bias = None if bias is None else bias.gather(2, index)
        self.replace(keys, values, bias=bias)

    def replace(self, keys: torch.Tensor, values: torch.Tensor, *, bias: torch.Tensor | None = None) -> None:
        """Hold these keys and values [B, K, n, D] and this bias [B, K, n] instead; `logical` stays."""
        self.lazy_initialization(keys, values)
        self._key_store, self._value_store = self._sized(keys), self._sized(values)
        self._bias_store = None
        self._use(keys.shape[2])
        self.bias = bias

    def truncate(self, physical: int, logical: int) -> None:
        """Keep the first `physical` slots, and let the next token have position `logical`."""
        if not 0 <= physical <= self.physical:
            raise InvalidInputError(f"cannot keep {physical} slots of {self.physical}; give a number from 0 to that")
        if self.is_initialized:
            self._use(physical)
        self.logical = logical

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens: -3 drops three. Raises InvalidInputError for a positive number, a ValueError."""
        if tokens_to_remove > 0:
            raise InvalidInputError(f"crop takes minus the number of tokens to drop; give {-tokens_to_remove}")
        drop = min(-tokens_to_remove, self.physical)
        self.truncate(self.physical - drop, self.logical - drop)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let row i be what row `beam_idx[i]` was."""
        self._rows(lambda store: store.index_select(0, beam_idx.to(store.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self._rows(lambda store: store.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows: integers, or bool [B]."""
        self._rows(lambda store: store[indices.to(store.device)])

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None  # type: ignore[assignment]
        self._key_store = self._value_store = torch.empty(0)
        self._bias_store = None
        self.is_initialized = False
        self.logical = 0

    def state(self) -> dict[str, torch.Tensor]:
        """What `KVCache.save` writes of this layer, by name; nothing before the first token."""
        if not self.is_initialized:
            return {}
        return {"keys": self.keys, "values": self.values} | ({} if self.bias is None else {"bias": self.bias})

    def restore(self, state: dict[str, torch.Tensor], logical: int) -> None:
        """Hold what `state` gave, the next token at position `logical`."""
        if state:
            self.replace(state["keys"], state["values"], bias=state.get("bias"))
        self.logical = logical

    def nbytes(self) -> int:
        """Bytes held, spare room included."""
        stores = (self._key_store, self._value_store, self._bias_store)
        return sum(store.untyped_storage().nbytes() for store in stores if store is not None)

    def _use(self, slots: int) -> None:
        self.keys, self.values = self._key_store[:, :, :slots], self._value_store[:, :, :slots]

    def _rows(self, select: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if not self.is_initialized:
            return
        slots = self.physical
        with torch.inference_mode(False), torch.no_grad():
            self._key_store, self._value_store = select(self._key_store), select(self._value_store)
            if self._bias_store is not None:
                self._bias_store = select(self._bias_store)
        self._use(slots)

    @staticmethod
    def _sized(store: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return torch.empty_like(store, memory_format=torch.contiguous_format).copy_(store)

    def _check(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        for new, held in ((keys, self._key_store), (values, self._value_store)):
            if (new.shape[1], new.shape[3]) != (held.shape[1], held.shape[3]):
                raise CacheMismatchError(
                    f"the cache holds {held.shape[1]} key-value heads of {held.shape[3]}, the model has {new.shape[1]} "
                    f"of {new.shape[3]}; use the model that filled the cache"
                )
            if new.dtype != held.dtype:
                raise CacheMismatchError(
                    f"the cache holds {held.dtype} and the model computes in {new.dtype}; encode the tokens again"
                )
            if new.shape[0] != held.shape[0]:
                raise InvalidInputError(
                    f"the cache holds {held.shape[0]} rows and the input has {new.shape[0]}; give as many, or repeat "
                    "the cache with batch_repeat_interleave"
                )


class KVCache(Cache):
    """One `KVLayer` for each layer of a model; make it with `for_model`.

        cache = KVCache.for_model(model)
        model(ids, cache=cache)

    token_ids: the tokens whose states are held, int64 [B, T], if who filled the cache wants them saved with it.
    fingerprint: that of the model.
    """

    def __init__(self, layers: list[KVLayer], fingerprint: str) -> None:
        super().__init__(layers=layers)
        self.fingerprint = fingerprint
        self.token_ids: torch.Tensor | None = None

    @classmethod
    def for_model(cls, model: PreTrainedModel, layer: type[KVLayer] = KVLayer, **layer_kwargs: Any) -> Self:
        """An empty cache whose layers are `layer(index=..., **layer_kwargs)`.

        Sliding-window layers keep every slot; the window is applied in the attention. Raises InvalidInputError for a
        model that keeps something else than keys and values of all tokens (recurrent, hybrid, encoder-decoder).
        """
        count = len(attention_windows(model.config))
        return cls([layer(index=index, **layer_kwargs) for index in range(count)], fingerprint(model))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of transformers; raises CacheMismatchError for a model of more layers."""
        if layer_idx >= len(self.layers):
            raise CacheMismatchError(
                f"the cache has {len(self.layers)} layers and the model more; use the model it was made for"
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    @property
    def takes_back(self) -> int | None:
        """How many of the last tokens `crop` can drop at any time, and a draft may have; None: all of them."""
        return min((layer.takes_back for layer in self.layers if layer.takes_back is not None), default=None)

    def check(self, model: PreTrainedModel) -> None:
        """Raise CacheMismatchError unless the cache belongs to `model`: its weights, its rotation and its dtype."""
        if self.fingerprint != fingerprint(model):
            raise CacheMismatchError(
                f"the cache was filled by another model than this {type(model).__name__}, or in another dtype; "
                "encode the tokens again"
            )

    def rebase(self, rotation: KeyRotation, delta: int) -> None:
        """Move everything by `delta` positions: every key is turned, and the next token's position moves along.

        Distances, and so outputs, stay; a stream without end keeps its phases exact by moving back now and then. Not
        inside `generate`, which counts positions itself.
        """
        for layer in self.layers:
            if layer.is_initialized:
                rotation.shift_(layer.keys, delta, layer.index)
            layer.logical += delta

    def truncate(self, physical: int, logical: int) -> None:
        """Keep the first `physical` slots of every layer, and let the next token have position `logical`."""
        for layer in self.layers:
            layer.truncate(physical, logical)

    def nbytes(self) -> int:
        """Bytes held by all layers, spare room included."""
        return sum(layer.nbytes() for layer in self.layers)

    def save(self, path: StrPath) -> None:
        """Write what the layers hold, `token_ids` and the fingerprint of the model as safetensors, atomically."""
        tensors = {} if self.token_ids is None else {"token_ids": self.token_ids.contiguous()}
        for layer in self.layers:
            for name, tensor in layer.state().items():
                tensors[f"{layer.index}.{name}"] = tensor.contiguous()
        logical = json.dumps([layer.logical for layer in self.layers])
        metadata = {"format": "pt", "model": self.fingerprint, "logical": logical}
        with atomic_write(path) as file:
            file.write(safetensors.torch.save(tensors, metadata=metadata))

    @classmethod
    def load(cls, path: StrPath, model: PreTrainedModel, layer: type[KVLayer] = KVLayer, **layer_kwargs: Any) -> Self:
        """The cache that `save` wrote, on the device of `model`.

        Raises FileError when it cannot be read or holds no cache, CacheMismatchError when another model filled it.
        """
        if not Path(path).is_file():
            raise FileError(f"cannot read {os.fspath(path)}: it is no file; check the path")
        cache = cls.for_model(model, layer, **layer_kwargs)
        try:
            with safetensors.safe_open(path, framework="pt", device=str(model.device)) as file:
                metadata, names = file.metadata() or {}, set(file.keys())
                if metadata.get("model") != cache.fingerprint:
                    cache.fingerprint = metadata["model"]
                    cache.check(model)
                for each, logical in zip(cache.layers, json.loads(metadata["logical"]), strict=True):
                    start = f"{each.index}."
                    state = {name[len(start) :]: file.get_tensor(name) for name in names if name.startswith(start)}
                    each.restore(state, logical)
                cache.token_ids = file.get_tensor("token_ids") if "token_ids" in names else None
        except (SafetensorError, KeyError, TypeError, IndexError, OSError) as error:
            raise FileError(
                f"cannot read {os.fspath(path)}: it is no key-value cache ({error}); encode it again"
            ) from error
        return cache


def fingerprint(model: PreTrainedModel) -> str:
    """A name for what fills a cache: the class, and some numbers of every weight and buffer, with shapes and dtypes.

    Two models that differ in any trained tensor have different ones. Cost: a few microseconds a tensor.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    samples = []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().reshape(-1)
        samples.append(flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED].float())
    if samples:
        digest.update(torch.cat([sample.to(samples[0].device) for sample in samples]).cpu().numpy().tobytes())
    return digest.hexdigest()


def attention_windows(config: PretrainedConfig) -> list[int | None]:
    """For each layer of a decoder how many tokens back it attends, None for all of them.

    Raises InvalidInputError for a model that keeps something else than keys and values of tokens.
    """
    windows: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or config.is_encoder_decoder:
            raise InvalidInputError(
                f"a {config.model_type} model keeps a {type(layer).__name__}, which is not the keys and values of all "
                "tokens; use a decoder-only attention model (Llama, Qwen, Mistral)"
            )
        windows.append(getattr(layer, "sliding_window", None))
    return windows
