"""Words from a confusion network: beam search over units of a lexicon with an n-gram language model.

Use it for tests and small jobs; a real recogniser takes the lexicon and the ARPA file to Kaldi or k2.
Source: arXiv 2207.13331, where the search is a WFST's. Cost: phones x beam x units that match, all in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from byteloom.errors import InvalidInputError
from byteloom.tasks.speech_lexicon.lexicon import Lexicon, Node
from byteloom.tasks.speech_lexicon.ngram import END, Floats, Ints, NGram

Network = Sequence[Mapping[str, float]]  # for each phone that was heard, candidates and their log-probabilities


def decode(network: Network, lexicon: Lexicon, lm: NGram, *, beam: int = 30, lm_weight: float = 1.0) -> list[str]:
    """The best sequence of units for one network; `Decoder` is faster for many. Raises as it does."""
    return Decoder(lexicon, lm, beam=beam, lm_weight=lm_weight).decode(network)


class Decoder:
    """A lexicon and a language model, ready to decode.

    The score of a sentence is the sum of the log-probabilities of its phones and `lm_weight` times that of its units.
    At each position the `beam` best hypotheses with different futures are kept. What comes out is well formed by the
    lexicon's rule: no word without its end. Raises InvalidInputError when a unit is missing from the language model,
    or a token of it from the lexicon.
    """

    def __init__(self, lexicon: Lexicon, lm: NGram, *, beam: int = 30, lm_weight: float = 1.0) -> None:
        if beam < 1:
            raise InvalidInputError(f"beam must be at least 1; got {beam}")
        known = set(lexicon.units)
        for missing, where in (
            ([unit for unit in lexicon.units if unit not in lm], "language model"),
            ([token for token in lm.units if token not in known], "lexicon"),
        ):
            if missing:
                raise InvalidInputError(
                    f"{len(missing):,} units are missing from the {where}, such as {', '.join(missing[:10])}; make "
                    "both from one dictionary and one style of marks"
                )
        self._lexicon, self._lm, self._beam, self._weight = lexicon, lm, beam, lm_weight
        self._token = np.array([lm.token_id(unit) for unit in lexicon.units], np.int64)
        self._leads = np.array(lexicon.leads, np.int64)
        self._allowed = np.array(lexicon.allowed, bool)  # [2, units]

    def decode(self, network: Network) -> list[str]:
        """The units of the best sentence; empty where no sequence of units fits all of the network."""
        size = len(network)
        # What ends at each position: scores, language model states, states of the rule, units, and the hypotheses
        # they go on from.
        pending: list[list[tuple[Floats, Ints, Ints, Ints, Ints]]] = [[] for _ in range(size + 1)]
        none = np.full(1, -1, np.int64)
        pending[0].append((np.zeros(1), np.array([self._lm.start]), np.zeros(1, np.int64), none, none))
        units: list[Ints] = []
        backs: list[Ints] = []
        first = 0  # the number of the first hypothesis at this position
        for at in range(size + 1):
            if not pending[at]:
                continue
            score, state, inside, unit, back = self._best(pending[at])
            pending[at] = []
            units.append(unit)
            backs.append(back)
            if at == size:
                return self._finish(score, state, inside, np.concatenate(units), np.concatenate(backs), first)
            for end, (matched, heard) in self._matches(network, at).items():
                logp, following = self._lm.score(state, self._token[matched])
                total = score[:, None] + heard + self._weight * logp
                row, column = np.nonzero(self._allowed[inside][:, matched])
                pending[end].append(
                    (total[row, column], following[row, column], self._leads[matched[column]], matched[column],
                     first + row)
                )  # fmt: skip
            first += len(score)
        return []

    def _best(self, parts: Sequence[tuple[Floats, Ints, Ints, Ints, Ints]]) -> tuple[Floats, Ints, Ints, Ints, Ints]:
        """The best hypothesis for each pair of states, the best `beam` of them."""
        score, state, inside, unit, back = (np.concatenate(field) for field in zip(*parts, strict=True))
        order = np.argsort(-score, kind="stable")
        kept = order[np.sort(np.unique((2 * state + inside)[order], return_index=True)[1])[: self._beam]]
        return score[kept], state[kept], inside[kept], unit[kept], back[kept]

    def _matches(self, network: Network, at: int) -> dict[int, tuple[Ints, Floats]]:
        """Of the units that can begin at a position: by their end, their numbers and the scores of their phones."""
        found: dict[int, tuple[Ints, Floats]] = {}
        nodes: list[tuple[Node, float]] = [(self._lexicon.root, 0.0)]
        for end in range(at + 1, len(network) + 1):
            nodes = [
                (node.next[phone], score + logp)
                for node, score in nodes
                for phone, logp in network[end - 1].items()
                if phone in node.next
            ]
            if not nodes:
                break
            matched = [unit for node, _ in nodes for unit in node.units]
            if matched:
                scores = [score for node, score in nodes for _ in node.units]
                found[end] = np.array(matched, np.int64), np.array(scores)
        return found

    def _finish(self, score: Floats, state: Ints, inside: Ints, units: Ints, backs: Ints, first: int) -> list[str]:
        total = score + self._weight * self._lm.score(state, np.array([self._lm.token_id(END)]))[0][:, 0]
        total[~np.isin(inside, self._lexicon.last)] = -np.inf
        best = int(np.argmax(total))
        if total[best] == -np.inf:
            return []
        path = []
        at = first + best
        while units[at] >= 0:
            path.append(self._lexicon.units[units[at]])
            at = backs[at]
        return path[::-1]
