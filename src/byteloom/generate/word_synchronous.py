"""Generate words: one step of the large model a word, its bytes by the small decoder.

    ids = model.generate(**inputs, max_new_tokens=200, custom_generate=word_synchronous)

Use it with a `WordPooledForCausalLM`; greedy text is that of plain `generate`, id for id. A prompt may end inside a
word: its bytes are given to the decoder, which goes on from there.
Source: Learn Your Tokens, arXiv 2310.11628, and Hierarchical Autoregressive Transformers, arXiv 2501.10322. Cost: one
backbone step with its cache a word for all rows, and up to max_word_bytes runs of the decoder on a few bytes.
"""

# Shape suffixes: B rows, P vectors of a word, D hidden size, W bytes of a word, V vocabulary, T words.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from byteloom.errors import InvalidInputError
from byteloom.models.attention import CACHE_KEYWORD
from byteloom.models.word_encoder import WORD_PADDING
from byteloom.models.word_pooled import WordPooledForCausalLM
from byteloom.tokenize.words import FIRST, LAST

_DRAWN = frozenset(("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"))


@torch.inference_mode()
def word_synchronous(
    model: WordPooledForCausalLM,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: Any,
) -> Tensor:
    """What `generate` returns: int64 [B, N + new], rows that ended filled with the padding id.

    Raises InvalidInputError for another model, beams, and more than one sequence of a row.
    """
    if not isinstance(model, WordPooledForCausalLM):
        raise InvalidInputError("word_synchronous is for a WordPooledForCausalLM; other models have no words")
    if generation_config.num_beams > 1:
        raise InvalidInputError("word_synchronous has no beams; call generate without custom_generate for beam search")
    if generation_config.num_return_sequences > 1:
        raise InvalidInputError("word_synchronous gives one sequence a row; repeat the row for more")
    rows = _Rows(model, input_ids, model_kwargs.get("attention_mask"), generation_config.max_length)
    ends = generation_config.eos_token_id
    ends = set() if ends is None else set(ends if isinstance(ends, list) else [ends])
    while not all(rows.is_done):
        state_BPD = rows.step()
        while active := [at for at in range(len(rows.ids)) if not rows.is_done[at] and not rows.has_word(at)]:
            scores_BV = rows.scores(state_BPD, active)
            if len(logits_processor):
                scores_BV = _processed(scores_BV, rows, active, logits_processor)
            if generation_config.do_sample:
                chosen = torch.multinomial(scores_BV.softmax(-1), 1)[:, 0].tolist()
            else:
                chosen = scores_BV.argmax(-1).tolist()
            for at, token in zip(active, chosen, strict=True):
                rows.add(at, token, ends)
                if not rows.is_done[at] and len(stopping_criteria):
                    text_1N = torch.tensor([rows.ids[at]], device=input_ids.device)
                    rows.is_done[at] = bool(stopping_criteria(text_1N, None).all())
    return rows.sequences(generation_config.pad_token_id)


def _processed(scores_BV: Tensor, rows: _Rows, active: list[int], processor: LogitsProcessorList) -> Tensor:
    """The scores after the processors; those that look at scores alone take all rows at once."""
    if all(type(each).__name__ in _DRAWN for each in processor):
        return processor(scores_BV.new_zeros(len(active), 1, dtype=torch.int64), scores_BV)
    texts = [torch.tensor([rows.ids[at]], device=scores_BV.device) for at in active]
    return torch.cat([processor(text, row[None]) for text, row in zip(texts, scores_BV, strict=True)])


