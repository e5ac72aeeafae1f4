"""BPE over nucleotides: METAGENE-1's vocabulary, id for id, or one learned from your own sequences.

Use it for genomes and sequencing reads. A letter in gives a letter out: lower case (soft-masked) is read as upper
case, U as T, and everything else that is not A, C, G or T, the ambiguity codes of IUPAC among it, as N. So
decode(encode(x)) == x for sequences of A, C, G, T and N, and has the length of x for any other.
Source: METAGENE-1, Liu et al. 2025, arXiv 2501.02045. Cost: that of `BPE`; letters are folded without a pass of
their own, and a look for letters that are no nucleotide codes takes a tenth of the encoding time.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath
from byteloom.tokenize.bpe import BPE, train_bpe
from byteloom.tokenize.tokenizer import Ids, available_threads
from byteloom.tokenize.tokenizer_json import (
    SPECIAL_TOKENS,
    TokenizerFile,
    TokenizerTables,
    fail,
    fill_gaps,
    possible_merges,
    steps,
    write_tokenizer,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

LETTERS = "ACGTN"
READ_START = "_"  # a letter of METAGENE-1's vocabulary; it stood before each read that its tokenizer was trained on

_CODES = b"ACGTURYSWKMBDHVNacgturyswkmbdhvn-."  # of IUPAC; - and . are gaps
_FOLD = bytes({"A": 65, "C": 67, "G": 71, "T": 84, "U": 84}.get(chr(byte).upper(), 78) for byte in range(256))
_PROTEIN = b"EFILPQefilpq"  # amino acids that are no nucleotide codes: a third of a protein
_FOREIGN_SHARE = 0.1  # of a document's letters, above which it is no DNA
_BETWEEN = b"\n"  # documents that are encoded together
_BLOCK = 1 << 18  # bytes looked at, or encoded, together


class DNATokenizer(BPE):
    """A BPE tokenizer of the letters A, C, G, T and N.

    `merges` is uint32 [n, 2]: the two ids that merge i joins. Ids are laid out as special tokens, then A, C, G, T, N,
    then the merges. `load` takes what `save` wrote and METAGENE-1's tokenizer.json, whose ids lie otherwise.

    A letter that is neither a nucleotide code of IUPAC nor a gap (- or .) becomes N, and one warning a call counts
    them; with `strict` it raises InvalidInputError instead, which names the letter and its place.

    >>> dna = DNATokenizer([(7, 8)])
    >>> dna.encode(b"ACacgu")
    array([12, 12,  9, 10], dtype=uint32)
    >>> dna.decode(_)
    b'ACACGT'
    """

    kind = "dna"
    strict = False

    def __init__(self, merges: npt.ArrayLike = (), special_tokens: Sequence[str] = SPECIAL_TOKENS) -> None:
        names = tuple(special_tokens)
        if len(set(names)) != len(names):
            raise InvalidInputError(f"special tokens must differ from each other; got {', '.join(names)}")
        pairs = np.asarray(merges, dtype=np.uint32).reshape(-1, 2)
        results = np.arange(len(pairs), dtype=np.uint32) + np.uint32(len(names) + len(LETTERS))
        if (pairs >= results[:, None]).any() or (pairs < len(names)).any():
            raise InvalidInputError("a merge may only join letters and the results of earlier merges")
        letters = {letter: len(names) + i for i, letter in enumerate(LETTERS)}
        special = {name: i for i, name in enumerate(names)}
        table = np.column_stack([pairs, results]).astype(np.uint32)
        self._setup(_tables(letters, table, special, len(names) + len(LETTERS) + len(pairs), {}))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"strict": self.strict}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.strict = state["strict"]

    def encode(self, data: Buffer, *, add_special_tokens: bool = False) -> Ids:
        """Token ids of `data`: uint32 [n]. `add_special_tokens` wraps them in those of start and end.

        Raises TypeError for a str or for anything that is not contiguous unsigned bytes.
        """
        ids = super().encode(data, add_special_tokens=add_special_tokens)
        self._judge([self._foreign(data)])
        return ids

    def encode_batch(
        self, documents: Sequence[Buffer], threads: int | None = None, *, add_special_tokens: bool = False
    ) -> list[Ids]:
        """`encode` for many documents, on `threads` threads (default: all cores)."""
        batch = self._encode_joined(documents, available_threads(threads))
        if batch is not None:
            return [self._wrap(ids) for ids in batch] if add_special_tokens else batch
        batch = super().encode_batch(documents, threads, add_special_tokens=add_special_tokens)
        self._judge([self._foreign(document, f" of document {i}") for i, document in enumerate(documents)])
        return batch

    def _encode_joined(self, documents: Sequence[Any], threads: int) -> list[Ids] | None:
        """`encode_batch` of documents put end to end, faster where they are short; None for foreign letters.

        What lies between them is a letter of its own that is in no merge, so that their ids are what they are alone.
        """
        if not documents or not set(map(type, documents)) <= {bytes, bytearray}:
            return None
        ends = np.cumsum(np.fromiter(map(len, documents), np.int64, len(documents)))
        cuts = [0, *(np.flatnonzero(np.diff(ends // _BLOCK)) + 1).tolist(), len(documents)]
        groups = [documents[start:stop] for start, stop in pairwise(cuts)]
        texts = [_BETWEEN.join(group) for group in groups]
        for text, group in zip(texts, groups, strict=True):
            if text.translate(None, self._codes + _BETWEEN) or text.count(_BETWEEN) >= len(group):
                return None
        batch: list[Ids] = []
        for ids in self._joined.encode_batch(texts, threads):
            between = np.flatnonzero(ids == self.vocab_size)
            starts, stops = [0, *(between + 1).tolist()], [*between.tolist(), len(ids)]
            batch += [ids[start:stop] for start, stop in zip(starts, stops, strict=True)]
        return batch

    def encode_blocks(self, blocks: Iterable[Buffer]) -> Iterator[Ids]:
        """The ids of one text that comes in blocks, in pieces: together exactly `encode` of the whole."""
        found: list[_Foreign | None] = []

        def looked_at() -> Iterator[Buffer]:
            start = 0
            for block in blocks:
                found.append(self._foreign(block, start=start))
                if self.strict:
                    self._judge(found[-1:])
                start += memoryview(block).nbytes
                yield block

        yield from super().encode_blocks(looked_at())
        self._judge(found)

    def count(self, data: Buffer) -> int:
        """Number of tokens of `data`, without building their ids."""
        tokens = super().count(data)
        self._judge([self._foreign(data)])
        return tokens

    def save(self, path: StrPath) -> None:
        """Write a Hugging Face tokenizer: a folder, or one file when `path` ends in .json.

        Plain `tokenizers` folds letters as this class does, and gives the same ids for the UTF-8 bytes of a str.
        """
        from tokenizers import Tokenizer, decoders, models

        names = {token: text.decode() for token, text in self.tables.token_bytes().items()}
        names |= {token: name for name, token in self.special_tokens.items()}
        merges = [(names[left], names[right]) for left, right in self.merges.tolist()]
        vocabulary = {names[token]: token for token in sorted(names)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.normalizer = _folding("".join(sorted(text for text in vocabulary if len(text) == 1)))
        tokenizer.decoder = decoders.Fuse()
        write_tokenizer(path, tokenizer, self.special_tokens)

    @classmethod
    def from_file(cls, source: TokenizerFile) -> Self:
        """The tokenizer in `source`. Raises InvalidInputError when it is damaged or of another kind."""
        if refusal := _refusal(source):
            fail(source.path, f"it is not a BPE of nucleotides: {refusal}")
        return cls.from_tables(_tables_in(source))

    def _setup(self, tables: TokenizerTables) -> None:
        super()._setup(tables)
        byte_ids = tables.byte_ids.copy()
        byte_ids[ord(_BETWEEN)] = tables.vocab_size
        self._joined = _native.BPEEncoder(byte_ids.tolist(), tables.merges)
        self._codes = _CODES + (READ_START.encode() if READ_START.encode() in tables.extra_tokens.values() else b"")

    def _foreign(self, data: Buffer, where: str = "", start: int = 0) -> _Foreign | None:
        """The letters of `data`, which begins at offset `start`, that are no nucleotide codes."""
        view = memoryview(data)
        count, first = 0, ""
        for at in range(0, view.nbytes, _BLOCK):
            block = view[at : at + _BLOCK].tobytes()
            if letters := block.translate(None, self._codes):
                first = first or f"{repr(letters[:1])[1:]} at offset {start + at + block.index(letters[:1])}{where}"
                count += len(letters)
        return _Foreign(count, first) if count else None

    def _judge(self, found: Iterable[_Foreign | None]) -> None:
        """Warn of foreign letters, or refuse them when strict."""
        some = [one for one in found if one]
        if not some:
            return
        if self.strict:
            raise InvalidInputError(f"{some[0].first} is no nucleotide code; correct it, or have it read as N")
        count = sum(one.letters for one in some)
        warnings.warn(
            f"{count} letter{'s' if count > 1 else ''} outside the nucleotide codes became N: {some[0].first}"
            f"{' and others' if count > 1 else ''}",
            stacklevel=3,
        )


class _Foreign(NamedTuple):
    letters: int
    first: str  # the letter and its place


def train_dna(
    documents: Iterable[Buffer],
    *,
    vocab_size: int = 1024,
    min_frequency: int = 4,
    threads: int | None = None,
    memory_limit: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> DNATokenizer:
    """Learn merges of nucleotides, the most frequent pair first; they cross neither an N nor the end of a document.

    documents: sequences as bytes, such as a `Corpus` of FASTA files gives. vocab_size: ids in all, 7 special tokens
    and 5 letters included. The other arguments are those of `train_bpe`; what lies between two N counts as a document
    of its own.

    Raises InvalidInputError for arguments out of range, for a document that is no DNA, and when no document has a
    letter but N. Warns, and returns the true size, when the documents do not support `vocab_size`.

    >>> train_dna([b"GATTACA" * 9], vocab_size=14).token_bytes(13)
    b'ATTA'
    """
    special = len(SPECIAL_TOKENS)
    shift = 256 - len(LETTERS)
    if vocab_size <= special + len(LETTERS):
        raise InvalidInputError(
            f"vocab_size {vocab_size} is too small: {special} special tokens and {len(LETTERS)} letters leave room for "
            f"merges from {special + len(LETTERS) + 1}"
        )
    foreign: list[int] = []  # how many letters, by document that has some
    with warnings.catch_warnings():  # of a size that counts bytes; see below
        warnings.simplefilter("ignore")
        bpe = train_bpe(
            _without_n(documents, foreign),
            vocab_size=vocab_size + shift,
            min_frequency=min_frequency,
            max_token_length=None,
            threads=threads,
            memory_limit=memory_limit,
            progress=progress,
        )
    ours = np.arange(bpe.vocab_size, dtype=np.uint32) - np.uint32(shift)
    ours[[special + ord(letter) for letter in LETTERS]] = np.arange(special, special + len(LETTERS))
    dna = DNATokenizer(ours[bpe.merges])
    dna.training = bpe.training
    if foreign:
        warnings.warn(f"letters outside the nucleotide codes became N: {sum(foreign)}", stacklevel=2)
    if dna.vocab_size < vocab_size:
        warnings.warn(
            f"the documents support {dna.vocab_size} tokens, not {vocab_size}: no pair was left with {min_frequency} "
            "or more windows; give more data or a smaller min_frequency",
            stacklevel=2,
        )
    return dna


def is_dna(source: TokenizerFile) -> bool:
    """Whether the one-letter tokens of a tokenizer.json are those of nucleotides."""
    vocabulary = source.document["model"].get("vocab")
    letters = {name for name in vocabulary if len(name) == 1} if isinstance(vocabulary, dict) else set()
    return set("ACGT") <= letters <= set(LETTERS + READ_START)


def _without_n(documents: Iterable[Buffer], foreign: list[int]) -> Iterator[bytes]:
    """Folded pieces of documents, without N. Raises InvalidInputError for what is no DNA."""
    for number, document in enumerate(documents):
        letters = memoryview(document).tobytes()
        if odd := letters.translate(None, _CODES):
            share = len(odd) / len(letters)
            if share > _FOREIGN_SHARE:
                protein = len(odd.translate(None, _PROTEIN)) < len(odd) / 2
                raise InvalidInputError(
                    f"document {number} looks like {'protein' if protein else 'something else'}, not nucleotides: "
                    f"{share:.0%} of its letters are no nucleotide codes; give DNA, for example in FASTA files"
                )
            foreign.append(len(odd))
        yield from filter(None, re.split(b"N+", letters.translate(_FOLD)))


def _tables(
    letters: dict[str, int], merges: npt.NDArray[np.uint32], special: dict[str, int], size: int, extra: dict[int, bytes]
) -> TokenizerTables:
    """Tables in which every byte has the id of the letter that it is read as."""
    spelled = {token: letter.encode() for letter, token in letters.items()}
    ids = [letters.get(chr(byte), letters[chr(_FOLD[byte])]) for byte in range(256)]
    return TokenizerTables(np.array(ids, np.uint32), merges, special, size, spelled | extra)


def _folding(letters: str) -> Any:
    """The normalizer of `tokenizers` that reads every byte as one of `letters`."""
    from tokenizers import Regex, normalizers

    upper = [normalizers.Replace(old, new) for old, new in zip("acgtuU", "ACGTTT", strict=True)]
    other = normalizers.Replace(Regex(f"[^{letters}]"), "N")
    return normalizers.Sequence([normalizers.ByteLevel(), *upper, other])


def _refusal(source: TokenizerFile) -> str | None:
    """Why a tokenizer.json is of another kind, or None."""
    model = source.document["model"]
    if source.model_type != "BPE":
        return f"its model is {source.model_type}"
    if not is_dna(source):
        return "its letters are not A, C, G, T and N"
    if "N" not in model["vocab"]:
        return "it has no token for N"
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            return f"its model has {option}"
    letters = "".join(sorted(name for name in model["vocab"] if len(name) == 1))
    folding = json.loads(_folding(letters).__getstate__())
    if (normalizer := source.document.get("normalizer")) not in (None, folding):
        return f"it changes its input with {steps(normalizer)[0].get('type') if steps(normalizer) else normalizer}"
    # Sequences hold no blanks, so that splitting at them, as METAGENE-1 does, changes nothing.
    if other := [step.get("type") for step in steps(source.document.get("pre_tokenizer")) if step != _AT_BLANKS]:
        return f"it splits its input with {other[0]}"
    return None


_AT_BLANKS = {"type": "Whitespace"}


def _tables_in(source: TokenizerFile) -> TokenizerTables:
    added = source.added_tokens()
    ids: dict[str, int] = source.document["model"]["vocab"] | added
    if len(set(ids.values())) < len(ids):
        fail(source.path, "two of its tokens have the same id")
    letters = {name: token for name, token in ids.items() if len(name) == 1}
    merges = possible_merges(source.path, source.document["model"]["merges"], ids, np.array([*letters.values()]))
    made = {*letters.values(), *merges[:, 2].tolist()}
    rest = {name: token for name, token in ids.items() if token not in made}
    plain = {name for name in rest if name not in added and set(name) <= set(letters)}
    special = {name: token for name, token in rest.items() if name not in plain}
    special |= fill_gaps(source.path, set(ids.values()))
    extra = {rest[name]: name.encode() for name in plain}
    return _tables(letters, merges, special, max(ids.values()) + 1, extra)
