"""Rotary positions that are moved after the fact: R(p + d) = R(d) R(p), so a cached key can be turned to another place.

Use it wherever tokens change position but keep their content: edits inside a cached text, contexts that are joined,
streams without end. Which rotation a layer uses is measured and never read from a name or a flag, so every family is
treated alike, and a model that this cannot serve is refused.
Source: rotary embeddings, RoFormer, arXiv 2104.09864. Cost: two forwards of 12 tokens once a model; then one pass over
the keys that move.
"""

# Shape suffixes: B batch, H heads, T tokens, D head width, F frequencies (half of the rotated width).

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from byteloom.errors import UnsupportedPositionError
from byteloom.models.attention import CACHE_KEYWORD, require_attention_backend

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 12
TURN_BLOCK = 512  # tokens turned at once on a CPU: few enough for its cache
FAR = 1 << 24  # a position beyond every window: what depends on the length shows itself there


@dataclass(frozen=True, eq=False)
class _Turn:
    """One way in which a layer may rotate. frequencies: [F], radians a position, float64; interleaved: channel 2i is
    paired with 2i + 1, else channel i with F + i."""

    frequencies: torch.Tensor
    interleaved: bool

    def apply(self, keys_BHTD: torch.Tensor, delta: int | torch.Tensor) -> torch.Tensor:
        return self.apply_(keys_BHTD.clone(), delta)

    def apply_(self, keys_BHTD: torch.Tensor, delta: int | torch.Tensor) -> torch.Tensor:
        device = keys_BHTD.device
        # float64 keeps the phase of a long shift exact; MPS has none.
        wide = torch.float32 if device.type == "mps" else torch.float64
        delta_BHT = torch.as_tensor(delta, device=device).to(wide)
        if delta_BHT.dim() == 2:
            delta_BHT = delta_BHT[:, None]
        angle_BHTF = delta_BHT[..., None] * self.frequencies.to(device, wide)
        work = torch.promote_types(keys_BHTD.dtype, torch.float32)
        cos_BHTF, sin_BHTF = angle_BHTF.cos().to(work), angle_BHTF.sin().to(work)
        pairs, tokens = len(self.frequencies), keys_BHTD.shape[2]
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
        if not self.interleaved:
            first, second = slice(0, pairs), slice(pairs, 2 * pairs)
        step = TURN_BLOCK if device.type == "cpu" else max(1, tokens)
        for start in range(0, tokens, step):
            block = slice(start, start + step)
            cos, sin = (table if table.dim() == 1 else table[..., block, :] for table in (cos_BHTF, sin_BHTF))
            x, y = keys_BHTD[:, :, block, first], keys_BHTD[:, :, block, second]
            wide_x, wide_y = x.to(work), y.to(work)
            turned_x = (wide_x * cos).addcmul_(wide_y, sin, value=-1)
            turned_y = (wide_y * cos).addcmul_(wide_x, sin)
            x.copy_(turned_x)
            y.copy_(turned_y)
        return keys_BHTD


class KeyRotation:
    """The rotation of every layer of one model; make it with `from_model`.

    kinds: for each layer "rotary", or "none" for a layer that gives its keys no position.
    """

    kinds: tuple[str, ...]

    def __init__(self, turns: Sequence[_Turn | None]) -> None:
        self._turns = tuple(turns)
        self.kinds = tuple("none" if turn is None else "rotary" for turn in turns)

    @classmethod
    def from_model(cls, model: PreTrainedModel, *, offset: int = 17, tolerance: float | None = None) -> KeyRotation:
        """Measure how each layer of a causal language model rotates its keys; the result is kept for the model.

        The model reads 12 tokens at positions 0 to 11 and again from `offset`; the rotation that carries the first keys
        to the second is each layer's. tolerance: the largest relative error of a key, by default 1e-3 in float32 and
        0.1 in 16-bit types. Raises UnsupportedPositionError for learned, ALiBi and multimodal positions, for rotary
        types whose frequencies depend on the length (dynamic, longrope), and for caches that are not plain keys.
        """
        known = _measured.setdefault(model, {})
        if (offset, tolerance) not in known:
            known[offset, tolerance] = cls(_measure(model, offset, tolerance))
        return known[offset, tolerance]

    def shift(self, keys_BHTD: torch.Tensor, delta: int | torch.Tensor, layer: int) -> torch.Tensor:
        """The keys, or queries, of `layer` as they would be `delta` positions later; may be the same tensor.

        keys: [B, H, T, D] of any float type; the arithmetic is float32 at least, the result of the type given.
        delta: an int, or integers [T] or [B, T]; negative ones turn back. Re-rotating in 16 bits again and again adds
        rounding: bfloat16 keys are off by 0.5 % after ten shifts and 1.6 % after a hundred.
        """
        turn = self._turn(layer, delta)
        return keys_BHTD if turn is None else turn.apply(keys_BHTD, delta)

    def shift_(self, keys_BHTD: torch.Tensor, delta: int | torch.Tensor, layer: int) -> None:
        """As `shift`, in place. On a CPU the temporaries stay in its cache: little more than one pass over memory."""
        turn = self._turn(layer, delta)
        if turn is not None:
            turn.apply_(keys_BHTD, delta)

    def _turn(self, layer: int, delta: int | torch.Tensor) -> _Turn | None:
        return None if isinstance(delta, int) and delta == 0 else self._turns[layer]


