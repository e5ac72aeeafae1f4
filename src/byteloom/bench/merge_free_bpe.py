"""Merge-free BPE: what it costs a model when its tokenizer is used without the merge list, or with a damaged one.

Vocabularies are trained on Python sources, cut into words first as the published models are, and not cut, and on
executables, and a small language model on each, in merge order. Then the same held-out bytes are segmented by every
inference, and the model is judged in bits per byte and by how often it knows the true continuation of four.
"""

from __future__ import annotations

import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from byteloom.bench.binaries import system_binaries
from byteloom.bench.bpe_peers import hf_tokenizer
from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of
from byteloom.bench.result import Card, Figure, Result, Row, Scale
from byteloom.corpus import Corpus
from byteloom.tokenize import BPE, SPECIAL_TOKENS, Codec, Segmenter, TokenSet, export_unordered, leakage, train_bpe
from byteloom.tokenize.byte_alphabet import to_bytes, to_characters
from byteloom.tokenize.inference import INFERENCES, MERGE_FREE, Inference
from byteloom.train.plan import SIZES, Backbone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from byteloom.evaluate.segmentation import Segmentation

CARD = Card(
    method="merge-free-bpe",
    title="Segmentation by the set of tokens alone: greedy, fewest tokens, longest first; no merge list.",
    paper="Train It and Forget It: Merge Lists are Unnecessary for BPE Inference in Language Models, Sawada and Goyal, "
    "EMNLP 2025",
    arxiv="2508.06621",
    stage="tokenize",
    module="byteloom.tokenize.inference",
    headline="merge-list-free inference has little effect on downstream performance, while damaged merge lists (random "
    "order, deletions, truncation) degrade it significantly",
    measures="bits per byte and multiple-choice accuracy of small models for every inference on the same bytes, with "
    "and without pre-tokenization; tokens, speed, and what released ids tell of the merge order",
)

WORDS, PYTHON, EXECUTABLES = "Python sources, pre-tokenized", "Python sources", "executables"
HELD_OUT = 10  # every so many files are judged and not trained on


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale; sizes in bytes."""

    train: int
    test: int  # judged by the model
    questions: int  # asked of the model
    timed: int  # encoded against the clock
    peer: int  # the same, by Hugging Face
    vocab: int
    backbone: Backbone
    seconds: float  # of training


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(150_000, 3_000, 4, 200_000, 20_000, 512, Backbone(32, 1, 2, 64), 0.3),
    "cpu": _Plan(8_000_000, 40_000, 100, 16_000_000, 1_000_000, 4_096, SIZES["tiny"], 80),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on this machine's Python sources and executables; nothing is downloaded, so `data` is not used."""
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    python = Corpus([sysconfig.get_path("stdlib") + "/**/*.py"], archives=False).sample(plan.train + 20 * plan.test)
    executables = system_binaries(plan.train + plan.timed, largest=1 << 20)
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    texts = [document.data for document in python if _is_text(document.data)]
    for name, documents in (
        (WORDS, texts),
        (PYTHON, texts),
        (EXECUTABLES, [document.data for document in executables]),
    ):
        train, test = [d for i, d in enumerate(documents) if i % HELD_OUT], documents[::HELD_OUT]
        if name == WORDS:
            words = _word_tokenizer(train, plan.vocab)
            judged = _judge(_tokens(words), train, test, plan, report, words)
        else:
            tokenizer = train_bpe(train, vocab_size=plan.vocab, min_frequency=2, progress=report)
            judged = _judge(tokenizer, train, test, plan, report)
            rows += _releases(name, tokenizer)
        numbers |= _damage(name, judged)
        rows += _rows(name, judged)
    speeds, speed_rows = _speed(tokenizer, b"".join([*train, *test])[: plan.timed], plan)
    numbers |= speeds
    rows += speed_rows
    shape = plan.backbone
    notes = [
        f"The models are Llamas (layers {shape.layers}, hidden size {shape.hidden_size}, heads {shape.heads}, window "
        f"{shape.context} tokens), trained in merge order for {plan.seconds:g} s on vocabularies of {plan.vocab:,} "
        f"tokens, and judged on {plan.test / 1e3:.0f} kB of files they have not seen. Pre-tokenized: by the pattern of "
        "GPT-2, as the published models are by a similar one; elsewhere whole files are segmented.",
        "Kept is the share of the token boundaries, or of the pre-tokens, of merge order that an inference has too.",
        f"Questions: which of four continuations of {plan.questions} places in those files is the true one; chance is "
        "25 %.",
    ]
    return Result(CARD.method, scale, numbers, rows, bench_machine("tokenizers"), time.perf_counter() - began, notes)


