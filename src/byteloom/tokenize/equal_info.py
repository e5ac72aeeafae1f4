"""Equal-info windows compiled: a dictionary of the strings that a byte model finds likeliest, matched greedily.

Use it for tokens of about equal information, whose set is closed under prefixes and may end at a boundary. Its
sequences are shorter than those of BPE with the pre-tokenizer of GPT-2, and longer than those of our BPE, whose tokens
may cross words too (docs/equal-info.md has the figures). The model is needed for training alone; encoding is exact for
every byte string and the same on every machine.
Source: Training LLMs over Neurally Compressed Text, Lester et al., TMLR 2024, arXiv 2404.03626; compiling the windows
into a dictionary is ours. Cost: training asks the model once a string (seconds for 65,536); encoding is one trie step a
byte.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath
from byteloom.tokenize.byte_alphabet import BYTE_CHARACTERS, to_bytes, to_characters
from byteloom.tokenize.byte_model import TOTAL, ByteModel, CountModel, checked_cumulative
from byteloom.tokenize.tokenizer import Stream, Tokenizer, Training, available_threads
from byteloom.tokenize.tokenizer_json import SPECIAL_TOKENS, TokenizerFile, fail, fill_gaps, steps, write_tokenizer

if TYPE_CHECKING:
    from typing_extensions import Buffer

Progress = Callable[[str, int, int], None]

MAX_VOCAB = 1 << 20
_SAMPLE = 32 << 20  # bytes encoded to see which strings are used
_ASKED = 2048  # strings that the model is asked about at once
_SINGLE = [bytes([byte]) for byte in range(256)]
_UNKNOWN = "<|unk|>"  # WordPiece wants a name; with every byte in the dictionary it never gives it
_WHOLE_TEXT = 1 << 62  # characters that WordPiece takes as one word


@dataclass(frozen=True)
class EqualInfoTraining(Training):
    """How a dictionary was trained, and how it does on the documents (of at most 32 MB, a sample)."""

    bytes_per_token: float = 0.0
    unpruned_bytes_per_token: float = 0.0
    """That of the likeliest strings, before the unused were replaced; equal without pruning."""


class EqualInfoTokenizer(Tokenizer):
    """A dictionary of byte strings, matched greedily: the longest string that begins at the first byte, and so on.

    strings: all 256 single bytes and longer ones. Ids are laid out as special tokens, then the strings in the order of
    their bytes, in which near ids share prefixes. boundary: a byte value that no string has but at its end, so that
    a token always ends there; what follows is then encoded as if it stood alone, and the exported tokenizer.json is
    fast. Raises InvalidInputError for a missing byte, equal strings, and special tokens spelled like a string.

    >>> tokenizer = EqualInfoTokenizer([*(bytes([b]) for b in range(256)), b"ab", b"abc"])
    >>> [tokenizer.token_bytes(i) for i in tokenizer.encode(b"abcab")]
    [b'abc', b'ab']
    """

    kind = "equal-info"

    def __init__(
        self,
        strings: Iterable[bytes],
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
        *,
        boundary: int | None = None,
    ) -> None:
        texts = [*(b"" for _ in special_tokens), *sorted(bytes(text) for text in strings)]
        self._set_texts(texts, {name: token for token, name in enumerate(special_tokens)}, boundary)

    @classmethod
    def from_texts(cls, texts: Sequence[bytes], special_tokens: Mapping[str, int], boundary: int | None = None) -> Self:
        """A tokenizer with any layout of ids: `texts` are the bytes of each id, empty for special tokens."""
        self = cls.__new__(cls)
        self._set_texts(texts, special_tokens, boundary)
        return self

    def _set_texts(self, texts: Sequence[bytes], special_tokens: Mapping[str, int], boundary: int | None) -> None:
        if sorted(special_tokens.values()) != [token for token, text in enumerate(texts) if not text]:
            raise InvalidInputError("special tokens must differ from each other, and strings must not be empty")
        self.boundary = _checked_boundary(boundary)
        known = Counter(texts)
        if missing := [f"0x{byte:02x}" for byte in range(256) if _SINGLE[byte] not in known]:
            raise InvalidInputError(f"the dictionary lacks the byte {missing[0]}; give it all 256 single bytes")
        if twice := next((text for text, count in known.items() if text and count > 1), None):
            raise InvalidInputError(f"the dictionary has {twice!r} twice; leave one out")
        if boundary is not None and (over := next((text for text in texts if boundary in text[:-1]), None)):
            raise InvalidInputError(f"{over!r} goes on after the boundary 0x{boundary:02x}; leave it out")
        if spelled := next((name for name in special_tokens if _spelled(name) in known), None):
            raise InvalidInputError(f"the special token {spelled!r} is spelled like a string; rename it")
        self._segmenter = _segmenter(texts)
        self._set_up(self._segmenter, texts, special_tokens)

    def _stream(self) -> Stream:
        return _native.SegmentStream(self._segmenter)

    def __repr__(self) -> str:
        boundary = "" if self.boundary is None else f", boundary=0x{self.boundary:02x}"
        return f"EqualInfoTokenizer(vocab_size={self.vocab_size}, longest={self.max_token_bytes} bytes{boundary})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EqualInfoTokenizer):
            return NotImplemented
        return self._state() == other._state()

    __hash__ = None  # type: ignore[assignment]

    def _state(self) -> tuple[list[bytes], dict[str, int], int | None]:
        return list(self._texts), dict(self.special_tokens), self.boundary

    def __getstate__(self) -> dict[str, Any]:
        return {"texts": self._state(), "training": self.training}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_texts(*state["texts"])
        self.training = state["training"]

    def with_special_tokens(self, names: Iterable[str]) -> Self:
        """This tokenizer with more special tokens, behind the last id."""
        new = {name: self.vocab_size + i for i, name in enumerate(names)}
        texts = [*self._texts, *(b"" for _ in new)]
        grown = self.from_texts(texts, dict(self.special_tokens) | new, self.boundary)
        grown.training = self.training
        return grown

    def save(self, path: StrPath) -> None:
        """Write a Hugging Face tokenizer: a folder, or one file when `path` ends in .json.

        Plain `tokenizers` reads it as WordPiece and gives the same ids, in a time that is worse than the square of the
        distance between boundaries: two seconds for 8,000 characters. With a boundary such as b"\\n" it stays linear.
        """
        from tokenizers import Tokenizer as HFTokenizer
        from tokenizers import decoders, models, pre_tokenizers

        vocabulary = {to_characters(text): token for token, text in enumerate(self._texts) if text}
        model = models.WordPiece(
            vocabulary | dict(self.special_tokens),
            unk_token=_UNKNOWN,
            max_input_chars_per_word=_WHOLE_TEXT,
            continuing_subword_prefix="",
        )
        tokenizer = HFTokenizer(model)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        if self.boundary is None:
            tokenizer.pre_tokenizer = byte_level
        else:
            split = pre_tokenizers.Split(BYTE_CHARACTERS[self.boundary], "merged_with_previous")
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([byte_level, split])
        tokenizer.decoder = decoders.ByteLevel()
        write_tokenizer(path, tokenizer, self.special_tokens)

    @classmethod
    def from_file(cls, source: TokenizerFile) -> Self:
        """The tokenizer in `source`: a WordPiece that matches bytes greedily to the end of the text.

        Raises InvalidInputError when it is damaged or of another kind.
        """
        refusal, boundary = _recognise(source)
        if refusal is not None:
            fail(source.path, f"it is not an equal-info dictionary: {refusal}")
        special_tokens = source.added_tokens()
        ids: dict[str, int] = source.document["model"]["vocab"] | special_tokens
        names = {token: name for name, token in ids.items()}
        if len(names) < len(ids):
            twice = next(name for name, token in ids.items() if names[token] != name)
            fail(source.path, f"{twice!r} and {names[ids[twice]]!r} have the same id {ids[twice]}")
        special_tokens |= fill_gaps(source.path, set(names))
        texts = [b""] * (max(names) + 1)
        try:
            for name, token in ids.items():
                if name not in special_tokens:
                    texts[token] = to_bytes(name)
            return cls.from_texts(texts, special_tokens, boundary)
        except ValueError as error:
            fail(source.path, str(error))


def train_equal_info(
    documents: Iterable[Buffer],
    *,
    vocab_size: int = 65536,
    model: ByteModel | None = None,
    prune: bool = True,
    boundary: int | None = None,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    threads: int | None = None,
    progress: Progress | None = None,
) -> EqualInfoTokenizer:
    """Learn a dictionary: the strings that are likeliest at the start of a window; the result depends on no thread.

    documents: bytes-like, held in memory together. vocab_size: ids in all, special tokens and bytes included: the
    paper's 2^16 strings are 65,543. model: asked for the probabilities of strings; default `CountModel.fit` of order
    5. prune: search twice as many strings and keep those that the documents use. boundary: a byte value, such as
    b"\\n"[0], after which a token always ends. threads: default all cores. progress: called with (what, done, in all).

    Raises InvalidInputError for sizes out of range and when no document has a byte.

    >>> tokenizer = train_equal_info([b"to be or not to be, that is the question. " * 9], vocab_size=300)
    >>> tokenizer.decode(tokenizer.encode(b"to be"))
    b'to be'
    """
    smallest = len(special_tokens) + 256
    if not smallest <= vocab_size <= MAX_VOCAB:
        raise InvalidInputError(
            f"vocab_size must be between {smallest} and {MAX_VOCAB}: every single byte needs an id, and so do "
            f"{len(special_tokens)} special tokens; got {vocab_size}"
        )
    EqualInfoTokenizer(_SINGLE, special_tokens, boundary=boundary)  # raises before the work, not after it
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    held = [memoryview(document) for document in documents]
    size = sum(document.nbytes for document in held)
    if size == 0:
        raise InvalidInputError("training needs at least one non-empty document")
    if model is None:
        report("counting", 0, 1)
        model = CountModel.fit(held)
        report("counting", 1, 1)
    wanted = vocab_size - len(special_tokens)
    forbidden = [_spelled(name) for name in special_tokens]
    searched = 2 * wanted if prune else wanted
    strings = best_first(model, searched, boundary=boundary, forbidden=forbidden, progress=report)
    sample = _sample(held)
    unpruned = pruned = _uses(strings[:wanted], sample, available_threads(threads))
    kept = strings
    if prune:
        kept = _most_used(strings, _uses(strings, sample, available_threads(threads)), wanted)
        pruned = _uses(kept, sample, available_threads(threads))
    sampled = sum(document.nbytes for document in sample)
    tokenizer = EqualInfoTokenizer(kept, special_tokens, boundary=boundary)
    tokenizer.training = EqualInfoTraining(
        documents=len(held),
        bytes=size,
        sampled_from=size,
        seconds=time.perf_counter() - began,
        bytes_per_token=sampled / int(pruned.sum()),
        unpruned_bytes_per_token=sampled / int(unpruned.sum()),
    )
    return tokenizer


def best_first(
    model: ByteModel,
    size: int,
    *,
    boundary: int | None = None,
    forbidden: Sequence[bytes] = (),
    progress: Progress | None = None,
) -> list[bytes]:
    """The 256 single bytes, and the `size` - 256 likeliest longer strings, likeliest first, equals by their bytes.

    The likelihood of a string is the product of the shares of its bytes, from an empty prefix; so every prefix of a
    string is likelier, and in the set. No string goes on after `boundary`, and none begins with one of `forbidden`.
    """
    room = size - 256
    texts = list(_SINGLE)
    chance = _shares(model, [b""])[0]
    asked = np.arange(256) == (-1 if boundary is None else boundary)
    least = 0.0  # what a longer string needs to be in, as far as we have seen
    while room:
        open_ = np.flatnonzero(~asked & (chance > least))
        if not len(open_):
            break
        now = open_[np.argsort(-chance[open_], kind="stable")[:_ASKED]]
        asked[now] = True
        grown = chance[now, None] * _shares(model, [texts[i] for i in now])
        parent, byte = np.nonzero(grown >= least)
        more = [texts[i] + _SINGLE[b] for i, b in zip(now[parent].tolist(), byte.tolist(), strict=True)]
        allowed = np.array([not text.startswith(tuple(forbidden)) for text in more], bool)
        texts += [text for text, good in zip(more, allowed, strict=True) if good]
        chance = np.concatenate([chance, grown[parent, byte][allowed]])
        asked = np.concatenate([asked, byte[allowed] == (-1 if boundary is None else boundary)])
        if len(texts) > size:
            least = float(np.partition(chance[256:], -room)[-room])
            stay = np.flatnonzero((chance >= least) | (np.arange(len(texts)) < 256))
            texts = [texts[i] for i in stay]
            chance, asked = chance[stay], asked[stay]
        if progress is not None:
            progress("searching strings", min(int(asked.sum()), size), size)
    longer = sorted(range(256, len(texts)), key=lambda i: (-chance[i], texts[i]))
    return [*_SINGLE, *(texts[i] for i in longer[:room])]


def _shares(model: ByteModel, prefixes: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """float [n, 256]: how likely each byte is after each prefix."""
    tables = checked_cumulative(model, prefixes)
    return (tables[:, 1:] - tables[:, :-1]) / TOTAL


def _sample(documents: Sequence[memoryview]) -> list[memoryview]:
    """Every k-th document, with the smallest k such that they are about _SAMPLE bytes, and no more."""
    step = -(-sum(document.nbytes for document in documents) // _SAMPLE)
    sample: list[memoryview] = []
    room = _SAMPLE
    for document in documents[::step]:
        sample.append(document[:room])
        room -= len(sample[-1])
    return sample


def _uses(strings: Sequence[bytes], documents: Sequence[memoryview], threads: int) -> npt.NDArray[np.int64]:
    """How often greedy matching uses each of `strings`: int [n]."""
    uses = np.zeros(len(strings), np.int64)
    segmenter = _segmenter(strings)
    for at in range(0, len(documents), 256):  # so that the ids of a few documents are held
        for ids in segmenter.encode_batch(documents[at : at + 256], threads):
            uses += np.bincount(ids, minlength=len(strings))
    return uses


def _most_used(strings: Sequence[bytes], uses: npt.NDArray[np.int64], size: int) -> list[bytes]:
    """The single bytes and the most used strings with all their prefixes, `size` in all."""
    kept = set(_SINGLE)
    for i in np.argsort(-uses, kind="stable").tolist():  # equals: the likelier first
        chain = [strings[i][:end] for end in range(2, len(strings[i]) + 1)]
        new = [text for text in chain if text not in kept]
        if len(kept) + len(new) <= size:
            kept.update(new)
    return sorted(kept)


def _segmenter(texts: Sequence[bytes]) -> _native.Segmenter:
    return _native.Segmenter(texts, 0, _native.SegmentRule.greedy, _native.SegmentTie.longest, 0)


def _checked_boundary(boundary: int | None) -> int | None:
    if boundary is not None and not 0 <= boundary <= 255:
        raise InvalidInputError(f"boundary must be one byte value, from 0 to 255; got {boundary}")
    return boundary


def _spelled(name: str) -> bytes:
    """The string that would be written like a special token; a name outside the byte alphabet is like none."""
    try:
        return to_bytes(name)
    except ValueError:
        return name.encode()


def _recognise(source: TokenizerFile) -> tuple[str | None, int | None]:
    """Why a tokenizer.json is of another kind, or None; and its boundary."""
    document, model = source.document, source.document["model"]
    if source.model_type != "WordPiece":
        return f"its model is {source.model_type}", None
    if model.get("continuing_subword_prefix"):
        return "its WordPiece marks what continues a word (continuing_subword_prefix)", None
    if not isinstance(model.get("vocab"), dict):
        return "its WordPiece has no vocabulary", None
    longest = model.get("max_input_chars_per_word")
    if not isinstance(longest, int) or longest < 1 << 30:
        return "its WordPiece gives up on long words (max_input_chars_per_word)", None
    before = steps(document.get("normalizer")) + steps(document.get("pre_tokenizer"))
    if not before or before[0].get("type") != "ByteLevel":
        return "its text does not become bytes first (ByteLevel)", None
    if before[0].get("use_regex", True) or before[0].get("add_prefix_space"):
        return "its ByteLevel splits words or adds a space (use_regex, add_prefix_space)", None
    if len(before) == 1:
        return None, None
    split = before[1]
    mark = (split.get("pattern") or {}).get("String")
    if (
        len(before) > 2
        or split.get("type") != "Split"
        or split.get("behavior") != "MergedWithPrevious"
        or split.get("invert")
        or not isinstance(mark, str)
        or len(mark) != 1
        or mark not in BYTE_CHARACTERS
    ):
        return "it splits its text otherwise than behind one byte", None
    return None, BYTE_CHARACTERS.index(mark)
