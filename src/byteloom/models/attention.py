"""One attention function for every cache method: it asks the cache layer, so that no modelling code is patched.

Use `attach(model)` around any call or `generate` of a causal language model whose `KVCache` holds layers that attend in
their own way, or whose masks should cost O(T) memory instead of O(Q T). `attend` is the ordinary attention of a block
of queries; `attend_lse` and `merge_lse` give groups of keys different treatment under one softmax.
Source: the log-sum-exp merge of partial softmaxes, Flash-Decoding and Online normalizer calculation for softmax,
arXiv 1805.02867. Cost: that of scaled dot-product attention; masks exist for 256 queries at a time.
"""

# Shape suffixes: B batch, H query heads, K key-value heads, G query heads a key-value head, Q queries, T key slots,
# D head width.

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.masking_utils import AttentionMaskInterface, create_causal_mask, sdpa_mask

from byteloom.errors import InvalidInputError, UnsupportedPositionError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import GenerationConfig, PreTrainedModel

NAME = "byteloom"  # of the attention implementation
QUERY_BLOCK = 256  # queries that share one mask
PACKED = 64  # queries up to which the heads of a group are packed, each with its copy of the mask

# transformers renamed the argument of every model, and of generate, in 5.24.
CACHE_KEYWORD = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


def register() -> None:
    """Make "byteloom" an attention implementation of transformers; doing it again changes nothing."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


class attach:  # noqa: N801 - read as the verb that it is: with attach(model): ...
    """Let the layers of a `KVCache` do the attention of `model`, until `detach()` or the end of the `with` block.

        with attach(model):
            model.generate(ids, cache=KVCache.for_model(model))

    Calls without such a cache work as before. Attachments nest: the last `detach` restores the implementation that the
    first one found. Raises UnsupportedPositionError for a model whose attention cannot be asked.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        register()
        self._model = model
        self._active = True
        if model not in _attachments:
            modules = _attention_modules(model)
            previous = model.config._attn_implementation
            model.set_attn_implementation(NAME)
            handles = [module.register_forward_pre_hook(_hand_over_layer, with_kwargs=True) for module in modules]
            _attachments[model] = _Attachment(previous, handles)
        _attachments[model].count += 1

    def detach(self) -> None:
        """End this attachment; a second call changes nothing."""
        if not self._active:
            return
        self._active = False
        attachment = _attachments[self._model]
        attachment.count -= 1
        if attachment.count == 0:
            for handle in attachment.handles:
                handle.remove()
            self._model.set_attn_implementation(attachment.previous)
            del _attachments[self._model]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def generate_from(
    model: PreTrainedModel, cache: Cache, input_ids_BT: torch.Tensor, **generate_kwargs: Any
) -> torch.Tensor:
    """`model.generate` that goes on from a filled `cache`; returns the given ids and the new ones, int64 [B, T + new].

    input_ids: the tokens after those in the cache, at least one. Raises InvalidInputError when there is none.
    """
    batch, new = input_ids_BT.shape
    if new == 0:
        raise InvalidInputError("generation needs a token to start from; give the last one, and crop the cache by it")
    mask_BT = torch.ones(batch, cache.get_seq_length() + new, dtype=torch.long, device=input_ids_BT.device)
    with attach(model):
        return model.generate(input_ids_BT, attention_mask=mask_BT, **{CACHE_KEYWORD: cache}, **generate_kwargs)


def gives_rest_alone(ids_BT: torch.Tensor, mask_BT: torch.Tensor | None, config: GenerationConfig) -> bool:
    """Whether a `custom_generate` method got the tokens behind its cache alone, as from `generate_from`; else the ids
    begin with all that is cached. The mask tells it, which `generate` drops where it hides nothing."""
    length: int = (getattr(config, "_mask_length", 0) or 0) if mask_BT is None else mask_BT.shape[1]
    return length > ids_BT.shape[1]


