"""Segment bytes with nothing but the set of tokens of a BPE tokenizer: no merge list is needed.

Use "greedy" to encode with a vocabulary whose merges are lost or withheld; "minimal" for the fewest tokens. A model
that was trained in merge order takes both with little loss, while a damaged merge list ("shuffle", "delete",
"truncate", "bytes": controls for experiments) costs it much.
Source: Train It and Forget It, Sawada and Goyal, EMNLP 2025, arXiv 2508.06621. Trained from scratch, minimal was found
worse than merge order and greedy (PathPiece, arXiv 2402.18376).
Cost: one pass over the bytes for greedy; minimal takes memory of 5 bytes a byte (`encode_blocks`: of a block only).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.tokenize.bpe import BPE
from byteloom.tokenize.token_set import TokenSet
from byteloom.tokenize.tokenizer import Codec, Encoder, Ids, Stream

if TYPE_CHECKING:
    from typing_extensions import Buffer

Inference = Literal[
    "merge", "greedy", "greedy_right", "minimal", "longest_first", "shuffle", "delete", "truncate", "bytes"
]
Tie = Literal["longest", "shortest", "lowest_id", "random"]

INFERENCES: tuple[Inference, ...] = get_args(Inference)
MERGE_FREE: tuple[Inference, ...] = ("greedy", "greedy_right", "minimal", "longest_first")
"""Those that need the set of tokens only."""


class Segmenter(Codec):
    """A codec that encodes by `inference`; ids, special tokens and decoding are those of its tokens.

    tokens: a BPE; or a TokenSet, or the bytes of each id (empty for an id without bytes), and then only MERGE_FREE
    is possible. It goes wherever a tokenizer is only used, such as `evaluate.bits_per_byte`.

    - "merge": in merge order, as the BPE itself.
    - "greedy": the longest token that begins at the first byte, and so on; "greedy_right": the same from the end.
    - "minimal": as few tokens as possible. `tie` says with which token to begin, at each place, where several lead
      to the fewest; "random" depends on `seed` and the place alone.
    - "longest_first": the longest token that occurs anywhere, of equals the first; and so on in what is left.
    - "shuffle": merges in random order. "delete": without a random share `p` of the merges. "truncate": only the
      first share `keep` of them. "bytes": none. All are drawn by `seed`.

    unk_id: the id given to each byte that is no token; without it, such a set is refused.
    Raises InvalidInputError for options out of range, equal tokens and missing bytes or merges.

    >>> Segmenter([*(bytes([b]) for b in range(256)), b"ab", b"bcd"]).encode(b"abcd").tolist()
    [256, 99, 100]
    """

    def __init__(
        self,
        tokens: BPE | TokenSet | Sequence[bytes],
        *,
        inference: Inference = "greedy",
        tie: Tie = "longest",
        p: float = 0.1,
        keep: float = 0.5,
        seed: int = 0,
        unk_id: int | None = None,
    ) -> None:
        if inference not in INFERENCES:
            raise InvalidInputError(f"inference must be one of {', '.join(INFERENCES)}; got {inference!r}")
        if tie not in get_args(Tie):
            raise InvalidInputError(f"tie must be one of {', '.join(get_args(Tie))}; got {tie!r}")
        self.inference = inference
        self._bpe: BPE | None = None
        if isinstance(tokens, BPE | TokenSet):
            token_set = tokens if isinstance(tokens, TokenSet) else TokenSet.of(tokens)
        else:
            token_set = TokenSet(tuple(bytes(text) for text in tokens), {})
        encoder: Encoder
        if inference in MERGE_FREE:
            encoder = self._segmenter = _native.Segmenter(
                token_set.texts,
                _checked_unknown(token_set.texts, unk_id),
                getattr(_native.SegmentRule, inference),
                getattr(_native.SegmentTie, tie),
                seed & 0xFFFF_FFFF_FFFF_FFFF,
            )
        elif not isinstance(tokens, BPE):
            raise InvalidInputError(
                f'inference "{inference}" needs a merge list; give a BPE, or choose from {", ".join(MERGE_FREE)}'
            )
        else:
            self._bpe = tokens if inference == "merge" else damaged_bpe(tokens, inference, p=p, keep=keep, seed=seed)
            encoder = self._bpe
        self._set_up(encoder, token_set.texts, token_set.special_tokens)

    def __repr__(self) -> str:
        return f"Segmenter(inference={self.inference!r}, vocab_size={self.vocab_size})"

    def encode_blocks(self, blocks: Iterable[Buffer]) -> Iterator[Ids]:
        """The ids of one text that comes in blocks, in pieces: together exactly `encode` of the whole.

        Memory does not grow with the text for "greedy" and "merge"; for "minimal" it grows only while the text is such
        that best segmentations differ all along, as in a long run of one byte. "greedy_right", "longest_first" and
        "shuffle" have to hold the text.
        """
        return super().encode_blocks(blocks)

    def _stream(self) -> Stream:
        return _native.SegmentStream(self._segmenter) if self._bpe is None else self._bpe._stream()


def damaged_bpe(tokenizer: BPE, inference: str, *, p: float, keep: float, seed: int) -> BPE:
    """`tokenizer` with a damaged merge list and the same vocabulary; every id still decodes."""
    tables = tokenizer.tables
    merges = tables.merges[damaged_order(len(tables.merges), inference, p=p, keep=keep, seed=seed)]
    if inference != "shuffle":  # what has lost its rule is a token that is only decoded; what needs it, too
        merges = _possible(merges, tables.byte_ids)
    known = tables.token_bytes()
    lost = set(tables.merges[:, 2].tolist()) - set(merges[:, 2].tolist())
    extra = tables.extra_tokens | {token: known[token] for token in lost}
    with warnings.catch_warnings():  # that the list is not one of training, which is the purpose
        warnings.simplefilter("ignore")
        return BPE.from_tables(replace(tables, merges=np.ascontiguousarray(merges), extra_tokens=extra))


def damaged_order(n_merges: int, inference: str, *, p: float, keep: float, seed: int) -> npt.NDArray[np.int64]:
    """Which of `n_merges` merges are left, in their new order, after "shuffle", "delete", "truncate" or "bytes".

    Raises InvalidInputError when a share is not from 0 to 1.
    """
    for name, share in (("p", p), ("keep", keep)):
        if not 0 <= share <= 1:
            raise InvalidInputError(f"{name} is a share of the merges and must lie from 0 to 1; got {share}")
    rng = np.random.default_rng(seed)
    if inference == "shuffle":
        return rng.permutation(n_merges)
    if inference == "delete":
        return np.sort(rng.permutation(n_merges)[round(p * n_merges) :])
    return np.arange(round(keep * n_merges) if inference == "truncate" else 0)


def _possible(merges: npt.NDArray[np.uint32], byte_ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The merges whose parts can come about: bytes, or made by another one of them."""
    possible = set(byte_ids.tolist())
    kept: set[int] = set()
    grown = True
    while grown:  # once, for lists in which parts come before wholes
        grown = False
        for rank, (left, right, result) in enumerate(merges.tolist()):
            if rank not in kept and left in possible and right in possible:
                kept.add(rank)
                grown = grown or result not in possible
                possible.add(result)
    return merges[sorted(kept)]


def _checked_unknown(texts: Sequence[bytes], unk_id: int | None) -> int:
    """The id of bytes that are no token. Raises InvalidInputError for equal tokens, and missing bytes without it."""
    first: dict[bytes, int] = {}
    for token, text in enumerate(texts):
        if text and first.setdefault(text, token) != token:
            raise InvalidInputError(f"tokens {first[text]} and {token} are the same bytes {text!r}; leave one out")
    if unk_id is not None:
        return unk_id
    missing = [f"0x{byte:02x}" for byte in range(256) if bytes([byte]) not in first]
    if missing:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise InvalidInputError(f"no token stands for the bytes {shown}; add them, or give an unk_id for them")
    return 0
