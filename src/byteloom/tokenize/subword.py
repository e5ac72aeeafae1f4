"""Dictionaries of subwords: a few thousand units that make up every word of a language.

Use them where words are too many to list, as in Tamil, Kannada and other languages that chain suffixes: train a
dictionary, segment words, count n-grams of pieces, write a pronunciation lexicon. "extended_bpe" is the default;
"bpe" is the baseline and gives a merge order; "morfessor" finds units nearest to morphemes, slowly.
Source: Subword Dictionary Learning and Segmentation Techniques for Automatic Speech Recognition in Tamil and Kannada,
Madhavaraj et al. 2022, arXiv 2207.13331. No code was published: "extended BPE" is a reconstruction from the abstract.
Cost: a pass over 100,000 words takes about 0.05 s; training takes tens of passes. Memory is linear in the words.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import FileError, InvalidInputError, MissingExtraError
from byteloom.files import StrPath, read_json, write_json
from byteloom.tokenize.akshara import UNITS, Unit, atoms, normalise
from byteloom.tokenize.marks import check_symbol, check_text
from byteloom.tokenize.tokenizer import available_threads

if TYPE_CHECKING:
    import pynini

Unknown = Literal["atom", "error"]

UNKNOWN_PENALTY = 10.0  # nats that an unknown atom costs more than the rarest unit; that of Hugging Face's Unigram

FORMAT = "byteloom-subwords-1"

_UNKNOWN = np.iinfo(np.uint32).max  # what the native lattice gives for an atom that is no unit


class SubwordDictionary:
    """Units with log-probabilities; cuts words into them.

    units: distinct strings. logp: float64 [n], natural logarithms of their probabilities. unit: the atoms that are
    never cut (see `akshara.atoms`). mark_symbol: what words must not hold, because `marks.mark` uses it. unknown:
    whether an atom that is no unit becomes a piece of its own ("atom") or an error. merges: the pairs of units that
    were joined, in order; with them, `segment` joins in that order, and else it takes the most probable path.

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
        self._lattice = native_lattice(self.units, self.logp)
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

    @overload
    def segment(self, word: str) -> list[str]: ...
    @overload
    def segment(self, word: str, *, nbest: int) -> list[tuple[list[str], float]]: ...
    def segment(self, word: str, *, nbest: int = 1) -> list[str] | list[tuple[list[str], float]]:
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
        paths = self._lattice.nbest(native_words([word_atoms]), nbest)
        return [(self._texts(word_atoms, ids.tolist()), -cost) for ids, cost in paths]

    def segment_corpus(self, words: Sequence[str], *, threads: int | None = None) -> list[list[str]]:
        """`segment` for many words, each distinct one once, on `threads` threads (default: all cores)."""
        distinct = list(dict.fromkeys(words))
        pieces = self._segment([self._atoms(word) for word in distinct], available_threads(threads))
        known = dict(zip(distinct, pieces, strict=True))
        with _no_collection():
            return [known[word].copy() for word in words]

    def log_likelihood(self, word: str) -> float:
        """Natural logarithm of the probability of a word: the sum over all its segmentations."""
        return float(self._lattice.log_likelihoods(native_words([self._atoms(word)]))[0])

    def to_fst(self) -> pynini.Fst:
        """The units as a weighted transducer from atoms to units: the closure of (atoms of s : s / -ln p(s)).

        Its symbol tables hold the atoms and the units. The composition of a word's acceptor with it is the lattice of
        the word: its shortest path is `segment`, its shortest distance in the log semiring `log_likelihood`.
        Raises MissingExtraError where `pynini` is not installed.
        """
        try:
            import pynini
        except ImportError:
            raise MissingExtraError("pynini", "lexicon") from None
        inputs, outputs = pynini.SymbolTable(), pynini.SymbolTable()
        inputs.add_symbol("<eps>", 0)
        outputs.add_symbol("<eps>", 0)
        fst = pynini.Fst()
        start = fst.add_state()
        fst.set_start(start)
        fst.set_final(start)
        for text, logp in zip(self.units, self.logp.tolist(), strict=True):
            *before, last = atoms(text, self.unit)
            state, output, weight = start, outputs.add_symbol(text), -logp
            for atom in before:
                after = fst.add_state()
                fst.add_arc(state, pynini.Arc(inputs.add_symbol(atom), output, weight, after))
                state, output, weight = after, 0, 0.0
            fst.add_arc(state, pynini.Arc(inputs.add_symbol(last), output, weight, start))
        fst.set_input_symbols(inputs)
        fst.set_output_symbols(outputs)
        return fst

    def save(self, path: StrPath) -> None:
        """Write the dictionary as JSON, atomically."""
        write_json(
            path,
            {
                "format": FORMAT,
                "unit": self.unit,
                "mark_symbol": self.mark_symbol,
                "unknown": self.unknown,
                "units": dict(zip(self.units, self.logp.tolist(), strict=True)),
                "merges": self.merges,
            },
        )

    @classmethod
    def load(cls, path: StrPath) -> SubwordDictionary:
        """Read what `save` wrote. Raises FileError when it cannot be read or is something else or damaged."""
        document = read_json(path)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise FileError(f"{path} is no dictionary of subwords; make one with byteloom lexicon train")
        try:
            units, merges = document["units"], document["merges"]
            return cls(
                [*units],
                [float(logp) for logp in units.values()],
                unit=document["unit"],
                mark_symbol=document["mark_symbol"],
                unknown=document["unknown"],
                merges=None if merges is None else [(str(left), str(right)) for left, right in merges],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"the dictionary of subwords {path} is damaged ({error}); train it again") from error

    def _atoms(self, word: str) -> list[str]:
        check_text(normalise(word), self.mark_symbol)
        parts = atoms(word, self.unit)
        if self.unknown == "error" and (missing := [atom for atom in parts if atom not in self._ids]):
            raise InvalidInputError(f'{missing[0]!r} in {word!r} is no unit; use unknown="atom" or leave the word out')
        return parts

    def _segment(self, words: list[list[str]], threads: int) -> list[list[str]]:
        if self._merger is None:
            ids, pieces = self._lattice.segment(native_words(words), threads)
        else:
            ids, pieces = self._merger.segment(*atom_ids(words, self._ids))
        known, starts = ids.tolist(), list(accumulate(pieces.tolist(), initial=0))
        units = self.units
        if _UNKNOWN not in ids:
            texts = [units[i] for i in known]
            return [texts[start:end] for start, end in pairwise(starts)]
        return [self._texts(word, known[start:end]) for word, (start, end) in zip(words, pairwise(starts), strict=True)]

    def _texts(self, word: list[str], ids: list[int]) -> list[str]:
        """The pieces of a word; an unknown atom is the one that begins where the pieces before it end."""
        atom_at = dict(zip(accumulate(map(len, word), initial=0), word, strict=False))
        pieces: list[str] = []
        at = 0
        for i in ids:
            pieces.append(atom_at[at] if i == _UNKNOWN else self.units[i])
            at += len(pieces[-1])
        return pieces


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside: none of a million lists is garbage, but the collector would visit all of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def native_lattice(units: Sequence[str], logp: npt.NDArray[np.float64]) -> _native.Lattice:
    """The native lattice of units with these natural logarithms of probabilities; a unit of -inf is never taken."""
    finite = logp[np.isfinite(logp)]
    unknown_cost = UNKNOWN_PENALTY - float(finite.min())
    return _native.Lattice([text.encode() for text in units], -logp, unknown_cost)


def native_words(words: Sequence[Sequence[str]]) -> _native.AtomWords:
    """Words, given as sequences of atoms, for the native lattice."""
    flat = list(chain.from_iterable(words))
    size = {atom: len(atom.encode()) for atom in set(flat)}
    return _native.AtomWords(
        "".join(flat).encode(),
        np.fromiter((size[atom] for atom in flat), np.uint32, len(flat)),
        np.fromiter(map(len, words), np.uint32, len(words)),
    )


def atom_ids(
    words: Sequence[Sequence[str]], ids: Mapping[str, int]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The ids of the atoms of all words, and how many each word has; an atom without id has the largest number."""
    flat = [ids.get(atom, _UNKNOWN) for word in words for atom in word]
    return np.array(flat, np.uint32), np.fromiter(map(len, words), np.uint32, len(words))
