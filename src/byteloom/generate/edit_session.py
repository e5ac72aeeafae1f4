"""Positional Integrity Encoding: a key-value cache that follows a text while it is edited.

    session = EditSession(model, ids)
    session.generate(16)          # a completion; the session stays as it was
    session.sync(edited_ids)      # costs the new tokens, not all that stand behind them
    session.logits()

Use it where somebody edits a long text that a model reads along, as a code editor does. The keys of what stands behind
an edit are turned to their new positions, and only new tokens are encoded. What stands behind an edit was computed
without it: exact up to the first edit, and an approximation that is good in code behind it; `refresh`, `stale` and
`recompute` bound it.
Source: Let the Code LLM Edit Itself When You Edit the Code, ICLR 2025, arXiv 2407.03157; `refresh` as in EPIC,
arXiv 2410.15332. Cost: a forward pass over the new tokens of all edits together, and one pass over the keys that move,
at the next prediction. Values never move, and no key is copied.
"""

# Shape suffixes: B batch, H query heads, K key-value heads, T key slots or tokens, S slots of a session, Q queries,
# V vocabulary, D head width.

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from byteloom.errors import InvalidInputError, InvalidTypeError
from byteloom.generate.token_diff import Edit, Ids, token_edits
from byteloom.models import CACHE_KEYWORD, AttentionCall, KeyRotation, KVCache, KVLayer, attach
from byteloom.models.attention import refuse_assisted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENCODED_AT_ONCE = 2048  # tokens of one forward; bounds its memory
PARTS = ("diff", "rotate", "encode")


@dataclass(frozen=True)
class SyncReport:
    """What it took to follow a text. edits: how many. reused: tokens whose values stayed, shifted: those of them that
    stand elsewhere now, encoded: tokens that the model read. seconds: "diff", "rotate" (keys turned at once; the others
    wait for the next prediction) and "encode" (the model)."""

    edits: int
    reused: int
    shifted: int
    encoded: int
    seconds: dict[str, float]


