"""What a decoding loop verifies, and who proposes it: the drafters that need no index of past answers.

`byteloom.generate.suffix_cache.SuffixCache` is the one that has it. A drafter speaks of *rows*, the sequences that are
decoded now, by any hashable name, and is told of every token that a row accepts, so that no draft rereads a prompt.
Sources: prompt look-up, Saxena 2023; draft models, Leviathan et al. 2023, arXiv 2211.17192; fallback by score,
SuffixDecoding, NeurIPS 2025, arXiv 2411.04975, section 4.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from byteloom.errors import InvalidInputError
from byteloom.generate.rows import padded
from byteloom.models.ragged_cache import RaggedCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = TypeVar("State")


@dataclass(slots=True)
class Draft:
    """Tokens that may come next. tokens[i] follows tokens[parents[i]], or the text so far where parents[i] is -1;
    parents[i] < i. probabilities: that the whole path to token i is accepted, as the drafter sees it. match: tokens of
    the text that were found before. source: who proposed it."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    match: int = 0
    source: str = ""

    @property
    def score(self) -> float:
        """How many tokens the drafter expects to be accepted."""
        return sum(self.probabilities)

    @property
    def is_path(self) -> bool:
        """Whether every token follows the one before it."""
        return self.parents == list(range(-1, len(self.tokens) - 1))

    def cut(self, size: int) -> Draft:
        """The first `size` tokens."""
        return Draft(
            self.tokens[:size], self.parents[:size], self.probabilities[:size], match=self.match, source=self.source
        )


class Drafter(Protocol):
    """Proposes continuations. What it proposes changes the speed of decoding and never the text."""

    def start(self, row: Hashable, prompt_ids: Sequence[int]) -> None:
        """A row begins with this prompt. Raises InvalidInputError when it began already."""

    def propose(self, rows: Sequence[Hashable], budgets: Sequence[int]) -> list[Draft]:
        """A draft of at most `budgets[i]` tokens for each row; an empty one where nothing is likely."""

    def observe(self, row: Hashable, new_ids: Sequence[int]) -> None:
        """The row goes on with these tokens."""

    def stop(self, row: Hashable) -> None:
        """The row ends."""


def path(tokens: list[int], probability: float, source: str, match: int = 0) -> Draft:
    """A draft without branches, each of whose tokens is accepted with this probability where the one before it is."""
    return Draft(
        tokens,
        list(range(-1, len(tokens) - 1)),
        [probability ** (i + 1) for i in range(len(tokens))],
        match=match,
        source=source,
    )


def check_new_row(row: Hashable, rows: Mapping[Hashable, object]) -> None:
    """Raise InvalidInputError when `row` is one of `rows`."""
    if row in rows:
        raise InvalidInputError(f"row {row!r} has begun already; stop it first, or give the new one another name")


def row_state(row: Hashable, rows: dict[Hashable, State]) -> State:
    """The state of a row. Raises InvalidInputError when it has not begun."""
    if row not in rows:
        raise InvalidInputError(f"there is no row {row!r}; start it first")
    return rows[row]


class PromptLookup:
    """Proposes what followed the last tokens when they first occurred in the prompt or the answer.

    Use it where answers copy from prompts and nothing is kept between requests. tokens: length of a draft. ngram: the
    longest match that is looked for. Cost: O(ngram) a token, about 100 * ngram bytes a token.
    """

    def __init__(self, tokens: int = 10, ngram: int = 3) -> None:
        if tokens < 1 or ngram < 1:
            raise InvalidInputError(f"tokens and ngram are at least 1; got {tokens} and {ngram}")
        self.tokens = tokens
        self.ngram = ngram
        self._rows: dict[Hashable, tuple[list[int], dict[tuple[int, ...], int]]] = {}

    def start(self, row: Hashable, prompt_ids: Sequence[int]) -> None:
        """See `Drafter`."""
        check_new_row(row, self._rows)
        self._rows[row] = ([], {})
        self.observe(row, prompt_ids)

    def propose(self, rows: Sequence[Hashable], budgets: Sequence[int]) -> list[Draft]:
        """See `Drafter`."""
        states = [row_state(row, self._rows) for row in rows]
        return [self._propose(*state, budget) for state, budget in zip(states, budgets, strict=True)]

    def _propose(self, text: list[int], ends: dict[tuple[int, ...], int], budget: int) -> Draft:
        for length in range(min(self.ngram, len(text)), 0, -1):
            end = ends.get(tuple(text[-length:]))
            if end is not None:
                return path(text[end : end + min(self.tokens, budget)], 0.8, "lookup", length)
        return Draft(source="lookup")

    def observe(self, row: Hashable, new_ids: Sequence[int]) -> None:
        """See `Drafter`."""
        text, ends = row_state(row, self._rows)
        for token in new_ids:
            # An n-gram is entered when its continuation is known, so that the end of the text never matches itself.
            for length in range(1, min(self.ngram, len(text)) + 1):
                ends.setdefault(tuple(text[-length:]), len(text))
            text.append(token)

    def stop(self, row: Hashable) -> None:
        """See `Drafter`."""
        row_state(row, self._rows)
        del self._rows[row]


