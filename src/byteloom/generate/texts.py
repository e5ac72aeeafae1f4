"""A text while it is written, and the rule by which each of its tokens is chosen and its end is known."""

# Shape suffixes: L tokens of a text, Q tokens in one forward pass, V vocabulary.

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from transformers import EosTokenCriteria, LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from byteloom.errors import InvalidInputError
from byteloom.generate.drafts import Draft

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Finish = Literal["stop", "length"]
ENDLESS = 1 << 30  # tokens


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 takes the most probable one; top_k 0 and top_p 1 leave all in.

    seed: of the random numbers; each text has its own, whoever is written beside it.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise InvalidInputError("temperature and top_k are at least 0, top_p above 0 and at most 1")

    def processors(self) -> LogitsProcessorList:
        """Those of transformers that draw so."""
        processors = LogitsProcessorList()
        if self.temperature not in (0, 1):
            processors.append(TemperatureLogitsWarper(self.temperature))
        if self.temperature and self.top_k:
            processors.append(TopKLogitsWarper(self.top_k))
        if self.temperature and self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        return processors


class Rule:
    """How a token is chosen from logits, and what ends a text. max_length: tokens of the text, prompt included."""

    def __init__(self, processors: LogitsProcessorList, criteria: StoppingCriteriaList, do_sample: bool | None) -> None:
        self.processors = processors
        self.do_sample = bool(do_sample)
        self.max_length = min((c.max_length for c in criteria if type(c) is MaxLengthCriteria), default=ENDLESS)
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

    def finish(self, text: Text) -> Finish | None:
        """Why the text ends with its last token; None where it goes on."""
        if text.last in self.ends:
            return "stop"
        if text.size >= self.max_length:
            return "length"
        return "stop" if self.others and bool(self.others(text.ids[None], None).any()) else None


class Text:
    """A text while it is written.

    ids: its first tokens, int64 [L], padding included where there is any, for logits processors and stopping criteria
    see all; prompt: what the model reads of them. generator: for sampling. endless: no window ends the drafts.
    new_ids: what was written behind them; new: of these, the tokens of the last step. finish: why it ended, None while
    it goes on.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids_L: torch.Tensor,
        prompt: list[int],
        rule: Rule,
        generator: torch.Generator | None = None,
        *,
        endless: bool = False,
    ) -> None:
        self.prompt = prompt
        self.rule = rule
        self.new_ids: list[int] = []
        self.new: list[int] = []
        self.finish: Finish | None = None
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        window = None if endless else getattr(model.config, "max_position_embeddings", None)
        self._window = window or ENDLESS
        self._first = self._filled = len(ids_L)
        self._buffer_L = ids_L
        self._generator = generator

    @property
    def last(self) -> int:
        """The newest token."""
        return self.new_ids[-1] if self.new_ids else self.prompt[-1]

    @property
    def size(self) -> int:
        """How many tokens `ids` has."""
        return self._first + len(self.new_ids)

    @property
    def ids(self) -> torch.Tensor:
        """All tokens of the text, int64 [L]; a view, until the next token."""
        if self.size > len(self._buffer_L):
            with torch.inference_mode(False):  # the caller of `generate` gets it
                self._buffer_L = torch.cat([self._buffer_L, self._buffer_L.new_zeros(self.size)])
        unfilled = self.new_ids[self._filled - self._first :]
        if unfilled:  # a tensor is made when somebody asks for it: most texts never need one before their end
            self._buffer_L[self._filled : self.size] = torch.tensor(unfilled)
            self._filled = self.size
        return self._buffer_L[: self.size]

    def budget(self) -> int:
        """How long a draft may be: what the model adds itself must fit behind it, and the window ends somewhere."""
        read = len(self.prompt) + len(self.new_ids) - 1
        return max(0, min(self.rule.max_length - self.size, self._window - read) - 1)

    def usable(self, draft: Draft, *, trees: bool) -> Draft:
        """The part of a draft that can be verified."""
        if draft.tokens and not 0 <= min(draft.tokens) <= max(draft.tokens) < self._vocabulary:
            warnings.warn("a drafter proposed ids that the model does not have; they are ignored", stacklevel=2)
            return Draft(source=draft.source)
        if not trees and not draft.is_path:
            draft = _best_path(draft)
        return draft.cut(self.budget())

    def settle(self, logits_QV: torch.Tensor, draft: Draft, choices: Sequence[int] | None = None) -> list[int]:
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
            self.new.append(token)
            self.new_ids.append(token)
            self.finish = self.rule.finish(self)
            at = None if self.finish else children.get((at, token))
        return kept


def end_ids(model: PreTrainedModel) -> set[int]:
    """The ids that end a text of `model`, as its generation_config says."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


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