class EditSession:
    """A cache of one text of a rotary causal language model, which follows its edits. Not thread safe.

    ids: the text, read at once. refresh: how many tokens behind each edit are encoded again, so that they see it; 0 is
    the method of the paper, and what exceeds the text is exact. max_shifts: in 16-bit types a key that was turned so
    often is encoded again, before rounding adds up; None: never.
    seconds: "diff", "rotate" and "encode" of all calls so far, without what `generate` takes to write.
    Raises UnsupportedPositionError for a model whose keys cannot be turned, InvalidInputError for one in training mode,
    and all methods InvalidInputError for ids that the model does not have and texts longer than its window.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Sequence[int] | npt.NDArray[Any] | torch.Tensor = (),
        *,
        refresh: int = 0,
        max_shifts: int | None = 64,
    ) -> None:
        if refresh < 0 or (max_shifts is not None and max_shifts < 1):
            raise InvalidInputError(
                f"refresh is at least 0 and max_shifts at least 1; got refresh={refresh}, max_shifts={max_shifts}"
            )
        self.refresh = refresh
        self.max_shifts = max_shifts
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._model = model
        self._rotation = KeyRotation.from_model(model)
        self._ids = np.zeros(0, np.int64)
        self._slots = _Slots()
        self._cache = KVCache.for_model(model, _SlotLayer, rotation=self._rotation, slots=self._slots)
        self._logits_V: torch.Tensor | None = None
        self.sync(ids)

    @property
    def ids(self) -> tuple[int, ...]:
        """The text."""
        return tuple(self._ids.tolist())

    @property
    def stale(self) -> int:
        """How many tokens were last encoded before an edit in front of them: those that are approximate."""
        return int(self._slots.stale.sum())

    def sync(self, ids: Sequence[int] | npt.NDArray[Any] | torch.Tensor) -> SyncReport:
        """Follow the text to `ids`, all of it; the edits are found by `token_edits`."""
        began = time.perf_counter()
        new_T = self._checked(ids)
        edits = token_edits(self._ids, new_T)
        self.seconds["diff"] += (diff := time.perf_counter() - began)
        return self._follow(edits, diff)

    def apply(self, edits: Sequence[Edit]) -> SyncReport:
        """Make these edits, whose places are all those of the present text; in any order, none overlapping another.

        Raises InvalidInputError for edits that overlap or lie outside of the text; then nothing is changed.
        """
        ordered = sorted(edits, key=lambda edit: (edit.start, edit.stop))
        size = 0
        for edit in ordered:
            if not 0 <= edit.start <= edit.stop <= len(self._ids):
                raise InvalidInputError(
                    f"an edit of tokens {edit.start} to {edit.stop} does not lie in a text of {len(self._ids)}; "
                    "give places of the present text"
                )
            size += len(self._checked(edit.tokens)) - (edit.stop - edit.start)
        for one, other in pairwise(ordered):
            if one.stop > other.start or one.start == other.start:
                raise InvalidInputError(
                    f"the edits of tokens {one.start} to {one.stop} and {other.start} to {other.stop} overlap; "
                    "join them into one"
                )
        self._check_size(len(self._ids) + size)
        trimmed = [self._trimmed(edit) for edit in ordered]
        return self._follow([edit for edit in trimmed if edit.tokens or edit.stop > edit.start], 0.0)

    def logits(self) -> torch.Tensor:
        """Those of the token after the last one, [V]; the last token is encoded anew, and sees all edits.

        Raises InvalidInputError for an empty text.
        """
        if self._logits_V is None:
            self._forget_last()
            self._encode()
        assert self._logits_V is not None
        return self._logits_V

    def generate(self, max_new_tokens: int, **options: Any) -> list[int]:
        """New tokens behind the text, as `model.generate` writes them; the session stays as it was.

        options: those of `model.generate`, such as do_sample=True, num_beams=4, or
        `custom_generate=Speculation(SuffixCache())` for speculation. Raises InvalidInputError for an empty text or one
        that leaves too little room, for another cache, several texts to return and transformers' assisted decoding.
        """
        refuse_assisted(options)
        if CACHE_KEYWORD in options:
            raise InvalidInputError("a session has a cache of its own, which can be edited; leave the other one out")
        if (options.get("num_return_sequences") or 1) > 1:
            raise InvalidInputError("a session writes one text; leave num_return_sequences out, and call it again")
        self._check_size(len(self._ids) + max_new_tokens)
        self._forget_last()
        held = len(self._slots)
        if held < len(self._ids) - 1:  # an earlier call was interrupted
            self._encode(len(self._ids) - 1)
            held = len(self._slots)
        self._rotate(len(self._ids))
        ids_BT = torch.from_numpy(self._ids)[None].to(self._model.device)
        beams = options.get("num_beams") or 1
        try:
            if beams > 1:
                self._cache.batch_repeat_interleave(beams)
            with attach(self._model), torch.no_grad():
                text_BT = self._model.generate(
                    ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    max_new_tokens=max_new_tokens,
                    return_dict_in_generate=False,
                    **{CACHE_KEYWORD: self._cache},
                    **options,
                )
        finally:
            if beams > 1:  # what was held is the same in all rows
                self._cache.batch_select_indices(torch.tensor([0]))
            self._keep(held)
        new: list[int] = text_BT[0, len(self._ids) :].tolist()
        return new

    def recompute(self) -> None:
        """Encode all of the text again: exact, and nothing is stale."""
        self._drop(np.ones(len(self._slots), np.bool_))
        self._encode()

    def fork(self) -> EditSession:
        """A session of the same text that goes its own way; the cache is copied."""
        other = object.__new__(EditSession)
        other.__dict__.update(self.__dict__)
        other.seconds = dict.fromkeys(PARTS, 0.0)
        other._slots = self._slots.copy()
        other._cache = KVCache.for_model(self._model, _SlotLayer, rotation=self._rotation, slots=other._slots)
        for mine, theirs in zip(other._cache.layers, self._cache.layers, strict=True):
            mine.restore(theirs.state(), theirs.logical)
        return other

    def nbytes(self) -> int:
        """Bytes of keys and values held, spare room included."""
        return self._cache.nbytes()

    def _checked(self, ids: Sequence[int] | npt.NDArray[Any] | torch.Tensor) -> Ids:
        if isinstance(ids, (str, bytes, Mapping)) or (len(ids) and isinstance(ids[0], (str, bytes))):
            raise InvalidTypeError("a session takes token ids alone, not text; give tokenizer(text)['input_ids']")
        array = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
        if array.ndim != 1:
            raise InvalidInputError(
                f"a session holds one text, ids of the shape [n]; got {list(array.shape)}; make a session for each text"
            )
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise InvalidTypeError(f"token ids are integers; got {array.dtype}")
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        if array.size and not 0 <= array.min() <= array.max() < vocabulary:
            raise InvalidInputError(
                f"the model has the token ids 0 to {vocabulary - 1}; got {array.min()} to {array.max()}; use its own "
                "tokenizer"
            )
        self._check_size(len(array))
        return array.astype(np.int64)

    def _check_size(self, size: int) -> None:
        window = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if window is not None and size > window:
            raise InvalidInputError(
                f"a text of {size} tokens exceeds the {window} positions of the model; give a shorter one"
            )

    def _trimmed(self, edit: Edit) -> Edit:
        """The edit without what it leaves as it is at either end."""
        old, new = self._ids[edit.start : edit.stop].tolist(), list(edit.tokens)
        start, stop = edit.start, edit.stop
        while old and new and old[-1] == new[-1]:
            old.pop(), new.pop()
            stop -= 1
        head = 0
        while head < min(len(old), len(new)) and old[head] == new[head]:
            head += 1
        return Edit(start + head, stop, tuple(new[head:]))

    def _follow(self, edits: Sequence[Edit], diff: float) -> SyncReport:
        """Take over edits that are sorted and disjoint."""
        if self._model.training:
            raise InvalidInputError("a session is for inference; call model.eval() first")
        before = dict(self.seconds)
        old_size = len(self._ids)
        gone_T = np.zeros(old_size, np.bool_)
        moved_T = np.zeros(old_size, np.int64)
        parts, end = [], 0
        for edit in edits:
            gone_T[edit.start : edit.stop + self.refresh] = True
            moved_T[edit.stop :] += len(edit.tokens) - (edit.stop - edit.start)
            parts += [self._ids[end : edit.start], np.array(edit.tokens, np.int64)]
            end = edit.stop
        slots = self._slots
        with self._whole():
            if edits:
                self._logits_V = None
                self._ids = np.concatenate([*parts, self._ids[end:]])
                slots.stale |= slots.position >= edits[0].start
            drop_S = gone_T[slots.position]
            if self.max_shifts is not None and self._model.dtype.itemsize == 2:
                drop_S |= slots.shifts >= self.max_shifts
            by_S = moved_T[slots.position]
            slots.position += by_S
            shifted = int((by_S[~drop_S] != 0).sum())
            self._drop(drop_S)
        reused = len(slots)
        self._encode()
        seconds = {part: self.seconds[part] - before[part] for part in PARTS} | {"diff": diff}
        return SyncReport(len(edits), reused, shifted, len(slots) - reused, seconds)

    def _forget_last(self) -> None:
        """Leave the last token out of the cache: who reads it next gets logits."""
        if not len(self._ids):
            raise InvalidInputError("the session holds no text to go on from; sync at least one token")
        self._drop(self._slots.position == len(self._ids) - 1)

    def _drop(self, gone_S: npt.NDArray[np.bool_]) -> None:
        """Give up slots; those at the end fill the places that become free."""
        if not gone_S.any():
            return
        kept = len(gone_S) - int(gone_S.sum())
        holes = np.flatnonzero(gone_S[:kept])
        movers = kept + np.flatnonzero(~gone_S[kept:])
        to, source = torch.from_numpy(holes), torch.from_numpy(movers)
        with self._whole():
            for layer in self._cache.layers:
                for states in (layer.keys, layer.values) if len(holes) else ():
                    states[:, :, to] = states[:, :, source]
            self._cache.truncate(kept, kept)
            self._slots.drop(kept, holes, movers)

    def _encode(self, stop: int | None = None) -> None:
        """Read every token before `stop` that has no slot, default all, in as few passes as memory allows."""
        missing_T = np.ones(len(self._ids), np.bool_)
        missing_T[self._slots.position] = False
        missing = np.flatnonzero(missing_T[:stop])
        for start in range(0, len(missing), ENCODED_AT_ONCE):
            position_Q = missing[start : start + ENCODED_AT_ONCE]
            self._rotate(int(position_Q[-1]))
            held = len(self._slots)
            with self._timed("encode"):
                self._slots.add(position_Q)
                try:
                    with attach(self._model), torch.no_grad():
                        logits_BQV = self._model(
                            input_ids=torch.from_numpy(self._ids[position_Q])[None].to(self._model.device),
                            position_ids=torch.from_numpy(position_Q)[None].to(self._model.device),
                            use_cache=True,
                            logits_to_keep=1,
                            **{CACHE_KEYWORD: self._cache},
                        ).logits
                except BaseException:  # what is missing is read by the next call
                    self._keep(held)
                    raise
                if position_Q[-1] == len(self._ids) - 1:
                    self._logits_V = logits_BQV[0, -1]

    def _rotate(self, limit: int) -> None:
        """Turn every key that stands before position `limit` to where it stands."""
        slots = self._slots
        by_S = np.where(slots.position < limit, slots.position - slots.turned, 0)
        waiting = np.flatnonzero(by_S)
        if not len(waiting):
            return
        with self._timed("rotate"), self._whole():
            # One span of slots, for a view can be turned in place; what stands right within it is turned by 0.
            span = slice(int(waiting[0]), int(waiting[-1]) + 1)
            by = by_S[span]
            delta = int(by[0]) if (by == by[0]).all() else torch.from_numpy(by)
            for layer in self._cache.layers:
                self._rotation.shift_(layer.keys[:, :, span], delta, layer.index)
            slots.turned += by_S
            slots.shifts[waiting] += 1

    def _keep(self, held: int) -> None:
        """Give up all but the first slots."""
        self._cache.truncate(held, held)
        self._slots.drop(held)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is interrupted half done is given up: the next call reads all of the text."""
        try:
            yield
        except BaseException:
            self._keep(0)
            raise

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


