"""Decode several tokens a forward pass: a drafter proposes, the model verifies, and the text stays the model's own.

    cache = SuffixCache()
    method = Speculation(cache)
    ids = model.generate(**inputs, max_new_tokens=200, custom_generate=method)
    method.statistics.tokens_per_step   # 4.2

Use it with any drafter of `byteloom.generate`. Greedy text is that of `model.generate`, token for token where the
arithmetic does not depend on how many tokens are computed at once (float32 on most devices); sampled text has the
distribution of plain sampling exactly, and for one row on one machine even its tokens for the same seed. How much of a
draft is verified follows from what passes have cost and what drafts have yielded, so that useless drafts cost nothing.
Source: SuffixDecoding, NeurIPS 2025, arXiv 2411.04975; Leviathan et al. 2023, arXiv 2211.17192. Cost: a forward pass
over 1 + drafted tokens a step.
"""

# Shape suffixes: B rows, L tokens of a row, Q tokens in one forward pass, V vocabulary.

from __future__ import annotations

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

from byteloom.errors import InvalidInputError
from byteloom.generate.drafts import Draft, Drafter
from byteloom.generate.rows import OneRow, Rows, SeparateRows, TogetherRows
from byteloom.models.attention import CACHE_KEYWORD

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache
    from transformers.generation.streamers import BaseStreamer


@dataclass
class Statistics:
    """What speculation did. rows: sequences. tokens: new ones. forwards: passes of the model, those over prompts among
    them; plain_forwards: those that plain decoding would have made. steps: verifications of one row.
    drafted, accepted: tokens of verified drafts, by source. seconds: "prompt", "draft", "verify" (the passes) and
    "choose" (logits processors, sampling, stopping)."""

    rows: int = 0
    tokens: int = 0
    forwards: int = 0
    plain_forwards: int = 0
    steps: int = 0
    drafted: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def tokens_per_step(self) -> float:
        """Accepted tokens and the model's own, a verification; plain decoding has 1."""
        return (self.steps + self.accepted.total()) / self.steps if self.steps else 1.0

    @property
    def acceptance(self) -> float:
        """The share of verified draft tokens that were accepted."""
        return self.accepted.total() / self.drafted.total() if self.drafted else 0.0

    @property
    def calls_saved(self) -> int:
        """Forward passes that plain decoding would have made besides."""
        return self.plain_forwards - self.forwards

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to `seconds[part]`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


