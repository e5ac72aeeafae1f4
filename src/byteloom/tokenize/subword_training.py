"""How dictionaries of subwords are learned: BPE, extended BPE or Morfessor, then probabilities by estimation.

Use `train_subwords`; `read_word_counts` reads its words from a file.
Source: Subword Dictionary Learning and Segmentation Techniques for Automatic Speech Recognition in Tamil and Kannada,
Madhavaraj et al. 2022, arXiv 2207.13331. No code was published: "extended BPE" is a reconstruction from the abstract.
Cost: a pass over 100,000 words takes about 0.05 s; training takes tens of passes. Memory is linear in the words.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError, MissingExtraError
from byteloom.files import StrPath, open_bytes
from byteloom.tokenize.akshara import Unit, atoms, normalise
from byteloom.tokenize.marks import check_symbol, check_text
from byteloom.tokenize.subword import SubwordDictionary, atom_ids, native_lattice, native_words

Method = Literal["bpe", "extended_bpe", "morfessor"]
Estimation = Literal["none", "ml", "viterbi"]

BATCH = 100  # pairs joined between two segmentations of the corpus in extended BPE
MAX_UNIT_ATOMS = 8  # of a unit of extended BPE
MORFESSOR_ATTEMPTS = 12  # trainings at most, to find the weight of the corpus


def train_subwords(
    words: Mapping[str, float] | Sequence[str],
    *,
    method: Method = "extended_bpe",
    estimation: Estimation = "viterbi",
    size: int = 2000,
    unit: Unit = "akshara",
    iterations: int = 6,
    min_count: float = 2,
    mark_symbol: str = "+",
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

    min_count: a pair that occurs less often is not joined. mark_symbol: what no word holds. seed: of the order in which
    Morfessor takes words.
    progress: called with ("learning" | "estimating", done, in all).
    Raises InvalidInputError for no words, counts that are not positive, unusable words, and a `size` that leaves no
    room beside the atoms (of akshara, Tamil has about 1,800 and Kannada 2,700; of graphemes 230 and 650). Warns when
    the words do not support `size`.

    >>> train_subwords({"banana": 9, "bandana": 5}, method="bpe", estimation="none", size=7).segment("banana")
    ['ban', 'ana']
    """
    check_symbol(mark_symbol)
    counted = {tuple(atoms(word, unit)): count for word, count in _counted(words, mark_symbol).items()}
    units, logp, merges = _learned(
        _Corpus(counted), method, estimation, size, iterations, min_count, seed, progress or _no_report
    )
    if len(units) < size and method != "morfessor":
        warnings.warn(
            f"the words support {len(units)} units, not {size}: no pair was left with a count of {min_count:g} or "
            "more; give more words or a smaller min_count",
            stacklevel=2,
        )
    return SubwordDictionary(units, logp, unit=unit, mark_symbol=mark_symbol, merges=merges)


