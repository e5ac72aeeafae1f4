"""Equal-info windows: bytes per token against BPE on the same text, speed, and what a small model learns of each code.

The text is the standard library of the running Python. Four small models of one shape see the same number of tokens:
raw bytes, an equal-info dictionary, BPE, and plain arithmetic coding, of which nothing can be learned.
"""

from __future__ import annotations

import math
import random
import sysconfig
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from byteloom import _native
from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.bench.result import Card, Figure, Result, Row, Scale
from byteloom.tokenize import EqualInfoTokenizer, available_threads, load_tokenizer, train_bpe, train_equal_info
from byteloom.tokenize.arithmetic import ac_ids, compress, decompress
from byteloom.tokenize.byte_model import AdaptiveModel, CountModel, StaticModel, quantise
from byteloom.tokenize.windows import WindowCoder
from byteloom.train.plan import Backbone

if TYPE_CHECKING:
    import tokenizers

CARD = Card(
    method="equal-info",
    title="Equal-info windows: tokens of about equal information, compiled into a dictionary of likely strings.",
    paper="Training LLMs over Neurally Compressed Text, Lester et al., TMLR 2024",
    arxiv="2404.03626",
    stage="tokenize",
    module="byteloom.tokenize.equal_info",
    headline="plain arithmetic coding is not learnable; equal-info windows are, with shorter sequences than subwords "
    "(5.31 bytes per token at a vocabulary of 65k, SentencePiece 4.28 at 32k), but behind subwords in perplexity",
    measures="bytes per token of windows, dictionaries and BPE on the same sources; speed against `tokenizers`; bits "
    "per byte of small models on bytes, dictionary, BPE and plain arithmetic coding, beside what a uniform guess gives",
)

SPECIAL = 7  # special tokens in front of a dictionary, which the paper's sizes do not count
BYTES, BPE, PLAIN = "bytes", "BPE", "plain arithmetic coding"
DICTIONARY = "equal-info dictionary, not pruned"  # pruning trades equal information for fewer tokens
Encode = Callable[[bytes], npt.NDArray[np.integer]]


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale; sizes in bytes."""

    train: int
    test: int  # held out
    windows: int  # of it, cut into windows
    large: int  # strings in the dictionary
    small: int
    timed: int  # the longest text encoded against the clock
    peer: int  # the same, by Hugging Face
    judged: int  # of the held-out text, by the models
    backbone: Backbone
    steps: int


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(300_000, 30_000, 3_000, 1_200, 500, 400_000, 30_000, 3_000, Backbone(32, 1, 2, 32), 5),
    "cpu": _Plan(1 << 30, 400_000, 400_000, 65_536, 4_096, 64_000_000, 400_000, 200_000, Backbone(128, 3, 4, 256), 400),
}
WARM_UP, BATCH, LEARNING_RATE = 50, 8, 2e-3


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on this machine's Python sources; nothing is downloaded, so `data` is not used."""
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    train, test = _sources(plan)
    model, counting = timed(lambda: CountModel.fit(train))
    report("equal-info: dictionaries", 0, 1)
    large, search = timed(lambda: train_equal_info(train, vocab_size=plan.large + SPECIAL, model=model, threads=1))
    small = train_equal_info(train, vocab_size=plan.small + SPECIAL, model=CountModel.fit(train, 4))
    peers = {size: _train_peer(train, size) for size in (plan.large, plan.small)}
    unpruned = train_equal_info(train, vocab_size=small.vocab_size, model=CountModel.fit(train, 4), prune=False)
    numbers, rows = _lengths(train, test, model, large, small, unpruned, peers, plan)
    numbers[f"dictionary of {plan.large:,}: training, processor time"] = Figure(
        counting.cpu + search.cpu, "s", at_most=15
    )
    speeds, speed_rows = _speeds(train, test, model, large, peers[plan.large], plan)
    numbers |= speeds
    rows += speed_rows
    notes = [
        f"Trained on {sum(map(len, train)) / 1e6:.1f} MB of the sources of the standard library, without its tests, "
        f"and measured on {len(test) / 1e3:.0f} kB of files that were held out. BPE is byte-level with the "
        "pre-tokenizer of GPT-2, trained by Hugging Face `tokenizers` on the same files; BPE without pre-tokenization "
        "is ours, whose tokens cross words as those of the dictionary do.",
        "Ours counts 7 special tokens on top of the sizes named here.",
    ]
    if find_spec("torch") and find_spec("transformers"):
        more, more_rows = _learnability(train, test, unpruned, peers[plan.small], plan, report)
        numbers |= more
        rows += more_rows
        shape = plan.backbone
        notes.append(
            f"The models are Llamas (layers {shape.layers}, hidden size {shape.hidden_size}, heads {shape.heads}, "
            f"window {shape.context} tokens) that saw {plan.steps * BATCH * shape.context:,} tokens each, and are "
            f"judged on {plan.judged / 1e3:.0f} kB. The uniform line is what guessing every token alike costs; a model "
            "at its line has learned nothing, however few bits that is."
        )
    else:
        notes.append("The language models were not measured: they need byteloom[models].")
    return Result(CARD.method, scale, numbers, rows, bench_machine("tokenizers"), time.perf_counter() - began, notes)