class Speculation:
    """A decoding method for `model.generate(..., custom_generate=Speculation(drafter))`.

    drafter: who proposes; kept from call to call, and so is what it learned. trees: verify branching drafts where the
    model can; else their most probable path. streamer: a streamer of transformers (`generate` does not hand its own to
    custom methods). adaptive: verify as much of a draft as pays; False: all of it. statistics: of all calls so far.
    Raises InvalidInputError for beam search, encoder-decoder models, a batch with a streamer or a filled cache, and
    caches that cannot be rolled back.
    """

    def __init__(
        self,
        drafter: Drafter,
        *,
        trees: bool = True,
        streamer: BaseStreamer | None = None,
        adaptive: bool = True,
    ) -> None:
        self.drafter = drafter
        self.trees = trees
        self.streamer = streamer
        self.statistics = Statistics()
        self._pace = Pace() if adaptive else None

    @torch.no_grad()
    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        """What `generate` returns: int64 [B, L], or its output object with `sequences` and `cache`."""
        cache = model_kwargs.get(CACHE_KEYWORD)
        self._check(model, input_ids, generation_config, cache)
        rule = _Rule(logits_processor, stopping_criteria, generation_config.do_sample)
        mask_BL = model_kwargs.get("attention_mask")
        alone = len(input_ids) == 1
        texts = []
        for at, ids_L in enumerate(input_ids):
            prompt = (ids_L if mask_BL is None else ids_L[mask_BL[at].bool()]).tolist()
            if not prompt:
                raise InvalidInputError(f"prompt {at} is empty; give it at least one token")
            texts.append(_Text(model, ids_L, prompt, rule, alone=alone))
        if self.streamer is not None:
            self.streamer.put(input_ids.cpu())
        rows: Rows = (
            SeparateRows([_read_so_far(model, cache, texts[0].prompt)]) if alone else _rows_of(model, len(texts))
        )
        started: list[_Text] = []
        try:
            for text in texts:
                with self.statistics.timed("draft"):
                    self.drafter.start(text, text.prompt)
                started.append(text)
            self._read_prompts(rows, texts, cache.get_seq_length() if alone and cache is not None else 0)
            active = self._go_on(rows, texts)
            while active:
                self._step(rows, active)
                active = self._go_on(rows, active)
        finally:
            for text in started:
                self.drafter.stop(text)
        if self.streamer is not None:
            self.streamer.end()
        self.statistics.rows += len(texts)
        self.statistics.plain_forwards += max(text.written for text in texts)
        ids_BL = _rectangle([text.ids for text in texts], generation_config)
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(
                sequences=ids_BL, **{CACHE_KEYWORD: rows.rows[0].cache if isinstance(rows, SeparateRows) else None}
            )
        return ids_BL

    def _check(self, model: PreTrainedModel, input_ids: torch.Tensor, config: GenerationConfig, cache: Any) -> None:
        if model.config.is_encoder_decoder:
            raise InvalidInputError("speculation decodes causal models; this one is an encoder-decoder")
        if (config.num_beams or 1) > 1:
            raise InvalidInputError("speculation has no beam search; set num_beams=1")
        if config.use_cache is False:
            raise InvalidInputError("speculation needs the key-value cache; set use_cache=True")
        if input_ids.shape[1] == 0:
            raise InvalidInputError("prompt 0 is empty; give it at least one token")
        if len(input_ids) > 1 and self.streamer is not None:
            raise InvalidInputError("a streamer shows one row; give one prompt at a time")
        if len(input_ids) > 1 and cache is not None and cache.get_seq_length() > 0:
            raise InvalidInputError("a filled cache goes with one row; give one prompt at a time")
        vocabulary = getattr(self.drafter, "vocabulary", None)
        if vocabulary is not None and vocabulary != model.config.get_text_config().vocab_size:
            raise InvalidInputError(
                f"the draft model has {vocabulary:,} tokens and the model "
                f"{model.config.get_text_config().vocab_size:,}; they need the same tokenizer"
            )

    def _read_prompts(self, rows: Rows, texts: Sequence[_Text], known: int) -> None:
        with self.statistics.timed("prompt"):
            logits = rows.forward([text.prompt[known:] for text in texts], [None] * len(texts), last=True)
            places = [range(len(text.prompt) - known) for text in texts]
            rows.keep(places)
            for text, logits_QV in zip(texts, logits, strict=True):
                text.settle(logits_QV, Draft())
        self.statistics.forwards += 1
        self._tell(texts)

    def _step(self, rows: Rows, texts: Sequence[_Text]) -> None:
        statistics = self.statistics
        with statistics.timed("draft"):
            proposed = self.drafter.propose(texts, [text.budget() for text in texts])
            drafts = [
                text.usable(draft, trees=self.trees and rows.takes_trees)
                for text, draft in zip(texts, proposed, strict=True)
            ]
            size = self._pace.size(drafts) if self._pace else max(len(draft.tokens) for draft in drafts)
            verified = [draft.cut(size) for draft in drafts]
        began = time.perf_counter()
        with statistics.timed("verify"):
            logits = rows.forward(
                [[text.last, *draft.tokens] for text, draft in zip(texts, verified, strict=True)],
                [None if draft.is_path else [-1, *(p + 1 for p in draft.parents)] for draft in verified],
            )
            # The pass is over when its numbers are there; on an accelerator that is when they are asked for.
            choices = [logits_QV.argmax(-1).tolist() if texts[0].rule.is_plain else None for logits_QV in logits]
        with statistics.timed("choose"):
            places = [
                text.settle(logits_QV, draft, chosen)
                for text, logits_QV, draft, chosen in zip(texts, logits, verified, choices, strict=True)
            ]
            rows.keep(places)
        if self._pace:
            self._pace.learn_cost(len(texts), 1 + max(len(d.tokens) for d in verified), time.perf_counter() - began)
        for text, whole, draft, kept in zip(texts, drafts, verified, places, strict=True):
            accepted = len(kept) - 1
            if self._pace:
                self._pace.learn_yield(whole, draft, accepted, text.new[0])
            if draft.tokens:
                statistics.drafted[draft.source] += len(draft.tokens)
                statistics.accepted[draft.source] += accepted
        statistics.forwards += 1
        statistics.steps += len(texts)
        self._tell(texts)

    def _tell(self, texts: Sequence[_Text]) -> None:
        for text in texts:
            self.statistics.tokens += len(text.new)
            with self.statistics.timed("draft"):
                self.drafter.observe(text, text.new)
            if self.streamer is not None:
                for token in text.new:
                    self.streamer.put(torch.tensor([token]))

    def _go_on(self, rows: Rows, texts: Sequence[_Text]) -> list[_Text]:
        """The texts that have not ended; the rows of the others are given up."""
        going = [at for at, text in enumerate(texts) if not text.ended]
        if going and len(going) < len(texts):
            rows.select(going)
        return [texts[at] for at in going]


