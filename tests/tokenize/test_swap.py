"""swap_inference on small tokenizers of the families in use, trained here: GPT-2, Llama 3, Qwen 2, Llama 2."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from byteloom.errors import InvalidInputError
from byteloom.tokenize import swap
from byteloom.tokenize.inference import INFERENCES, MERGE_FREE, Inference
from byteloom.tokenize.swap import swap_inference

CORPUS = [
    "def encode(self, text: str) -> list[int]: return [self.table[word] for word in text.split()]",
    "The quick brown fox jumps over the lazy dog; the dog sleeps, and the fox's tail is 1234567 hairs long.",
    "naïve café über straße 数据 данные; encoded, encoding, encoder, decode, decoded, decoding",
] * 20
TEXTS = [
    *CORPUS[:3],
    "",
    " ",
    "  two  spaces\n\n\tand tabs ",
    "emoji 🙂🙃 and unseen 漢字 ∞",
    "<s>special</s> in the <|endoftext|>middle",
    "12345 don't they'll",
    *(line[i : i + 30] for line in CORPUS[:3] for i in range(0, 60, 4)),
]
# The splitting pattern of Llama 3 and, with single digits, of Qwen 2.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def byte_level(split: str | None, *, ignore_merges: bool = False, nfc: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is None:
        tokenizer.pre_tokenizer = level
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), level])
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=450,
            special_tokens=["<|endoftext|>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def gpt_neox() -> Tokenizer:
    return byte_level(None, nfc=True)


def llama_3() -> Tokenizer:
    tokenizer = byte_level(PATTERN.replace("DIGITS", "3"), ignore_merges=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def qwen_2() -> Tokenizer:
    return byte_level(PATTERN.replace("DIGITS", "1"), nfc=True)


def llama_2() -> Tokenizer:
    """Characters, spaces written as U+2581, and a token for every byte, to fall back to."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names = special + sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: token for token, name in enumerate(names)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = trained.normalizer
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special[:3]])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


FAMILIES = {"gpt-neox": gpt_neox, "llama 3": llama_3, "qwen 2": qwen_2, "llama 2": llama_2}


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=FAMILIES[request.param](), pad_token="</s>")


def thousand_texts() -> list[str]:
    """Cuts and mixtures of the corpus with characters of all lengths, control characters and special tokens."""
    rng = random.Random(0)
    pieces = [*TEXTS, "\x00", "\r\n", "é", "e\u0301", "\u00a0", "\u200d", "🙂", "<s>", "ﬁ", "\uff11"]

    def cut(piece: str) -> str:
        at = rng.randrange(len(piece) + 1)
        return piece[at : at + rng.randrange(25)]

    return ["".join(cut(rng.choice(pieces)) for _ in range(rng.randrange(6))) for _ in range(1000)]


@pytest.mark.parametrize(("inference", "options"), [("merge", {}), ("truncate", {"keep": 1.0}), ("delete", {"p": 0.0})])
def test_undamaged_merges_give_the_same_ids(
    tokenizer: PreTrainedTokenizerFast, inference: Inference, options: dict[str, float]
) -> None:
    texts = TEXTS + thousand_texts()
    assert swap_inference(tokenizer, inference, **options)(texts)["input_ids"] == tokenizer(texts)["input_ids"]


@pytest.mark.parametrize("inference", ["greedy", "minimal", "bytes"])
def test_a_thousand_texts_decode_to_themselves(tokenizer: PreTrainedTokenizerFast, inference: Inference) -> None:
    texts = thousand_texts()
    swapped = swap_inference(tokenizer, inference)
    own, other = (tokenizer.batch_decode(use(texts)["input_ids"]) for use in (tokenizer, swapped))
    assert other == own


def test_shuffled_by_the_identity_is_merge_order(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert swap_inference(tokenizer, "shuffle")(TEXTS)["input_ids"] != tokenizer(TEXTS)["input_ids"]
    monkeypatch.setattr(swap, "damaged_order", lambda n_merges, *_, **options: np.arange(n_merges))
    assert swap_inference(tokenizer, "shuffle")(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


@pytest.mark.parametrize("inference", INFERENCES)
def test_only_the_segmentation_changes(tokenizer: PreTrainedTokenizerFast, inference: Inference) -> None:
    before = tokenizer.backend_tokenizer.to_str()
    swapped = swap_inference(tokenizer, inference)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert len(swapped) == len(tokenizer)
    special = set(tokenizer.all_special_ids)
    for text in TEXTS:
        ids, own = swapped(text)["input_ids"], tokenizer(text)["input_ids"]
        assert swapped.decode(ids) == tokenizer.decode(own)
        assert [i for i in ids if i in special] == [i for i in own if i in special]
        spans = swapped(text, return_offsets_mapping=True)["offset_mapping"]
        assert len(spans) == len(ids)
        # Whatever the cuts: the same characters are covered, in order.
        assert covered(spans) == covered(tokenizer(text, return_offsets_mapping=True)["offset_mapping"])


def covered(spans: list[tuple[int, int]]) -> set[int]:
    return {at for start, end in spans for at in range(start, end)}


def test_greedy_takes_the_longest_token_of_each_pre_token(tokenizer: PreTrainedTokenizerFast) -> None:
    backend = tokenizer.backend_tokenizer
    swapped = swap_inference(tokenizer, "greedy")
    vocabulary = set(backend.get_vocab()) - {"<s>", "</s>", "<unk>", "<|endoftext|>"}
    for text in CORPUS[:2]:
        normalized = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words = backend.pre_tokenizer.pre_tokenize_str(normalized) if backend.pre_tokenizer else [(normalized, None)]
        expected = []
        for word, _ in words:
            while word:
                expected.append(max((name for name in vocabulary if word.startswith(name)), key=len))
                word = word[len(expected[-1]) :]
        assert swapped.tokenize(text) == expected


def test_minimal_needs_the_fewest_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    fewest = swap_inference(tokenizer, "minimal")
    for inference in MERGE_FREE:
        other = swap_inference(tokenizer, inference)
        for text in TEXTS:
            assert len(fewest(text)["input_ids"]) <= len(other(text)["input_ids"])


def test_batches_are_padded_and_truncated(tokenizer: PreTrainedTokenizerFast) -> None:
    swapped = swap_inference(tokenizer, "greedy")
    batch = swapped(TEXTS, padding=True, truncation=True, max_length=12)
    assert {len(row) for row in batch["input_ids"]} == {12}


def fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")), "supports BPE tokenizers; .* is WordPiece"),
        (Tokenizer(models.Unigram([("a", 0.0)], 0, False)), "supports BPE tokenizers; .* is Unigram"),
        (Tokenizer(models.BPE({"a": 0}, [], dropout=0.1)), "set its model's dropout to None"),
        (Tokenizer(models.BPE({"a": 0}, [], end_of_word_suffix="</w>")), "marks tokens with end_of_word_suffix"),
    ],
)
def test_others_are_refused_by_name(backend: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        swap_inference(fast(backend), "greedy")


def test_options_and_slow_tokenizers(tokenizer: PreTrainedTokenizerFast) -> None:
    from byteloom.tokenize import byte_tokenizer
    from byteloom.tokenize.hf import ByteTokenizer

    with pytest.raises(InvalidInputError, match="ByteTokenizer is slow"):
        swap_inference(ByteTokenizer(tokenizer=byte_tokenizer()), "greedy")
    with pytest.raises(InvalidInputError, match="inference must be one of"):
        swap_inference(tokenizer, "fast")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="p is a share"):
        swap_inference(tokenizer, "delete", p=2)