class _Rows:
    """The texts of a batch, the words that the backbone has read, and its cache."""

    def __init__(
        self, model: WordPooledForCausalLM, input_ids: Tensor, mask_BN: Tensor | None, max_length: int
    ) -> None:
        self.model = model
        self.prompts = input_ids
        kept = torch.ones_like(input_ids) if mask_BN is None else mask_BN
        self.ids = [row[keep.bool()].tolist() for row, keep in zip(input_ids, kept, strict=True)]
        if empty := [at for at, row in enumerate(self.ids) if not row]:
            raise InvalidInputError(f"prompt {empty[0]} is empty; give it at least one id")
        self.is_done = [False] * len(self.ids)
        self._lengths = [len(row) for row in self.ids]
        self._room = max_length - input_ids.shape[1]
        self._open: list[list[int]] = []  # the bytes of the word that is being spelled, of each row
        self._words: list[list[list[int]]] = []  # whole words that the backbone has not read
        for row in self.ids:
            words: list[list[int]] = []
            word: list[int] = []
            for token in row:
                if token < FIRST and word:  # a text that was cut off inside a word
                    words.append(word)
                    word = []
                word.append(token)
                if _ends(token):
                    words.append(word)
                    word = []
            self._words.append(words)
            self._open.append(word)
        self._cache = DynamicCache()
        self._seen_BT = torch.zeros(len(self.ids), 0, dtype=torch.int64, device=input_ids.device)
        if self._room <= 0:
            self.is_done = [True] * len(self.ids)

    def has_word(self, at: int) -> bool:
        """Whether a row has a whole word that the backbone has not read."""
        return bool(self._words[at])

    def step(self) -> Tensor:
        """[B, P, D]: the states behind all whole words, after the backbone has read those that are new."""
        model, prefix = self.model, self.model.config.num_prefix
        is_first = self._seen_BT.shape[1] == 0
        counts = [len(words) + is_first for words in self._words]
        most = max(counts)
        vectors_BTPD = model.begin.new_zeros(len(self.ids), most, prefix, model.begin.shape[1])
        new_BT = self._seen_BT.new_zeros(len(self.ids), most)
        flat = [word for words in self._words for word in words]
        if flat:
            encoded = iter(model.encode(_table(flat, self._seen_BT.device)))
        for at, words in enumerate(self._words):
            new_BT[at, most - counts[at] :] = 1
            if is_first:
                vectors_BTPD[at, most - counts[at]] = model.begin
            for place in range(len(words)):
                vectors_BTPD[at, most - len(words) + place] = next(encoded)
            words.clear()
        self._seen_BT = torch.cat([self._seen_BT, new_BT], 1)
        mask_BT = self._seen_BT.repeat_interleave(prefix, 1)
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)[:, -most * prefix :]
        found = model.backbone(
            inputs_embeds=vectors_BTPD.flatten(1, 2),
            attention_mask=mask_BT,
            position_ids=positions_BT,
            use_cache=True,
            **{CACHE_KEYWORD: self._cache},
        )
        return found.last_hidden_state[:, -prefix:]

    def scores(self, state_BPD: Tensor, active: list[int]) -> Tensor:
        """float32 [active, V]: the logits of the next id of some rows."""
        known = [len(self._open[at]) for at in active]
        bytes_BW = torch.zeros(len(active), max(known), dtype=torch.int64, device=state_BPD.device)
        for row, at in enumerate(active):
            bytes_BW[row, : known[row]] = torch.tensor(self._open[at], dtype=torch.int64) - FIRST
        found_BWV = self.model.decode(state_BPD[active], bytes_BW)
        return found_BWV[torch.arange(len(active)), torch.tensor(known)].float()

    def add(self, at: int, token: int, ends: set[int]) -> None:
        """Append an id to a row; a word that it ends waits for the backbone."""
        self.ids[at].append(token)
        self._open[at].append(token)
        if _ends(token):
            self._words[at].append(self._open[at])
            self._open[at] = []
        if token in ends or len(self.ids[at]) - self._lengths[at] >= self._room:
            self.is_done[at] = True

    def sequences(self, pad: int | None) -> Tensor:
        """int64 [B, N + new]: the prompts as they came, and what was added."""
        added = [row[length:] for row, length in zip(self.ids, self._lengths, strict=True)]
        most = max(map(len, added))
        tail_BL = self.prompts.new_full((len(added), most), 0 if pad is None else pad)
        for at, row in enumerate(added):
            tail_BL[at, : len(row)] = torch.tensor(row, dtype=torch.int64)
        return torch.cat([self.prompts, tail_BL], 1)


def _ends(token: int) -> bool:
    return token < FIRST or token >= FIRST + LAST


def _table(words: list[list[int]], device: torch.device) -> Tensor:
    """int64 [R, W]: words of ids as the symbols of `WordVectors`."""
    table_RW = torch.full((len(words), max(map(len, words))), WORD_PADDING, dtype=torch.int64)
    for row, word in enumerate(words):
        for place, token in enumerate(word):
            table_RW[row, place] = 256 + min(token, 2) if token < FIRST else (token - FIRST) % LAST
    return table_RW.to(device)