def _read_so_far(model: PreTrainedModel, cache: Cache | None, prompt: list[int]) -> OneRow:
    row = OneRow(model, cache)
    if row.length >= len(prompt):
        raise InvalidInputError(
            f"the cache holds {row.length} tokens and the prompt has {len(prompt)}; the prompt begins with all that is "
            "cached, and has at least one token more"
        )
    return row


def _rows_of(model: PreTrainedModel, rows: int) -> Rows:
    """Rows in one pass where attention takes a mask for each; else one after another, and slower."""
    attention = model.config._attn_implementation
    if attention in ("sdpa", "eager"):
        return TogetherRows(model, rows)
    warnings.warn(
        f"{attention} attention takes no mask for rows of different lengths, so they are decoded one after another; "
        'call model.set_attn_implementation("sdpa") to decode them together',
        stacklevel=3,
    )
    return SeparateRows([OneRow(model) for _ in range(rows)])


class _Rule:
    """How a token is chosen from logits, and what ends a row."""

    def __init__(self, processors: LogitsProcessorList, criteria: StoppingCriteriaList, do_sample: bool | None) -> None:
        self.processors = processors
        self.do_sample = bool(do_sample)
        self.max_length = min((c.max_length for c in criteria if type(c) is MaxLengthCriteria), default=1 << 30)
        self.ends: set[int] = set()
        self.others = StoppingCriteriaList()
        for criterion in criteria:
            if type(criterion) is EosTokenCriteria:
                self.ends.update(criterion.eos_token_id.tolist())
            elif type(criterion) is not MaxLengthCriteria:
                self.others.append(criterion)

    @property
    def is_plain(self) -> bool:
        """Whether the choice is the largest logit."""
        return not self.do_sample and not self.processors

    def choose(self, text_1L: torch.Tensor, logits_V: torch.Tensor, generator: torch.Generator | None) -> int:
        """The next token, as `generate` chooses it."""
        scores_1V = self.processors(text_1L, logits_V[None].to(copy=True, dtype=torch.float32))
        if not self.do_sample:
            return int(scores_1V.argmax(-1))
        return int(torch.multinomial(scores_1V.softmax(-1), 1, generator=generator))

    def ends_at(self, token: int, text_1L: torch.Tensor) -> bool:
        """Whether the row ends with this token, its last."""
        if token in self.ends or text_1L.shape[1] >= self.max_length:
            return True
        return bool(self.others) and bool(self.others(text_1L, None).any())


class _Text:
    """A row while it is written. prompt: what the model reads, without padding. new: the tokens of the last step."""

    def __init__(
        self, model: PreTrainedModel, ids_L: torch.Tensor, prompt: list[int], rule: _Rule, *, alone: bool
    ) -> None:
        self.prompt = prompt
        self.rule = rule
        self.new: list[int] = []
        self.written = 0
        self.ended = False
        self.last = prompt[-1]
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self._window = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self._size = len(ids_L)
        self._buffer_L = torch.cat([ids_L, ids_L.new_zeros(64)])
        self._generator = None  # one row draws what plain sampling draws
        if not alone and rule.do_sample:  # and of many each draws for itself, whoever else is there
            seed = int(torch.randint(1 << 62, ()))
            self._generator = torch.Generator(ids_L.device).manual_seed(seed)

    @property
    def ids(self) -> torch.Tensor:
        """All tokens of the row, padding included: what logits processors and stopping criteria see."""
        return self._buffer_L[: self._size]

    def budget(self) -> int:
        """How long a draft may be: what the model adds itself must fit behind it, and the window ends somewhere."""
        read = len(self.prompt) + self.written - 1
        return max(0, min(self.rule.max_length - self._size, self._window - read) - 1)

    def usable(self, draft: Draft, *, trees: bool) -> Draft:
        """The part of a draft that can be verified."""
        if draft.tokens and not 0 <= min(draft.tokens) <= max(draft.tokens) < self._vocabulary:
            warnings.warn("a drafter proposed ids that the model does not have; they are ignored", stacklevel=2)
            return Draft(source=draft.source)
        if not trees and not draft.is_path:
            draft = _best_path(draft)
        return draft.cut(self.budget())

    def settle(self, logits_QV: torch.Tensor, draft: Draft, choices: list[int] | None = None) -> list[int]:
        """Go on with the tokens that the model chooses, as far as the draft has them.

        choices: the largest logits, where these are what is chosen. Returns which of [newest token, *draft] were right.
        """
        children: dict[tuple[int, int], int] = {}
        for place, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
            children.setdefault((parent, token), place)
        self.new = []
        kept = []
        at: int | None = -1
        while at is not None:
            kept.append(at + 1)
            if choices is None:
                token = self.rule.choose(self.ids[None], logits_QV[at + 1], self._generator)
            else:
                token = choices[at + 1]
            self._append(token)
            self.ended = self.rule.ends_at(token, self.ids[None])
            at = None if self.ended else children.get((at, token))
        return kept

    def _append(self, token: int) -> None:
        if self._size == len(self._buffer_L):
            self._buffer_L = torch.cat([self._buffer_L, torch.zeros_like(self._buffer_L)])
        self._buffer_L[self._size] = token
        self._size += 1
        self.written += 1
        self.last = token
        self.new.append(token)


