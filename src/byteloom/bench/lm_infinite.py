"""LM-Infinite: does a model stay as good beyond its training length, and does a token cost the same there?

Text far longer than the training length is read by the plain model, with the Lambda-shaped attention, and with a
sliding window alone. `data` is a folder with stories260k/; the model of Python code is trained here, so its training
length is known. A model that looks facts up shows what is forgotten.
"""

# Shape suffixes: B rows, T tokens.

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, timed
from byteloom.bench.models import code_model, sampled, stories
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from byteloom.bench.models import CodeModel

CARD = Card(
    method="lm-infinite",
    title="Texts far longer than the training length, in the memory of one window.",
    paper="LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models, Han et al., NAACL 2024",
    arxiv="2308.16137",
    stage="generate",
    module="byteloom.generate.lambda_attention",
    headline="perplexity flat up to 200M tokens for models trained at 2K or 4K; 2.7x faster decoding and 7.5x less "
    "memory at 32K",
    measures="loss by position up to 16 times the training length, time a token and bytes of the cache over the length "
    "of the text, time to read a prompt, all beside plain attention and a sliding window",
)

SINKS = 4
LENGTHS = "Loss by position, nats a token"
SPEED = "Decoding a token after a text"
RECALL = "Values found, by a model that learned to look up 100 pairs"


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale. streams: texts; times: of the training length, that each has. histories:
    tokens before the decoded ones. hidden, layers: of the model that is timed. stream: tokens of the endless one."""

    streams: int
    times: int
    histories: tuple[int, ...]
    prompt: int
    hidden: int
    layers: int
    stream: int
    decoded: int


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(1, 4, (64, 2048), 256, 32, 1, 400, 2),
    "cpu": _Plan(3, 16, (1024, 4096, 16384), 16384, 512, 4, 60_000, 16),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on the samples of the model in `data`, and on held-out Python files."""
    import torch

    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    torch.set_num_threads(1)
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    notes = ["One thread, float32. The sliding window alone is the same cache without sinks."]
    code = code_model(scale, report)
    length = plan.times * code.context
    ids_T = torch.from_numpy(np.concatenate(code.held_out).astype(np.int64))
    texts_BT = ids_T[: plan.streams * length].view(plan.streams, length)
    subjects = [("a model of Python", code.model, texts_BT, code.context, 1.0)]
    found = stories(data)
    if found is None:
        notes.append("stories260k was not there: the model of Python alone was measured.")
    else:
        report("writing stories", 0, 1)
        window = int(found[0].config.max_position_embeddings)
        subjects.append(("stories260k", found[0], _endless_stories(found[0], plan, window), window, 3.0))
    for name, model, texts, window, worse in subjects:
        more, table = _losses(name, model, texts, window, worse, report)
        numbers |= more
        rows += table
    report("decoding", 0, 1)
    for more, table in (
        _decoding(plan, code.context),
        _prompts(plan, code),
        _endless(code.model, ids_T[: plan.stream]),
        _recall(scale, report),
    ):
        numbers |= more
        rows += table
    plots = [
        Plot(f"{LENGTHS}: {subjects[0][0]}", "tokens before", "loss", "attention", log="x"),
        Plot(SPEED, "tokens before", "ms a token", "attention", log="xy"),
        Plot(RECALL, "times the trained length", "found (%)", "attention", log="x"),
    ]
    machine = bench_machine("torch", "transformers")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# Quality


