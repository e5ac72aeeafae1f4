"""Dictionaries of subwords: a few thousand units that make up every word of a language.

Use them where words are too many to list, as in Tamil, Kannada and other languages that chain suffixes: train a
dictionary, segment words, count n-grams of pieces, write a pronunciation lexicon. "extended_bpe" is the default;
"bpe" is the baseline and gives a merge order; "morfessor" finds units nearest to morphemes, slowly.
Source: Subword Dictionary Learning and Segmentation Techniques for Automatic Speech Recognition in Tamil and Kannada,
Madhavaraj et al. 2022, arXiv 2207.13331. No code was published: "extended BPE" here is a reconstruction from the abstract.
Cost: a pass over 100,000 words takes about 0.05 s; training takes tens of passes. Memory is linear in the words.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.tokenize.akshara import UNITS, Unit, atoms, normalise
from byteloom.tokenize.bpe import available_threads
from byteloom.tokenize.marks import check_symbol, check_text

Method = Literal["bpe", "extended_bpe", "morfessor"]
Estimation = Literal["none", "ml", "viterbi"]
Unknown = Literal["atom", "error"]

UNKNOWN_PENALTY = 10.0  # nats that an unknown atom costs more than the rarest unit; that of Hugging Face's Unigram
BATCH = 100  # pairs joined between two segmentations of the corpus in extended BPE
MAX_UNIT_ATOMS = 8  # of a unit of extended BPE

_UNKNOWN = np.iinfo(np.uint32).max  # what the native lattice gives for an atom that is no unit


class SubwordDictionary:
    """Units with log-probabilities; cuts words into them.

    units: distinct strings. logp: float64 [n], natural logarithms of their probabilities. unit: the atoms that are
    never cut (see `akshara.atoms`). mark_symbol: what words must not hold, because `marks.mark` uses it. unknown: whether
    an atom that is no unit becomes a piece of its own ("atom") or an error. merges: the pairs of units that were joined,
    in order; with them, `segment` joins in that order, and else it takes the most probable path.

    Words are normalised to NFC first: pieces make up the normalised word.
    Raises InvalidInputError for arguments that do not fit each other.

    >>> SubwordDictionary(["a", "b", "ab"], np.log([0.2, 0.3, 0.5])).segment("aba")
    ['ab', 'a']
    """

    def __init__(
        self,
        units: Sequence[str],
        logp: npt.ArrayLike,
        *,
        unit: Unit = "akshara",
        mark_symbol: str = "+",
        unknown: Unknown = "atom",
        merges: Sequence[tuple[str, str]] | None = None,
    ) -> None:
        self.units = tuple(units)
        self.logp = np.array(logp, dtype=np.float64)
        self.unit = unit
        self.mark_symbol = mark_symbol
        self.unknown = unknown
        self.merges = None if merges is None else tuple((left, right) for left, right in merges)
        self._check()
        self._lattice = _lattice(self.units, self.logp)
        self._ids = {text: i for i, text in enumerate(self.units)}
        self._merger = None
        if self.merges is not None:
            table = [(self._ids[left], self._ids[right], self._ids[left + right]) for left, right in self.merges]
            self._merger = _native.MergeSegmenter(np.array(table, np.uint32).reshape(-1, 3))

    def _check(self) -> None:
        if not self.units:
            raise InvalidInputError("a dictionary needs at least one unit")
        if self.logp.shape != (len(self.units),):
            raise InvalidInputError(f"{len(self.units)} units need as many log-probabilities; got {self.logp.shape}")
        if not (np.isfinite(self.logp).all() and (self.logp <= 0).all()):
            raise InvalidInputError("log-probabilities must be finite numbers of at most 0")
        if self.unit not in UNITS:
            raise InvalidInputError(f"unit must be one of {', '.join(UNITS)}; got {self.unit!r}")
        if self.unknown not in get_args(Unknown):
            raise InvalidInputError(f"unknown must be one of {', '.join(get_args(Unknown))}; got {self.unknown!r}")
        check_symbol(self.mark_symbol)
        for text in self.units:
            check_text(text, self.mark_symbol, "a unit")
        known = set(self.units)
        if len(known) < len(self.units):
            raise InvalidInputError("the units of a dictionary must differ from each other")
        for left, right in self.merges or ():
            if not {left, right, left + right} <= known:
                raise InvalidInputError(f"the merge of {left!r} and {right!r} needs both and their result as units")

    def __len__(self) -> int:
        return len(self.units)

    def __repr__(self) -> str:
        return f"SubwordDictionary(units={len(self)}, unit={self.unit!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SubwordDictionary):
            return NotImplemented
        mine, theirs = (
            (one.units, one.unit, one.mark_symbol, one.unknown, one.merges, one.logp.tolist()) for one in (self, other)
        )
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]

    def segment(self, word: str, *, nbest: int = 1) -> Any:
        """The pieces of a word: list[str]; together they are the word in NFC.

        With `nbest` > 1: at most so many segmentations with their log-probabilities, list[tuple[list[str], float]], the
        most probable first (whatever the merges say). Of equal ones, the one of fewer pieces, then the one with the
        longest first piece, comes first.
        Raises InvalidInputError for a word that is empty or holds white space or the mark.
        """
        if nbest < 1:
            raise InvalidInputError(f"nbest must be at least 1; got {nbest}")
        word_atoms = self._atoms(word)
        if nbest == 1:
            return self._segment([word_atoms], threads=1)[0]
        paths = self._lattice.nbest(_native_words([word_atoms]), nbest)
        return [(self._texts(word_atoms, ids.tolist()), -cost) for ids, cost in paths]

    def segment_corpus(self, words: Sequence[str], *, threads: int | None = None) -> list[list[str]]:
        """`segment` for many words, each distinct one once, on `threads` threads (default: all cores)."""
        distinct = list(dict.fromkeys(words))
        pieces = self._segment([self._atoms(word) for word in distinct], available_threads(threads))
        known = dict(zip(distinct, pieces, strict=True))
        return [known[word].copy() for word in words]

    def log_likelihood(self, word: str) -> float:
        """Natural logarithm of the probability of a word: the sum over all its segmentations."""
        return float(self._lattice.log_likelihoods(_native_words([self._atoms(word)]))[0])

    def _atoms(self, word: str) -> list[str]:
        check_text(word, self.mark_symbol)
        parts = atoms(word, self.unit)
        if self.unknown == "error" and (missing := [atom for atom in parts if atom not in self._ids]):
            raise InvalidInputError(f'{missing[0]!r} in {word!r} is no unit; use unknown="atom" or leave the word out')
        return parts

    def _segment(self, words: list[list[str]], threads: int) -> list[list[str]]:
        if self._merger is None:
            ids, pieces = self._lattice.segment(_native_words(words), threads)
        else:
            ids, pieces = self._merger.segment(*_atom_ids(words, self._ids))
        known, starts = ids.tolist(), list(accumulate(pieces.tolist(), initial=0))
        units = self.units
        if _UNKNOWN not in ids:
            texts = [units[i] for i in known]
            return [texts[start:end] for start, end in zip(starts, starts[1:], strict=False)]
        return [
            self._texts(word, known[start:end]) for word, start, end in zip(words, starts, starts[1:], strict=False)
        ]

    def _texts(self, word: list[str], ids: list[int]) -> list[str]:
        """The pieces of a word; an unknown atom is the one that begins where the pieces before it end."""
        atom_at = dict(zip(accumulate(map(len, word), initial=0), word, strict=False))
        pieces: list[str] = []
        at = 0
        for i in ids:
            pieces.append(atom_at[at] if i == _UNKNOWN else self.units[i])
            at += len(pieces[-1])
        return pieces


def train_subwords(
    words: Mapping[str, float] | Sequence[str],
    *,
    method: Method = "extended_bpe",
    estimation: Estimation = "viterbi",
    size: int = 2000,
    unit: Unit = "akshara",
    iterations: int = 6,
    min_count: float = 2,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> SubwordDictionary:
    """Learn a dictionary of `size` units, atoms included, from words.

    words: distinct words with their counts; or a sequence of distinct words, the most frequent first, and then the
    word of rank r (from 0) counts 3 / (1 + r / 1000).

    method:
    - "bpe": the most frequent pair of neighbours becomes a unit, again and again (Hugging Face's BPE over atoms).
    - "extended_bpe": the 100 most frequent pairs become units, then the whole corpus is segmented anew by the most
      probable path, and units that it uses less than `min_count` times go; so an early merge can be undone.
    - "morfessor": Morfessor Baseline on types, by the package `morfessor`; `size` is reached within 5 %, by bisection
      of the weight of the corpus.

    estimation, `iterations` passes that leave the units as they are:
    - "viterbi": probabilities from the counts on the most probable paths, each plus one.
    - "ml": maximum likelihood, by expectation-maximisation over all segmentations.
    - "none": the counts that the method ends with; for "bpe", segmentation is in merge order.

    min_count: a pair that occurs less often is not joined. seed: of Morfessor's order of words.
    progress: called with ("learning" | "estimating", done, in all).
    Raises InvalidInputError for no words, counts that are not positive, unusable words, and a `size` that leaves no
    room beside the atoms (of akshara, Tamil has about 1,800 and Kannada 2,700; of graphemes 230 and 650). Warns when
    the words do not support `size`.

    >>> train_subwords({"banana": 9, "bandana": 5}, method="bpe", estimation="none", size=8).segment("banana")
    ['bana', 'na']
    """
    for name, value, choices in (("method", method, Method), ("estimation", estimation, Estimation)):
        if value not in get_args(choices):
            raise InvalidInputError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
    if iterations < 1:
        raise InvalidInputError(f"iterations must be at least 1; got {iterations}")
    if not min_count > 0:
        raise InvalidInputError(f"min_count must be above 0; got {min_count}")
    report = progress or (lambda what, done, total: None)
    corpus = _Corpus(_counted(words), unit)
    if size <= len(corpus.atoms):
        raise InvalidInputError(
            f"size {size} leaves no room for units: the words have {len(corpus.atoms)} different atoms; "
            "choose a larger size or smaller atoms"
        )
    merges: list[tuple[str, str]] | None = None
    if method == "bpe":
        units, merges, counts = _bpe(corpus, size, min_count)
        report("learning", 1, 1)
    elif method == "extended_bpe":
        units, counts = _extended_bpe(corpus, size, min_count, report)
    else:
        units, counts = _morfessor(corpus, size, seed, report)
    logp = smoothed(counts)
    if estimation != "none":
        merges = None
        for i in range(iterations):
            logp = estimated(units, logp, corpus.words, corpus.weights, estimation)[0]
            report("estimating", i + 1, iterations)
    if len(units) < size and method != "morfessor":
        warnings.warn(
            f"the words support {len(units)} units, not {size}: no pair was left with a count of {min_count:g} or "
            "more; give more words or a smaller min_count",
            stacklevel=2,
        )
    return SubwordDictionary(units, logp, unit=unit, merges=merges)


def smoothed(counts: npt.NDArray[np.float64], add: float = 1.0) -> npt.NDArray[np.float64]:
    """Log-probabilities of units with these counts, `add` added to each: float64 [n]."""
    with np.errstate(divide="ignore"):  # with add=0, a unit that is not used has probability 0
        return np.log((counts + add) / (counts.sum() + add * len(counts)))


def estimated(
    units: Sequence[str],
    logp: npt.NDArray[np.float64],
    words: _native.AtomWords,
    weights: npt.NDArray[np.float64],
    estimation: Estimation,
    *,
    add: float = 1.0,
) -> tuple[npt.NDArray[np.float64], float]:
    """One step of estimation: new log-probabilities, and the log-likelihood of the words under the old ones.

    "viterbi": `smoothed` counts on the most probable paths, whose log-likelihood it is. "ml": the expected counts over all
    paths; a step of expectation-maximisation, which never lowers the log-likelihood.
    """
    counts, objective = _lattice(units, logp).counts(words, weights, estimation == "ml")
    if estimation == "viterbi":
        return smoothed(counts, add), objective
    counts = np.maximum(counts, np.finfo(np.float64).tiny)  # of an atom that longer units have made all but useless
    return np.log(counts / counts.sum()), objective


class _Corpus:
    """Words as sequences of atoms, with weights."""

    def __init__(self, counted: dict[str, float], unit: Unit) -> None:
        self.words_atoms = [atoms(word, unit) for word in counted]
        self.weights = np.fromiter(counted.values(), np.float64, len(counted))
        self.words = _native_words(self.words_atoms)
        self.atoms = sorted(set(chain.from_iterable(self.words_atoms)))
        self.ids, self.word_atoms = _atom_ids(self.words_atoms, {atom: i for i, atom in enumerate(self.atoms)})
        self.atom_counts = np.bincount(
            self.ids, weights=np.repeat(self.weights, self.word_atoms), minlength=len(self.atoms)
        )


def _counted(words: Mapping[str, float] | Sequence[str]) -> dict[str, float]:
    """Counts of normalised words."""
    if isinstance(words, str):
        raise InvalidInputError("train_subwords takes a mapping or a sequence of words; got one str")
    pairs: Iterable[tuple[str, float]]
    if isinstance(words, Mapping):
        pairs = words.items()
    else:
        pairs = ((word, 3 / (1 + rank / 1000)) for rank, word in enumerate(words))
    counted: dict[str, float] = {}
    for word, count in pairs:
        check_text(word, "+")
        if not (0 < count < math.inf):
            raise InvalidInputError(f"counts of words must be positive numbers; got {count} for {word!r}")
        normal = normalise(word)
        counted[normal] = counted.get(normal, 0.0) + count
    if not counted:
        raise InvalidInputError("there are no words to learn from")
    return counted


def _bpe(
    corpus: _Corpus, size: int, min_count: float
) -> tuple[list[str], list[tuple[str, str]], npt.NDArray[np.float64]]:
    """Units, merges, and the counts of units when all words are joined in merge order."""
    # Whole numbers compare exactly. The scale is a power of two, so that integer counts and their ties stay as they are.
    scale = 2.0 ** math.floor(math.log2(2.0**60 / float(corpus.atom_counts.sum())))
    weights = np.maximum(np.rint(corpus.weights * scale), 1).astype(np.int64)
    learned = _native.train_word_bpe(
        [atom.encode() for atom in corpus.atoms],
        corpus.ids,
        corpus.word_atoms,
        weights,
        size,
        max(1, math.ceil(min_count * scale)),
    )
    units = list(corpus.atoms)
    merges = []
    for left, right, result in learned:
        merges.append((units[left], units[right]))
        if result == len(units):
            units.append(units[left] + units[right])
    merger = _native.MergeSegmenter(np.array(learned, np.uint32).reshape(-1, 3))
    ids, pieces = merger.segment(corpus.ids, corpus.word_atoms)
    counts = np.bincount(ids, weights=np.repeat(corpus.weights, pieces), minlength=len(units))
    return units, merges, counts


def _extended_bpe(
    corpus: _Corpus, size: int, min_count: float, report: Callable[[str, int, int], None]
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Units and their counts on the most probable paths."""
    n_atoms = len(corpus.atoms)
    units = list(corpus.atoms)
    n_atoms_of = dict.fromkeys(units, 1)  # of every unit there ever was: one that has gone does not come back
    counts = corpus.atom_counts
    while len(units) < size:
        left, right, count = _lattice(units, smoothed(counts)).pair_counts(corpus.words, corpus.weights)
        new: dict[str, float] = {}
        for k in np.lexsort((right, left, -count)):
            if count[k] < min_count or len(new) == min(BATCH, size - len(units)):
                break
            first, second = units[left[k]], units[right[k]]
            text = first + second
            if text in n_atoms_of or n_atoms_of[first] + n_atoms_of[second] > MAX_UNIT_ATOMS:
                continue
            n_atoms_of[text] = n_atoms_of[first] + n_atoms_of[second]
            new[text] = float(count[k])
        if not new:
            break
        units += new
        counts = np.concatenate([counts, np.fromiter(new.values(), np.float64, len(new))])
        counts = _lattice(units, smoothed(counts)).counts(corpus.words, corpus.weights, False)[0]
        keep = counts >= min_count
        keep[:n_atoms] = True
        units = [text for text, kept in zip(units, keep, strict=True) if kept]
        counts = counts[keep]
        report("learning", len(units), size)
    return units, _lattice(units, smoothed(counts)).counts(corpus.words, corpus.weights, False)[0]


def _lattice(units: Sequence[str], logp: npt.NDArray[np.float64]) -> _native.Lattice:
    finite = logp[np.isfinite(logp)]
    unknown_cost = UNKNOWN_PENALTY - float(finite.min())
    return _native.Lattice([text.encode() for text in units], -logp, unknown_cost)


def _native_words(words: Sequence[Sequence[str]]) -> _native.AtomWords:
    flat = list(chain.from_iterable(words))
    size = {atom: len(atom.encode()) for atom in set(flat)}
    return _native.AtomWords(
        "".join(flat).encode(),
        np.fromiter((size[atom] for atom in flat), np.uint32, len(flat)),
        np.fromiter(map(len, words), np.uint32, len(words)),
    )


def _atom_ids(
    words: Sequence[Sequence[str]], ids: Mapping[str, int]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The ids of the atoms of all words, and how many each word has; an atom without id has the largest number."""
    flat = [ids.get(atom, _UNKNOWN) for word in words for atom in word]
    return np.array(flat, np.uint32), np.fromiter(map(len, words), np.uint32, len(words))
