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

# Shape suffixes: B rows, L tokens of a row.

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from byteloom.errors import InvalidInputError
from byteloom.generate.drafts import Drafter
from byteloom.generate.engine import Engine, Statistics
from byteloom.generate.pace import Pace
from byteloom.generate.rows import RaggedRows, Rows, SeparateRows
from byteloom.generate.texts import Rule, Text
from byteloom.models.attention import CACHE_KEYWORD, gives_rest_alone
from byteloom.models.kvcache import KVCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache
    from transformers.generation.streamers import BaseStreamer


class Speculation:
    """A decoding method for `model.generate(..., custom_generate=Speculation(drafter))`.

    drafter: who proposes; kept from call to call, and so is what it learned. trees: verify branching drafts where the
    model can; else their most probable path. streamer: a streamer of transformers (`generate` does not hand its own to
    custom methods). adaptive: verify as much of a draft as pays; False: all of it. statistics: of all calls so far.
    Raises InvalidInputError for beam search, encoder-decoder models, a batch with a streamer or a cache of its own, and
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
        mask_BL = model_kwargs.get("attention_mask")
        self._check(model, input_ids, mask_BL, generation_config, cache)
        rule = Rule(logits_processor, stopping_criteria, generation_config.do_sample)
        is_rest = gives_rest_alone(input_ids, mask_BL, generation_config)
        if is_rest:
            mask_BL = None  # all of it is seen, or `_check` had refused it
        texts = []
        for at, ids_L in enumerate(input_ids):
            prompt = (ids_L if mask_BL is None else ids_L[mask_BL[at].bool()]).tolist()
            if not prompt:
                raise InvalidInputError(f"prompt {at} is empty; give it at least one token")
            generator = None  # one row draws what plain sampling draws
            if len(input_ids) > 1 and rule.do_sample:  # and of many each draws for itself, whoever else is there
                generator = torch.Generator(ids_L.device).manual_seed(int(torch.randint(1 << 62, ())))
            texts.append(Text(model, ids_L, prompt, rule, generator, endless=isinstance(cache, KVCache)))
        if self.streamer is not None:
            self.streamer.put(input_ids.cpu())
        rows: Rows = SeparateRows(model, cache, is_part=not is_rest) if len(texts) == 1 else rows_of(model)
        kept = rows.rows if isinstance(rows, SeparateRows) else []  # outlives the row's end
        engine = Engine(
            rows,
            self.drafter,
            size=len(texts),
            trees=self.trees,
            most=cache.takes_back if isinstance(cache, KVCache) else None,
            pace=self._pace,
            statistics=self.statistics,
            on_tokens=self._show,
        )
        engine.waiting.extend(texts)
        try:
            while engine.step():
                pass
        finally:
            engine.close()
            if kept:
                _release_from_inference(kept[0].cache)
        if self.streamer is not None:
            self.streamer.end()
        self.statistics.plain_forwards += max(len(text.new_ids) for text in texts)
        ids_BL = _rectangle([text.ids for text in texts], generation_config)
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=ids_BL, **{CACHE_KEYWORD: kept[0].cache if kept else None})
        return ids_BL

    def _show(self, text: Text) -> None:
        if self.streamer is not None:
            for token in text.new:
                self.streamer.put(torch.tensor([token]))

    def _check(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        mask_BL: torch.Tensor | None,
        config: GenerationConfig,
        cache: Any,
    ) -> None:
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
        is_filled = cache is not None and not all(cache.is_linear) and cache.get_seq_length() > 0
        if len(input_ids) > 1 and (is_filled or isinstance(cache, KVCache)):
            raise InvalidInputError("a cache of your own goes with one row; give one prompt at a time")
        if is_filled and mask_BL is not None and not mask_BL.all():
            raise InvalidInputError("a filled cache goes with a prompt without padding; leave the padding out")
        check_vocabulary(self.drafter, model)


def check_vocabulary(drafter: Drafter, model: PreTrainedModel) -> None:
    """Raise InvalidInputError when the drafter is a model of another vocabulary than `model`."""
    vocabulary = getattr(drafter, "vocabulary", None)
    ids = model.config.get_text_config().vocab_size
    if vocabulary is not None and vocabulary != ids:
        raise InvalidInputError(
            f"the draft model has {vocabulary:,} tokens and the model {ids:,}; they need the same tokenizer"
        )


def rows_of(model: PreTrainedModel) -> Rows:
    """Rows in one pass where attention takes a mask for each; else one after another, and slower."""
    attention = model.config._attn_implementation
    if attention in ("sdpa", "eager", "byteloom"):
        return RaggedRows(model)
    warnings.warn(
        f"{attention} attention takes no mask for rows of different lengths, so they are decoded one after another; "
        'call model.set_attn_implementation("sdpa") to decode them together',
        stacklevel=3,
    )
    return SeparateRows(model)


def _release_from_inference(cache: Cache) -> None:
    """Let the states of a cache be ordinary tensors again, which may meet ones that need a gradient."""
    for layer in cache.layers:
        for name in ("keys", "values"):
            states = getattr(layer, name, None)
            if states is not None and states.is_inference():
                setattr(layer, name, states.clone())


def _rectangle(rows: list[torch.Tensor], config: GenerationConfig) -> torch.Tensor:
    """The rows side by side, the shorter ones padded on the right as `generate` does."""
    pad = config._pad_token_tensor
    value = 0 if pad is None else int(pad)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