def _endless_stories(model: PreTrainedModel, plan: _Plan, window: int) -> torch.Tensor:
    """Stories one after another, int64 [streams, times * window // 2]: what the model was trained on, but longer."""
    import torch

    half = plan.times * window // 2
    each = min(255, window - 1)
    texts_BT = sampled(model, [1], -(-plan.streams * half // each), each, seed=0)
    return texts_BT.flatten()[: plan.streams * half].view(plan.streams, half).to(torch.int64)


def _losses(
    name: str, model: PreTrainedModel, texts_BT: torch.Tensor, window: int, worse: float, report: Progress
) -> tuple[dict[str, Figure], list[Row]]:
    from byteloom.generate import extend

    edges = [0, window // 2, window]
    while edges[-1] < texts_BT.shape[1]:
        edges.append(min(2 * edges[-1], texts_BT.shape[1]))
    ways: dict[str, tuple[int, int] | None] = {
        "plain": None,
        f"window {window}, {SINKS} sinks": (window, SINKS),
        f"window {window // 2}, {SINKS} sinks": (window // 2, SINKS),
        f"window {window}, no sinks": (window, 0),
    }
    table = f"{LENGTHS}: {name}"
    rows: list[Row] = []
    losses: dict[str, list[float]] = {}
    for done, (way, shape) in enumerate(ways.items()):
        report(f"reading with {name}", done, len(ways))
        if shape is None:
            nll_BT, span = timed(partial(_nll, model, texts_BT, None))
        else:
            with extend(model, *shape) as fresh_cache:
                nll_BT, span = timed(partial(_nll, model, texts_BT, fresh_cache))
        losses[way] = [float(nll_BT[:, start:stop].mean()) for start, stop in pairwise(edges)]
        for (start, stop), loss in zip(pairwise(edges), losses[way], strict=True):
            middle = (start + stop) / 2
            rows.append(
                {"table": table, "attention": way, "tokens before": middle, "from": start, "to": stop, "loss": loss}
            )
        rows.append({"table": f"Time of these texts: {name}", "attention": way, "seconds": span.wall})
    parts_BT = texts_BT.reshape(-1, window)  # what the trained length alone allows
    alone = float(_nll(model, parts_BT, None)[:, window // 2 :].mean())
    plain, ours = losses["plain"], losses[f"window {window}, {SINKS} sinks"]
    return {
        f"{name}: plain loss over ours from {edges[-2]:,} to {edges[-1]:,} tokens": Figure(
            plain[-1] - ours[-1], "nats", at_least=worse
        ),
        f"{name}: our loss there over that of windows of the trained length": Figure(
            ours[-1] - alone, "nats", at_most=0.15
        ),
        f"{name}: our loss within the trained length, over plain": Figure(
            abs(ours[0] - plain[0]) + abs(ours[1] - plain[1]), "nats", at_most=0.001
        ),
    }, rows


def _nll(model: PreTrainedModel, texts_BT: torch.Tensor, fresh_cache: Callable[[], Any] | None) -> torch.Tensor:
    """The loss of every token but the first, float32 [B, T - 1], in nats; text by text, in blocks."""
    import torch

    from byteloom.models import CACHE_KEYWORD, KVCache, attach

    losses = []
    with torch.inference_mode(), attach(model):
        for text_BT in texts_BT.split(1 if texts_BT.shape[1] > 1024 else 16):
            cache = KVCache.for_model(model) if fresh_cache is None else fresh_cache()
            blocks = [
                model(input_ids=block_BT, **{CACHE_KEYWORD: cache}).logits for block_BT in text_BT.split(512, dim=1)
            ]
            logits_BTV = torch.cat(blocks, dim=1)[:, :-1]
            nll_BT = torch.nn.functional.cross_entropy(logits_BTV.mT, text_BT[:, 1:], reduction="none")
            losses.append(nll_BT)
    return torch.cat(losses)


# Time and memory


def _random_model(plan: _Plan) -> PreTrainedModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = max(2, plan.hidden // 64)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=plan.hidden,
        intermediate_size=3 * plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config).eval()


def _decoding(plan: _Plan, window: int) -> tuple[dict[str, Figure], list[Row]]:
    """Milliseconds a token and bytes of the cache, after texts of several lengths."""
    import torch
    from transformers.cache_utils import DynamicCache

    from byteloom.generate import extend
    from byteloom.models import CACHE_KEYWORD, KVCache, attach

    model = _random_model(plan)
    rows: list[Row] = []
    spans: dict[tuple[str, int], float] = {}
    sizes: dict[tuple[str, int], int] = {}

    def measure(way: str, history: int, cache: Any) -> None:
        ids_BT = torch.randint(2048, (1, history), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            for block_BT in ids_BT.split(1024, dim=1):
                model(input_ids=block_BT, logits_to_keep=1, **{CACHE_KEYWORD: cache})
            times = []
            for _ in range(plan.decoded):
                _, span = timed(lambda: model(input_ids=ids_BT[:, :1], **{CACHE_KEYWORD: cache}))
                times.append(span.wall)
        spans[way, history] = float(np.median(times))
        nbytes = getattr(cache, "nbytes", None)
        sizes[way, history] = (
            nbytes() if nbytes else sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        )
        rows.append(
            {
                "table": SPEED,
                "attention": way,
                "tokens before": history,
                "ms a token": 1e3 * spans[way, history],
                "MB of cache": sizes[way, history] / 1e6,
            }
        )

    for history in plan.histories:
        measure("plain, transformers' cache", history, DynamicCache(config=model.config))
        with attach(model):
            measure("plain, our cache", history, KVCache.for_model(model))
        with warnings.catch_warnings(), extend(model, window, SINKS) as fresh_cache:
            measure(f"window {window}, {SINKS} sinks", history, fresh_cache())
    ours, most, least = f"window {window}, {SINKS} sinks", plan.histories[-1], plan.histories[0]
    return {
        f"decoding after {most:,} tokens, over plain with our cache": Figure(
            spans["plain, our cache", most] / spans[ours, most], "x", at_least=3 if most > 8192 else None
        ),
        f"decoding after {most:,} tokens, over transformers": Figure(
            spans["plain, transformers' cache", most] / spans[ours, most], "x", at_least=2.7
        ),
        f"time a token after {most:,} tokens over that after {least:,}": Figure(
            spans[ours, most] / spans[ours, least], "x", at_most=1.1
        ),
        f"bytes of the cache after {most:,} tokens, plain over ours": Figure(
            sizes["plain, our cache", most] / sizes[ours, most], "x"
        ),
    }, rows


def _prompts(plan: _Plan, code: CodeModel) -> tuple[dict[str, Figure], list[Row]]:
    """Seconds to read a prompt, in blocks of 2,048 tokens; plain attention reads it at once, as transformers does."""
    import torch

    from byteloom.generate import extend
    from byteloom.models import CACHE_KEYWORD

    rows: list[Row] = []
    numbers: dict[str, Figure] = {}
    window, most = code.context, plan.prompt

    def read(model: PreTrainedModel, length: int, fresh_cache: Callable[[], Any] | None) -> None:
        ids_BT = torch.randint(model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            if fresh_cache is None:
                model(input_ids=ids_BT, use_cache=True, logits_to_keep=1)
                return
            cache = fresh_cache()
            for block_BT in ids_BT.split(2048, dim=1):
                model(input_ids=block_BT, logits_to_keep=1, **{CACHE_KEYWORD: cache})

    for name, model in (("a model of Python", code.model), (f"{plan.hidden} wide", _random_model(plan))):
        plain, ours = {}, {}
        for length in (most // 4, most // 2, most):
            plain[length] = timed(partial(read, model, length, None))[1].cpu
            with extend(model, window, SINKS) as fresh_cache:
                ours[length] = timed(partial(read, model, length, fresh_cache))[1].cpu
            rows += [
                {"table": "Reading a prompt", "model": name, "tokens": length, "attention": way, "seconds": seconds}
                for way, seconds in (
                    ("plain SDPA", plain[length]),
                    (f"window {window}, {SINKS} sinks", ours[length]),
                )
            ]
        numbers[f"{name}: reading {most:,} tokens, over plain SDPA"] = Figure(
            plain[most] / ours[most], "x", at_least=4 if model is code.model else None
        )
        numbers[f"{name}: reading {most:,} tokens over reading half of them"] = Figure(
            ours[most] / ours[most // 2], "x", at_most=2.3
        )
    return numbers, rows


def _endless(model: PreTrainedModel, ids_T: torch.Tensor) -> tuple[dict[str, Figure], list[Row]]:
    """One stream: do the bytes of the cache, and the loss, stay as they are?"""
    from byteloom.generate import LambdaStream

    sizes, losses = [], []
    with LambdaStream(model, sinks=SINKS, rebase_at=8192) as stream:
        for block in ids_T.split(len(ids_T) // 4):
            losses.append(float(np.mean([float(part.mean()) for part in stream.nll([block])])))
            sizes.append(stream.cache.nbytes())
    rows: list[Row] = [
        {"table": "One stream", "quarter": at + 1, "MB of cache": size / 1e6, "loss": loss}
        for at, (size, loss) in enumerate(zip(sizes, losses, strict=True))
    ]
    return {
        f"bytes of the cache after {len(ids_T):,} tokens over those after a quarter": Figure(
            sizes[-1] / sizes[0], "x", at_most=1.05
        )
    }, rows


# What is forgotten


def _recall(scale: Scale, report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    """A key and its value among the first of a text, a long rest, and the question: is the value found?"""
    import torch

    from byteloom.bench.recall import recall_model
    from byteloom.generate import extend
    from byteloom.models import CACHE_KEYWORD, KVCache, attach

    model = recall_model(scale, report)
    window = 64
    ways: dict[str, dict[str, int] | None] = {
        "plain": None,
        f"window {window}": {"window": window, "sinks": SINKS},
        f"window {window}, 5 tokens looked up": {"window": window, "sinks": SINKS, "top_k": 5, "top_k_from_layer": 1},
        f"window {window}, 1 token looked up": {"window": window, "sinks": SINKS, "top_k": 1, "top_k_from_layer": 1},
    }
    rows: list[Row] = []
    found: dict[tuple[str, int], float] = {}
    multiples = (1, 2, 4, 8, 16) if scale != "smoke" else (1, 2)
    for times in multiples:
        texts_BT = _far_texts(96 if scale != "smoke" else 2, times)
        for way, options in ways.items():
            attached: Any = attach(model) if options is None else extend(model, **options)
            with torch.inference_mode(), attached:
                cache = KVCache.for_model(model) if options is None else attached()
                for block_BT in texts_BT[:, :-2].split(512, dim=1):
                    model(input_ids=block_BT, logits_to_keep=1, **{CACHE_KEYWORD: cache})
                logits_BTV = model(input_ids=texts_BT[:, -2:-1], **{CACHE_KEYWORD: cache}).logits
            right_B = logits_BTV[:, -1].argmax(-1) == texts_BT[:, -1]
            found[way, times] = 100 * float(right_B.float().mean())
            rows.append(
                {
                    "table": RECALL,
                    "attention": way,
                    "times the trained length": times,
                    "tokens": texts_BT.shape[1],
                    "found (%)": found[way, times],
                }
            )
    least, most = multiples[0], multiples[-1]
    looked_up = f"window {window}, 1 token looked up"
    return {
        f"values found at {most} times the trained length: {way}": Figure(found[way, most], "%") for way in ways
    } | {
        f"values found with 1 token looked up, at {most} times the trained length over at {least}": Figure(
            found[looked_up, most] / max(found[looked_up, least], 1e-9), "x", at_least=0.9
        )
    }, rows


def _far_texts(count: int, times: int) -> torch.Tensor:
    """int64 [count, T]: 100 pairs of a key and a value, and a question for one of the first 20; the other 80 are said
    again until the text is `times` as long as those of the training."""
    import torch

    from byteloom.bench.recall import QUESTION, recall_texts

    pairs, asked = 100, 20
    texts_BT = recall_texts(count, pairs, 1)
    pair_BP2 = texts_BT[:, 1 : 1 + 2 * pairs].view(count, pairs, 2)
    rest_BT = pair_BP2[:, asked:].flatten(1)
    rest = times * 2 * pairs - 2 * asked
    repeated_BT = rest_BT.repeat(1, -(-rest // rest_BT.shape[1]))[:, :rest]
    which_B = torch.randint(asked, (count,), generator=torch.Generator().manual_seed(0))
    question_B3 = torch.cat([torch.full((count, 1), QUESTION), pair_BP2[torch.arange(count), which_B]], dim=1)
    return torch.cat([texts_BT[:, :1], pair_BP2[:, :asked].flatten(1), repeated_BT, question_B3], dim=1)
