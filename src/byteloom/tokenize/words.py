"""Words of bytes: one id a byte, which says whether the byte ends its word.

Use it for models that make one vector of a word (`byteloom.models.word_pooled`, `byteloom.models.byte2word`): nothing
is learned and nothing is lost. The rule "text" cuts at blanks, digits and punctuation and keeps a space with the word
behind it; "fixed:n" makes words of n bytes, for DNA and machine code; a function gives whatever else, such as the
tokens of a BPE.
Source: Learn Your Tokens, Thawani et al., Findings of EMNLP 2023, arXiv 2310.11628; the lossless rule is ours.
Cost: one pass, some hundred megabytes a second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath
from byteloom.tokenize.byte_alphabet import BYTE_CHARACTERS, to_characters
from byteloom.tokenize.tokenizer import Codec, Ids, Stream, Tokenizer
from byteloom.tokenize.tokenizer_json import SPECIAL_TOKENS, TokenizerFile, fail, steps, write_tokenizer

if TYPE_CHECKING:
    from typing_extensions import Buffer

Rule = str | Callable[[bytes], Sequence[int] | npt.NDArray[np.integer[Any]]]
FIRST = len(SPECIAL_TOKENS)
"""The id of byte 0 inside a word; the byte that ends one has an id LAST higher."""
LAST = 256
MAX_BYTES = 16

_END = "</w>"  # marks the tokens that end a word in a tokenizer.json


class WordSplitter(Tokenizer):
    """Ids: special tokens, then 256 bytes inside a word, then 256 bytes that end one; 519 in all.

    rule: "text", "fixed:n", or a function that gives the lengths of the words of some bytes, each at most `max_bytes`.
    Raises InvalidInputError for another rule.

    >>> words = WordSplitter()
    >>> words.split(b"two words, 16 bytes")
    [b'two', b' words', b',', b' 16', b' bytes']
    >>> words.encode(b"hi")
    array([111, 368], dtype=uint32)
    """

    kind = "words"

    def __init__(self, rule: Rule = "text", max_bytes: int = MAX_BYTES, special_tokens: Sequence[str] = SPECIAL_TOKENS):
        if max_bytes < 1:
            raise InvalidInputError(f"a word has at least one byte; got max_bytes={max_bytes}")
        self.rule, self.max_bytes = rule, max_bytes
        fixed = 0
        if isinstance(rule, str) and rule != "text":
            number = rule.removeprefix("fixed:")
            if rule == number or not number.isdecimal() or not 1 <= int(number) <= max_bytes:
                raise InvalidInputError(
                    f'the rule is "text" or "fixed:n" with n from 1 to {max_bytes}, or a function; got {rule!r}'
                )
            fixed = int(number)
        names = list(special_tokens)
        if names[:FIRST] != list(SPECIAL_TOKENS):
            raise InvalidInputError(f"the special tokens of words begin with {', '.join(SPECIAL_TOKENS)}")
        self._native = _native.WordSplitter(fixed, max_bytes, FIRST)
        encoder = self._native if isinstance(rule, str) else _ByRule(self)
        texts = [b""] * FIRST + 2 * [bytes([byte]) for byte in range(256)] + [b""] * (len(names) - FIRST)
        ids = {name: id if id < FIRST else id + 2 * LAST for id, name in enumerate(names)}
        self._set_up(encoder, texts, ids)

    def word_lengths(self, data: Buffer) -> npt.NDArray[np.uint32]:
        """uint32 [words]: the bytes of each word of `data`.

        Raises InvalidInputError when the lengths that a function gives do not add up, or exceed `max_bytes`.
        """
        if isinstance(self.rule, str):
            return self._native.lengths(data)
        view = memoryview(data).cast("B")
        lengths = np.asarray(self.rule(bytes(view)), np.int64).reshape(-1)
        if lengths.sum() != len(view):
            raise InvalidInputError(f"the rule gives words of {lengths.sum()} bytes for {len(view)} bytes")
        if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= self.max_bytes:
            wrong = lengths[(lengths < 1) | (lengths > self.max_bytes)][0]
            raise InvalidInputError(f"the rule gives a word of {wrong} bytes; words have 1 to {self.max_bytes}")
        return lengths.astype(np.uint32)

    def split(self, data: Buffer) -> list[bytes]:
        """The words of `data`."""
        view = memoryview(data).cast("B")
        ends = np.cumsum(self.word_lengths(data)).tolist()
        return [bytes(view[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def save(self, path: StrPath) -> None:
        """Write a Hugging Face tokenizer: a folder, or one file when `path` ends in .json.

        Plain `tokenizers` gives the same ids for the UTF-8 bytes of a str.
        Raises InvalidInputError for a function as the rule: it cannot be written down.
        """
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        if not isinstance(self.rule, str):
            raise InvalidInputError('words by a function cannot be saved; use the rule "text" or "fixed:n"')
        vocabulary = {name: id for name, id in self.special_tokens.items() if id < FIRST}
        vocabulary |= {character: FIRST + byte for byte, character in enumerate(BYTE_CHARACTERS)}
        vocabulary |= {character + _END: FIRST + LAST + byte for byte, character in enumerate(BYTE_CHARACTERS)}
        vocabulary |= self.special_tokens
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], end_of_word_suffix=_END))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                pre_tokenizers.Split(Regex(_pattern(self.rule, self.max_bytes)), "isolated"),
            ]
        )
        tokenizer.decoder = decoders.Sequence([decoders.Replace(_END, ""), decoders.ByteLevel()])
        write_tokenizer(path, tokenizer, self.special_tokens)

    @classmethod
    def from_file(cls, source: TokenizerFile) -> Self:
        """The splitter in `source`. Raises InvalidInputError when it is damaged or of another kind."""
        if not is_words(source):
            fail(source.path, "it is not a splitter into words")
        splits = [step for step in steps(source.document.get("pre_tokenizer")) if step.get("type") == "Split"]
        pattern = str((splits[0].get("pattern") or {}).get("Regex")) if len(splits) == 1 else ""
        added = source.added_tokens()
        names = sorted(added, key=added.__getitem__)
        numbers = [int(number) for number in re.findall(r"\{1,(\d{1,4})\}", pattern)]
        if numbers:
            for rule in ("text", f"fixed:{numbers[-1]}"):
                if pattern == _pattern(rule, numbers[-1]):
                    splitter = cls(rule, numbers[-1] if rule == "text" else max(MAX_BYTES, numbers[-1]), names)
                    if splitter.special_tokens == added:
                        return splitter
        fail(source.path, "it splits words by another rule, or its ids are others")

    def with_special_tokens(self, names: Iterable[str]) -> Self:
        """This splitter with more special tokens, behind the last id."""
        mine = list(self.special_tokens)
        return type(self)(self.rule, self.max_bytes, [*mine, *(name for name in names if name not in mine)])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rule, self.max_bytes, list(self.special_tokens))

    def _stream(self) -> Stream:
        if isinstance(self.rule, str):
            return _native.WordStream(self._native)
        raise InvalidInputError("words by a function are those of a whole text; encode it in one piece")


def spans_of(tokenizer: Codec, max_bytes: int = MAX_BYTES) -> Callable[[bytes], npt.NDArray[np.uint32]]:
    """A rule for `WordSplitter`: the words are the tokens of `tokenizer`, longer ones cut at `max_bytes`."""

    def lengths(data: bytes) -> npt.NDArray[np.uint32]:
        whole = tokenizer.token_lengths[tokenizer.encode(data)].astype(np.int64)
        parts = -(-whole // max_bytes)
        cut = np.repeat(np.full(len(whole), max_bytes), parts)
        cut[np.cumsum(parts) - 1] = whole - (parts - 1) * max_bytes
        return cut.astype(np.uint32)

    return lengths


def is_words(source: TokenizerFile) -> bool:
    """Whether a tokenizer.json is one of a WordSplitter."""
    model = source.document["model"]
    return model.get("end_of_word_suffix") == _END and not model.get("merges")


class _ByRule:
    """An encoder whose words a function finds."""

    def __init__(self, splitter: WordSplitter) -> None:
        self._splitter = splitter

    def encode(self, data: Buffer) -> Ids:
        if isinstance(data, str):
            raise TypeError("encode takes bytes-like data; call .encode('utf-8') first")
        ids = np.frombuffer(memoryview(data), np.uint8).astype(np.uint32) + np.uint32(FIRST)
        ends = np.cumsum(self._splitter.word_lengths(data), dtype=np.int64) - 1
        ids[ends] += np.uint32(LAST)
        return ids

    def encode_batch(self, documents: Sequence[Buffer], threads: int) -> list[Ids]:
        return [self.encode(document) for document in documents]

    def count(self, data: Buffer) -> int:
        return memoryview(data).nbytes


def _pattern(rule: str, max_bytes: int) -> str:
    """The rule as a regular expression over the byte alphabet, as `tokenizers` splits by it."""
    if rule != "text":
        return rf".{{1,{int(rule.removeprefix('fixed:'))}}}"
    space = to_characters(b" ")
    high = "".join(f"\\x{{{ord(character):x}}}" for character in to_characters(bytes(range(0x80, 0x100))))
    blanks = "".join(f"\\x{{{ord(character):x}}}" for character in to_characters(b" \t\n\v\f\r"))
    kinds = (f"[A-Za-z{high}]", "[0-9]", f"[^A-Za-z0-9{high}{blanks}]")
    words = [f"{space}{kind}{{1,{max_bytes - 1}}}" for kind in kinds] if max_bytes > 1 else []
    words += [f"{kind}{{1,{max_bytes}}}" for kind in (*kinds, f"[{blanks}]")]
    return "|".join(words)
