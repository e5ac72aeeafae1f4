"""Another segmentation for a Hugging Face tokenizer: everything stays as it is but how pre-tokens become tokens.

Use it to run a model that was trained in merge order without its merge list ("greedy", "minimal"), or with a damaged
one as a control; `byteloom.tokenize.inference` has the choices, the source and what to expect.
Cost: the merge-free ones go through Python once for each distinct pre-token.
"""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any

from byteloom.errors import InvalidInputError
from byteloom.tokenize.byte_alphabet import BYTE_CHARACTERS, to_bytes
from byteloom.tokenize.inference import INFERENCES, MERGE_FREE, Inference, Segmenter, Tie, damaged_order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CACHED_PIECES = 1 << 16


def swap_inference(
    tokenizer: PreTrainedTokenizerBase,
    inference: Inference,
    *,
    tie: Tie = "longest",
    p: float = 0.1,
    keep: float = 0.5,
    seed: int = 0,
) -> PreTrainedTokenizerBase:
    """A copy of a fast byte-level or SentencePiece BPE tokenizer whose pre-tokens are segmented by `inference`.

    Normaliser, pre-tokenizer, special tokens, template, padding, offsets and decoding are those of `tokenizer`; so are
    all ids. The options are those of Segmenter. A copy for a merge-free inference cannot be saved or pickled: save the
    original, and swap again after loading.

    Raises InvalidInputError for tokenizers that are not BPE, mark word ends, drop merges at random, or are slow.
    """
    from tokenizers import models, pre_tokenizers

    if inference not in INFERENCES:
        raise InvalidInputError(f"inference must be one of {', '.join(INFERENCES)}; got {inference!r}")
    document = _checked_document(tokenizer)
    swapped = copy.deepcopy(tokenizer)
    if inference == "merge":
        return swapped
    model = document["model"]
    vocabulary: dict[str, int] = model["vocab"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    backend = swapped.backend_tokenizer
    merge_free = inference in MERGE_FREE
    damaged = () if merge_free else damaged_order(len(merges), inference, p=p, keep=keep, seed=seed).tolist()
    # Without merges, and told to look whole pieces up first, the model gives the id of each piece that is a token, and
    # does with one that is not what it always does: bytes, or the unknown token.
    backend.model = models.BPE(
        vocab=vocabulary,
        merges=[merges[rank] for rank in damaged],
        unk_token=model.get("unk_token"),
        fuse_unk=bool(model.get("fuse_unk")),
        byte_fallback=bool(model.get("byte_fallback")),
        ignore_merges=merge_free,
    )
    if merge_free:
        splitter = _Splitter(document, inference=inference, tie=tie, seed=seed)
        own = pre_tokenizers.PreTokenizer.custom(splitter)
        before = backend.pre_tokenizer
        backend.pre_tokenizer = own if before is None else pre_tokenizers.Sequence([before, own])
    return swapped


class _Splitter:
    """The last step of pre-tokenization: cuts every piece into tokens, which the model then only looks up."""

    def __init__(self, document: dict[str, Any], *, inference: Inference, tie: Tie, seed: int) -> None:
        vocabulary: dict[str, int] = document["model"]["vocab"]
        self._byte_level = any(step.get("type") == "ByteLevel" for step in _steps(document))
        names = [""] * (1 + max(vocabulary.values()))
        for name, token in vocabulary.items():
            names[token] = name
        # Never found in text: special tokens, and the stand-ins for what no token covers.
        special: set[str | None] = {token["content"] for token in document["added_tokens"] if token["special"]}
        special |= {f"<0x{byte:02X}>" for byte in range(256)} | {document["model"].get("unk_token")}
        if self._byte_level:
            special |= {name for name in names if not set(name) <= set(BYTE_CHARACTERS)}
        spell = to_bytes if self._byte_level else str.encode
        self._texts = [b"" if name in special else spell(name) for name in names]
        self._widths = [len(name) for name in names]
        self._segmenter = Segmenter(self._texts, inference=inference, tie=tie, seed=seed, unk_id=len(names))
        self.cuts = lru_cache(maxsize=_CACHED_PIECES)(self._cuts)

    def pre_tokenize(self, text: Any) -> None:
        """Called by `tokenizers` for every text."""
        text.split(lambda _, piece: [piece[start:end] for start, end in self.cuts(str(piece))])

    def _cuts(self, piece: str) -> list[tuple[int, int]]:
        """Start and end, in characters, of every token of a piece; unknown characters in a row are left together."""
        data = to_bytes(piece) if self._byte_level else piece.encode()
        widths: list[int] = []
        at = 0  # bytes
        for token, group in groupby(self._segmenter.encode(data).tolist()):
            repeats = len(list(group))
            if token < len(self._texts):
                widths += [self._widths[token]] * repeats
                at += repeats * len(self._texts[token])
            else:  # bytes of characters that no token covers
                widths.append(repeats if self._byte_level else len(data[at : at + repeats].decode()))
                at += repeats
        return list(pairwise(accumulate(widths, initial=0)))


def _checked_document(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The tokenizer.json of a tokenizer that can be treated. Raises InvalidInputError otherwise."""
    name = type(tokenizer).__name__
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InvalidInputError(f"swap_inference needs a fast tokenizer, one of the library tokenizers; {name} is slow")
    document = json.loads(backend.to_str())
    model = document["model"]
    if model["type"] != "BPE":
        raise InvalidInputError(f"swap_inference supports BPE tokenizers; this {name} is {model['type']}")
    if model.get("dropout"):
        raise InvalidInputError(f"this {name} drops merges at random; set its model's dropout to None first")
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise InvalidInputError(
                f"swap_inference supports byte-level and SentencePiece BPE; this {name} marks tokens with {option}"
            )
    return document


def _steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of normaliser and pre-tokenizer, with sequences opened."""
    steps = [part for part in (document.get("normalizer"), document.get("pre_tokenizer")) if part]
    for step in steps:  # grows while it is walked
        steps += step.get("normalizers", []) + step.get("pretokenizers", [])
    return steps