def _is_text(data: memoryview) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _word_tokenizer(documents: Sequence[memoryview], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of Hugging Face over the words of GPT-2's pattern, with our special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((str(document, "utf-8") for document in documents), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|start|>", eos_token="<|end|>")


def _tokens(tokenizer: PreTrainedTokenizerFast) -> Segmenter:
    """What the ids of a byte-level tokenizer mean."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = {name: token for name, token in vocabulary if name in SPECIAL_TOKENS}
    return Segmenter(TokenSet(tuple(b"" if name in special else to_bytes(name) for name, _ in vocabulary), special))


def _judge(
    tokenizer: Codec,
    train: Sequence[memoryview],
    test: Sequence[memoryview],
    plan: _Plan,
    report: Progress,
    words: PreTrainedTokenizerFast | None = None,
) -> dict[Inference, Segmentation]:
    """Train a model in merge order, that of `words` where there is one, and judge it on every inference."""
    from transformers import LlamaForCausalLM

    from byteloom.evaluate.bits_per_byte import sample_blocks
    from byteloom.evaluate.choices import continuation_questions
    from byteloom.evaluate.segmentation import compare_inference
    from byteloom.evaluate.text_tokenizer import TextTokenizer, whole_characters
    from byteloom.tasks.small_models import train_small_model
    from byteloom.train.trainer import quiet_transformers

    held_out = [whole_characters(block) for block in sample_blocks(test, plan.test)]
    questions = continuation_questions(sample_blocks(test, 10 * plan.test), plan.questions)
    with tempfile.TemporaryDirectory(prefix="byteloom-bench-") as name:
        train_small_model(
            tokenizer,
            plan.backbone,
            train,
            held_out[:1],
            Path(name),
            seconds=plan.seconds,
            text=None if words is None else TextTokenizer(words),
            progress=report,
        )
        with quiet_transformers():
            model = LlamaForCausalLM.from_pretrained(Path(name, "model"))
    judged = compare_inference(
        model,
        words or tokenizer,
        held_out,
        questions=questions,
        progress=lambda done: report("judging inferences", done, len(INFERENCES)),
    )
    return {one.inference: one for one in judged}


def _damage(name: str, judged: dict[Inference, Segmentation]) -> dict[str, Figure]:
    loss = {inference: _loss(judged, inference) for inference in judged}
    free = max(loss[inference] for inference in MERGE_FREE if inference != "longest_first")
    merge, greedy = judged["merge"], judged["greedy"]
    words: dict[str, Figure] = {}
    if greedy.same_words is not None:
        words[f"{name}: pre-tokens that greedy cuts as merge order"] = Figure(100 * greedy.same_words, "%")
    return words | {
        f"{name}: bits per byte lost by merge-free inference, the worst of greedy both ways and minimal": Figure(
            free, "%"
        ),
        f"{name}: bits per byte lost by shuffled merges": Figure(loss["shuffle"], "%"),
        f"{name}: loss of the worst merge-free inference over that of shuffled merges": Figure(
            free / loss["shuffle"], "x", at_most=1 / 3
        ),
        f"{name}: tokens of minimal over merge order": Figure(
            judged["minimal"].judgement.tokens / merge.judgement.tokens, "x", at_most=1
        ),
    }


def _loss(judged: dict[Inference, Segmentation], inference: Inference) -> float:
    """Bits per byte over those of merge order, in per cent more."""
    return 100 * (judged[inference].judgement.bits / judged["merge"].judgement.bits - 1)


def _rows(name: str, judged: dict[Inference, Segmentation]) -> list[Row]:
    merge = judged["merge"].judgement
    return [
        {
            "table": f"Inferences on {name}",
            "inference": inference,
            "tokens over merge order (%)": 100 * (one.judgement.tokens / merge.tokens - 1),
            "boundaries kept (%)": 100 * one.kept,
            "pre-tokens kept (%)": None if one.same_words is None else 100 * one.same_words,
            "bits per byte": one.judgement.bits_per_byte,
            "bits per byte over merge order (%)": _loss(judged, inference),
            "questions right (%)": None if one.accuracy is None else 100 * one.accuracy,
        }
        for inference, one in judged.items()
    ]


def _releases(name: str, tokenizer: BPE) -> list[Row]:
    """What released ids and token lengths tell of the merge order."""
    rows: list[Row] = []
    for order, seed in (("lexicographic", None), ("random", 0)):
        left = leakage(tokenizer, export_unordered(tokenizer, seed)[1])
        rows.append(
            {
                "table": "What a release without merges tells of the merge order",
                "vocabulary": name,
                "ids": order,
                "Kendall's tau of ids": left.id_order,
                "rank correlation of token lengths": left.token_length,
            }
        )
    return rows


def _speed(tokenizer: BPE, data: bytes, plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """MB/s on one thread, beside merge order in Hugging Face `tokenizers`."""
    peer = hf_tokenizer(tokenizer)
    text = to_characters(data[: plan.peer])
    inferences: tuple[Inference, ...] = ("merge", *MERGE_FREE)
    speed = {}
    for inference in inferences:
        segmenter = Segmenter(tokenizer, inference=inference)
        speed[inference] = len(data) / 1e6 / best_of(3, partial(segmenter.encode, data)).wall
    theirs = len(text) / 1e6 / best_of(1, lambda: peer.encode(text)).wall
    rows: list[Row] = [
        {"table": "Encoding executables on one thread", "inference": name, "MB/s": rate}
        for name, rate in (*speed.items(), ("merge, Hugging Face tokenizers", theirs))
    ]
    return {
        "greedy: speed on executables": Figure(speed["greedy"], "MB/s", at_least=50),
        "minimal: speed on executables": Figure(speed["minimal"], "MB/s", at_least=24),
        "greedy: speed over merge order in Hugging Face tokenizers": Figure(speed["greedy"] / theirs, "x", at_least=20),
    }, rows