class DraftModel:
    """Proposes what a smaller model of the same vocabulary would write, greedily, with a cache that all rows share.

    Use it where text does not repeat and the model is many times slower than the small one. model: a causal LM on the
    device of the large one. tokens: length of a draft. least: a draft ends before the first token to which the small
    model gives its path less than this probability. Cost: for all rows together a forward pass of the small model a
    drafted token. Raises InvalidInputError for a model that keeps something else than keys and values.
    """

    def __init__(self, model: PreTrainedModel, tokens: int = 5, least: float = 0.3) -> None:
        if tokens < 1 or not 0 <= least <= 1:
            raise InvalidInputError(f"tokens is at least 1 and least within 0 and 1; got {tokens} and {least}")
        self.model = model
        self.tokens = tokens
        self.least = least
        self._cache = RaggedCache(model.config, 0)
        self._names: list[Hashable] = []  # of the rows of the cache
        self._unread: dict[Hashable, list[int]] = {}  # by row: what the cache does not hold

    @property
    def vocabulary(self) -> int:
        """How many ids the model has."""
        return int(self.model.config.get_text_config().vocab_size)

    def start(self, row: Hashable, prompt_ids: Sequence[int]) -> None:
        """See `Drafter`."""
        check_new_row(row, self._unread)
        self._unread[row] = [int(token) for token in prompt_ids]

    @torch.no_grad()
    def propose(self, rows: Sequence[Hashable], budgets: Sequence[int]) -> list[Draft]:
        """See `Drafter`."""
        for row in rows:
            row_state(row, self._unread)
        self._read_prompts([row for row in rows if row not in self._names])
        room = getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        lens = dict(zip(self._names, self._cache.lens.tolist(), strict=True))
        drafts, writing = {row: Draft(source="model") for row in rows}, {}
        for row, budget in zip(rows, budgets, strict=True):
            size = min(budget, self.tokens, room - lens[row] - len(self._unread[row]))
            if size > 0:
                writing[row] = size
        if not writing:
            return list(drafts.values())
        logits = self._forward({row: self._unread[row] for row in writing})
        read = self._cache.lens.clone()
        for row in writing:
            read[self._names.index(row)] -= 1  # the last token is read again, with those that follow it
            del self._unread[row][:-1]
        while True:
            for row, logits_V in logits.items():
                draft = drafts[row]
                share, token = logits_V.float().softmax(-1).max(-1)
                probability = (draft.probabilities[-1] if draft.tokens else 1.0) * float(share)
                if probability >= self.least:
                    draft.tokens.append(int(token))
                    draft.parents.append(len(draft.tokens) - 2)
                    draft.probabilities.append(probability)
                if probability < self.least or len(draft.tokens) == writing[row]:
                    del writing[row]
            if not writing:
                break
            logits = self._forward({row: drafts[row].tokens[-1:] for row in writing})
        self._cache.truncate(read)
        return list(drafts.values())

    def observe(self, row: Hashable, new_ids: Sequence[int]) -> None:
        """See `Drafter`."""
        row_state(row, self._unread).extend(int(token) for token in new_ids)

    def stop(self, row: Hashable) -> None:
        """See `Drafter`."""
        row_state(row, self._unread)
        del self._unread[row]
        if row in self._names:
            left = [at for at, name in enumerate(self._names) if name != row]
            self._cache.compact(torch.tensor(left, dtype=torch.long))
            self._names = [self._names[at] for at in left]

    def _read_prompts(self, rows: Sequence[Hashable]) -> None:
        """Give rows to the cache, which read all of their tokens but the last."""
        if not rows:
            return
        new = RaggedCache(self.model.config, len(rows))
        prompts = [self._unread[row][:-1] for row in rows]
        lengths_B = torch.tensor([len(prompt) for prompt in prompts])
        if int(lengths_B.max()) > 0:
            self.model(**new.inputs(padded(prompts).to(self.model.device), lengths_B), use_cache=True, logits_to_keep=1)
            new.commit(lengths_B)
        self._cache.join(new)
        self._names += rows
        for row in rows:
            del self._unread[row][:-1]

    def _forward(self, ids: Mapping[Hashable, list[int]]) -> dict[Hashable, torch.Tensor]:
        """Logits [V] after the last of the new tokens of some rows; the others wait."""
        places = [ids.get(name, []) for name in self._names]
        lengths_B = torch.tensor([len(new) for new in places])
        logits_BQV = self.model(
            **self._cache.inputs(padded(places).to(self.model.device), lengths_B), use_cache=True
        ).logits
        self._cache.commit(lengths_B)
        return {name: logits_BQV[at, len(places[at]) - 1] for at, name in enumerate(self._names) if places[at]}


class Hybrid:
    """The draft of `first` where it expects at least `threshold` accepted tokens, else that of `second`.

    Use it for a suffix cache with a draft model behind it. A good threshold is the mean number of tokens that `second`
    gets accepted. Cost: that of `first`, and of `second` where it is asked.
    """

    def __init__(self, first: Drafter, second: Drafter, threshold: float = 2.0) -> None:
        if threshold < 0:
            raise InvalidInputError(f"threshold is at least 0; got {threshold}")
        self.first = first
        self.second = second
        self.threshold = threshold

    def start(self, row: Hashable, prompt_ids: Sequence[int]) -> None:
        """See `Drafter`."""
        self.first.start(row, prompt_ids)
        self.second.start(row, prompt_ids)

    def propose(self, rows: Sequence[Hashable], budgets: Sequence[int]) -> list[Draft]:
        """See `Drafter`."""
        drafts = self.first.propose(rows, budgets)
        poor = [at for at, draft in enumerate(drafts) if draft.score < self.threshold]
        others = self.second.propose([rows[at] for at in poor], [budgets[at] for at in poor])
        for at, other in zip(poor, others, strict=True):
            if other.score > drafts[at].score:
                drafts[at] = other
        return drafts

    def observe(self, row: Hashable, new_ids: Sequence[int]) -> None:
        """See `Drafter`."""
        self.first.observe(row, new_ids)
        self.second.observe(row, new_ids)

    def stop(self, row: Hashable) -> None:
        """See `Drafter`."""
        self.first.stop(row)
        self.second.stop(row)