def learn_units(
    words: Mapping[tuple[str, ...], float],
    *,
    method: Method,
    estimation: Estimation,
    size: int,
    min_count: float,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """`train_subwords` for words that are sequences of any atoms, white space among them: units, log-probabilities."""
    return _learned(_Corpus(words), method, estimation, size, 6, min_count, seed, progress or _no_report)[:2]


def _no_report(what: str, done: int, total: int) -> None:
    pass


def _learned(
    corpus: _Corpus,
    method: Method,
    estimation: Estimation,
    size: int,
    iterations: int,
    min_count: float,
    seed: int,
    report: Callable[[str, int, int], None],
) -> tuple[list[str], npt.NDArray[np.float64], list[tuple[str, str]] | None]:
    """Units, their log-probabilities and, where segmentation is to follow it, the merge order."""
    for name, value, choices in (("method", method, Method), ("estimation", estimation, Estimation)):
        if value not in get_args(choices):
            raise InvalidInputError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
    if iterations < 1:
        raise InvalidInputError(f"iterations must be at least 1; got {iterations}")
    if not 0 < min_count < math.inf:
        raise InvalidInputError(f"min_count must be a positive number; got {min_count}")
    if size <= len(corpus.atoms):
        raise InvalidInputError(
            f"size {size} leaves no room for units: the words have {len(corpus.atoms)} different atoms; "
            "choose a larger size or smaller atoms"
        )
    merges: list[tuple[str, str]] | None = None
    if method == "bpe":
        units, merges, logp = _bpe(corpus, size, min_count)
        report("learning", 1, 1)
    elif method == "extended_bpe":
        units, logp = _extended_bpe(corpus, size, min_count, report)
    else:
        units, logp = _morfessor(corpus, size, seed, report)
    if estimation != "none":
        merges = None
        for i in range(iterations):
            logp = estimated(units, logp, corpus.words, corpus.weights, estimation)[0]
            report("estimating", i + 1, iterations)
    return units, logp, merges


def read_word_counts(path: StrPath) -> dict[str, float]:
    """Words and counts from a UTF-8 text file, in NFC.

    One word a line, the most frequent first: counted by rank as `train_subwords` does. Or word, tab, count. Or
    sentences: when any line holds several words, all words of the file are counted.
    Raises FileError when it cannot be read, InvalidInputError naming the line that is no UTF-8 or has no usable count.

    >>> read_word_counts("words.txt")  # doctest: +SKIP
    {'மற்றும்': 3.0, 'என்று': 2.997...}
    """
    lines: list[str] = []
    for number, encoded in enumerate(bytes(open_bytes(path)).split(b"\n"), start=1):
        try:
            lines.append(normalise(encoded.decode("utf-8-sig" if number == 1 else "utf-8").strip()))
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"line {number} of {path} is not UTF-8 text ({error.reason})") from None
    counted: dict[str, float] = {}
    if any("\t" in line for line in lines):
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            word, _, count = line.partition("\t")
            try:
                value = float(count)
            except ValueError:
                value = math.nan
            if not (0 < value < 1e18) or len(word.split()) != 1:
                raise InvalidInputError(f"line {number} of {path} is not a word, a tab and a positive count: {line!r}")
            counted[word] = counted.get(word, 0.0) + value
    elif any(len(line.split()) > 1 for line in lines):
        for word in chain.from_iterable(map(str.split, lines)):
            counted[word] = counted.get(word, 0.0) + 1
    else:
        ranked = dict.fromkeys(filter(None, lines))
        counted = {word: _count_of_rank(rank) for rank, word in enumerate(ranked)}
    if not counted:
        raise InvalidInputError(f"{path} holds no words")
    return counted


def _count_of_rank(rank: int) -> float:
    """What stands for the count of a word of which only the rank, from 0, is known: nearly Zipf's law."""
    return 3 / (1 + rank / 1000)


def smoothed(counts: npt.NDArray[Any], add: float = 1.0) -> npt.NDArray[np.float64]:
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

    "viterbi": `smoothed` counts on the most probable paths, whose log-likelihood it is. "ml": the expected counts over
    all paths; a step of expectation-maximisation, which never lowers the log-likelihood.
    """
    counts, objective = native_lattice(units, logp).counts(words, weights, estimation == "ml")
    if estimation == "viterbi":
        return smoothed(counts, add), objective
    counts = np.maximum(counts, np.finfo(np.float64).tiny)  # of an atom that longer units have made all but useless
    return np.log(counts / counts.sum()), objective


class _Corpus:
    """Words as sequences of atoms, with weights."""

    def __init__(self, counted: Mapping[tuple[str, ...], float]) -> None:
        self.words_atoms = list(counted)
        self.weights = np.fromiter(counted.values(), np.float64, len(counted))
        self.words = native_words(self.words_atoms)
        self.atoms = sorted(set(chain.from_iterable(self.words_atoms)))
        self.ids, self.word_atoms = atom_ids(self.words_atoms, {atom: i for i, atom in enumerate(self.atoms)})
        self.atom_counts = np.bincount(
            self.ids, weights=np.repeat(self.weights, self.word_atoms), minlength=len(self.atoms)
        )


def _counted(words: Mapping[str, float] | Sequence[str], mark_symbol: str) -> dict[str, float]:
    """Counts of normalised words."""
    if isinstance(words, str):
        raise InvalidInputError("train_subwords takes a mapping or a sequence of words; got one str")
    pairs: Iterable[tuple[str, float]]
    if isinstance(words, Mapping):
        pairs = words.items()
    else:
        pairs = ((word, _count_of_rank(rank)) for rank, word in enumerate(words))
    counted: dict[str, float] = {}
    for word, count in pairs:
        normal = normalise(word)
        check_text(normal, mark_symbol)
        if not (0 < count < 1e18):
            raise InvalidInputError(f"counts of words must be positive numbers below 1e18; got {count} for {word!r}")
        counted[normal] = counted.get(normal, 0.0) + count
    if not counted:
        raise InvalidInputError("there are no words to learn from")
    return counted


def _bpe(
    corpus: _Corpus, size: int, min_count: float
) -> tuple[list[str], list[tuple[str, str]], npt.NDArray[np.float64]]:
    """Units, merges, and log-probabilities from the counts when all words are joined in merge order."""
    # Whole numbers compare exactly. The scale is a power of two, so that whole counts and their ties stay as they are.
    scale = 2.0 ** math.floor(math.log2(2.0**60 / float(corpus.atom_counts.sum())))
    weights = np.maximum(np.rint(corpus.weights * scale), 1).astype(np.int64)
    learned = _native.train_word_bpe(
        [atom.encode() for atom in corpus.atoms],
        corpus.ids,
        corpus.word_atoms,
        weights,
        size,
        min(max(1, math.ceil(min_count * scale)), 1 << 62),
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
    return units, merges, smoothed(counts)


def _extended_bpe(
    corpus: _Corpus, size: int, min_count: float, report: Callable[[str, int, int], None]
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Units and log-probabilities from their counts on the most probable paths."""
    n_atoms = len(corpus.atoms)
    units = list(corpus.atoms)
    n_atoms_of = dict.fromkeys(units, 1)  # of every unit there ever was: one that has gone does not come back
    counts = corpus.atom_counts
    while len(units) < size:
        left, right, count = native_lattice(units, smoothed(counts)).pair_counts(corpus.words, corpus.weights)
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
        counts = native_lattice(units, smoothed(counts)).counts(corpus.words, corpus.weights, False)[0]
        keep = counts >= min_count
        keep[:n_atoms] = True
        units = [text for text, kept in zip(units, keep, strict=True) if kept]
        counts = counts[keep]
        report("learning", len(units), size)
    counts = native_lattice(units, smoothed(counts)).counts(corpus.words, corpus.weights, False)[0]
    return units, smoothed(counts)


