"""Answer many questions over the same texts: each text is read once, and questions join what was read in any selection.

    store = ContextStore(model, prefix)
    contexts = store.add_many(texts)
    answer(model, store, contexts, question, 100)

Use it where texts come back: documents, code files, worked examples. The texts share their positions, so that together
they may exceed the window of the model, and their order does not matter. They do not see each other; if one is of no
use without another, make one text of both.
Source: APE: Faster and Longer Context-Augmented Generation via Adaptive Parallel Encoding, ICLR 2025, arXiv 2502.05431.
Cost: reading n texts of c tokens takes O(n c^2) once, a question copies their keys and values and reads its own tokens.
"""

# Shape suffixes: B batch, H query heads, K key-value heads, T key slots, Q queries, D head width.

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from byteloom.errors import CacheMismatchError, CacheStateError, InvalidInputError, UnsupportedPositionError
from byteloom.files import StrPath, atomic_write
from byteloom.models import CACHE_KEYWORD, AttentionCall, KeyRotation, KVCache, KVLayer, attach, attend_lse, merge_lse
from byteloom.models.attention import QUERY_BLOCK, refuse_assisted
from byteloom.models.kvcache import MIN_SLACK, attention_windows, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ContextId = str  # names a text, read by one model behind one prefix
States = tuple[torch.Tensor, torch.Tensor]  # keys and values of one layer, [1, K, T, D]


@dataclass(frozen=True)
class Tuning:
    """How a question attends to contexts.

    temperature: below 1 attention inside them is sharper, for texts that were read apart are seen too evenly. scale:
    below 1 they get less of the attention in all. Both 1: ordinary attention.
    """

    temperature: float = 0.9
    scale: float = 0.9

    def __post_init__(self) -> None:
        if not (0 < self.temperature < float("inf") and 0 < self.scale < float("inf")):
            raise InvalidInputError(
                f"temperature and scale of contexts are above 0; got {self.temperature} and {self.scale}"
            )