class _Slots:
    """What is in each slot of all layers: a set of tokens in no order, so that values need not move when a text does.

    position: int64 [T], where the token stands. turned: where its key does. shifts: how often the key was turned.
    stale: bool [T], whether an edit in front of the token is newer than its states.
    """

    def __init__(self) -> None:
        self.position, self.turned, self.shifts = (np.zeros(0, np.int64) for _ in range(3))
        self.stale = np.zeros(0, np.bool_)
        self._masks: dict[tuple[int, int, int | None], torch.Tensor | None] = {}

    def __len__(self) -> int:
        return len(self.position)

    def copy(self) -> _Slots:
        other = _Slots()
        for name in ("position", "turned", "shifts", "stale"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def add(self, position_Q: Ids) -> None:
        """New slots behind the others."""
        none = np.zeros(len(position_Q), np.int64)
        self.position, self.turned = (np.concatenate([held, position_Q]) for held in (self.position, self.turned))
        self.shifts, self.stale = np.concatenate([self.shifts, none]), np.concatenate([self.stale, none > 0])
        self._masks.clear()

    def drop(self, kept: int, holes: Ids | tuple[()] = (), movers: Ids | tuple[()] = ()) -> None:
        """Keep the first `kept` slots, of which `holes` take what `movers` hold."""
        for name in ("position", "turned", "shifts", "stale"):
            held = getattr(self, name)
            if len(holes):
                held[holes] = held[movers]
            setattr(self, name, held[:kept].copy())
        self._masks.clear()

    def mask(self, queries: int, slots: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """Which keys the last `queries` of all `slots` see, bool [1, 1, Q, T]; None where their order tells it.

        Slots that are not known here are those of tokens written behind the text.
        """
        if window is not None and window >= slots:
            window = None
        key = (queries, slots, window)
        if key not in self._masks:
            position_T = np.concatenate([self.position, np.arange(len(self), slots)])
            own_Q = position_T[slots - queries :, None]
            in_order = window is None and position_T[: slots - queries].max(initial=-1) < own_Q[0, 0]
            if in_order or (np.diff(position_T) == 1).all():
                mask = None
            else:
                seen_QT = position_T <= own_Q
                if window is not None:
                    seen_QT &= position_T > own_Q - window
                mask = torch.from_numpy(seen_QT)[None, None].to(device)
            if len(self._masks) > 8:  # those of earlier steps
                self._masks.clear()
            self._masks[key] = mask
        return self._masks[key]


class _SlotLayer(KVLayer):
    """Slots in the order of `slots`, which all layers share."""

    def __init__(self, *, rotation: KeyRotation, slots: _Slots, index: int = 0) -> None:
        super().__init__(index=index, rotation=rotation)
        self._slots = slots

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """Each query over the keys that stand before it."""
        queries, slots = call.query_BHQD.shape[2], call.key_BKTD.shape[2]
        mask = self._slots.mask(queries, slots, call.window, call.query_BHQD.device)
        return super().attend(replace(call, mask=mask))