def refuse_assisted(generate_kwargs: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for the assisted decoding of transformers, which feeds all ids behind a cache that holds
    them already."""
    if generate_kwargs.get("prompt_lookup_num_tokens") or generate_kwargs.get("assistant_model"):
        raise InvalidInputError(
            "the assisted decoding of transformers takes no filled cache; give custom_generate=Speculation(drafter)"
        )


def require_attention_backend(model: PreTrainedModel) -> None:
    """Raise UnsupportedPositionError unless the attention of `model` goes through transformers' attention interface."""
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedPositionError(
            f"{type(model).__name__} computes attention in its own code, where nothing can be attached; use a model "
            "with an attention backend (Llama, Qwen, Mistral, GPT-NeoX)"
        )


@dataclass(slots=True)
class AttentionCall:
    """What a model asks of the attention of one layer.

    query: [B, H, Q, D]. key, value: [B, K, T, D], what the `update` of the cache layer has just returned, the new
    tokens last. mask, window, softcap: as in `attend`. scaling: of the scores.
    """

    query_BHQD: torch.Tensor
    key_BKTD: torch.Tensor
    value_BKTD: torch.Tensor
    mask: torch.Tensor | None
    scaling: float
    window: int | None = None
    softcap: float | None = None


def attend(
    query_BHQD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    *,
    scaling: float,
    mask: torch.Tensor | None = None,
    bias_BKT: torch.Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Causal attention of the last Q of T tokens, [B, H, Q, D] in the dtype of the query.

    mask: None; bool [B, T], True where a key is no padding; or [B, 1 or H, Q, T], bool or additive, which alone then
    says what is seen. A padded query sees itself, so that nothing is undefined. bias: float32 [B, K, T], added to the
    scaled scores of each key. window: how many tokens back a query sees, itself included. softcap: scores are bounded
    to it by a tanh.
    """
    queries, slots = query_BHQD.shape[2], key_BKTD.shape[2]
    whole = mask is not None and mask.dim() == 4
    if window is not None and (whole or window >= slots):
        window = None
    plain = mask is None and bias_BKT is None and window is None and softcap is None
    if plain and queries == slots:
        return F.scaled_dot_product_attention(
            query_BHQD,
            key_BKTD,
            value_BKTD,
            is_causal=queries > 1,
            scale=scaling,
            enable_gqa=query_BHQD.shape[1] > key_BKTD.shape[1],
        )
    if whole and bias_BKT is None and softcap is None and queries <= QUERY_BLOCK:  # a step of decoding: no detours
        return _sdpa(query_BHQD, key_BKTD, value_BKTD, scaling, mask, None)
    outputs = []
    for start in range(0, queries, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, queries)
        # Only keys that some query of the block sees.
        last = slots if whole else slots - queries + stop
        first = 0 if window is None else max(0, slots - queries + start - window + 1)
        seen = _seen(mask, range(start, stop), range(first, last), slots - queries, window, query_BHQD.device)
        bias = None if bias_BKT is None else bias_BKT[:, :, first:last]
        part = query_BHQD[:, :, start:stop], key_BKTD[:, :, first:last], value_BKTD[:, :, first:last]
        if softcap is None:
            outputs.append(_sdpa(*part, scaling, seen, bias))
        else:
            outputs.append(_eager(*part, scaling, _additive(seen, bias, part[0]), softcap)[0])
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def attend_lse(
    query_BHQD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    *,
    scaling: float,
    mask_BHQT: torch.Tensor | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over one group of keys, and the logarithm of its normaliser: ([B, H, Q, D], float32 [B, H, Q]).

    mask: bool or additive, broadcastable to [B, H, Q, T]; None lets every query see every key. softcap: scores are
    bounded to it by a tanh. A query that sees no key has output 0 and log-sum-exp -inf. The log-sum-exp of float64
    input is float64. On the CPU this is one kernel; elsewhere two products, for 256 queries at a time.
    """
    mask_BHQT = _additive(mask_BHQT, None, query_BHQD)
    flash = query_BHQD.device.type == "cpu" and key_BKTD.shape[-1] == value_BKTD.shape[-1] and key_BKTD.shape[2] > 0
    if flash and softcap is None:
        output_BHQD, lse_BHQ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query_BHQD, key_BKTD, value_BKTD, 0.0, False, attn_mask=mask_BHQT, scale=scaling
        )
        if mask_BHQT is not None:  # the kernel says 0 where a query sees nothing
            lse_BHQ = lse_BHQ.masked_fill((mask_BHQT == -torch.inf).all(-1), -torch.inf)
        return output_BHQD, lse_BHQ
    blocks = []
    for start in range(0, query_BHQD.shape[2], QUERY_BLOCK):
        block = slice(start, start + QUERY_BLOCK)
        mask = mask_BHQT if mask_BHQT is None or mask_BHQT.shape[-2] == 1 else mask_BHQT[..., block, :]
        blocks.append(_eager(query_BHQD[:, :, block], key_BKTD, value_BKTD, scaling, mask, softcap))
    return torch.cat([output for output, _ in blocks], dim=2), torch.cat([lse for _, lse in blocks], dim=2)


def merge_lse(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """One attention out of several over disjoint keys: each output weighs what its log-sum-exp says.

    parts: (output [B, H, Q, D], log-sum-exp [B, H, Q]) as from `attend_lse`; the latter may be scaled or shifted first,
    which changes the share of the group. At least one group must be visible to each query.
    """
    weights_PBHQ = torch.stack([lse for _, lse in parts]).softmax(0)
    outputs = [output * weight[..., None] for (output, _), weight in zip(parts, weights_PBHQ, strict=True)]
    return torch.stack(outputs).sum(0).to(parts[0][0].dtype)


@dataclass
class _Attachment:
    previous: str
    handles: list[RemovableHandle]
    count: int = 0


_attachments: weakref.WeakKeyDictionary[PreTrainedModel, _Attachment] = weakref.WeakKeyDictionary()


def _attention_modules(model: PreTrainedModel) -> list[torch.nn.Module]:
    require_attention_backend(model)
    modules = [module for module in model.modules() if hasattr(module, "layer_idx") and hasattr(module, "scaling")]
    config, name = model.config, type(model).__name__
    if not modules:
        raise UnsupportedPositionError(
            f"{name} has no attention module that knows its layer; use a decoder-only model (Llama, Qwen, Mistral)"
        )
    if getattr(config, "attention_chunk_size", None):
        raise UnsupportedPositionError(
            f"{name} attends in chunks, which only its mask knows; use a model with full or sliding attention"
        )
    return modules


def _hand_over_layer(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Forward pre-hook: the attention function gets the cache layer that its module is about to consume."""
    cache = next((value for value in kwargs.values() if isinstance(value, Cache)), None)
    place = int(module.layer_idx)  # type: ignore[arg-type]  # modules declare no attributes
    if cache is None or place >= len(cache.layers):
        return None
    layer = cache.layers[place]
    if not hasattr(layer, "attend"):
        return None
    layer.expected = True
    return args, kwargs | {"kv_layer": layer}


def _attention(
    module: torch.nn.Module,
    query_BHQD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    kv_layer: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers: output [B, Q, H, D], and no weights."""
    if dropout:
        raise InvalidInputError("the attached attention is for inference; call model.eval() first")
    if kwargs.get("output_attentions"):
        raise InvalidInputError("attention weights are never built here; leave output_attentions off, or detach")
    if kwargs.get("position_bias") is not None or kwargs.get("s_aux") is not None:
        raise UnsupportedPositionError(
            f"{type(module).__name__} adds learned biases to its attention scores; use a model with plain attention"
        )
    window = kwargs.get("sliding_window")
    if "sliding_window" not in kwargs and getattr(getattr(module, "config", None), "sliding_window", None):
        raise UnsupportedPositionError(
            f"{type(module).__name__} tells its sliding window to the mask alone; use another model, or set "
            "config.sliding_window to None if no text exceeds it"
        )
    scaling = query_BHQD.shape[-1] ** -0.5 if scaling is None else scaling
    if kv_layer is None:
        output_BHQD = attend(
            query_BHQD,
            key_BKTD,
            value_BKTD,
            scaling=scaling,
            mask=attention_mask,
            window=window,
            softcap=softcap,
        )
    else:
        output_BHQD = kv_layer.attend(
            AttentionCall(query_BHQD, key_BKTD, value_BKTD, attention_mask, scaling, window, softcap)
        )
    return output_BHQD.transpose(1, 2).contiguous(), None


def _mask(
    *,
    kv_length: int,
    kv_offset: int = 0,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> torch.Tensor | None:
    """The mask function of transformers: None, the padding alone as bool [B, T], or whole where it is not causal."""
    if not allow_is_causal_skip:  # packed sequences and other patterns that `attend` does not know
        return sdpa_mask(
            kv_length=kv_length,
            kv_offset=kv_offset,
            attention_mask=attention_mask,
            allow_is_causal_skip=False,
            **kwargs,
        )
    if attention_mask is None or attention_mask.all():
        return None
    if kv_offset < 0:
        raise InvalidInputError("padded batches cannot follow cache surgery; encode rows separately")
    missing = kv_offset + kv_length - attention_mask.shape[1]
    return F.pad(attention_mask, (0, max(0, missing)))[:, kv_offset : kv_offset + kv_length]


def _seen(
    mask: torch.Tensor | None, block: range, span: range, past: int, window: int | None, device: torch.device
) -> torch.Tensor | None:
    """Which keys of `span` the queries of `block` see, broadcastable to [B, H, q, t]; None: all of them."""
    if mask is not None:
        mask = mask.to(device)
    if mask is not None and mask.dim() == 4:
        return mask[:, :, block.start : block.stop, : span.stop]
    seen = None
    own_Q = torch.arange(block.start, block.stop, device=device)[:, None] + past
    slot_T = torch.arange(span.start, span.stop, device=device)
    if len(block) > 1:
        seen = slot_T <= own_Q
        if window is not None:
            seen &= slot_T > own_Q - window
        seen = seen[None, None]
    if mask is not None:
        padding = mask[:, None, None, span.start : span.stop]
        seen = padding if seen is None else padding & seen
        seen = seen | (slot_T == own_Q)
    return seen


def _additive(
    seen: torch.Tensor | None, bias_BKT: torch.Tensor | None, query_BHQD: torch.Tensor
) -> torch.Tensor | None:
    """`seen` and `bias` as one mask that is added to the scores, broadcastable to [B, H, q, t]."""
    # Wide enough for the bias; and the CPU kernel reads a float32 mask wrongly when the query is float64.
    wide = torch.promote_types(query_BHQD.dtype, torch.float32)
    if seen is not None and seen.dtype == torch.bool:
        seen = torch.zeros_like(seen, dtype=wide).masked_fill_(~seen, -torch.inf)
    if bias_BKT is None:
        return None if seen is None else seen.to(wide)
    bias_BHQT = bias_BKT.to(wide).repeat_interleave(query_BHQD.shape[1] // bias_BKT.shape[1], dim=1)[:, :, None]
    return bias_BHQT if seen is None else bias_BHQT + seen


def _sdpa(
    query_BHQD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    scaling: float,
    seen: torch.Tensor | None,
    bias_BKT: torch.Tensor | None,
) -> torch.Tensor:
    batch, heads, queries, width = query_BHQD.shape
    kv_heads = key_BKTD.shape[1]
    groups = heads // kv_heads
    mask = (
        seen
        if seen is not None and seen.dtype == torch.bool and bias_BKT is None
        else _additive(seen, bias_BKT, query_BHQD)
    )
    if mask is not None and mask.dtype != torch.bool and query_BHQD.device.type != "cpu":
        mask = mask.to(query_BHQD.dtype)
    if groups > 1 and (queries == 1 or (mask is not None and queries <= PACKED)):
        # The query heads of one key-value head become its queries: no key is repeated.
        if mask is not None and mask.shape[1] > 1:
            mask = mask.expand(-1, -1, queries, -1).reshape(mask.shape[0], kv_heads, groups * queries, -1)
        elif mask is not None and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, groups, 1)
        packed_BKGD = query_BHQD.reshape(batch, kv_heads, groups * queries, width)
        output = F.scaled_dot_product_attention(packed_BKGD, key_BKTD, value_BKTD, attn_mask=mask, scale=scaling)
        return output.reshape(batch, heads, queries, -1)
    if groups > 1 and mask is not None and query_BHQD.device.type == "cuda":
        # With both a mask and grouped heads CUDA falls back to materialising the scores.
        key_BKTD, value_BKTD = (part.repeat_interleave(groups, dim=1) for part in (key_BKTD, value_BKTD))
    return F.scaled_dot_product_attention(
        query_BHQD,
        key_BKTD,
        value_BKTD,
        attn_mask=mask,
        scale=scaling,
        enable_gqa=query_BHQD.shape[1] > key_BKTD.shape[1],
    )


def _eager(
    query_BHQD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    scaling: float,
    mask_BHQT: torch.Tensor | None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by two products, in float32 at least; the output in the dtype of the query, and the log-sum-exp."""
    work = torch.promote_types(query_BHQD.dtype, torch.float32)
    query_BKGQD = query_BHQD.to(work).unflatten(1, (key_BKTD.shape[1], -1))
    scores_BHQT = (query_BKGQD @ key_BKTD.to(work)[:, :, None].mT).flatten(1, 2) * scaling
    if softcap is not None:
        scores_BHQT = softcap * torch.tanh(scores_BHQT / softcap)
    if mask_BHQT is not None:
        scores_BHQT = scores_BHQT + mask_BHQT
    lse_BHQ = scores_BHQT.logsumexp(-1)
    weights_BHQT = (scores_BHQT - lse_BHQ[..., None]).exp().nan_to_num(0.0)  # a query that sees nothing: -inf - -inf
    weights_BKGQT = weights_BHQT.unflatten(1, (key_BKTD.shape[1], -1))
    output_BHQD = (weights_BKGQT @ value_BKTD.to(work)[:, :, None]).flatten(1, 2)
    return output_BHQD.to(query_BHQD.dtype), lse_BHQ
