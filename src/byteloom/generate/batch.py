"""Speculative decoding of many prompts at once, each text exactly as if it were alone.

    output = speculate_batch(model, prompts, drafter=SuffixCache(), max_new_tokens=200)
    output.texts[0]                 # the new ids of the first prompt
    output.statistics.seconds       # {"verify": 4.1, "draft": 0.2, ...}

Use it to decode a file of prompts; a service holds a `BatchEngine` and adds prompts as they come. Rows accept another
number of tokens each; they stay where they are in a ragged cache, and as one ends the next prompt takes its place.
Source: Batch Speculative Decoding Done Right, arXiv 2510.22876; departures: the ragged layout instead of realignment
(`layout="eqspec"`) or grouping by length (`"exspec"`), sampling, and a bonus token after a draft accepted whole. Cost:
a forward pass over the rows' drafts a step.
"""

# Shape suffixes: B rows, L tokens of a prompt.

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from byteloom.errors import InvalidInputError
from byteloom.generate.drafts import Drafter, DraftModel, PromptLookup
from byteloom.generate.engine import Engine, Statistics
from byteloom.generate.pace import Pace
from byteloom.generate.padded_rows import GroupedRows, PaddedRows
from byteloom.generate.rows import Rows, SeparateRows
from byteloom.generate.speculation import check_vocabulary, rows_of
from byteloom.generate.suffix_cache import SuffixCache
from byteloom.generate.texts import ENDLESS, Finish, Rule, Sampling, Text, end_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Layout = Literal["ragged", "eqspec", "exspec"]
WINDOW = 3  # times batch_size: how many rows exspec chooses from


@dataclass(frozen=True)
class BatchOutput:
    """What was written. texts: the new ids of each prompt, in the order of the prompts, an end token included.
    finish: why each ended. statistics: of the run. grouping: share of exspec's steps whose rows were of one length."""

    texts: list[list[int]]
    finish: list[Finish]
    statistics: Statistics
    grouping: float | None = None


class BatchEngine:
    """Prompts come in at any time, and texts come out as they end.

        engine = BatchEngine(model, SuffixCache(), batch_size=8)
        text = engine.add(prompt_ids, max_new_tokens=100)
        while engine.step():
            ...
        text.new_ids, text.finish

    drafter: who proposes; "suffix", "lookup", a smaller model of the same vocabulary, or any `Drafter`. batch_size:
    rows of a pass. layout: "ragged", or "eqspec" and "exspec" for comparison. num_draft_tokens: of a draft at most;
    None: as the drafter likes. adaptive: verify as much of a draft as pays; False: all of it. logits_processor: applied
    before sampling, to each text alone. eos: ids that end a text; default those of the model's generation_config.
    on_tokens: called with each text that has new tokens, in `new`. Raises InvalidInputError for numbers out of range, a
    draft model of another vocabulary, and models that keep something else than keys and values.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        drafter: Drafter | PreTrainedModel | Literal["suffix", "lookup"] = "suffix",
        *,
        batch_size: int = 8,
        layout: Layout = "ragged",
        num_draft_tokens: int | None = None,
        adaptive: bool = True,
        sampling: Sampling = Sampling(),
        logits_processor: LogitsProcessorList | None = None,
        eos: Iterable[int] | None = None,
        on_tokens: Callable[[Text], None] = lambda text: None,
    ) -> None:
        if batch_size < 1:
            raise InvalidInputError(f"batch_size is at least 1; got {batch_size}")
        if num_draft_tokens is not None and num_draft_tokens < 0:
            raise InvalidInputError(f"num_draft_tokens is at least 0; got {num_draft_tokens}")
        self.model = model
        self.sampling = sampling
        self.statistics = Statistics()
        self._processors = LogitsProcessorList([*(logits_processor or []), *sampling.processors()])
        self._ends = end_ids(model) if eos is None else set(eos)
        self._count = 0
        proposer = _drafter(drafter)
        check_vocabulary(proposer, model)
        self._rows = _rows(model, layout, batch_size)
        self._engine = Engine(
            self._rows,
            proposer,
            size=batch_size * (WINDOW if layout == "exspec" else 1),
            most=num_draft_tokens,
            pace=Pace() if adaptive else None,
            statistics=self.statistics,
            on_tokens=on_tokens,
        )

    @property
    def grouping(self) -> float | None:
        """The share of exspec's steps whose rows were of one length; None for other layouts, and before a step."""
        rows = self._rows
        return rows.grouped / rows.turns if isinstance(rows, GroupedRows) and rows.turns else None

    def add(self, prompt: Sequence[int] | torch.Tensor, *, max_new_tokens: int) -> Text:
        """Let a prompt wait for its turn; `new_ids` of its text grow with each `step`.

        Raises InvalidInputError for an empty prompt, ids that the model does not have, and what exceeds its window.
        """
        ids = [int(token) for token in prompt]
        name = f"prompt {self._count}"
        if not ids:
            raise InvalidInputError(f"{name} is empty; give it at least one token")
        if max_new_tokens < 1:
            raise InvalidInputError(f"max_new_tokens is at least 1; got {max_new_tokens} for {name}")
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise InvalidInputError(f"{name} has an id outside of 0 to {vocabulary - 1}; use the model's own tokenizer")
        window = getattr(self.model.config, "max_position_embeddings", None) or ENDLESS
        if len(ids) + max_new_tokens > window:
            raise InvalidInputError(
                f"{name} has {len(ids):,} tokens and {max_new_tokens:,} are to follow, but the model's window is "
                f"{window:,}; shorten one of them"
            )
        rule = Rule(self._processors, StoppingCriteriaList(), self.sampling.temperature > 0)
        rule.ends, rule.max_length = self._ends, len(ids) + max_new_tokens
        generator = None
        if rule.do_sample:
            seed = (self.sampling.seed * 1_000_003 + self._count) % (1 << 63)
            generator = torch.Generator(self.model.device).manual_seed(seed)
        text = Text(self.model, torch.tensor(ids, device=self.model.device), ids, rule, generator)
        self._count += 1
        self._engine.waiting.append(text)
        return text

    def step(self) -> bool:
        """Read waiting prompts into free rows and write on; returns whether there is anything left to do."""
        return self._engine.step()

    def close(self) -> None:
        """Give up all texts that have not ended."""
        self._engine.close()


