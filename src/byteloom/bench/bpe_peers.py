"""The peers of our BPE, given the same bytes or the same merges: Hugging Face tokenizers and tiktoken."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from byteloom.errors import MissingExtraError
from byteloom.tokenize import BPE
from byteloom.tokenize.byte_alphabet import to_bytes, to_characters

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

MergeBytes = list[tuple[bytes, bytes]]  # the two parts of every merge, in the order of training


def merge_bytes(tokenizer: BPE) -> MergeBytes:
    """The merges as pairs of byte strings, which have the same meaning in every tool."""
    tokens = _token_bytes(tokenizer)
    return [(tokens[left], tokens[right]) for left, right in tokenizer.merges.tolist()]


def hf_train(texts: Iterable[str], merges: int, min_frequency: int, max_token_length: int) -> MergeBytes:
    """Train Hugging Face's BpeTrainer on `texts` (in the byte alphabet), each one word: no pre-tokenizer.

    Its length limit is strict, ours inclusive, so it is given one byte more.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges,
        min_frequency=min_frequency,
        max_token_length=max_token_length + 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pairs = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(to_bytes(left), to_bytes(right)) for left, right in pairs]


def hf_tokenizer(tokenizer: BPE) -> tokenizers.Tokenizer:
    """Hugging Face's encoder with our merges and ids; it takes text in the byte alphabet."""
    from tokenizers import Tokenizer, models

    names = {token: to_characters(data) for token, data in _token_bytes(tokenizer).items()}
    merges = [(names[left], names[right]) for left, right in tokenizer.merges.tolist()]
    return Tokenizer(models.BPE(vocab={name: token for token, name in names.items()}, merges=merges))


def tiktoken_encoding(tokenizer: BPE) -> tiktoken.Encoding:
    """tiktoken's encoder with our tokens and ids; `_encode_single_piece` takes raw bytes.

    Raises MissingExtraError when tiktoken is not installed.
    """
    try:
        import tiktoken
    except ImportError as error:
        raise MissingExtraError("tiktoken", "bench") from error
    ranks = {data: token for token, data in _token_bytes(tokenizer).items()}
    whole: dict[str, Any] = {"pat_str": "(?s).+", "mergeable_ranks": ranks, "special_tokens": {}}
    return tiktoken.Encoding("byteloom", **whole)


def _token_bytes(tokenizer: BPE) -> dict[int, bytes]:
    special = set(tokenizer.special_tokens.values())
    return {token: tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size) if token not in special}
