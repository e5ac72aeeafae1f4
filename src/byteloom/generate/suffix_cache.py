"""Suffix-tree speculation: propose the continuation that followed the same suffix before.

Use it for agent loops, code edits, queries over one schema, and other repetitive output; it needs no draft model. It
remembers the answers of all requests, looks in them and in the request's own text for what follows the longest suffixes
of the text, and proposes the longer the longer the match is.

    cache = SuffixCache(max_bytes=1 << 30)
    model.generate(**inputs, custom_generate=Speculation(cache))

Source: SuffixDecoding, NeurIPS 2025, arXiv 2411.04975. Departures: a context as long as the text is tried too; shares
are those of all continuations, not of all occurrences (the text's own end is one); trees of conversations are kept.
Cost: about 1 us a token to remember, some 10 us a proposal, 50 to 80 bytes a token and tree.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath, read_sealed, write_sealed
from byteloom.generate.drafts import Draft, check_new_row, row_state

FORMAT = "byteloom suffix cache 1"
REMEDY = "name a file that SuffixCache.save wrote"
TEXT = 0  # the one sequence of a row's own tree


class _Row:
    """A request: its own tree over prompt and answer, and its place in the tree of all answers."""

    def __init__(self, tree: _native.SuffixTree, text: array[int], answer: int) -> None:
        self.tree = tree
        self.text = text
        self.answer = answer

    def extend(self, ids: npt.NDArray[np.uint32]) -> None:
        self.tree.extend(TEXT, ids)
        self.text.frombytes(ids.tobytes())


class SuffixCache:
    """A `Drafter` that remembers answers. Use one for all requests of a kind; it is not for several threads at once.

    max_depth: tokens of a match and what follows it, together. max_requests: finished answers that are kept at most.
    max_bytes: what the tree of answers may take; the oldest answers go first, and one that does not fit at all is not
    kept. factor, offset: a match of m tokens allows a draft of factor * m + offset. least: probability of a drafted
    token, at least. max_tokens: of a draft. trees: propose branching drafts, for models that verify them.
    conversations: trees of finished requests that are kept for requests which go on where these ended: nothing is
    indexed twice. Raises InvalidInputError for numbers out of range.
    """

    def __init__(
        self,
        *,
        max_depth: int = 64,
        max_requests: int = 10_000,
        max_bytes: int | None = None,
        factor: float = 1.0,
        offset: float = 0.0,
        least: float = 0.1,
        max_tokens: int = 64,
        trees: bool = False,
        conversations: int = 16,
    ) -> None:
        if not 2 <= max_depth <= 4096:
            raise InvalidInputError(f"max_depth is 2 to 4096 tokens; got {max_depth}")
        if max_requests < 0 or max_tokens < 0 or conversations < 0 or (max_bytes is not None and max_bytes < 0):
            raise InvalidInputError("max_requests, max_bytes, max_tokens and conversations are at least 0")
        if factor < 0 or not 0 <= least <= 1:
            raise InvalidInputError(f"factor is at least 0 and least within 0 and 1; got {factor} and {least}")
        self.max_depth = max_depth
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.factor = factor
        self.offset = offset
        self.least = least
        self.max_tokens = max_tokens
        self.trees = trees
        self.conversations = conversations
        self._answers = _native.SuffixTree(max_depth)
        self._next = 0
        self._finished: deque[int] = deque()  # answers, the oldest first
        self._rows: dict[Hashable, _Row] = {}
        self._ended: list[_Row] = []  # conversations that may go on, the oldest first

    @property
    def tokens(self) -> int:
        """Tokens of all remembered answers."""
        return int(self._answers.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of the tree of answers and of all trees of conversations."""
        rows = [*self._rows.values(), *self._ended]
        return int(self._answers.nbytes + sum(row.tree.nbytes + row.text.itemsize * len(row.text) for row in rows))

    def add(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """Remember a finished answer, such as one of an earlier run."""
        self._remember(_checked(ids))
        self._forget()

    def start(self, row: Hashable, prompt_ids: Sequence[int]) -> None:
        """See `Drafter`. A prompt that begins with all of an ended conversation continues it."""
        check_new_row(row, self._rows)
        prompt = _checked(prompt_ids)
        state = self._resume(prompt)
        if state is None:
            state = _Row(_native.SuffixTree(self.max_depth), array("I"), 0)
        state.answer = self._next
        self._next += 1
        self._rows[row] = state
        state.extend(prompt[len(state.text) :])

    def propose(self, rows: Sequence[Hashable], budgets: Sequence[int]) -> list[Draft]:
        """See `Drafter`."""
        states = [row_state(row, self._rows) for row in rows]
        rules = [
            _native.DraftRule(max(0, min(self.max_tokens, budget)), self.factor, self.offset, self.least, self.trees)
            for budget in budgets
        ]
        proposals = _native.propose_rows(
            [state.tree for state in states],
            [TEXT] * len(states),
            self._answers,
            [np.frombuffer(state.text[-self.max_depth :], np.uint32) for state in states],
            rules,
        )
        return [
            Draft(tokens, parents, probabilities, match=match, source="answers" if of_answers else "text")
            for tokens, parents, probabilities, match, of_answers in proposals
        ]

    def observe(self, row: Hashable, new_ids: Sequence[int]) -> None:
        """See `Drafter`. Other rows may be proposed it from now on."""
        state = row_state(row, self._rows)
        ids = _checked(new_ids)
        state.extend(ids)
        if len(ids):
            self._answers.extend(state.answer, ids)

    def stop(self, row: Hashable) -> None:
        """See `Drafter`. The answer stays, as long as there is room."""
        state = row_state(row, self._rows)
        del self._rows[row]
        if state.answer in self._answers:
            self._answers.finish(state.answer)
            self._finished.append(state.answer)
        self._ended.append(state)
        del self._ended[: max(0, len(self._ended) - self.conversations)]
        self._forget()

    def save(self, path: StrPath, tokenizer: str = "") -> None:
        """Write the finished answers to a file. tokenizer: a name or digest of what made the ids; `load` compares it.

        Raises FileError.
        """
        texts = [self._answers.text(answer) for answer in self._finished]
        header = {"format": FORMAT, "tokenizer": tokenizer, "answers": len(texts)}
        sizes = np.array([len(text) for text in texts], "<u4")
        write_sealed(path, header, [sizes.tobytes(), *(text.tobytes() for text in texts)])

    def load(self, path: StrPath, tokenizer: str = "") -> Self:
        """Remember the answers of a file that `save` wrote, besides those that are here; returns the cache.

        Raises FileError when the file cannot be read, is damaged or is no such file, InvalidInputError when it was made
        with another tokenizer (both named).
        """
        header, texts = _read(path)
        if tokenizer and header["tokenizer"] and tokenizer != header["tokenizer"]:
            raise InvalidInputError(
                f"{path} was made with the tokenizer {header['tokenizer']!r}, not {tokenizer!r}; give its own"
            )
        for text in texts:
            self._remember(text)
        self._forget()
        return self

    def _resume(self, prompt: npt.NDArray[np.uint32]) -> _Row | None:
        fitting = [
            row for row in self._ended if np.array_equal(prompt[: len(row.text)], np.frombuffer(row.text, np.uint32))
        ]
        if not fitting:
            return None
        longest = max(fitting, key=lambda row: len(row.text))
        self._ended.remove(longest)
        return longest

    def _remember(self, ids: npt.NDArray[np.uint32]) -> None:
        if len(ids):
            self._answers.extend(self._next, ids)
            self._answers.finish(self._next)
            self._finished.append(self._next)
            self._next += 1

    def _forget(self) -> None:
        """Remove the oldest finished answers until there is room."""
        while self._finished and (
            len(self._finished) > self.max_requests
            or (self.max_bytes is not None and self._answers.nbytes > self.max_bytes)
        ):
            self._answers.remove(self._finished.popleft())


def _checked(ids: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.uint32]:
    """The ids as uint32 [n]. Raises InvalidInputError when they are not token ids."""
    if isinstance(ids, list):  # the tokens of a step: numpy would take longer than the tree
        try:
            return np.frombuffer(array("I", ids), np.uint32)
        except (TypeError, OverflowError):
            pass  # said below
    given = np.asarray(ids)
    if given.size == 0:
        return np.zeros(0, np.uint32)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise InvalidInputError(f"token ids are one row of integers; got {given.dtype} of shape {given.shape}")
    if given.min() < 0 or given.max() >= 1 << 32:
        raise InvalidInputError(f"token ids are 0 to 2^32 - 1; got {given.min()} to {given.max()}")
    return np.ascontiguousarray(given, np.uint32)


def _read(path: StrPath) -> tuple[dict[str, str], list[npt.NDArray[np.uint32]]]:
    header, data = read_sealed(path, FORMAT, "suffix cache", REMEDY)
    try:
        words = np.frombuffer(data, "<u4")
        sizes = words[: header["answers"]].astype(np.int64)
        header["tokenizer"]
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{Path(path)} is damaged or cut off; {REMEDY}") from error
    if len(sizes) + sizes.sum() != len(words):
        raise FileError(f"{Path(path)} is damaged or cut off; {REMEDY}")
    return header, np.split(words[len(sizes) :].astype(np.uint32), np.cumsum(sizes)[:-1]) if len(sizes) else []