def _sources(plan: _Plan) -> tuple[list[bytes], bytes]:
    """The library's files to train on, and one text of others."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        file for file in root.rglob("*.py") if not {"site-packages", "test", "tests", "idle_test"} & {*file.parts}
    )
    random.Random(0).shuffle(files)
    documents = [file.read_bytes() for file in files]
    train, size = [], 0
    for document in documents[40:]:
        if size < plan.train:
            train.append(document)
            size += len(document)
    return train, b"".join(documents[:40])[: plan.test]


def _train_peer(documents: Sequence[bytes], size: int) -> tokenizers.Tokenizer:
    """Byte-level BPE with the pre-tokenizer of GPT-2, by Hugging Face."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((_text(document) for document in documents), trainer)
    return tokenizer


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _lengths(
    train: Sequence[bytes],
    test: bytes,
    model: CountModel,
    large: EqualInfoTokenizer,
    small: EqualInfoTokenizer,
    unpruned_small: EqualInfoTokenizer,
    peers: dict[int, tokenizers.Tokenizer],
    plan: _Plan,
) -> tuple[dict[str, Figure], list[Row]]:
    """Bytes per token of every code of the held-out text."""
    unpruned = train_equal_info(train, vocab_size=large.vocab_size, model=model, prune=False)
    merged = train_bpe(train, vocab_size=large.vocab_size, min_frequency=2)
    cut = test[: plan.windows]
    windows = {rule: WindowCoder(model, rule=rule).encode(cut) for rule in ("greedy", "minimal")}
    assert WindowCoder(model).decode(windows["minimal"]) == cut
    assert large.decode(large.encode(test)) == test
    bpe = {size: len(test) / len(peer.encode(_text(test)).ids) for size, peer in peers.items()}
    ours = {plan.large: len(test) / large.count(test), plan.small: len(test) / small.count(test)}
    found = {
        f"equal-info dictionary, {plan.large:,}": ours[plan.large],
        f"equal-info dictionary, {plan.large:,}, not pruned": len(test) / unpruned.count(test),
        f"BPE, {plan.large:,}": bpe[plan.large],
        f"BPE without pre-tokenization, {plan.large:,}": len(test) / merged.count(test),
        f"equal-info dictionary, {plan.small:,}": ours[plan.small],
        f"equal-info dictionary, {plan.small:,}, not pruned": len(test) / unpruned_small.count(test),
        f"BPE, {plan.small:,}": bpe[plan.small],
        f"BPE without pre-tokenization, {plan.small:,}": len(test) / merged.truncate(small.vocab_size).count(test),
        "windows of 16 bits, greedy (not decodable), 65,536": len(cut) / len(windows["greedy"]),
        "windows of 16 bits, minimal, 65,536": len(cut) / len(windows["minimal"]),
        "plain arithmetic coding, 65,536": len(test) / len(ac_ids(test, model, 16)),
        "plain arithmetic coding, 256": len(test) / len(ac_ids(test, model)),
        "plain arithmetic coding with one table, 256": len(test) / len(ac_ids(test, StaticModel.fit(train))),
        "plain arithmetic coding, adaptive, 256": len(test) / len(ac_ids(test, AdaptiveModel())),
        "gzip, 256": len(test) / len(zlib.compress(test)),
    }
    rows: list[Row] = [
        {"table": "Bytes per token", "code and vocabulary": name, "bytes per token": value}
        for name, value in found.items()
    ]
    shared = 100 * (1 - len(np.unique(windows["minimal"])) / 65_536)
    return {
        f"dictionary of {plan.large:,}: bytes per token": Figure(ours[plan.large], "", at_least=5.7),
        f"dictionary of {plan.large:,}: bytes per token over BPE": Figure(
            ours[plan.large] / bpe[plan.large], "x", at_least=1.3
        ),
        f"dictionary of {plan.small:,}: bytes per token over BPE": Figure(ours[plan.small] / bpe[plan.small], "x"),
        "minimal windows: ids of 65,536 that the held-out text does not use": Figure(shared, "%"),
    }, rows


