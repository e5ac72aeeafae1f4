"""How much of the drafts is worth its verification: learned from what passes have cost and what drafts have yielded."""

from __future__ import annotations

from collections.abc import Sequence

from byteloom.generate.drafts import Draft


class Pace:
    """How much of the drafts is worth its verification, and whether it is worth to ask for them.

    What drafts yield is remembered by their source and the power of two of their match, and what a pass costs by its
    rows and the power of two of its tokens a row; chosen is the size with the most expected tokens a second. A size
    that was never tried is taken to cost what the next smaller one does, and one that was costly once is tried again
    after a while, for it may have been by chance. Where drafts do not pay for the time that they and their verification
    take, the drafter rests for 1, 2, 4... steps, and goes on when a step is faster than a plain one.
    """

    NEWEST = 0.25  # weight of a new measurement
    FADING = 0.999  # of a cost, each time another size is chosen
    MARGIN = 1.1
    LASTING = 0.97  # of what drafts yielded, each time a draft of the kind is judged
    RECENT = 0.1  # weight of the newest step for which drafts were asked
    LONGEST_REST = 16  # steps

    def __init__(self) -> None:
        self._costs: dict[tuple[int, int], float] = {}  # seconds
        self._yields: dict[tuple[str, int], tuple[float, float]] = {}  # accepted tokens, and expected ones; they fade
        self._recent = [0.0, 0.0]  # tokens and seconds of a step for which drafts were asked
        self._rest = 0  # steps without asking that are left
        self._patience = 1  # steps of the next rest

    def asks(self, rows: int) -> bool:
        """Whether to ask for drafts before the next step: not while they are known to slow the rows down."""
        if (rows, 1) not in self._costs:  # what a step without drafts costs, all else is compared with
            return False
        if self._rest:
            self._rest -= 1
            return False
        return True

    def learn_step(self, rows: int, tokens: int, seconds: float) -> None:
        """A step for which drafts were asked took so long, the asking included, and gave so many tokens."""
        plain = rows / self._costs[rows, 1]
        for at, value in enumerate((tokens, seconds)):
            self._recent[at] += self.RECENT * (value - self._recent[at])
        if tokens >= plain * seconds:
            self._patience = 1
        elif self._recent[0] < plain * self._recent[1]:
            self._rest = self._patience
            self._patience = min(2 * self._patience, self.LONGEST_REST)

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
