"""A dictionary of subwords as a tokenizer of bytes.

Use it for text in languages that chain suffixes, where units of whole aksharas and a probability model pay; for any
other bytes it is exact as well, but falls back to single bytes where no unit fits, and BPE is the better choice.
Source: the units are those of arXiv 2207.13331 (`byteloom.tokenize.subword`); the tokenizer is a Unigram model (Kudo
2018, arXiv 1804.10959) with byte fallback, as Hugging Face and SentencePiece have it.
Cost: training holds every distinct word once; encoding is one pass over the bytes, and words met before are copied.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath
from byteloom.tokenize.akshara import Unit, atoms_of_text
from byteloom.tokenize.subword import UNKNOWN_PENALTY
from byteloom.tokenize.subword_training import Estimation, Method, learn_units
from byteloom.tokenize.tokenizer import Stream, Tokenizer, Training
from byteloom.tokenize.tokenizer_json import SPECIAL_TOKENS, TokenizerFile, fail, fill_gaps, write_tokenizer

if TYPE_CHECKING:
    from typing_extensions import Buffer

WORDS = r"[^ \t\n\r\x0B\x0C]+ ?|[ \t\n\r\x0B\x0C]"
"""The pieces that are encoded by themselves: a word with the one space behind it, or one character of white space."""

_PIECE = re.compile(rb"[^ \t\n\r\v\f]{1,1024} ?|[ \t\n\r\v\f]")  # longer words are of no use in training
_BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]
_UNDECODED = re.compile("[\udc80-\udcff]+")
_MAX_ATOMS = 64  # of a piece that is learned from; what is longer is cut
_ATOM_SHARE = 2  # at most one in so many of the learned units is an atom; rarer atoms are given as bytes
_MIN_COUNT = 2


class SubwordTokenizer(Tokenizer):
    """A Unigram tokenizer with byte fallback: units are strings, which may end in a space.

    units: distinct strings. logp: float64 [n], natural logarithms of their probabilities. Ids are laid out as special
    tokens, then the 256 bytes, then the units. Text is cut into pieces (a word and the one space behind it, or one
    white-space character), and each piece into the most probable units; a code point that no unit covers, and a byte
    that belongs to none, is given as bytes and costs 10 nats more than the rarest unit. Nothing is normalised.

    Plain `tokenizers` gives the same ids for text that spells no special token and no byte token such as "<0x41>".
    `encode_blocks` has to hold the longest run of bytes without white space.
    Raises InvalidInputError for units that are equal, empty or spelled as a byte or special token.

    >>> SubwordTokenizer(["a", "b", "ab "], np.log([0.2, 0.3, 0.5])).encode(b"ab abc").tolist()
    [265, 263, 264, 106]
    """

    kind = "subword"

    def __init__(
        self, units: Sequence[str], logp: npt.ArrayLike, special_tokens: Sequence[str] = SPECIAL_TOKENS
    ) -> None:
        scores = np.array(logp, dtype=np.float64)
        if not units or scores.shape != (len(units),) or not (np.isfinite(scores).all() and (scores <= 0).all()):
            raise InvalidInputError(
                f"{len(units)} units need as many log-probabilities, finite and at most 0; got {scores.shape}"
            )
        special = dict(zip(special_tokens, range(len(special_tokens)), strict=True))
        if len(special) < len(special_tokens):
            raise InvalidInputError(f"special tokens must differ from each other; got {', '.join(special_tokens)}")
        least = float(scores.min())  # of the tokens that no path takes, so that they do not make bytes dearer
        names = [*special_tokens, *_BYTE_NAMES, *units]
        self._set_up_vocabulary(names, [least] * (len(names) - len(units)) + scores.tolist(), special)

    def _set_up_vocabulary(self, names: list[str], scores: list[float], special_tokens: dict[str, int]) -> None:
        """`names` and `scores` of the ids of the model; special tokens may lie behind them."""
        self._names = names
        self._scores = scores
        if len(set(names)) < len(names):
            name = next(name for name, count in Counter(names).items() if count > 1)
            raise InvalidInputError(f"two tokens are spelled {name!r}; every unit must differ from all other tokens")
        ids = {name: token for token, name in enumerate(names)}
        byte_ids = [ids[name] for name in _BYTE_NAMES]
        apart = {*byte_ids, *special_tokens.values()}
        try:
            units = [b"" if token in apart else name.encode() for token, name in enumerate(names)]
        except UnicodeEncodeError:
            raise InvalidInputError("a unit holds half a surrogate pair, which is no text") from None
        if b"" in (text for token, text in enumerate(units) if token not in apart):
            raise InvalidInputError("a unit is empty; leave it out")
        unknown = min(scores) - UNKNOWN_PENALTY
        self._native = _native.UnigramEncoder(units, np.array(scores), byte_ids, unknown)
        texts = units + [b""] * (1 + max([len(names) - 1, *special_tokens.values()]) - len(names))
        for byte, token in enumerate(byte_ids):
            texts[token] = bytes([byte])
        self._set_up(self._native, texts, special_tokens)

    @property
    def units(self) -> list[str]:
        """The units, in the order of their ids."""
        apart = {*_BYTE_NAMES, *self.special_tokens}
        return [name for name in self._names if name not in apart]

    def __repr__(self) -> str:
        return f"SubwordTokenizer(vocab_size={self.vocab_size}, longest={self.max_token_bytes} bytes)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SubwordTokenizer):
            return NotImplemented
        mine, theirs = ((one._names, one._scores, one.special_tokens) for one in (self, other))
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, object]:
        return {"vocabulary": (self._names, self._scores, self.special_tokens), "training": self.training}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._set_up_vocabulary(*state["vocabulary"])  # type: ignore[misc]
        self.training = state["training"]  # type: ignore[assignment]

    def _stream(self) -> Stream:
        return _native.UnigramStream(self._native)

    def save(self, path: StrPath) -> None:
        """Write a Hugging Face tokenizer: a folder, or one file when `path` ends in .json."""
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        # With byte fallback no path ends in the unknown token, but the model wants to know one.
        unknown = self.special_tokens.get("<|unk|>", self._names.index(_BYTE_NAMES[0]))
        model = models.Unigram(list(zip(self._names, self._scores, strict=True)), unknown, True)
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        write_tokenizer(path, tokenizer, self.special_tokens)

    @classmethod
    def from_file(cls, source: TokenizerFile) -> Self:
        """The tokenizer in `source`. Raises InvalidInputError when it is not of the form that `save` writes."""
        if refusal := _refusal(source):
            fail(source.path, f"it is not a Unigram of words with byte fallback: {refusal}")
        added = source.added_tokens()
        vocabulary = source.document["model"]["vocab"]
        names, scores = [str(name) for name, _ in vocabulary], [float(score) for _, score in vocabulary]
        if missing := set(_BYTE_NAMES).difference(names):
            fail(source.path, f"it has no token for {len(missing)} of the 256 bytes, such as {min(missing)}")
        used = {*range(len(names)), *added.values()}
        special = {name: token for name, token in added.items() if name not in _BYTE_NAMES}
        self = cls.__new__(cls)
        try:
            self._set_up_vocabulary(names, scores, special | fill_gaps(source.path, used))
        except InvalidInputError as error:
            fail(source.path, str(error))
        return self

    def with_special_tokens(self, names: Iterable[str]) -> Self:
        """This tokenizer with more special tokens, behind the last id."""
        grown = self.__class__.__new__(self.__class__)
        new = {name: self.vocab_size + i for i, name in enumerate(names)}
        grown._set_up_vocabulary(self._names, self._scores, dict(self.special_tokens) | new)
        grown.training = self.training
        return grown


def train_subword_tokenizer(
    documents: Iterable[Buffer],
    *,
    vocab_size: int = 4096,
    method: Method = "extended_bpe",
    estimation: Estimation = "viterbi",
    unit: Unit = "akshara",
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> SubwordTokenizer:
    """Learn the units of a tokenizer from documents; `method`, `estimation`, `unit` and `seed` as in `train_subwords`.

    documents: bytes-like, taken one at a time; the distinct words of all of them are held. Bytes that are not UTF-8 are
    left out. vocab_size: ids in all, special tokens and bytes included; Morfessor reaches the number of units within
    5 %. At most half of the units are single atoms: rarer ones are given as bytes.
    progress: called with ("learning" | "estimating", done, in all).

    Raises InvalidInputError for a vocab_size without room for units and when no document has text. Warns, and returns
    the true size, when the documents do not support `vocab_size`.

    >>> tokenizer = train_subword_tokenizer([b"banana bandana " * 9], vocab_size=274, method="bpe")
    >>> [tokenizer.token_bytes(token) for token in tokenizer.encode(b"banana ban")]
    [b'banana ', b'ban']
    """
    start = time.perf_counter()
    room = vocab_size - len(SPECIAL_TOKENS) - 256
    if room < 2 * _ATOM_SHARE:
        raise InvalidInputError(
            f"vocab_size {vocab_size} is too small: {len(SPECIAL_TOKENS)} special tokens and 256 bytes leave room for "
            f"units from {len(SPECIAL_TOKENS) + 256 + 2 * _ATOM_SHARE}"
        )
    pieces: Counter[bytes] = Counter()
    n_documents = n_bytes = 0
    for document in documents:
        view = memoryview(document)
        pieces.update(match[0] for match in _PIECE.finditer(view))
        n_documents += 1
        n_bytes += view.nbytes
    words = _words(pieces, unit, room // _ATOM_SHARE)
    if not words:
        raise InvalidInputError("no document has text to learn units from; give documents in UTF-8")
    units, logp = learn_units(
        words, method=method, estimation=estimation, size=room, min_count=_MIN_COUNT, seed=seed, progress=progress
    )
    tokenizer = SubwordTokenizer(units, logp)
    tokenizer.training = Training(n_documents, n_bytes, n_bytes, time.perf_counter() - start)
    if tokenizer.vocab_size < vocab_size and method != "morfessor":
        warnings.warn(
            f"the documents support {tokenizer.vocab_size} tokens, not {vocab_size}; give more text",
            stacklevel=2,
        )
    return tokenizer


def _words(pieces: Counter[bytes], unit: Unit, most_atoms: int) -> dict[tuple[str, ...], float]:
    """The atoms of pieces and how often they occur; the pieces are cut at bytes that are no text and at rare atoms."""
    spelled: Counter[tuple[str, ...]] = Counter()
    seen: Counter[str] = Counter()
    for piece, count in pieces.items():
        for text in _UNDECODED.split(piece.decode("utf-8", "surrogateescape")):
            parts = atoms_of_text(text, unit)
            for start in range(0, len(parts), _MAX_ATOMS):
                part = tuple(parts[start : start + _MAX_ATOMS])
                spelled[part] += count
                for atom in part:
                    seen[atom] += count
    kept = {atom for atom, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:most_atoms]}
    words: dict[tuple[str, ...], float] = {}
    for spelling, count in spelled.items():
        run: list[str] = []
        for atom in (*spelling, ""):  # "" is no atom: it ends the last run
            if atom in kept:
                run.append(atom)
            elif run:
                words[tuple(run)] = words.get(tuple(run), 0.0) + count
                run = []
    return words


def _refusal(source: TokenizerFile) -> str | None:
    """Why a tokenizer.json is of another kind, or None."""
    document, model = source.document, source.document["model"]
    if source.model_type != "Unigram":
        return f"its model is {source.model_type}"
    if model.get("byte_fallback") is not True:
        return "it does not give unknown text as bytes (byte_fallback)"
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, list) or not all(
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and _is_score(entry[1])
        for entry in vocabulary
    ):
        return "its vocabulary is not a list of units with log-probabilities"
    unknown = model.get("unk_id")
    if not isinstance(unknown, int) or not 0 <= unknown < len(vocabulary):
        return "its unknown token is not in its vocabulary"
    if document.get("normalizer") is not None:
        return "it changes its input before it cuts it (normalizer)"
    split = document.get("pre_tokenizer")
    wanted = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    if not isinstance(split, dict) or {key: split.get(key) for key in wanted} != wanted:
        return "it cuts its input in another way than after spaces (pre_tokenizer)"
    return None


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