def speculate_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]] | torch.Tensor,
    *,
    attention_mask: torch.Tensor | None = None,
    drafter: Drafter | PreTrainedModel | Literal["suffix", "lookup"] = "suffix",
    max_new_tokens: int | Sequence[int],
    batch_size: int = 8,
    layout: Layout = "ragged",
    num_draft_tokens: int | None = None,
    adaptive: bool = True,
    sampling: Sampling = Sampling(),
    logits_processor: LogitsProcessorList | None = None,
    eos: Iterable[int] | None = None,
    on_tokens: Callable[[Text], None] = lambda text: None,
) -> BatchOutput:
    """Continue all prompts; each text is the one that greedy (or seeded) decoding of the prompt alone gives.

    prompts: ids, of any lengths; or int64 [B, L] with an attention_mask that tells padding on either side (without one
    all ids are content). max_new_tokens: of all, or of each. The other arguments are those of `BatchEngine`, and so are
    the errors.
    """
    rows = [ids.tolist() if isinstance(ids, torch.Tensor) else list(ids) for ids in prompts]
    if attention_mask is not None:
        if not isinstance(prompts, torch.Tensor) or attention_mask.shape != prompts.shape:
            raise InvalidInputError("an attention_mask goes with prompts in one tensor of its shape")
        rows = [ids[kept].tolist() for ids, kept in zip(prompts, attention_mask.bool(), strict=True)]
    budgets = [max_new_tokens] * len(rows) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    if len(budgets) != len(rows):
        raise InvalidInputError(f"give max_new_tokens for each of {len(rows)} prompts; got {len(budgets)}")
    engine = BatchEngine(
        model,
        drafter,
        batch_size=batch_size,
        layout=layout,
        num_draft_tokens=num_draft_tokens,
        adaptive=adaptive,
        sampling=sampling,
        logits_processor=logits_processor,
        eos=eos,
        on_tokens=on_tokens,
    )
    texts = [engine.add(ids, max_new_tokens=budget) for ids, budget in zip(rows, budgets, strict=True)]
    try:
        while engine.step():
            pass
    finally:
        engine.close()
    return BatchOutput(
        [text.new_ids for text in texts],
        [text.finish for text in texts if text.finish is not None],
        engine.statistics,
        engine.grouping,
    )


def _drafter(drafter: Drafter | PreTrainedModel | str) -> Drafter:
    if isinstance(drafter, str):
        if drafter not in ("suffix", "lookup"):
            raise InvalidInputError(f'a drafter is "suffix", "lookup", a model or a Drafter; got {drafter!r}')
        return SuffixCache() if drafter == "suffix" else PromptLookup()
    return DraftModel(drafter) if isinstance(drafter, torch.nn.Module) else drafter


def _rows(model: PreTrainedModel, layout: str, batch_size: int) -> Rows:
    if layout == "ragged":
        return SeparateRows(model) if batch_size == 1 else rows_of(model)
    if layout == "eqspec":
        return PaddedRows(model)
    if layout == "exspec":
        return GroupedRows(model, batch_size)
    raise InvalidInputError(f'layout is "ragged", "eqspec" or "exspec"; got {layout!r}')
