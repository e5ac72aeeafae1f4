"""Superposed decoding: several drafts of a short continuation for the price of one.

    ngrams = NgramModel.load("code.ngr")
    drafts = superposed_generate(model, input_ids, ngrams=ngrams)
    drafts.sequences[0, 0]   # the best draft of the first prompt

Use it where an editor or a keyboard shows a few short completions at once and rows are dear: long prompts, many users,
small devices. At every step the model reads one token that is none, the sum of the drafts' newest embeddings weighted
by the drafts' probabilities; n-grams tell which of its next tokens continues which draft. That holds for about ten
tokens. Where a pass over several rows takes hardly longer than over one, sampling several rows gives better drafts.

Source: Superposed Decoding, NeurIPS 2024, arXiv 2405.18400. Departures: drafts are ranked by the model's own
probabilities, which one more pass over all of them gives; temperature and alpha are not the published ones, which suit
one model alone (`tune_superposed` finds yours); candidates without support fill up where too few have some; the
n-grams are asked at the first step too, as in the official code. Cost: a pass over one token and row a step, whatever
the number of drafts, and about 0.1 ms; keys of one row a prompt.
"""

# Shape suffixes: B prompts, K drafts, S candidates, L tokens of a text, T tokens with keys, Q new tokens, V vocabulary,
# H width.

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import Cache

from byteloom import _native
from byteloom.errors import InvalidInputError, ModelOutputError
from byteloom.generate.ngram import NgramModel
from byteloom.generate.rescoring import Drafts, path_log_probs, plain_log_probs, tree_log_probs
from byteloom.generate.rows import has_window, padded, takes_trees, whole_cache
from byteloom.generate.texts import Rule
from byteloom.models.attention import CACHE_KEYWORD, gives_rest_alone
from byteloom.models.kvcache import KVCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]

LINEAR_TOKENS = 20  # beyond, what the model makes of a sum of embeddings has little to do with the drafts


@dataclass(frozen=True)
class SuperposedConfig:
    """How drafts are chosen. Raises InvalidInputError for numbers out of range.

    num_drafts: drafts a prompt. temperature: of the model's probabilities; below 1 the first draft is nearer to greedy
    text. alpha: share of the n-grams, 0 to 1: score = (1 - alpha) log p + alpha log q. num_candidates: tokens of the
    model's next ones that may continue a draft; None: 3 a draft. penalty: nats, for tokens that the n-grams have never
    seen there, which are taken only when there is nothing else. reset: steps after which one draft is read properly and
    all go on from it, for long texts; None: never. first_step_ngrams: let the n-grams choose the first tokens too.
    rescore: rank by the model's own probabilities, for one more pass.
    """

    num_drafts: int = 3
    temperature: float = 1.0
    alpha: float = 0.3
    num_candidates: int | None = None
    penalty: float = 200.0
    reset: int | None = None
    first_step_ngrams: bool = True
    rescore: bool = True

    def __post_init__(self) -> None:
        if self.num_drafts < 1:
            raise InvalidInputError(f"num_drafts is at least 1; got {self.num_drafts}")
        if self.num_candidates is not None and self.num_candidates < self.num_drafts:
            raise InvalidInputError(
                f"num_candidates is at least num_drafts; got {self.num_candidates} for {self.num_drafts} drafts"
            )
        if not 0 <= self.alpha <= 1:
            raise InvalidInputError(f"alpha is 0 to 1; got {self.alpha}")
        if not self.temperature > 0:
            raise InvalidInputError(f"temperature is above 0; got {self.temperature}")
        if not self.penalty >= 0:
            raise InvalidInputError(f"penalty is at least 0 nats; got {self.penalty}")
        if self.reset is not None and self.reset < 1:
            raise InvalidInputError(f"reset is at least 1 step; got {self.reset}")