def _speeds(
    train: Sequence[bytes],
    test: bytes,
    model: CountModel,
    large: EqualInfoTokenizer,
    peer: tokenizers.Tokenizer,
    plan: _Plan,
) -> tuple[dict[str, Figure], list[Row]]:
    """Encoding and decoding on one thread beside Hugging Face, and the coder; by processor time but for the batch."""
    whole = b"".join(train)
    long = (whole * (1 + plan.timed // len(whole)))[: plan.timed]
    eighth = long[: len(long) // 8]
    seconds = {size: best_of(3, partial(large.encode, text)).cpu for size, text in ((1, eighth), (8, long))}
    ids = large.encode(long)
    decoding = best_of(2, partial(large.decode, ids)).cpu
    text = _text(test[: plan.peer])
    theirs = len(test[: plan.peer]) / 1e6 / best_of(1, lambda: peer.encode(text)).cpu
    speed = len(long) / 1e6 / seconds[8]
    cores = available_threads()
    pieces = [long[at : at + (1 << 20)] for at in range(0, len(long), 1 << 20)]
    one, all_ = (best_of(2, partial(large.encode_batch, pieces, threads)).wall for threads in (1, cores))
    with tempfile.TemporaryDirectory(prefix="byteloom-bench-") as folder:
        large.save(folder)
        loading = best_of(3, lambda: load_tokenizer(folder)).cpu

    rng = np.random.default_rng(0)
    weights = rng.random((64, 256)) ** 8
    tables, rows_of = quantise(weights / weights.sum(1, keepdims=True)), rng.integers(0, 64, len(long), np.uint32)
    encoder = _native.RangeEncoder()
    coding = best_of(1, lambda: encoder.encode(long, tables, rows_of)).cpu
    decoder = _native.RangeDecoder(encoder.finish()[0])
    uncoding = best_of(1, lambda: decoder.decode(tables, rows_of)).cpu
    rows: list[Row] = [
        {"table": "Speed on one thread", "what": what, "MB/s": rate}
        for what, rate in (
            ("dictionary, encode", speed),
            ("dictionary, decode", len(long) / 1e6 / decoding),
            ("BPE of Hugging Face tokenizers, encode", theirs),
            ("range coder with given tables, encode", len(long) / 1e6 / coding),
            ("range coder with given tables, decode", len(long) / 1e6 / uncoding),
        )
    ]
    for name, coder in (("counts", model), ("adaptive", AdaptiveModel())):
        packed, packing = timed(partial(compress, test, coder))
        _, unpacking = timed(partial(decompress, packed, coder))
        for verb, span in (("compress", packing), ("decompress", unpacking)):
            rows.append({"table": "Speed on one thread", "what": f"{name}, {verb}", "MB/s": len(test) / 1e6 / span.cpu})
    return {
        "dictionary: speed of encoding": Figure(speed, "MB/s", at_least=60),
        "dictionary: speed of encoding over BPE in Hugging Face tokenizers": Figure(speed / theirs, "x", at_least=10),
        "dictionary: speed of decoding": Figure(len(long) / 1e6 / decoding, "MB/s", at_least=300),
        "dictionary: time for eight times the text": Figure(seconds[8] / seconds[1], "x", at_most=9),
        f"dictionary: speed of a batch on {cores} threads over one": Figure(one / all_, "x"),
        "dictionary: loading its file": Figure(loading, "s"),
        "range coder: speed of coding with given tables": Figure(len(long) / 1e6 / coding, "MB/s", at_least=15),
    }, rows


def _learnability(
    train: Sequence[bytes], test: bytes, small: EqualInfoTokenizer, peer: tokenizers.Tokenizer, plan: _Plan,
    report: Progress,
) -> tuple[dict[str, Figure], list[Row]]:  # fmt: skip
    """What one small model learns of each code in the same number of tokens."""
    judged = test[: plan.judged]
    plain = CountModel.fit(train, 3)
    codes: dict[str, tuple[int, Encode]] = {
        BYTES: (256, lambda data: np.frombuffer(data, np.uint8)),
        DICTIONARY: (plan.small, lambda data: small.encode(data).astype(np.int64) - SPECIAL),
        BPE: (plan.small, lambda data: np.array(peer.encode(_text(data)).ids)),
        PLAIN: (256, lambda data: ac_ids(data, plain)),
    }
    nats: dict[str, float] = {}
    rows: list[Row] = []
    for name, (vocab, encode) in codes.items():
        held_out = encode(judged).astype(np.int64)
        ids = _tokens(train, encode, plan)
        nats[name], seconds = _train_and_judge(
            ids, held_out, vocab, plan, partial(report, f"equal-info: model of {name}")
        )
        per_byte = len(held_out) / len(judged) / math.log(2)
        rows.append(
            {
                "table": "Small models, the same number of tokens",
                "code": f"{name}, {vocab:,}",
                "bytes per token": len(judged) / len(held_out),
                "nats per token": nats[name],
                "uniform line (nats per token)": math.log(vocab),
                "bits per byte": nats[name] * per_byte,
                "uniform line (bits per byte)": math.log(vocab) * per_byte,
                "seconds": seconds,
            }
        )
    return {
        "plain arithmetic coding: loss over its uniform line": Figure(
            nats[PLAIN] / math.log(256), "x", at_least=0.995, at_most=1.005
        ),
        f"{DICTIONARY}: loss over its uniform line": Figure(nats[DICTIONARY] / math.log(plan.small), "x", at_most=0.7),
    }, rows


def _tokens(train: Sequence[bytes], encode: Encode, plan: _Plan) -> npt.NDArray[np.int64]:
    """Tokens of the files, one after the other: several times what a training sees, so that it sees few twice."""
    wanted = 4 * (plan.steps + 1) * BATCH * plan.backbone.context + 1
    parts: list[npt.NDArray[np.int64]] = []
    size = 0
    for document in train:
        parts.append(encode(document).astype(np.int64))
        size += len(parts[-1])
        if size >= wanted:
            break
    return np.concatenate(parts)


def _train_and_judge(
    ids: npt.NDArray[np.int64],
    held_out: npt.NDArray[np.int64],
    vocab: int,
    plan: _Plan,
    report: Callable[[int, int], None],
) -> tuple[float, float]:
    """Nats per held-out token of a model trained on bare ids, and the seconds of training.

    AdamW with a warm-up and a cosine to a tenth; windows are drawn with replacement, and judged one after the other.
    """
    import torch
    from transformers import LlamaForCausalLM

    from byteloom.train.trainer import quiet_transformers

    context = min(plan.backbone.context, len(ids) - 2)
    torch.manual_seed(0)
    config = plan.backbone.config(vocab)
    config.initializer_range = 0.02  # of transformers
    with quiet_transformers():
        model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, (0.9, 0.95), weight_decay=0.1)

    def rate(step: int) -> float:
        return min((step + 1) / WARM_UP, 0.55 + 0.45 * math.cos(math.pi * step / plan.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    text, rng = torch.from_numpy(ids), np.random.default_rng(0)

    def nats(windows: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    began = time.perf_counter()
    for step in range(plan.steps):
        starts = rng.integers(0, len(ids) - context, BATCH)
        loss = nats(torch.stack([text[at : at + context + 1] for at in starts.tolist()]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        report(step + 1, plan.steps)
    seconds = time.perf_counter() - began
    model.eval()
    judged = torch.from_numpy(held_out)
    total = 0.0
    with torch.no_grad():
        for at in range(0, len(judged) - 1, context):
            window = judged[None, at : at + context + 1]
            total += float(nats(window)) * (window.shape[1] - 1)
    return total / (len(judged) - 1), seconds