class Pace:
    """How much of the drafts is worth its verification: the size with the most expected tokens a second.

    What drafts yield is remembered by their source and the power of two of their match, and what a pass costs by its
    rows and the power of two of its tokens a row; a size that was never tried is
    taken to cost what the next smaller one does, and one that was costly once is tried again after a while, for it may
    have been by chance.
    """

    NEWEST = 0.25  # weight of a new measurement
    FADING = 0.999  # of a cost, each time another size is chosen
    MARGIN = 1.1
    LASTING = 0.97  # of what drafts yielded, each time a draft of the kind is judged

    def __init__(self) -> None:
        self._costs: dict[tuple[int, int], float] = {}  # seconds
        self._yields: dict[tuple[str, int], tuple[float, float]] = {}  # accepted tokens, and expected ones; they fade

    def size(self, drafts: Sequence[Draft]) -> int:
        """How many tokens of each draft to verify, at most."""
        longest = max(len(draft.tokens) for draft in drafts)
        if longest == 0:
            return 0
        best, rate, counted = 0, 0.0, 0
        expected = float(len(drafts))
        for size in sorted({*(size for size in (0, 1, 3, 7, 15, 31) if size < longest), longest}):
            for draft in drafts:
                expected += self.trust(draft) * sum(draft.probabilities[counted:size])
            counted = size
            worth = expected / self._cost(len(drafts), 1 + size)
            if worth > rate:
                # Next to nothing, a draft has to promise more than what estimates may be wrong by.
                best, rate = size, worth * (self.MARGIN if size == 0 else 1)
        for known in self._costs:
            if known[1] > 1 and known != (len(drafts), (1 + best).bit_length()):
                self._costs[known] *= self.FADING
        return best

    def learn_cost(self, rows: int, tokens: int, seconds: float) -> None:
        """A pass over so many tokens of each row took so long."""
        known = (rows, tokens.bit_length())
        if known in self._costs:
            old = self._costs[known]
            self._costs[known] = old + self.NEWEST * (min(seconds, 2 * old) - old)  # what disturbed it passes
        else:
            one = self._costs.get((rows, 1))
            self._costs[known] = seconds if one is None else min(seconds, tokens * one)

    def learn_yield(self, whole: Draft, verified: Draft, accepted: int, token: int) -> None:
        """So many tokens of the verified part were accepted; `token` came next, even where nothing was verified."""
        if not whole.tokens:
            return
        expected, got = verified.score, float(accepted)
        if not verified.tokens:
            roots = [at for at, parent in enumerate(whole.parents) if parent < 0]
            expected = sum(whole.probabilities[at] for at in roots)
            got = float(any(whole.tokens[at] == token for at in roots))
        before = self._yields.get(_kind(whole), (0.0, 0.0))
        self._yields[_kind(whole)] = (self.LASTING * before[0] + got, self.LASTING * before[1] + expected)

    def trust(self, draft: Draft) -> float:
        """What drafts of this kind got accepted, as a share of what they expected; at first 1."""
        got, expected = self._yields.get(_kind(draft), (0.0, 0.0))
        return (1 + got) / (1 + expected)

    def _cost(self, rows: int, tokens: int) -> float:
        same = {bucket: cost for (known, bucket), cost in self._costs.items() if known == rows}
        smaller = [cost for bucket, cost in same.items() if bucket <= tokens.bit_length()]
        return max(smaller, default=min(same.values(), default=1.0))


def _kind(draft: Draft) -> tuple[str, int]:
    """Drafts that are trusted alike: of one source, after matches of about one length."""
    return draft.source, draft.match.bit_length()


def _best_path(draft: Draft) -> Draft:
    """The path to the first token without continuation, along the first continuations: the most probable ones."""
    path = Draft(match=draft.match, source=draft.source)
    at = -1
    for place, parent in enumerate(draft.parents):
        if parent == at:
            path.tokens.append(draft.tokens[place])
            path.parents.append(len(path.tokens) - 2)
            path.probabilities.append(draft.probabilities[place])
            at = place
    return path


def _rectangle(rows: list[torch.Tensor], config: GenerationConfig) -> torch.Tensor:
    """The rows side by side, the shorter ones padded on the right as `generate` does."""
    pad = config._pad_token_tensor
    value = 0 if pad is None else int(pad)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