@dataclass(frozen=True)
class SuperposedOutput:
    """Drafts, best first.

    sequences: int64 [B, K, L], the prompt as it was given and the draft, filled up behind an end token. lengths: int64
    [B, K], tokens of the drafts, the end token included. scores: float64 [B, K], log scores of model and n-grams; -inf
    where there were too few tokens to choose from; such drafts are the last. log_probs: float32 at least, [B, K],
    log-probabilities that the model gives the drafts, None without rescoring. forwards: passes of the model.
    """

    sequences: torch.Tensor
    lengths: torch.Tensor
    scores: torch.Tensor
    log_probs: torch.Tensor | None
    forwards: int


@torch.no_grad()
def superposed_generate(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    max_new_tokens: int = 10,
    ngrams: NgramModel | None = None,
    config: SuperposedConfig = SuperposedConfig(),
    attention_mask: torch.Tensor | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    cache: Cache | None = None,
    logits_processor: LogitsProcessorList | None = None,
    generator: torch.Generator | None = None,
) -> SuperposedOutput:
    """Several drafts of what follows each prompt, int64 [B, L]; prompts of a batch are padded on the left.

    ngrams: of the same vocabulary; without any, all drafts share the model's next tokens, and only the first is good.
    attention_mask: 0 where a prompt is padded. eos_token_id: what ends a draft, default nothing. pad_token_id: stands
    behind the end, default the end token. cache: what the model has read already, a beginning of the prompts; default
    nothing. It holds the prompts afterwards where it can be rolled back; an empty one with windows is left alone.
    logits_processor: applied once a step, with the best draft as the text, so that it is approximate for the others.
    generator: draws the draft that a reset goes on with, by probability; None: the best one. Else deterministic.
    Raises InvalidInputError for prompts and models that do not fit, ModelOutputError where logits are not finite.
    """
    ends = [] if eos_token_id is None else [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
    candidates = _check(model, input_ids, attention_mask, max_new_tokens, ngrams, config)
    reader = _Reader(model, input_ids, attention_mask, cache, max_new_tokens)
    first_BV = logits_BV = reader.read(input_ids=input_ids[:, reader.length :])
    if config.reset is not None and not reader.can_forget:
        raise InvalidInputError(f"{type(model).__name__} keeps states that cannot be rolled back; leave reset out")
    if config.rescore and isinstance(reader.cache, KVCache) and not reader.can_forget:
        raise InvalidInputError(
            "drafts cannot be rescored behind a cache that cannot be rolled back; set rescore=False, or give a window "
            "some spare tokens and no top_k"
        )
    smoothing = ngrams if ngrams is not None and config.alpha > 0 else None
    drafts = _Drafts(input_ids, attention_mask, config, ends, smoothing)
    embed = model.get_input_embeddings()
    for step in range(max_new_tokens):
        if logits_processor:
            logits_BV = logits_processor(drafts.best(input_ids), logits_BV.to(copy=True, dtype=torch.float32))
        drafts.extend(*_top(logits_BV, candidates, step))
        if step + 1 == max_new_tokens or drafts.all_ended:
            break
        if config.reset is not None and (step + 1) % config.reset == 0:
            reader.forget(reader.length - (config.reset - 1))
            drafts.choose_one(generator)
            logits_BV = reader.read(
                input_ids=torch.from_numpy(drafts.text_BKL[:, 0, -config.reset :]).to(input_ids.device)
            )
        else:
            logits_BV = reader.read(inputs_embeds=_superposition(embed, drafts.text_BKL[:, :, -1], drafts.shares()))
    rows, scores_BK = drafts.result()
    lengths_BK = torch.tensor([[len(draft) for draft in row] for row in rows])
    log_probs_BK = None
    if config.rescore:
        log_probs_BK = reader.log_probs(first_BV, rows).cpu()
        means_BK = (log_probs_BK / lengths_BK).masked_fill(scores_BK.isneginf(), -torch.inf)
        rank_BK = means_BK.argsort(dim=1, descending=True, stable=True)
        rows = [[row[at] for at in rank] for row, rank in zip(rows, rank_BK.tolist(), strict=True)]
        scores_BK, lengths_BK, log_probs_BK = (
            values.gather(1, rank_BK) for values in (scores_BK, lengths_BK, log_probs_BK)
        )
    if reader.can_forget:
        reader.forget(input_ids.shape[1])
    filler = pad_token_id if pad_token_id is not None else ends[0] if ends else 0
    sequences_BKL = _sequences(input_ids, rows, filler)
    return SuperposedOutput(sequences_BKL, lengths_BK, scores_BK, log_probs_BK, reader.forwards)


class Superposed:
    """A decoding method for `model.generate(..., custom_generate=Superposed(ngrams))`.

    It returns what `generate` does for several sequences a prompt: int64 [B * K, L], those of a prompt side by side,
    best first; with `return_dict_in_generate` the `SuperposedOutput`. Sampling options other than those of the config
    act as logits processors do. output: of the latest call. Raises InvalidInputError for beam search and for stopping
    criteria other than a length and end tokens.
    """

    def __init__(
        self,
        ngrams: NgramModel | None = None,
        config: SuperposedConfig = SuperposedConfig(),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.ngrams = ngrams
        self.config = config
        self.generator = generator
        self.output: SuperposedOutput | None = None

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> torch.Tensor | SuperposedOutput:
        """See the class."""
        if (generation_config.num_beams or 1) > 1 or (generation_config.num_return_sequences or 1) > 1:
            raise InvalidInputError("superposed decoding has its own drafts; set num_drafts, and no beams or sequences")
        rule = Rule(logits_processor, stopping_criteria, do_sample=False)
        if rule.others:
            raise InvalidInputError(
                "superposed drafts end at a length or an end token; leave other stopping criteria out"
            )
        mask_BL = model_kwargs.get("attention_mask")
        if gives_rest_alone(input_ids, mask_BL, generation_config):
            raise InvalidInputError("superposed decoding takes whole prompts, also where a cache holds their beginning")
        pad = generation_config._pad_token_tensor
        self.output = superposed_generate(
            model,
            input_ids,
            max_new_tokens=rule.max_length - input_ids.shape[1],
            ngrams=self.ngrams,
            config=self.config,
            attention_mask=mask_BL,
            eos_token_id=sorted(rule.ends),
            pad_token_id=None if pad is None else int(pad),
            cache=model_kwargs.get(CACHE_KEYWORD),
            logits_processor=logits_processor,
            generator=self.generator,
        )
        if generation_config.return_dict_in_generate:
            return self.output
        return self.output.sequences.flatten(0, 1)


def tune_superposed(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    ngrams: NgramModel | None,
    *,
    config: SuperposedConfig = SuperposedConfig(),
    temperatures: Sequence[float] = (0.1, 0.2, 0.5, 1.0),
    alphas: Sequence[float] = (0.2, 0.3, 0.4, 0.54),
    max_new_tokens: int = 10,
    judge: Callable[[SuperposedOutput], float] | None = None,
) -> SuperposedConfig:
    """The config with the temperature and the alpha that give the best drafts of some dozens of prompts.

    judge: the larger, the better the drafts of all prompts are; such as the share of prompts where some draft begins
    with the word that was really there. Default: what the model gives the tokens of all drafts on average, which draws
    them towards its greedy text. Without n-grams alpha stays as it is.
    Cost: a batch of all prompts for every pair of values. Raises InvalidInputError without prompts or values.
    """
    if not prompts or not temperatures or not alphas:
        raise InvalidInputError("tuning needs prompts, temperatures and alphas; give at least one of each")
    size = max(map(len, prompts))
    ids_BL = torch.tensor([[0] * (size - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask_BL = torch.tensor([[0] * (size - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    best = (-np.inf, config)
    for temperature in temperatures:
        for alpha in alphas if ngrams is not None else (config.alpha,):
            tried = replace(config, temperature=temperature, alpha=alpha)
            drafts = superposed_generate(
                model,
                ids_BL,
                max_new_tokens=max_new_tokens,
                ngrams=ngrams,
                config=tried if judge is not None else replace(tried, rescore=True),
                attention_mask=mask_BL,
            )
            score = _mean_log_prob(drafts) if judge is None else judge(drafts)
            best = max(best, (score, tried), key=lambda pair: pair[0])
    return best[1]


def _mean_log_prob(drafts: SuperposedOutput) -> float:
    assert drafts.log_probs is not None
    return float((drafts.log_probs / drafts.lengths).mean())


class _Drafts:
    """The drafts of all prompts while they grow. Those of a prompt are in falling order of their scores."""

    def __init__(
        self,
        input_ids: torch.Tensor,
        mask_BL: torch.Tensor | None,
        config: SuperposedConfig,
        ends: list[int],
        ngrams: NgramModel | None,
    ) -> None:
        self.config = config
        self.ngrams = ngrams
        self.ends = np.array(ends, np.int64)
        self.written = 0  # tokens of each draft
        self.finished: list[list[tuple[float, list[int]]]] = [[] for _ in input_ids]
        # Before the first step there is one draft: as much of the prompt as n-grams look at, -1 where there is none.
        self.before = ngrams.max_order - 1 if ngrams is not None else 0
        self.text_BKL: Tokens = np.full((len(input_ids), 1, self.before), -1, np.int64)
        size = min(self.before, input_ids.shape[1])
        if size > 0:
            tail_BL = input_ids[:, -size:].cpu().numpy()
            self.text_BKL[:, 0, -size:] = (
                tail_BL if mask_BL is None else np.where(mask_BL[:, -size:].cpu().numpy() == 0, -1, tail_BL)
            )
        self.scores_BK: Floats = np.zeros(self.text_BKL.shape[:2])

    @property
    def all_ended(self) -> bool:
        """Whether no draft is alive."""
        return len(self.ends) > 0 and bool(np.isneginf(self.scores_BK).all())

    def extend(self, logits_BS: Floats, tokens_BS: Tokens) -> None:
        """One token more for the best pairs of a draft and a candidate. logits: in falling order, as the tokens."""
        config, keep = self.config, self.config.num_drafts
        ngrams = self.ngrams if self.written > 0 or config.first_step_ngrams else None
        looked_at = self.before if ngrams is not None else 0
        pairs_BR, total_BR = _native.best_pairs(
            None if ngrams is None else ngrams.table,
            None if ngrams is None else ngrams.weights,
            logits_BS,
            tokens_BS.astype(np.uint32),
            self.text_BKL[:, :, self.text_BKL.shape[2] - looked_at :].astype(np.uint32),
            self.scores_BK,
            config.temperature,
            config.alpha,
            config.penalty,
            2 * keep if len(self.ends) else keep,
        )
        if len(self.ends):
            pairs_BR, total_BR = self._take_out_ended(pairs_BR, total_BR, tokens_BS)
        pairs_BK, self.scores_BK = pairs_BR[:, :keep], total_BR[:, :keep].copy()
        parents_BK, at_BK = np.divmod(pairs_BK, tokens_BS.shape[1])
        rows_B1 = np.arange(len(tokens_BS))[:, None]
        self.text_BKL = np.concatenate(
            [self.text_BKL[rows_B1, parents_BK], tokens_BS[rows_B1, at_BK][:, :, None]], axis=2
        )
        self.written += 1

    def shares(self) -> Floats:
        """The probability of each living draft among those of its prompt, [B, K]; 0 where none lives."""
        weight_BK = np.exp(self.scores_BK - np.maximum(self.scores_BK[:, :1], -1e300))  # the first is the best
        shares_BK: Floats = weight_BK / np.maximum(weight_BK.sum(axis=1, keepdims=True), 1e-300)
        return shares_BK

    def best(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The text of each prompt with its best draft, int64 [B, L]."""
        written = torch.from_numpy(self.text_BKL[:, 0, self.before :]).to(input_ids.device)
        return torch.cat([input_ids, written], dim=1)

    def choose_one(self, generator: torch.Generator | None) -> None:
        """Go on with one draft alone, the best or one drawn by probability."""
        chosen_B = np.zeros(len(self.text_BKL), np.int64)
        if generator is not None:
            shares_BK = torch.from_numpy(np.maximum(self.shares(), 1e-300)).to(generator.device)
            chosen_B = torch.multinomial(shares_BK, 1, generator=generator)[:, 0].cpu().numpy()
        rows_B = np.arange(len(chosen_B))
        self.text_BKL = self.text_BKL[rows_B, chosen_B][:, None]
        self.scores_BK = self.scores_BK[rows_B, chosen_B][:, None]

    def result(self) -> tuple[list[list[list[int]]], torch.Tensor]:
        """The best drafts of each prompt by their score a token, and their scores [B, K]."""
        rows, scores = [], []
        for ended, text_KL, score_K in zip(self.finished, self.text_BKL, self.scores_BK, strict=True):
            alive = list(zip(score_K.tolist(), text_KL[:, self.before :].tolist(), strict=True))
            ranked = sorted([*ended, *alive], key=lambda draft: draft[0] / len(draft[1]), reverse=True)
            ranked = ranked[: self.config.num_drafts]
            scores.append([score for score, _ in ranked])
            rows.append([draft for _, draft in ranked])
        return rows, torch.tensor(scores, dtype=torch.float64)

    def _take_out_ended(self, pairs_BR: Tokens, total_BR: Floats, tokens_BS: Tokens) -> tuple[Tokens, Floats]:
        """Move the drafts that end here to the finished ones; the pairs with the others first, and no draft last."""
        parents_BR, at_BR = np.divmod(pairs_BR, tokens_BS.shape[1])
        newest_BR = np.take_along_axis(tokens_BS, at_BR, 1)
        ended_BR = np.isin(newest_BR, self.ends)
        for row, at in zip(*np.nonzero(ended_BR & (total_BR > -np.inf)), strict=True):
            draft = [*self.text_BKL[row, parents_BR[row, at], self.before :].tolist(), int(newest_BR[row, at])]
            self.finished[row].append((float(total_BR[row, at]), draft))
        for ended in self.finished:
            ended.sort(key=lambda draft: draft[0], reverse=True)
            del ended[self.config.num_drafts :]
        order_BR = np.argsort(ended_BR, axis=1, kind="stable")
        total_BR = np.where(ended_BR, -np.inf, total_BR)
        return np.take_along_axis(pairs_BR, order_BR, 1), np.take_along_axis(total_BR, order_BR, 1)


class _Reader:
    """What the model has read: the prompts, and behind them tokens that can be taken back. One row a prompt.

    length: columns that are cached, of the prompts and behind them. forwards: passes of the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        mask_BL: torch.Tensor | None,
        cache: Cache | None,
        max_new_tokens: int,
    ) -> None:
        self.model = model
        # An empty cache with windows would be filled in vain: it loses what is to be rolled back.
        usable = cache is not None and not (any(cache.is_sliding) and cache.get_seq_length() == 0)
        self.cache = cache if cache is not None and usable else whole_cache(model)
        self.input_ids = input_ids
        self.forwards = 0
        knows_length = not self.cache.layers or not all(self.cache.is_linear)
        self.length = int(self.cache.get_seq_length()) if knows_length else 0
        if self.length >= input_ids.shape[1]:
            raise InvalidInputError(
                f"the cache holds {self.length} tokens and the prompts have {input_ids.shape[1]}; a prompt begins with "
                "all that is cached, and has at least one token more"
            )
        self.mask_BL = None if mask_BL is None or mask_BL.all() else mask_BL.bool()
        if self.mask_BL is not None:
            self.mask_BT = torch.nn.functional.pad(self.mask_BL, (0, max_new_tokens), value=True)
            self.positions_BT = (self.mask_BT.cumsum(1) - 1).clamp(min=0)
        self._last_only = (
            {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        )

    def read(self, **tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] behind new tokens: `input_ids` [B, Q] or `inputs_embeds` [B, Q, H]."""
        return self._forward(self._last_only, tokens)[:, -1]

    @property
    def can_forget(self) -> bool:
        """Whether the cache can be rolled back; known after the first pass."""
        return bool(self.cache.is_croppable)

    def forget(self, length: int) -> None:
        """Forget all but the first `length` columns."""
        # A layer with a window drops what it no longer needs in crop alone, so it is called for nothing too.
        self.cache.crop(length - self.length)
        self.length = length

    def log_probs(self, first_BV: torch.Tensor, drafts: Drafts) -> torch.Tensor:
        """What the model itself gives the drafts, [B, K]. first: logits behind the prompts."""
        if isinstance(self.cache, KVCache):  # what such a cache shows need not be the prompts
            behind = [self._log_probs_behind(first_BV, drafts_B) for drafts_B in zip(*drafts, strict=True)]
            return torch.stack(behind, dim=1)
        if has_window(self.model) or not takes_trees(self.model, self.cache):
            self.forwards += 1
            return plain_log_probs(self.model, self.input_ids, self.mask_BL, drafts)
        self.forget(self.input_ids.shape[1])
        past_BL = torch.ones_like(self.input_ids) if self.mask_BL is None else self.mask_BL
        log_probs_BK = tree_log_probs(self.model, self.cache, past_BL.bool().cpu(), first_BV, drafts)
        read = int(self.cache.get_seq_length()) - self.length  # nothing where all drafts have one token
        self.forwards += read > 0
        self.length += read
        return log_probs_BK

    def _log_probs_behind(self, first_BV: torch.Tensor, drafts_B: Sequence[Sequence[int]]) -> torch.Tensor:
        """The same for one draft of each row, [B], read behind the prompts."""
        self.forget(self.input_ids.shape[1])
        logits_BQV, ids_BQ = first_BV[:, None], padded(drafts_B).to(first_BV.device)
        if ids_BQ.shape[1] > 1:
            logits_BQV = torch.cat([logits_BQV, self._forward({}, {"input_ids": ids_BQ[:, :-1]})], dim=1)
        return path_log_probs(logits_BQV, drafts_B)

    def _forward(self, which: dict[str, int], tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        is_first = self.length == 0
        start = self.length
        self.length += next(iter(tokens.values())).shape[1]
        more: dict[str, Any] = {CACHE_KEYWORD: self.cache}
        if self.mask_BL is not None:
            more["attention_mask"] = self.mask_BT[:, : self.length]
            more["position_ids"] = self.positions_BT[:, start : self.length]
        logits_BQV: torch.Tensor = self.model(**tokens, use_cache=True, **which, **more).logits
        self.forwards += 1
        if is_first and self.can_forget:
            self.cache.activate_past_recording()
        return logits_BQV


def _check(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    mask_BL: torch.Tensor | None,
    max_new_tokens: int,
    ngrams: NgramModel | None,
    config: SuperposedConfig,
) -> int:
    """Refuse what cannot work; the number of candidates otherwise."""
    name, text = type(model).__name__, model.config.get_text_config()
    takes = inspect.signature(model.forward).parameters
    if model.config.is_encoder_decoder or "inputs_embeds" not in takes or CACHE_KEYWORD not in takes:
        raise InvalidInputError(
            f"{name} does not take embeddings and a key-value cache; superposed decoding needs a causal model that does"
        )
    if getattr(text, "hidden_size_per_layer_input", None):
        raise InvalidInputError(f"{name} embeds tokens in every layer, where they cannot be superposed; use another")
    if max_new_tokens < 1:
        raise InvalidInputError(f"max_new_tokens is at least 1; got {max_new_tokens}")
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise InvalidInputError(f"prompts are ids [B, L] of at least one token; got {list(input_ids.shape)}")
    if not 0 <= int(input_ids.min()) <= int(input_ids.max()) < text.vocab_size:
        raise InvalidInputError(f"a prompt has ids outside the vocabulary of {text.vocab_size:,} tokens")
    length = input_ids.shape[1]
    if mask_BL is not None:
        if mask_BL.shape != input_ids.shape:
            raise InvalidInputError(
                f"the mask is as large as the ids; got {list(mask_BL.shape)} for {list(input_ids.shape)}"
            )
        if not mask_BL[:, -1].all() or (mask_BL.long().diff(dim=1) < 0).any():
            raise InvalidInputError("a prompt is empty or padded on the right; pad prompts on the left")
        length = int(mask_BL.sum(1).max())
    window = getattr(text, "max_position_embeddings", None)
    if window is not None and length + max_new_tokens > window:
        raise InvalidInputError(
            f"the prompt of {length:,} tokens and {max_new_tokens} new ones exceed the model's window of {window:,}; "
            "shorten the prompt"
        )
    if ngrams is not None and ngrams.vocab_size > text.vocab_size:
        raise InvalidInputError(
            f"the n-grams have {ngrams.vocab_size:,} tokens and the model {text.vocab_size:,}; build them with the "
            "tokenizer of the model"
        )
    if config.num_drafts > text.vocab_size:
        raise InvalidInputError(f"{config.num_drafts} drafts are more than there are tokens ({text.vocab_size})")
    if max_new_tokens > LINEAR_TOKENS and config.reset is None and config.num_drafts > 1:
        warnings.warn(
            f"superposed drafts lose touch with the model after about 10 tokens, and {max_new_tokens} were asked for; "
            "set reset",
            stacklevel=4,
        )
    candidates = config.num_candidates or 3 * config.num_drafts
    if candidates > text.vocab_size:
        warnings.warn(f"there are {text.vocab_size} tokens, so that {candidates} cannot be candidates", stacklevel=4)
    return min(candidates, text.vocab_size)


def _top(logits_BV: torch.Tensor, candidates: int, step: int) -> tuple[Floats, Tokens]:
    """The largest logits in falling order and their tokens, [B, S]; of equal ones the smaller token first."""
    top = logits_BV.topk(candidates)
    logits_BS = top.values.to("cpu", torch.float64).numpy()
    tokens_BS = top.indices.cpu().numpy()
    if not np.isfinite(logits_BS[:, 0]).all():  # topk takes NaN for the largest
        raise ModelOutputError(
            f"the model's logits are not finite at step {step}; look at its weights and precision, or at the logits "
            "processors"
        )
    if (logits_BS[:, 1:] == logits_BS[:, :-1]).any():  # topk leaves equal ones in any order
        order_BS = np.lexsort((tokens_BS, -logits_BS), axis=1)
        tokens_BS = np.take_along_axis(tokens_BS, order_BS, 1)
    return logits_BS, tokens_BS


def _superposition(embed: torch.nn.Module, tokens_BK: Tokens, shares_BK: Floats) -> torch.Tensor:
    """The embeddings of the tokens, weighted and summed: [B, 1, H]."""
    assert isinstance(embed.weight, torch.Tensor)
    embedded_BKH = embed(torch.from_numpy(tokens_BK).to(embed.weight.device))
    wide = torch.promote_types(embedded_BKH.dtype, torch.float32)
    shares_B1K = torch.from_numpy(shares_BK[:, None]).to(embedded_BKH.device, wide)
    return (shares_B1K @ embedded_BKH.to(wide)).to(embedded_BKH.dtype)


def _sequences(input_ids: torch.Tensor, drafts: Drafts, filler: int) -> torch.Tensor:
    copies = len(drafts[0])
    size = max(len(draft) for row in drafts for draft in row)
    filled = [[[*draft, *[filler] * (size - len(draft))] for draft in row] for row in drafts]
    new_BKL = torch.tensor(filled, dtype=input_ids.dtype, device=input_ids.device)
    return torch.cat([input_ids[:, None].expand(-1, copies, -1), new_BKL], dim=2)