def _morfessor(
    corpus: _Corpus, size: int, seed: int, report: Callable[[str, int, int], None]
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Units and Morfessor's own log-probabilities; what they lack to a sum of one is that of the end of a word."""
    try:
        from morfessor import BaselineModel
    except ImportError:
        raise MissingExtraError("morfessor", "lexicon") from None
    # Morfessor cuts strings between any two characters, so every atom becomes one character.
    character = {atom: chr(0xF0000 + i) for i, atom in enumerate(corpus.atoms)}
    atom_of = {spelling: atom for atom, spelling in character.items()}
    spelled = ["".join(map(character.__getitem__, word)) for word in corpus.words_atoms]

    def trained(alpha: float) -> tuple[Any, dict[str, int]]:
        model = BaselineModel(corpusweight=alpha)
        model.load_data([(1, word) for word in spelled])
        with _morfessor_state(seed):
            model.train_batch()
        return model, dict(model.get_constructions())

    low, high, alpha = 0.0, math.inf, 1.0
    for attempt in range(MORFESSOR_ATTEMPTS):
        model, counts = trained(alpha)
        n_units = len(counts.keys() | atom_of.keys())
        report("learning", attempt + 1, MORFESSOR_ATTEMPTS)
        if abs(n_units - size) <= 0.05 * size:
            break
        # A heavier corpus is told in fewer and longer pieces, of which there are more kinds.
        low, high = (alpha, high) if n_units < size else (low, alpha)
        alpha = 2 * low if math.isinf(high) else high / 2 if low == 0 else math.sqrt(low * high)
    else:
        warnings.warn(
            f"Morfessor found {n_units} units, not {size} within 5 %, with {MORFESSOR_ATTEMPTS} weights of the corpus; "
            "choose another size or more words",
            stacklevel=3,
        )
    tokens = math.log(model.tokens + len(spelled))
    # Morfessor's cost of an atom that it did not keep: never better than units that it kept.
    unused = max(map(len, spelled)) * tokens + 1
    units = list(corpus.atoms)
    units += sorted("".join(map(atom_of.__getitem__, text)) for text in counts if len(text) > 1)
    count_of = {"".join(map(atom_of.__getitem__, text)): count for text, count in counts.items()}
    return units, np.array([math.log(count_of[text]) - tokens if text in count_of else -unused for text in units])


@contextmanager
def _morfessor_state(seed: int) -> Iterator[None]:
    """Morfessor draws from the global generator and prints dots; both are put back as they were."""
    import random

    from morfessor import utils

    state, dots = random.getstate(), utils.show_progress_bar
    random.seed(seed)
    utils.show_progress_bar = False
    try:
        yield
    finally:
        random.setstate(state)
        utils.show_progress_bar = dots
