"""Release a vocabulary without its merge order: the set of its tokens, with ids that tell nothing of it.

Use it to publish a tokenizer, and a model, without the fingerprint of the training data that the order of merges is
(Data Mixture Inference, Hayase et al. 2024, arXiv 2407.16607). To leave out the merges is not enough, since ids are
given in merge order: `export_unordered` permutes them, and `models.embeddings.permute_embeddings` follows in a model.
`byteloom.tokenize.Segmenter` encodes with the set alone.
Source: Train It and Forget It, EMNLP 2025, arXiv 2508.06621; permutation and report are ours.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from byteloom.errors import InvalidInputError
from byteloom.files import StrPath, read_json, write_json
from byteloom.tokenize.bpe import BPE

_FORMAT = "byteloom token set 1"


@dataclass(frozen=True)
class TokenSet:
    """The bytes of every id, without any order of merges."""

    texts: tuple[bytes, ...]
    """By id; empty for special tokens."""
    special_tokens: Mapping[str, int]

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.texts)

    @classmethod
    def of(cls, tokenizer: BPE) -> TokenSet:
        """The tokens of `tokenizer` under their own ids."""
        lengths = tokenizer.token_lengths.tolist()
        texts = (tokenizer.token_bytes(token) if length else b"" for token, length in enumerate(lengths))
        return cls(tuple(texts), dict(tokenizer.special_tokens))

    def save(self, path: StrPath) -> None:
        """Write a JSON file: tokens in hexadecimal, in order of id."""
        fields = {
            "format": _FORMAT,
            "special_tokens": dict(self.special_tokens),
            "tokens": [text.hex() for text in self.texts],
        }
        write_json(path, fields)

    @classmethod
    def load(cls, path: StrPath) -> TokenSet:
        """Read what `save` wrote. Raises FileError when it cannot be read, InvalidInputError when it is another."""
        fields = read_json(path)
        try:
            if fields["format"] != _FORMAT:
                raise ValueError
            names = {str(name): int(token) for name, token in fields["special_tokens"].items()}
            texts = tuple(bytes.fromhex(text) for text in fields["tokens"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InvalidInputError(f"{path} is no token set that byteloom wrote") from None
        if any(not 0 <= token < len(texts) or texts[token] for token in names.values()):
            raise InvalidInputError(f"{path} is damaged: a special token has no id of its own")
        return cls(texts, names)


@dataclass(frozen=True)
class Leakage:
    """What a released vocabulary still tells of its merge order; 0 is nothing, 1 everything."""

    id_order: float
    """Kendall's tau between the released ids of merged tokens and their merge order."""
    token_length: float
    """Spearman's rank correlation of the length of tokens with their merge order. No permutation hides it."""


def export_unordered(tokenizer: BPE, seed: int | None = None) -> tuple[TokenSet, npt.NDArray[np.uint32]]:
    """The tokens of `tokenizer` under new ids, and uint32 [vocab_size]: the new id of each old one.

    Ids are given in lexicographic order of the tokens' bytes, or in a random order drawn by `seed`. Special tokens
    keep theirs.
    """
    texts = TokenSet.of(tokenizer).texts
    ids = [token for token, text in enumerate(texts) if text]
    order = (
        sorted(ids, key=texts.__getitem__) if seed is None else np.random.default_rng(seed).permutation(ids).tolist()
    )
    permutation = np.arange(len(texts), dtype=np.uint32)
    permutation[order] = ids
    moved = list(texts)
    for old, new in zip(order, ids, strict=True):
        moved[new] = texts[old]
    return TokenSet(tuple(moved), dict(tokenizer.special_tokens)), permutation


def leakage(tokenizer: BPE, permutation: npt.NDArray[np.uint32]) -> Leakage:
    """What ids permuted by `permutation`, and the lengths of tokens, tell of the merge order of `tokenizer`.

    Raises InvalidInputError when the tokenizer has fewer than two merged tokens.
    """
    merged = tokenizer.tables.merges[:, 2]
    if len(merged) < 2:
        raise InvalidInputError("a tokenizer with fewer than two merges has no merge order that could leak")
    lengths = tokenizer.token_lengths[merged]
    _, group, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]  # equals share the mean of their ranks
    constant = len(counts) == 1
    correlation = 0.0 if constant else float(np.corrcoef(ranks, np.arange(len(merged)))[0, 1])
    return Leakage(id_order=_kendall_tau(permutation[merged].tolist()), token_length=correlation)


def _kendall_tau(values: list[int]) -> float:
    """Kendall's tau between different values and their places: 1 when they rise, -1 when they fall."""
    seen: list[int] = []
    discordant = 0
    for value in values:
        discordant += len(seen) - bisect(seen, value)
        insort(seen, value)
    return 1 - 4 * discordant / (len(values) * (len(values) - 1))
