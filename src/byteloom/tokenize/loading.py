"""`load_tokenizer`: a tokenizer of any kind from its file."""

from __future__ import annotations

import os
from pathlib import Path

from byteloom.errors import InvalidInputError
from byteloom.files import StrPath
from byteloom.tokenize.bpe import BPE, byte_tokenizer
from byteloom.tokenize.dna import DNATokenizer, is_dna
from byteloom.tokenize.equal_info import EqualInfoTokenizer
from byteloom.tokenize.subword_tokenizer import SubwordTokenizer
from byteloom.tokenize.tokenizer import Tokenizer
from byteloom.tokenize.tokenizer_json import TokenizerFile
from byteloom.tokenize.words import WordSplitter, is_words

KINDS: dict[str, type[Tokenizer]] = {"BPE": BPE, "Unigram": SubwordTokenizer, "WordPiece": EqualInfoTokenizer}
"""The kind of tokenizer that each type of model in a tokenizer.json is."""


def load_tokenizer(path: StrPath) -> Tokenizer:
    """The tokenizer in a folder, a tokenizer.json or a .tiktoken rank file.

    The names "bytes" and "words" stand for `byte_tokenizer()` and `WordSplitter()`.

    Raises FileError when it cannot be read, InvalidInputError when it is damaged or of no known kind.
    """
    if os.fspath(path) == "bytes":
        return byte_tokenizer()
    if os.fspath(path) == "words":
        return WordSplitter()
    if Path(path).suffix == ".tiktoken":
        return BPE.load(path)
    source = TokenizerFile.read(path)
    kind = KINDS.get(source.model_type, BPE)
    if kind is BPE:
        kind = WordSplitter if is_words(source) else DNATokenizer if is_dna(source) else BPE
    return kind.from_file(source)


def load_bpe(path: StrPath, purpose: str) -> BPE:
    """`load_tokenizer` where only a byte-level BPE will do; `purpose` says for what in the error."""
    tokenizer = load_tokenizer(path)
    if type(tokenizer) is not BPE:
        raise InvalidInputError(f"{purpose} needs a byte-level BPE; {os.fspath(path)} is of the kind {tokenizer.kind}")
    return tokenizer