GRID = tuple(itertools.starmap(Tuning, itertools.product((0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (0.7, 0.8, 0.9, 1.0))))


class ParallelLayer(KVLayer):
    """Slots of contexts first, then everything else: prefix, question and answer, which attend to both.

    contexts: how many slots are those of contexts. tuning: how they are attended to. Make it with `ContextStore.join`.
    """

    def __init__(self, *, index: int = 0, contexts: int = 0, tuning: Tuning | None = None) -> None:
        super().__init__(index=index)
        self.contexts = contexts
        self.tuning = tuning or Tuning()

    def fill(self, contexts: Sequence[States], prefix: Sequence[States], logical: int) -> None:
        """Hold copies of the states of contexts and of a prefix, if there is one; the next token is at `logical`."""
        parts = [*contexts, *prefix]
        slots = sum(keys.shape[2] for keys, _ in parts)
        self.lazy_initialization(*parts[0])
        with torch.inference_mode(False), torch.no_grad():
            # One copy with room for a question: no second one when it comes.
            self._key_store, self._value_store = (
                states.new_empty((*states.shape[:2], slots + MIN_SLACK, states.shape[3])) for states in parts[0]
            )
            start = 0
            for keys, values in parts:
                stop = start + keys.shape[2]
                self._key_store[:, :, start:stop], self._value_store[:, :, start:stop] = keys, values
                start = stop
        self._use(slots)
        self.contexts = sum(keys.shape[2] for keys, _ in contexts)
        self.logical = logical

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Contexts at their temperature, everything else as it is; the share of the contexts by `scale`."""
        if self.bias is not None:
            raise CacheStateError("a cache of contexts takes no bias; merge slots in a KVCache of plain layers")
        if not self.contexts or self.tuning == Tuning(1, 1):
            return super().attend(call)
        query_BHQD, key_BKTD, value_BKTD = call.query_BHQD, call.key_BKTD, call.value_BKTD
        mask, scaling, softcap = call.mask, call.scaling, call.softcap
        if mask is not None and mask.dim() == 2:
            raise InvalidInputError("padded batches cannot follow contexts; answer one question at a time")
        temperature, scale = self.tuning.temperature, self.tuning.scale
        kv_heads, cut = key_BKTD.shape[1], self.contexts
        # Every query sees every context, so the heads of a group are queries of one key-value head.
        output_BKQD, lse_BKQ = attend_lse(
            query_BHQD.reshape(len(query_BHQD), kv_heads, -1, query_BHQD.shape[3]),
            key_BKTD[:, :, :cut],
            value_BKTD[:, :, :cut],
            scaling=scaling / temperature,
            softcap=None if softcap is None else softcap / temperature,
        )
        output_BHQD = output_BKQD.reshape(*query_BHQD.shape[:3], -1)
        lse_BHQ = lse_BKQ.reshape(query_BHQD.shape[:3]) * (scale * temperature)
        queries, others = query_BHQD.shape[2], key_BKTD.shape[2] - cut
        outputs = []
        for start in range(0, queries, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, queries)
            block, last = slice(start, stop), others - queries + stop
            if mask is not None:
                seen = mask[:, :, block, cut : cut + last]
            else:
                own_Q = torch.arange(start, stop, device=query_BHQD.device) + others - queries
                seen = (torch.arange(last, device=query_BHQD.device) <= own_Q[:, None])[None, None]
            rest = attend_lse(
                query_BHQD[:, :, block],
                key_BKTD[:, :, cut : cut + last],
                value_BKTD[:, :, cut : cut + last],
                scaling=scaling,
                mask_BHQT=seen if stop - start > 1 or mask is not None else None,
                softcap=softcap,
            )
            outputs.append(merge_lse([(output_BHQD[:, :, block], lse_BHQ[:, :, block]), rest]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def truncate(self, physical: int, logical: int) -> None:
        """Forget the last tokens, as `crop` does. Raises CacheStateError where that would cut contexts."""
        if physical < self.contexts or self.logical - logical != self.physical - physical:
            raise CacheStateError("contexts cannot be cut; join the ones that you want")
        super().truncate(physical, logical)

    def splice(self, start: int, stop: int, keys: torch.Tensor, values: torch.Tensor, *, shift: int = 0) -> None:
        """Raises CacheStateError: contexts are joined, not edited."""
        raise CacheStateError("a cache of contexts cannot be edited; join others, or edit a KVCache of plain layers")

    def gather(self, index: torch.Tensor) -> None:
        """Raises CacheStateError: slots of contexts come first."""
        raise CacheStateError("slots of contexts cannot be picked or merged; use a KVCache of plain layers")

    def state(self) -> dict[str, torch.Tensor]:
        """What `KVCache.save` writes of this layer, by name; nothing before the first token."""
        held = super().state()
        facts = (self.contexts, self.tuning.temperature, self.tuning.scale)
        return held and held | {"contexts": torch.tensor(facts, dtype=torch.float64)}

    def restore(self, state: dict[str, torch.Tensor], logical: int) -> None:
        """Hold what `state` gave, the next token at position `logical`."""
        super().restore(state, logical)
        if state:
            contexts, temperature, scale = state["contexts"].tolist()
            self.contexts, self.tuning = int(contexts), Tuning(temperature, scale)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.contexts = 0


@dataclass(frozen=True)
class _Context:
    """What was read of one text. ids: int64 [T]; layers: on the CPU or where the model is."""

    ids: torch.Tensor
    layers: list[States]

    @cached_property
    def nbytes(self) -> int:
        return sum(states.nbytes for pair in self.layers for states in pair)


class ContextStore:
    """The keys and values of texts that were read once, each on its own behind the same prefix.

    prefix: ids that stand before every text; at least the token that begins one, because the first tokens of a text
    draw much of the attention, and so there is one such place instead of one a text. max_bytes: of contexts in memory;
    the least recently used are dropped, default none. path: a folder that keeps them as one safetensors file each,
    which later runs map into memory instead of reading the text again. The same text, model and prefix is read once.
    Raises UnsupportedPositionError for a model with sliding windows, or without rotary positions that stay as they are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefix: Sequence[int],
        *,
        max_bytes: int | None = None,
        path: StrPath | None = None,
    ) -> None:
        if any(attention_windows(model.config)):
            raise UnsupportedPositionError(
                f"{type(model).__name__} slides over a window, which contexts that share positions would confuse; use "
                "a model with full attention, or set config.sliding_window to None if no text exceeds it"
            )
        KeyRotation.from_model(model)  # refuses what cannot be served
        self.prefix = list(prefix)
        self.fingerprint = fingerprint(model)
        self._model = model
        self._max_bytes = max_bytes
        self._path = None if path is None else Path(path)
        self._held: OrderedDict[ContextId, _Context] = OrderedDict()
        self._head: _Context | None = None

    def add(self, ids: Sequence[int]) -> ContextId:
        """The name of a text; reads it unless it is known. Raises InvalidInputError for an empty one."""
        return self.add_many([ids])[0]

    def add_many(
        self,
        texts: Iterable[Sequence[int]],
        *,
        batch_tokens: int = 8192,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[ContextId]:
        """The names of texts, in their order; those that are not known are read, `batch_tokens` at a time at most.

        progress: told ("contexts", how many are read, how many there are to read). Raises InvalidInputError for an
        empty text and for one that does not fit into the window of the model behind the prefix.
        """
        listed = [list(ids) for ids in texts]
        window = getattr(self._model.config, "max_position_embeddings", None)
        for ids in listed:
            if not ids:
                raise InvalidInputError("a context has at least one token; leave empty texts out")
            if window is not None and len(self.prefix) + len(ids) > window:
                raise InvalidInputError(
                    f"a context of {len(ids):,} tokens behind a prefix of {len(self.prefix):,} exceeds the "
                    f"{window:,} positions of the model; split it"
                )
        names = [self._name(ids) for ids in listed]
        missing = {name: ids for name, ids in zip(names, listed, strict=True) if self._find(name) is None}
        done = 0
        for batch in _batches(missing.values(), batch_tokens):
            for ids, context in zip(batch, self._read(batch, self._before()), strict=True):
                name = self._name(ids)
                self._write(name, context)
                self._hold(name, context)
            done += len(batch)
            if progress is not None:
                progress("contexts", done, len(missing))
        return names

    def join(
        self, contexts: Sequence[ContextId], tuning: Tuning | None = None, *, allow_repeats: bool = False
    ) -> KVCache:
        """A cache of the prefix and of some contexts, in any order, for the tokens of a question that follow.

        It is the caller's own. Its `token_ids` are those of the prefix and of the longest context, which reach to the
        position of the next token. A context that is named twice counts once, unless `allow_repeats`. For a model under
        `attach`, or with `generate_from`. Raises InvalidInputError for no context, CacheMismatchError for one that is
        not in this store.
        """
        chosen = list(contexts if allow_repeats else dict.fromkeys(contexts))
        if not chosen:
            raise InvalidInputError("there is no context to join; add a text first")
        found = [self._found(name) for name in chosen]
        head = self._before()
        longest = max((context.ids for context in found), key=len)
        device = self._model.device
        cache = KVCache.for_model(self._model, ParallelLayer, tuning=tuning)
        for layer in cache.layers:
            states, before = (
                [tuple(part.to(device) for part in context.layers[layer.index]) for context in group]
                for group in (found, head)
            )
            layer.fill(states, before, len(self.prefix) + len(longest))
        cache.token_ids = torch.cat((torch.tensor(self.prefix, dtype=torch.long), longest))[None].to(device)
        return cache

    def discard(self, context: ContextId) -> None:
        """Forget a context, in memory and on disk; an unknown one is no error."""
        self._held.pop(context, None)
        if self._path is not None:
            self._file(context).unlink(missing_ok=True)

    def check(self, model: PreTrainedModel) -> None:
        """Raise CacheMismatchError unless `model` is the one that read the contexts."""
        if self.fingerprint != fingerprint(model):
            raise CacheMismatchError(
                f"the contexts were read by another model than this {type(model).__name__}, or in another dtype; make "
                "a store for it"
            )

    def __contains__(self, context: object) -> bool:
        return isinstance(context, str) and (
            context in self._held or (self._path is not None and self._file(context).is_file())
        )

    def __len__(self) -> int:
        """How many contexts are in memory."""
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of the contexts in memory; those that are mapped from disk count as well."""
        return sum(context.nbytes for context in self._held.values())

    def _name(self, ids: Sequence[int]) -> ContextId:
        digest = hashlib.sha256(self.fingerprint.encode())
        for part in (self.prefix, ids):
            digest.update(np.array([len(part), *part], dtype="<i8").tobytes())
        return digest.hexdigest()[:40]

    def _file(self, name: ContextId) -> Path:
        assert self._path is not None
        return self._path / f"{name}.safetensors"

    def _found(self, name: ContextId) -> _Context:
        context = self._find(name)
        if context is None:
            raise CacheMismatchError(
                f"the store has no context {name[:12]}: it is of a store of another model or prefix, or was dropped; "
                "add its text again"
            )
        return context

    def _find(self, name: ContextId) -> _Context | None:
        context = self._held.get(name) or self._mapped(name)
        if context is not None:
            self._hold(name, context)
        return context

    def _hold(self, name: ContextId, context: _Context) -> None:
        self._held[name] = context
        self._held.move_to_end(name)
        held = self.nbytes if self._max_bytes is not None else 0
        while self._max_bytes is not None and held > self._max_bytes and len(self._held) > 1:
            held -= self._held.popitem(last=False)[1].nbytes

    def _write(self, name: ContextId, context: _Context) -> None:
        if self._path is None:
            return
        tensors = {"ids": context.ids}
        for at, (keys, values) in enumerate(context.layers):
            tensors |= {f"{at}.keys": keys.cpu(), f"{at}.values": values.cpu()}
        with atomic_write(self._file(name)) as file:
            file.write(safetensors.torch.save(tensors, metadata={"format": "pt", "name": name}))

    def _mapped(self, name: ContextId) -> _Context | None:
        """The context of a file; None where there is none or it is damaged, so that the text is read again."""
        if self._path is None or not self._file(name).is_file():
            return None
        try:
            with safetensors.safe_open(self._file(name), framework="pt") as file:
                if (file.metadata() or {}).get("name") != name:
                    return None
                count = len(attention_windows(self._model.config))
                layers = [(file.get_tensor(f"{at}.keys"), file.get_tensor(f"{at}.values")) for at in range(count)]
                return _Context(file.get_tensor("ids"), layers)
        except (SafetensorError, OSError):
            return None

    def _before(self) -> list[_Context]:
        return [self._prefix()] if self.prefix else []

    def _prefix(self) -> _Context:
        if self._head is None:
            name = self._name([])
            self._head = self._mapped(name)
            if self._head is None:
                self._head = self._read([self.prefix], [])[0]
                self._write(name, self._head)
        return self._head

    def _read(self, rows: Sequence[Sequence[int]], head: Sequence[_Context]) -> list[_Context]:
        """Read rows, each behind `head` and blind to the others."""
        first = sum(len(context.ids) for context in head)
        cache = KVCache.for_model(self._model)
        for layer in cache.layers:
            for context in head:
                keys, values = (part.to(self._model.device) for part in context.layers[layer.index])
                layer.append(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1))
                layer.logical = first
        texts = [torch.tensor(ids, dtype=torch.long) for ids in rows]
        # Shorter rows are filled up behind their end, which none of their tokens sees.
        ids_BT = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        with attach(self._model), torch.no_grad():
            self._model(ids_BT.to(self._model.device), logits_to_keep=1, **{CACHE_KEYWORD: cache})
        return [
            _Context(
                ids,
                [
                    tuple(
                        part[row : row + 1, :, first : first + len(ids)].clone() for part in (layer.keys, layer.values)
                    )
                    for layer in cache.layers
                ],
            )
            for row, ids in enumerate(texts)
        ]


def answer(
    model: PreTrainedModel,
    store: ContextStore,
    contexts: Sequence[ContextId],
    query: Sequence[int],
    max_new_tokens: int,
    *,
    tuning: Tuning | None = None,
    **generation: Any,
) -> list[int]:
    """The ids that `model` writes after `query` with `contexts` in sight.

    query: ids, without a token that begins a text. generation: arguments of `model.generate`, such as `do_sample` with
    `temperature` and `top_p`, `streamer`, or `custom_generate=Speculation(drafter)`; the most probable tokens without
    any. Logits processors see the prefix, the longest context and the question.
    Raises CacheMismatchError for another model than that of the store and for contexts that are not in it,
    InvalidInputError for an empty query or no context, and for a text that exceeds the window of the model.
    """
    store.check(model)
    if not query:
        raise InvalidInputError("the question has no token; ask something")
    if max_new_tokens < 1:
        raise InvalidInputError(f"max_new_tokens is at least 1; got {max_new_tokens}")
    refuse_assisted(generation)
    if query[0] == model.config.get_text_config().bos_token_id:
        warnings.warn(
            "the question begins with the token that begins a text, which draws attention away; encode it without "
            "special tokens",
            stacklevel=2,
        )
    cache = store.join(contexts, tuning)
    _check_room(model, store, cache, len(query), max_new_tokens)
    if (generation.get("num_beams") or 1) > 1:
        cache.batch_repeat_interleave(generation["num_beams"])
    # The ids of the cache stand for all that was read: `generate` feeds what follows them.
    assert cache.token_ids is not None
    ids_BT = torch.cat((cache.token_ids, torch.tensor([list(query)], device=model.device)), dim=1)
    options = {"do_sample": False} | generation
    with attach(model):
        written_BT = model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=max_new_tokens,
            **{CACHE_KEYWORD: cache},
            **options,
        )
    new: list[int] = written_BT[0, ids_BT.shape[1] :].tolist()
    return new


@dataclass(frozen=True)
class Example:
    """A question whose answer is known: contexts of a store, the ids of the question and those of the answer."""

    contexts: Sequence[ContextId]
    query: Sequence[int]
    answer: Sequence[int]


def losses(
    model: PreTrainedModel, store: ContextStore, examples: Sequence[Example], grid: Sequence[Tuning] = GRID
) -> dict[Tuning, float]:
    """For each tuning the nats a token of the answers of all examples. Raises as `answer` does."""
    store.check(model)
    if not examples or any(not example.query or not example.answer for example in examples):
        raise InvalidInputError("tuning needs examples, each with a question and an answer that are not empty")
    total = dict.fromkeys(grid, 0.0)
    for example in examples:
        cache = store.join(example.contexts)
        _check_room(model, store, cache, len(example.query), len(example.answer))
        ids_BT = torch.tensor([[*example.query, *example.answer]], device=model.device)
        target_T = torch.tensor(list(example.answer), device=model.device)
        for tuning in grid:
            for layer in cache.layers:
                layer.tuning = tuning
            with attach(model), torch.no_grad():
                logits_TV = model(ids_BT[:, :-1], logits_to_keep=len(target_T), **{CACHE_KEYWORD: cache}).logits[0]
            cache.crop(1 - ids_BT.shape[1])
            total[tuning] += float(torch.nn.functional.cross_entropy(logits_TV.float(), target_T, reduction="sum"))
    tokens = sum(len(example.answer) for example in examples)
    return {tuning: nats / tokens for tuning, nats in total.items()}


def tune(
    model: PreTrainedModel, store: ContextStore, examples: Sequence[Example], grid: Sequence[Tuning] = GRID
) -> Tuning:
    """The tuning under which the answers of `examples` are most probable; some dozens of examples will do."""
    found = losses(model, store, examples, grid)
    return min(found, key=lambda tuning: found[tuning])


def _check_room(model: PreTrainedModel, store: ContextStore, cache: KVCache, query: int, new: int) -> None:
    window = getattr(model.config, "max_position_embeddings", None)
    read = cache.get_seq_length()
    if window is not None and read + query + new > window:
        raise InvalidInputError(
            f"a prefix and longest context of {read:,} tokens, a question of {query:,} and {new:,} new tokens exceed "
            f"the {window:,} positions of the model; split the contexts into pieces of at most "
            f"{max(0, window - len(store.prefix) - query - new):,}"
        )


def _batches(texts: Iterable[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    """Texts of similar length together: no more than `batch_tokens` when all are as long as the longest, or one."""
    batch: list[list[int]] = []
    for ids in sorted(texts, key=len):
        if batch and len(ids) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch
