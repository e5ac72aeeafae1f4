"""An n-gram language model over any tokens: interpolated Witten-Bell counts, looked up in batches.

Use it to train the small language model of a subword lexicon, and to read the ARPA files of other tools.
Source: Witten and Bell, The zero-frequency problem, IEEE Transactions on Information Theory 37(4), 1991.
Cost: training sorts order x tokens; a lookup is one binary search for each order that has to be tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath, atomic_write, open_bytes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
_RESERVED = (START, END, UNKNOWN)
_NEVER = -99.0  # how ARPA files write a logarithm of zero, to base 10


class NGram:
    """Conditional probabilities of tokens after up to `order` - 1 others, in the back-off form of ARPA files.

    A state is a context that was seen: its number stands for the tokens, and state 0 is the empty context. Decoders
    use `start`, `score` and `token_id`; `logp` is for looking at single probabilities.

    >>> lm = NGram.train([["a", "b"], ["a", "c"]])
    >>> round(math.exp(lm.logp("b", ["a"])), 4)
    0.34
    """

    def __init__(
        self, order: int, tokens: Sequence[str], contexts: Sequence[tuple[int, ...]], keys: Ints, logp: Floats,
        backoff: Floats
    ) -> None:  # fmt: skip
        """Use `train` or `load`. `keys` are state * len(tokens) + token, ascending; every token has one in state 0."""
        self.order = order
        self.tokens = list(tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self._contexts, self._keys, self._logp, self._backoff = list(contexts), keys, logp, backoff
        states = {context: state for state, context in enumerate(contexts)}

        def longest(context: tuple[int, ...]) -> int:
            while context not in states:
                context = context[1:]
            return states[context]

        keep = order - 1
        self._lower = np.array([longest(context[1:]) for context in contexts], np.int64)
        owners, following = np.divmod(keys, len(self.tokens))
        self._successor = np.array(
            [
                longest((*contexts[owner], token)[-keep:] if keep else ())
                for owner, token in zip(owners.tolist(), following.tolist(), strict=True)
            ],
            np.int64,
        )
        self.start = longest((0,) if keep else ())
        """The state at the beginning of a sentence."""

    @classmethod
    def train(
        cls,
        sentences: Iterable[Sequence[str]],
        order: int = 2,
        *,
        fragments: Iterable[tuple[Sequence[str], float]] = (),
        vocabulary: Iterable[str] = (),
    ) -> NGram:
        """Count `sentences`, and interpolate each order with the one below: (c(hw) + T(h) p(w|h')) / (c(h) + T(h)).

        T(h) is the number of distinct tokens that follow h, of which one that was seen less than once counts only as
        much as it was seen; below single tokens lies the uniform distribution.
        `fragments` are sequences with weights that neither begin nor end a sentence, such as the pieces of the words
        of a list; `vocabulary` names tokens that may occur although none of these has them. Raises InvalidInputError
        when there is nothing to count, `order` is not positive, a weight is not, or a token cannot stand in an ARPA
        file.
        """
        if order < 1:
            raise InvalidInputError(f"the order of an n-gram model must be at least 1; got {order}")
        runs: list[tuple[Sequence[str], float]] = [((START, *sentence, END), 1.0) for sentence in sentences]
        whole = len(runs)
        runs += [(tuple(fragment), weight) for fragment, weight in fragments if len(fragment)]
        if not runs:
            raise InvalidInputError("there is no sentence to train a language model on")
        if not all(weight > 0 and math.isfinite(weight) for _, weight in runs):
            raise InvalidInputError("the weight of a fragment must be a positive number")
        inner = {token for run, _ in runs[:whole] for token in run[1:-1]}
        inner.update(token for run, _ in runs[whole:] for token in run)
        tokens = [*_RESERVED, *sorted(inner.union(vocabulary))]
        _check_tokens(tokens)
        ids = {token: i for i, token in enumerate(tokens)}

        lengths = np.array([len(run) for run, _ in runs])
        text = np.array([ids[token] for run, _ in runs for token in run], np.int64)
        weight = np.repeat([weight for _, weight in runs], lengths)
        offset = np.arange(len(text)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return cls(order, tokens, *_count(text, weight, offset, order, len(tokens)))

    def token_id(self, token: str) -> int:
        """The number of a token; that of <unk> where it is unknown. Raises InvalidInputError without an <unk>."""
        found = self._ids.get(token, self._ids.get(UNKNOWN))
        if found is None:
            raise InvalidInputError(f"the language model has neither {token!r} nor {UNKNOWN}")
        return found

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    @property
    def units(self) -> list[str]:
        """The tokens that text can have: all but <s>, </s> and <unk>."""
        return [token for token in self.tokens if token not in _RESERVED]

    def logp(self, token: str, history: Sequence[str] = ()) -> float:
        """The natural logarithm of the probability of `token` after `history`, of which the last order - 1 count.

        Begin the history with START where it begins a sentence; `token` may be END. Unknown tokens are <unk>.
        """
        state = np.zeros(1, np.int64)
        for i, earlier in enumerate(history):
            if i == 0 and earlier == START:
                state[:] = self.start
            else:
                state = self.score(state, np.array([self.token_id(earlier)]))[1][0]
        return float(self.score(state, np.array([self.token_id(token)]))[0][0, 0])

    def score(self, states: Ints, tokens: Ints) -> tuple[Floats, Ints]:
        """Log-probabilities (nats) and the states that follow, both [len(states), len(tokens)]."""
        state = np.repeat(states, len(tokens))
        token = np.tile(tokens, len(states))
        total = np.zeros(len(state))
        entry = np.empty(len(state), np.int64)
        open_ = np.arange(len(state))
        while len(open_):
            key = state[open_] * len(self.tokens) + token[open_]
            at = np.searchsorted(self._keys, key)
            hit = self._keys[np.minimum(at, len(self._keys) - 1)] == key  # state 0 has every token, so this ends
            entry[open_[hit]] = at[hit]
            open_ = open_[~hit]
            total[open_] += self._backoff[state[open_]]
            state[open_] = self._lower[state[open_]]
        shape = len(states), len(tokens)
        return (total + self._logp[entry]).reshape(shape), self._successor[entry].reshape(shape)

    def save_arpa(self, path: StrPath) -> None:
        """Write the model as an ARPA file, which KenLM, SRILM, Kaldi and k2 read. Raises FileError."""
        levels: list[list[str]] = [[] for _ in range(self.order)]
        states = {context: state for state, context in enumerate(self._contexts)}
        for key, logp in zip(self._keys.tolist(), self._logp.tolist(), strict=True):
            state, token = divmod(key, len(self.tokens))
            ngram = (*self._contexts[state], token)
            line = f"{max(logp / math.log(10), _NEVER):.7g}\t{' '.join(self.tokens[i] for i in ngram)}"
            if ngram in states:
                line += f"\t{self._backoff[states[ngram]] / math.log(10):.7g}"
            levels[len(ngram) - 1].append(line)
        with atomic_write(path, "w") as file:
            file.write("\\data\\\n")
            file.writelines(f"ngram {n}={len(lines)}\n" for n, lines in enumerate(levels, 1))
            for n, lines in enumerate(levels, 1):
                file.write(f"\n\\{n}-grams:\n" + "\n".join(lines) + "\n")
            file.write("\n\\end\\\n")

    @classmethod
    def load(cls, path: StrPath) -> NGram:
        """Read an ARPA file of any tool. Raises FileError when it cannot be read or is not one."""
        try:
            levels = _read_arpa(bytes(open_bytes(path)).decode())
        except (ValueError, IndexError) as error:
            raise FileError(f"cannot read {path}: it is not an ARPA file; write one with save_arpa or KenLM") from error
        tokens = [*_RESERVED, *(token for (token,) in levels[0] if token not in _RESERVED)]
        if (UNKNOWN,) not in levels[0]:
            tokens.remove(UNKNOWN)
        ids = {token: i for i, token in enumerate(tokens)}
        missing = sorted({token for level in levels for ngram in level for token in ngram} - set(ids))
        if missing or (END,) not in levels[0]:
            raise FileError(f"cannot read {path}: its 1-grams lack {', '.join(missing[:10]) or END}")
        levels[0].setdefault((START,), (_NEVER, 0.0))
        backoffs = {tuple(ids[t] for t in ngram): b for level in levels[:-1] for ngram, (_, b) in level.items()}
        heads = {tuple(ids[t] for t in ngram[:-1]) for level in levels for ngram in level}
        contexts = sorted(heads | {ngram for ngram, b in backoffs.items() if b} | {()}, key=lambda c: (len(c), c))
        states = {context: state for state, context in enumerate(contexts)}
        entries = sorted(
            (states[tuple(ids[t] for t in ngram[:-1])] * len(tokens) + ids[ngram[-1]], logp)
            for level in levels
            for ngram, (logp, _) in level.items()
        )
        return cls(
            len(levels),
            tokens,
            contexts,
            np.array([key for key, _ in entries], np.int64),
            np.array([logp for _, logp in entries]) * math.log(10),
            np.array([backoffs.get(context, 0.0) for context in contexts]) * math.log(10),
        )


def _check_tokens(tokens: Sequence[str]) -> None:
    for token, following in pairwise(sorted(tokens)):
        if token == following:
            raise InvalidInputError(f"{token} is reserved; it cannot be a token of a language model")
    bad = next((token for token in tokens if not token or any(c.isspace() for c in token)), None)
    if bad is not None:
        raise InvalidInputError(f"a token must have letters and no white space; got {bad!r}")


def _count(
    text: Ints, weight: Floats, offset: Ints, order: int, size: int
) -> tuple[list[tuple[int, ...]], Ints, Floats, Floats]:
    """Contexts, keys, log-probabilities and back-offs of all orders; arrays [positions], `offset` from the beginning.

    The state of the k tokens before a position is that of the k - 1 tokens before the position to its left, and the
    token there: so each order is one sort of pairs of numbers.
    """
    contexts: list[tuple[int, ...]] = [()]
    predicted = text != 0
    base = 1 / (size - 1)
    count = np.bincount(text[predicted], weight[predicted], size)
    distinct = np.minimum(count, 1).sum()
    below = (count + distinct * base) / (count.sum() + distinct)
    below[0] = 0
    with np.errstate(divide="ignore"):
        levels = [(np.arange(size), np.log(below))]
    backoffs = [np.log([distinct / (count.sum() + distinct)])]
    state = np.zeros(len(text), np.int64)  # of the context of `k` tokens, where there are as many
    keys, chances = levels[0][0], below
    for k in range(1, order):
        at = np.flatnonzero(offset >= k)
        if not len(at):
            break
        pairs, local = np.unique(state[at - 1] * size + text[at - 1], return_inverse=True)
        first = len(contexts)
        contexts += [(*contexts[pair // size], pair % size) for pair in pairs.tolist()]
        lower = np.empty(len(pairs), np.int64)
        lower[local] = state[at]
        state = np.full(len(text), -1, np.int64)
        state[at] = first + local

        entries, place = np.unique(state[at] * size + text[at], return_inverse=True)
        count = np.bincount(place, weight[at])
        owner = entries // size - first
        total, distinct = np.bincount(owner, count), np.bincount(owner, np.minimum(count, 1))
        shorter = chances[np.searchsorted(keys, lower[owner] * size + entries % size)]
        keys, chances = entries, (count + distinct[owner] * shorter) / (total + distinct)[owner]
        levels.append((keys, np.log(chances)))
        backoffs.append(np.log(distinct / (total + distinct)))
    all_keys, logp = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    return contexts, all_keys, logp, np.concatenate(backoffs)


def _read_arpa(text: str) -> list[dict[tuple[str, ...], tuple[float, float]]]:
    """Of each order, the n-grams with their logarithms to base 10 and back-offs. Raises ValueError, IndexError."""
    levels: list[dict[tuple[str, ...], tuple[float, float]]] = []
    for line in text[text.index("\\data\\") :].splitlines():
        if line.endswith("-grams:"):
            levels.append({})
        elif line.startswith("\\end\\"):
            break
        elif levels and line.strip():
            fields = line.split()
            n = len(levels)
            levels[-1][tuple(fields[1 : n + 1])] = (float(fields[0]), float(fields[n + 1]) if fields[n + 1 :] else 0.0)
    if not levels or any(len(ngram) != n for n, level in enumerate(levels, 1) for ngram in level):
        raise ValueError("no n-grams")
    return levels