_measured: weakref.WeakKeyDictionary[PreTrainedModel, dict[tuple[int, float | None], KeyRotation]] = (
    weakref.WeakKeyDictionary()
)


def _measure(model: PreTrainedModel, offset: int, tolerance: float | None) -> list[_Turn | None]:
    require_attention_backend(model)
    name = type(model).__name__
    turns = list(_candidates(model))
    if not turns:
        raise UnsupportedPositionError(
            f"{name} has no rotary embedding to read, so its positions cannot be moved; "
            "use a rotary model (Llama, Qwen, Mistral)"
        )
    if tolerance is None:
        tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    candidates: list[_Turn | None] = [None, *turns]
    near, far = _probe(model, 0), _probe(model, offset)
    chosen: list[_Turn | None] = []
    for layer, ((before_BHTD, same_BHTD), (after_BHTD, values_BHTD)) in enumerate(zip(near, far, strict=True)):
        if not _error(same_BHTD, values_BHTD) <= tolerance:
            raise UnsupportedPositionError(
                f"layer {layer} of {name} keeps values that know their position (learned positions, or latents that "
                "stand for keys and values); use a model with plain rotary positions"
            )
        errors = [
            _error(before_BHTD if turn is None else turn.apply(before_BHTD, offset), after_BHTD) for turn in candidates
        ]
        best = min(range(len(errors)), key=errors.__getitem__)
        second = min(error for place, error in enumerate(errors) if place != best)
        reason = ""
        if not errors[best] <= tolerance:  # a NaN as well
            reason = f"that cannot be undone (relative error {errors[best]:.2g}, at most {tolerance:g})"
        elif second == 0 or 5 * errors[best] > second:
            reason = "that several rotations explain alike"
        if reason:
            raise UnsupportedPositionError(
                f"layer {layer} of {name} turns its keys in a way {reason}; use a model with plain rotary positions"
            )
        chosen.append(candidates[best])
    return chosen


def _error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


def _probe(model: PreTrainedModel, start: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values [1, H, T, D] of each layer, float32 or wider, for the same few tokens from position `start`."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids_BT = torch.randint(vocabulary, (1, PROBE_TOKENS), generator=torch.Generator().manual_seed(0)).to(model.device)
    cache = DynamicCache(config=model.config)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(
                input_ids=ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                position_ids=torch.arange(start, start + PROBE_TOKENS, device=model.device)[None],
                use_cache=True,
                **{CACHE_KEYWORD: cache},
            )
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise UnsupportedPositionError(
            f"{type(model).__name__} cannot be asked at other positions ({str(error).splitlines()[0]}); "
            "use a causal language model with rotary positions"
        ) from error
    finally:
        model.train(was_training)
    states = []
    for layer in cache.layers:
        if not isinstance(layer, DynamicLayer) or layer.keys is None:
            raise UnsupportedPositionError(
                f"{type(model).__name__} keeps a {type(layer).__name__}, which holds no keys of all tokens; "
                "use a model whose every layer is attention"
            )
        wide = torch.promote_types(layer.keys.dtype, torch.float32)
        states.append((layer.keys.to(wide), layer.values.to(wide)))
    return states


def _candidates(model: PreTrainedModel) -> Iterator[_Turn]:
    """Every rotation that a rotary module of the model can do, each once."""
    seen: list[torch.Tensor] = []
    for module in model.base_model.modules():
        tables = {
            name: buffer
            for name, buffer in module.named_buffers(recurse=False)
            if name.endswith("inv_freq") and "original" not in name
        }
        if not tables:
            continue
        if _depends_on_length(module):
            raise UnsupportedPositionError(
                f"the rotary frequencies of {type(model).__name__} depend on the length of the text (dynamic or "
                "longrope), so cached keys cannot be moved; use a model with fixed frequencies (default, linear, "
                "llama3 or yarn)"
            )
        for table_F in tables.values():
            frequencies_F = table_F.detach().double().cpu().flatten()
            if any(torch.equal(frequencies_F, known_F) for known_F in seen):
                continue
            seen.append(frequencies_F)
            yield _Turn(frequencies_F, interleaved=False)
            if len(frequencies_F) > 1:  # with one pair both layouts are the same
                yield _Turn(frequencies_F, interleaved=True)


def _depends_on_length(module: Any) -> bool:
    """Whether a far position in the same call changes what the module gives for the near ones."""
    module = copy.deepcopy(module)  # the dynamic kinds remember the longest position that they saw
    near_BT = torch.arange(PROBE_TOKENS)[None]
    far_BT = torch.cat((near_BT, torch.tensor([[FAR]])), dim=1)
    layer_types: list[str | None] = [None]
    if "layer_type" in inspect.signature(module.forward).parameters:
        layer_types = sorted(set(module.config.layer_types))
    device = next(module.buffers()).device
    state_BTD = torch.zeros(1, 1, 1, device=device)
    for layer_type in layer_types:
        extra = {} if layer_type is None else {"layer_type": layer_type}
        try:
            cos, sin = module(state_BTD, near_BT.to(device), **extra)
            far_cos, far_sin = module(state_BTD, far_BT.to(device), **extra)
        except (TypeError, ValueError, RuntimeError, IndexError):
            continue  # not a module of (states, positions): the probe of the whole model judges it
        if not (torch.equal(cos, far_cos[:, :PROBE_TOKENS]) and torch.equal(sin, far_sin[:, :PROBE_TOKENS])):
            return True
    return False
