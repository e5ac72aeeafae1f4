"""The one loop of speculative decoding: texts wait, are read into rows, and are written several tokens a pass.

`byteloom.generate.speculation` runs it inside `model.generate`, `byteloom.generate.batch` over a queue of prompts.
Source: SuffixDecoding, NeurIPS 2025, arXiv 2411.04975; Leviathan et al. 2023, arXiv 2211.17192. Cost: a forward pass
over 1 + drafted tokens a step.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from byteloom.generate.drafts import Draft, Drafter
from byteloom.generate.pace import Pace
from byteloom.generate.rows import Rows
from byteloom.generate.texts import Text

PARTS = ("prompt", "schedule", "draft", "verify", "choose", "align")


@dataclass
class Statistics:
    """What speculation did. rows: texts. tokens: new ones. forwards: passes of the model, those over prompts among
    them; plain_forwards: those that `generate` would have made. steps: verifications of one row.
    drafted, accepted: tokens of verified drafts, by source. seconds: "prompt", "schedule" (who takes part, and who
    leaves), "draft", "verify" (the passes), "choose" (logits processors, sampling, stopping) and "align" (forgetting
    what was rejected).
    """

    rows: int = 0
    tokens: int = 0
    forwards: int = 0
    plain_forwards: int = 0
    steps: int = 0
    drafted: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

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
        """Forward passes that `generate` would have made besides."""
        return self.plain_forwards - self.forwards

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to `seconds[part]`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


class Engine:
    """Texts that are written together.

    rows: the model and how it holds the texts. drafter: who proposes. size: texts that are written at once; the others
    wait, and each takes the place of one that has ended. trees: verify branching drafts where the rows can. most:
    tokens of a draft. pace: how much of a draft is verified; None: all of it. on_tokens: told of each text that has new
    tokens.
    """

    def __init__(
        self,
        rows: Rows,
        drafter: Drafter,
        *,
        size: int,
        trees: bool = True,
        most: int | None = None,
        pace: Pace | None,
        statistics: Statistics,
        on_tokens: Callable[[Text], None] = lambda text: None,
    ) -> None:
        self.rows = rows
        self.drafter = drafter
        self.size = size
        self.trees = trees
        self.most = most
        self.statistics = statistics
        self.waiting: deque[Text] = deque()
        self.active: list[Text] = []  # as the rows are
        self._pace = pace
        self._on_tokens = on_tokens

    @torch.inference_mode()  # a tenth faster than no_grad for small models
    def step(self) -> bool:
        """Read waiting prompts into free rows, and verify a draft of each row that takes its turn.

        Returns whether there is anything left to do. When it raises, `close` gives the rows up.
        """
        if self.waiting and len(self.active) < self.size:
            self._admit()
        if self.active:
            self._advance()
        return bool(self.active or self.waiting)

    def close(self) -> None:
        """Give up all texts, those that wait among them."""
        for text in self.active:
            self.drafter.stop(text)
        self.rows.select([])
        self.active = []
        self.waiting.clear()

    def _admit(self) -> None:
        statistics = self.statistics
        texts = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.size - len(self.active)))]
        with statistics.timed("prompt"):
            logits_R1V = self.rows.add([text.prompt for text in texts])
        for text in texts:
            with statistics.timed("draft"):
                self.drafter.start(text, text.prompt)
            self.active.append(text)
        with statistics.timed("choose"):
            for text, logits_1V, chosen in zip(texts, logits_R1V, _choices(texts, logits_R1V), strict=True):
                text.settle(logits_1V, Draft(), chosen)
        statistics.forwards += 1
        statistics.rows += len(texts)
        self._tell(texts)

    def _advance(self) -> None:
        statistics = self.statistics
        with statistics.timed("schedule"):
            turn = self.rows.turn()
            texts = [self.active[row] for row in turn]
        began = time.perf_counter()
        asks = self._pace is None or self._pace.asks(len(texts))
        with statistics.timed("draft"):
            drafts = self._drafts(texts) if asks else [Draft() for _ in texts]
            size = self._pace.size(drafts) if self._pace else max(len(draft.tokens) for draft in drafts)
            verified = [draft.cut(size) for draft in drafts]
        drafted = time.perf_counter()
        with statistics.timed("verify"):
            logits_RQV = self.rows.forward(
                [[text.last, *draft.tokens] for text, draft in zip(texts, verified, strict=True)],
                [None if draft.is_path else [-1, *(p + 1 for p in draft.parents)] for draft in verified],
            )
            # The pass is over when its numbers are there; on an accelerator that is when they are asked for.
            choices = _choices(texts, logits_RQV)
        with statistics.timed("choose"):
            places = [
                text.settle(logits_QV, draft, chosen)
                for text, logits_QV, draft, chosen in zip(texts, logits_RQV, verified, choices, strict=True)
            ]
        with statistics.timed("align"):
            self.rows.keep(places)
        if self._pace:
            ended = time.perf_counter()
            self._pace.learn_cost(len(texts), 1 + max(len(d.tokens) for d in verified), ended - drafted)
            if asks:
                self._pace.learn_step(len(texts), sum(map(len, places)), ended - began)
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

    def _drafts(self, texts: Sequence[Text]) -> list[Draft]:
        """What the drafter proposes, as far as it can be verified."""
        budgets = [text.budget() if self.most is None else min(text.budget(), self.most) for text in texts]
        trees = self.trees and self.rows.takes_trees
        return [
            text.usable(draft, trees=trees)
            for text, draft in zip(texts, self.drafter.propose(texts, budgets), strict=True)
        ]

    def _tell(self, texts: Sequence[Text]) -> None:
        """Tell of new tokens, and give up the rows of texts that have ended."""
        for text in texts:
            self.statistics.tokens += len(text.new)
            with self.statistics.timed("draft"):
                self.drafter.observe(text, text.new)
            self._on_tokens(text)
        going = [row for row, text in enumerate(self.active) if text.finish is None]
        if len(going) == len(self.active):
            return
        with self.statistics.timed("draft"):
            for text in self.active:
                if text.finish is not None:
                    self.drafter.stop(text)
        with self.statistics.timed("schedule"):
            self.rows.select(going)
        self.active = [self.active[row] for row in going]


def _choices(texts: Sequence[Text], logits_RQV: torch.Tensor) -> Sequence[list[int] | None]:
    """The largest logits of each row, where nothing else is to be chosen."""
    if all(text.rule.is_plain for text in texts):
        choices: list[list[int]] = logits_RQV.argmax(-1).tolist()
        return choices
    return [None] * len(texts)
