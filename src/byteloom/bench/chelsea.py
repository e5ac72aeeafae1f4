"""Clustering of the key-value cache: how near is attention over centroids, and how much faster is decoding?

Merging and eviction keep equal numbers of slots of the same texts: Python code by a model that is trained here once,
and stories by the one in `data`/stories260k, where it is there. Then a cache of 16,384 tokens is timed, whole and
merged.
"""

# Shape suffixes: B texts, H query heads, K key-value heads, G query heads a key-value head, Q queries, T key slots.

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.bench.models import code_model, sampled, stories
from byteloom.bench.recall import recall_model, recall_texts
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from byteloom.models import KVCache, KVLayer

    Slots = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # keys, values and bias
    Shrink = Callable[["_Held", int, int, int], Slots]  # to so many slots, so many sinks and recent ones among them

CARD = Card(
    method="chelsea",
    title="A key-value cache that averages similar neighbours instead of throwing tokens away.",
    paper="Efficient Long-Context LLM Inference via KV Cache Clustering, Hu et al., 2025",
    arxiv="2506.11418",
    stage="compress",
    module="byteloom.compress.cache.merging",
    headline="up to 80 % less memory for keys and values at comparable accuracy; decoding up to 3.19 times as fast, "
    "end to end up to 2.72 times",
    measures="error of attention and loss of the tokens that follow at equal slots, against eviction by chance, by "
    "age, KeyDiff, SnapKV and the true attention of the future; milliseconds a token at 16,384 tokens, and the time of "
    "merging",
)


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale, in tokens where nothing else is said.

    texts: how many. context: what is compressed; following: whose attention and loss count. sinks, recent: what every
    method keeps. keep: shares of slots. slots, layers: of the cache that is timed, in `steps` tokens. prompt: what is
    read to time merging.
    """

    texts: int
    context: int
    following: int
    sinks: int
    recent: int
    keep: tuple[float, ...]
    slots: int
    layers: int
    prompt: int
    steps: int


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(2, 40, 8, 1, 3, (0.5, 0.2), 512, 1, 256, 2),
    "cpu": _Plan(24, 448, 64, 4, 32, (0.5, 0.35, 0.25, 0.2), 16_384, 8, 2_048, 12),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure with a model of Python code that is trained here once, and with the one in `data`."""
    import torch

    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    torch.set_num_threads(1)
    code = code_model(scale, report)
    length = plan.context + plan.following + 1
    files = [ids for ids in code.held_out if len(ids) >= length]
    starts = np.random.default_rng(0)
    windows = [files[at % len(files)] for at in range(plan.texts)]
    cuts = [int(starts.integers(len(ids) - length + 1)) for ids in windows]
    texts_BT = torch.tensor(
        np.stack([ids[cut : cut + length] for ids, cut in zip(windows, cuts, strict=True)]).astype(np.int64)
    )
    subjects = [(CODE, code.model, texts_BT)]
    notes = [
        "One thread, float32. Every method keeps the same number of slots of every layer and head, the first and last "
        "tokens among them. Eviction by the true future cannot be had in practice: it shows what eviction could reach.",
        "The quantized cache of transformers needs packages that are not installed here, and kvpress an older "
        "transformers: KeyDiff and SnapKV are ours.",
        "A token reads the weights besides the cache, so that a fifth of the cache is a third of what is read.",
    ]
    found = stories(data)
    if found is not None:
        start = found[1]("Once upon a time")["input_ids"]
        subjects.append((STORIES, found[0], sampled(found[0], start, plan.texts, length)))
    else:
        notes.append("stories260k was not there, so its loss was not measured.")
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    for name, model, ids_BT in subjects:
        report(f"{name}: attention and loss", 0, 1)
        more, table = _quality(name, model, ids_BT, plan)
        numbers |= more
        rows += table
    report("recall", 0, 1)
    rows += _recall(recall_model(scale, report), plan)
    report("speed", 0, 1)
    for measure in (_decoding, _clustering, _prompts):
        more, table = measure(plan)
        numbers |= more
        rows += table
    plots = []
    for name, column in ((CODE, "error of attention"), (STORIES, "increase of the loss")):
        tables = {str(row["table"]) for row in rows if str(row["table"]).startswith(name) and column in row}
        plots += [Plot(table, "slots kept (%)", column, "method") for table in tables]
    machine = bench_machine("torch", "transformers")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# Quality at equal slots


@dataclass(frozen=True)
class _Held:
    """What a layer holds of the contexts, and who asks.

    keys, values: [B, K, T, D]. read, following: the last queries of the contexts, and those of the tokens behind them,
    [B, H, Q, D]. new_keys, new_values: of the latter, [B, K, Q, D].
    """

    keys: torch.Tensor
    values: torch.Tensor
    read: torch.Tensor
    following: torch.Tensor
    new_keys: torch.Tensor
    new_values: torch.Tensor
    scaling: float


CODE, STORIES = "Python code", "stories"


OURS, PLAIN, UNWEIGHTED = "merged, half guarded", "merged", "merged, without log N"


def _methods() -> dict[str, Shrink]:
    return {
        OURS: _by_layer,
        PLAIN: partial(_by_layer, guard=0.0),
        UNWEIGHTED: partial(_by_layer, guard=0.0, weighted=False),
        "merged by keys": _by_keys,
        "merged by keys, chunks of 64": partial(_by_keys, chunk=64),
        "merged by keys, chunks of 16": partial(_by_keys, chunk=16),
        "evicted: random": partial(_evict, score=_by_chance),
        "evicted: oldest": partial(_evict, score=_by_age),
        "evicted: KeyDiff": partial(_evict, score=_key_diff),
        "evicted: SnapKV": partial(_evict, score=_snap_kv),
        "evicted: true future": partial(_evict, score=_by_future),
    }


def _quality(
    name: str, model: PreTrainedModel, ids_BT: torch.Tensor, plan: _Plan
) -> tuple[dict[str, Figure], list[Row]]:
    import torch

    from byteloom.models import attach

    table = f"{name}: {plan.texts} texts, {plan.context} tokens merged or evicted, the next {plan.following} measured"
    rows: list[Row] = []
    error: dict[tuple[str, float], float] = {}
    loss: dict[tuple[str, float], float] = {}
    with attach(model), torch.no_grad():
        layers = _read(model, ids_BT, plan)
        whole = _loss(model, ids_BT, plan, [(layer.keys, layer.values, None) for layer in layers])
        for keep in plan.keep:
            slots = round(keep * plan.context)
            for method, shrink in _methods().items():
                shrunk = [shrink(layer, slots, plan.sinks, plan.recent) for layer in layers]
                error[method, keep] = _error(layers, shrunk)
                loss[method, keep] = _loss(model, ids_BT, plan, shrunk) - whole
                rows.append(
                    {
                        "table": table,
                        "slots kept (%)": 100 * keep,
                        "method": method,
                        "error of attention": error[method, keep],
                        "increase of the loss": loss[method, keep],
                    }
                )
            rows.append(
                {
                    "table": f"{name}: increase of the loss, {plan.context} tokens read at once or in chunks",
                    "slots kept (%)": 100 * keep,
                    "at once": loss[OURS, keep],
                    "in 4 chunks": _chunked_loss(model, ids_BT, plan, keep) - whole,
                }
            )
    least, most = min(plan.keep), max(plan.keep)
    evictions = [method for method in _methods() if method.startswith("evicted")]
    practical = [method for method in evictions if method != "evicted: true future"]
    found = {
        f"error of attention at {least:.0%} of the slots": Figure(error[OURS, least], ""),
        f"increase of the loss at {least:.0%} of the slots": Figure(loss[OURS, least], "nats"),
    }
    if name == CODE:
        worst = max(error[OURS, keep] / min(error[method, keep] for method in evictions) for keep in plan.keep)
        unweighted = min(error[UNWEIGHTED, keep] / error[PLAIN, keep] for keep in plan.keep)
        found |= {
            f"error at {least:.0%} over that of random eviction at {most:.0%}": Figure(
                error[OURS, least] / error["evicted: random", most], "x", at_most=1
            ),
            "error over that of the best eviction, true future included, at worst": Figure(worst, "x", at_most=0.65),
            "error without log N over error with it, at least": Figure(unweighted, "x", at_least=1.6),
        }
    else:  # the model of code has too short a memory for its loss to tell methods apart
        best = min(loss[method, least] for method in practical)
        found |= {
            f"increase of the loss at {least:.0%} over that of random eviction": Figure(
                loss[OURS, least] / loss["evicted: random", least], "x", at_most=1
            ),
            f"increase of the loss at {least:.0%} over that of the best practical eviction": Figure(
                loss[OURS, least] / best, "x", at_most=1
            ),
            f"increase of the loss at {least:.0%} over that of random eviction, none guarded": Figure(
                loss[PLAIN, least] / loss["evicted: random", least], "x", at_most=1
            ),
            f"increase of the loss at {least:.0%}, without log N over with it": Figure(
                loss[UNWEIGHTED, least] / loss[PLAIN, least], "x", at_least=1
            ),
        }
    return {f"{name}: {what}": figure for what, figure in found.items()}, rows


def _read(model: PreTrainedModel, ids_BT: torch.Tensor, plan: _Plan) -> list[_Held]:
    """The contexts, then the tokens behind them, with the queries of both kept."""
    from byteloom.models import CACHE_KEYWORD, AttentionCall, KVCache, KVLayer

    class Watched(KVLayer):
        def attend(self, call: AttentionCall) -> torch.Tensor:
            asked.append((call.query_BHQD[:, :, -max(plan.recent, plan.following) :], call.scaling))
            return super().attend(call)

    asked: list[tuple[torch.Tensor, float]] = []
    cache = KVCache.for_model(model, Watched)
    stop = plan.context + plan.following
    model(ids_BT[:, : plan.context], **{CACHE_KEYWORD: cache})
    model(ids_BT[:, plan.context : stop], **{CACHE_KEYWORD: cache})
    count = len(cache.layers)
    return [
        _Held(
            layer.keys[:, :, : plan.context],
            layer.values[:, :, : plan.context],
            read_BHQD[:, :, -plan.recent :],
            following_BHQD[:, :, -plan.following :],
            layer.keys[:, :, plan.context :],
            layer.values[:, :, plan.context :],
            scaling,
        )
        for layer, (read_BHQD, scaling), (following_BHQD, _) in zip(
            cache.layers, asked[:count], asked[count:], strict=True
        )
    ]


def _error(layers: Sequence[_Held], shrunk: Sequence[Slots]) -> float:
    """Of the output of attention, relative, the mean over the layers."""
    import torch

    from byteloom.models import attend

    errors = []
    for layer, slots in zip(layers, shrunk, strict=True):
        outputs = []
        for keys_BKTD, values_BKTD, bias_BKT in ((layer.keys, layer.values, None), slots):
            if bias_BKT is not None:
                bias_BKT = torch.nn.functional.pad(bias_BKT, (0, layer.new_keys.shape[2]))
            outputs.append(
                attend(
                    layer.following,
                    torch.cat((keys_BKTD, layer.new_keys), dim=2),
                    torch.cat((values_BKTD, layer.new_values), dim=2),
                    scaling=layer.scaling,
                    bias_BKT=bias_BKT,
                )
            )
        errors.append(float((outputs[1] - outputs[0]).norm() / outputs[0].norm()))
    return sum(errors) / len(errors)


def _loss(model: PreTrainedModel, ids_BT: torch.Tensor, plan: _Plan, slots: Sequence[Slots]) -> float:
    """Nats a token behind the contexts."""
    from byteloom.models import KVCache

    cache = KVCache.for_model(model)
    _fill(cache, slots, plan.context)
    return _following_loss(model, ids_BT, plan, cache)


def _chunked_loss(model: PreTrainedModel, ids_BT: torch.Tensor, plan: _Plan, keep: float) -> float:
    """The same where later chunks of the context see what was merged of the earlier ones."""
    from byteloom.compress import merging_cache
    from byteloom.models import CACHE_KEYWORD

    cache = merging_cache(model, ratio=keep, sinks=plan.sinks, recent=plan.recent)
    for part_BT in ids_BT[:, : plan.context].split(plan.context // 4, dim=1):
        model(part_BT, **{CACHE_KEYWORD: cache})
    return _following_loss(model, ids_BT, plan, cache)


def _following_loss(model: PreTrainedModel, ids_BT: torch.Tensor, plan: _Plan, cache: KVCache) -> float:
    import torch

    from byteloom.models import CACHE_KEYWORD

    logits_BTV = model(ids_BT[:, plan.context : -1], **{CACHE_KEYWORD: cache}).logits
    return float(torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, plan.context + 1 :].flatten()))


def _fill(cache: KVCache, slots: Sequence[Slots], tokens: int) -> None:
    for layer, (keys, values, bias) in zip(cache.layers, slots, strict=True):
        layer.replace(keys, values, bias=bias)
        layer.logical = tokens


def _by_layer(layer: _Held, slots: int, sinks: int, recent: int, *, guard: float = 0.5, weighted: bool = True) -> Slots:
    from byteloom.compress import MergedLayer

    merging = MergedLayer(budget=slots, sinks=sinks, recent=recent, guard=guard)
    merging.replace(layer.keys, layer.values)
    merging.logical = merging.physical
    if guard:
        merging.watch(layer.read, layer.scaling)
    merging.compress()
    return merging.keys, merging.values, merging.bias if weighted else None


def _by_keys(layer: _Held, slots: int, sinks: int, recent: int, *, chunk: int = 256) -> Slots:
    """As in the paper."""
    import torch

    from byteloom.compress import merge_to

    held = layer.keys, layer.values, torch.zeros(layer.keys.shape[:3])
    middle = slice(sinks, layer.keys.shape[2] - recent)
    keys, values, sizes = (part[:, :, middle] for part in held)
    merged = merge_to(keys, values, sizes, slots - sinks - recent, chunk=chunk, value_weight=0)
    keys, values, sizes = (
        torch.cat((part[:, :, : middle.start], new, part[:, :, middle.stop :]), dim=2)
        for part, new in zip(held, merged, strict=True)
    )
    return keys, values, sizes


def _evict(layer: _Held, slots: int, sinks: int, recent: int, *, score: Callable[[_Held], torch.Tensor]) -> Slots:
    import torch

    score_BKT = score(layer).clone()
    score_BKT[:, :, :sinks] = torch.inf
    score_BKT[:, :, score_BKT.shape[2] - recent :] = torch.inf
    index_BKT1 = score_BKT.topk(slots, dim=2).indices.sort(dim=2).values[..., None]
    keys, values = (part.gather(2, index_BKT1.expand(-1, -1, -1, part.shape[3])) for part in (layer.keys, layer.values))
    return keys, values, None


def _by_chance(layer: _Held) -> torch.Tensor:
    import torch

    return torch.rand(layer.keys.shape[:3], generator=torch.Generator().manual_seed(0))


def _by_age(layer: _Held) -> torch.Tensor:
    import torch

    return torch.arange(layer.keys.shape[2], dtype=torch.float32).expand(layer.keys.shape[:3])


def _key_diff(layer: _Held) -> torch.Tensor:
    """Keys that differ most from the mean direction (KeyDiff, arXiv 2504.15364)."""
    import torch

    unit_BKTD = torch.nn.functional.normalize(layer.keys, dim=-1)
    return -torch.nn.functional.cosine_similarity(layer.keys, unit_BKTD.mean(2, keepdim=True), dim=-1)


def _snap_kv(layer: _Held) -> torch.Tensor:
    """What the last queries of the context attend to, and its neighbours (SnapKV, arXiv 2404.14469)."""
    import torch

    score_BKT = _attention(layer, layer.read)
    return torch.nn.functional.max_pool1d(score_BKT, 7, stride=1, padding=3)


def _by_future(layer: _Held) -> torch.Tensor:
    return _attention(layer, layer.following)


def _attention(layer: _Held, query_BHQD: torch.Tensor) -> torch.Tensor:
    """[B, K, T]: the attention that each slot gets on average."""
    query_BKGQD = query_BHQD.unflatten(1, (layer.keys.shape[1], -1))
    weights_BKGQT = (query_BKGQD @ layer.keys[:, :, None].mT * layer.scaling).softmax(-1)
    mean_BKT: torch.Tensor = weights_BKGQT.mean((2, 3))
    return mean_BKT


def _recall(model: PreTrainedModel, plan: _Plan) -> list[Row]:
    """Facts without any redundancy, each asked for once: what merging is not for."""
    import torch

    from byteloom.models import CACHE_KEYWORD, KVCache, attach

    pairs, queries = 32, 16
    context = 1 + 2 * pairs
    ids_BT = recall_texts(8 * plan.texts, pairs, queries, seed=1)
    plan = replace(plan, context=context, following=3 * queries, sinks=1, recent=4)
    table = f"Recall: {len(ids_BT)} texts of {pairs} random pairs, {queries} of them asked for"
    rows: list[Row] = []

    def ask(slots: Sequence[Slots]) -> float:
        cache = KVCache.for_model(model)
        _fill(cache, slots, context)
        logits_BTV = model(ids_BT[:, context:], **{CACHE_KEYWORD: cache}).logits
        return 100 * (logits_BTV[:, 1::3].argmax(-1) == ids_BT[:, context + 2 :: 3]).float().mean().item()

    with attach(model), torch.no_grad():
        layers = _read(model, ids_BT, plan)
        whole = ask([(layer.keys, layer.values, None) for layer in layers])
        for keep in (0.75, 0.5, 0.35):
            for method, shrink in _methods().items():
                shrunk = [shrink(layer, round(keep * context), plan.sinks, plan.recent) for layer in layers]
                rows.append(
                    {
                        "table": table,
                        "slots kept (%)": 100 * keep,
                        "method": method,
                        "answers that are right (%)": ask(shrunk),
                        "by the whole cache (%)": whole,
                    }
                )
    return rows


# Speed


def _model(plan: _Plan) -> PreTrainedModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=plan.layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2 * plan.slots,
    )
    return LlamaForCausalLM(config).eval()


def _decoding(plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """Milliseconds a token with random weights and states, whose values do not matter for them."""
    import torch
    from transformers.cache_utils import DynamicCache

    from byteloom.compress import merging_cache
    from byteloom.models import CACHE_KEYWORD, AttentionCall, KVCache, attach

    model = _model(plan)
    states = torch.randn(2, 1, 8, plan.slots, 64, generator=torch.Generator().manual_seed(0))
    token = torch.zeros(1, 1, dtype=torch.long)

    def filled(cache: KVCache) -> KVCache:
        for layer in cache.layers:
            layer.replace(states[0], states[1])
            layer.logical = plan.slots
        return cache

    def step(cache: Any) -> float:
        with torch.no_grad():
            model(token, **{CACHE_KEYWORD: cache})  # the buffers grow
            spans = [timed(lambda: model(token, **{CACHE_KEYWORD: cache}))[1].wall for _ in range(plan.steps)]
        return 1e3 * sorted(spans)[len(spans) // 2]

    stock = DynamicCache([(states[0], states[1])] * plan.layers)
    spans = {"transformers, whole": step(stock)}
    del stock
    with attach(model):
        whole = filled(KVCache.for_model(model))
        size = whole.nbytes()
        spans["whole"] = step(whole)
        del whole
        merging = merging_cache(model, ratio=0.2)
        filled(merging).compress()
        saved = merging.nbytes() / size
        spans["merged to 20 %"] = step(merging)
        query = torch.randn(1, 8, 1, 64, generator=torch.Generator().manual_seed(1))
        alone = {}
        for name, cache in (("whole", filled(KVCache.for_model(model))), ("merged", merging)):
            # All layers in turn, as in a step, so that none finds its keys in the cache of the processor.
            def attend_all(layers: Sequence[KVLayer] = cache.layers) -> None:
                for layer in layers:
                    layer.attend(AttentionCall(query, layer.keys, layer.values, None, 0.125))

            alone[name] = best_of(plan.steps, attend_all).wall
    table = f"Decoding behind {plan.slots} tokens: {plan.layers} layers, 8 heads of 64, random weights"
    rows: list[Row] = [{"table": table, "cache": name, "ms a token": span} for name, span in spans.items()]
    return {
        "bytes of the cache at 20 % over all": Figure(saved, "x", at_most=0.21),
        f"speed of decoding at {plan.slots} tokens, 20 % over all": Figure(
            spans["whole"] / spans["merged to 20 %"], "x", at_least=2.5
        ),
        f"speed of decoding at {plan.slots} tokens, 20 % over the cache of transformers": Figure(
            spans["transformers, whole"] / spans["merged to 20 %"], "x", at_least=3
        ),
        "time of attention, 20 % over all": Figure(alone["merged"] / alone["whole"], "x", at_most=0.24),
    }, rows


def _clustering(plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """One layer, half of its slots: our kernel and the same in torch."""
    import torch

    from byteloom.compress.cache.merging import _merged_by_torch, _merged_natively

    rows: list[Row] = []
    spans: dict[tuple[int, str], float] = {}
    for count in (plan.slots // 16, plan.slots // 8, plan.slots // 4):
        keys, values = torch.randn(2, 1, 8, count, 64, generator=torch.Generator().manual_seed(0))
        held = keys, values, torch.zeros(1, 8, count)
        for chunk, weight in ((64, 0.0), (256, 0.5)):
            native = best_of(7, partial(_merged_natively, held, count // 2, chunk, weight)).wall
            twin = best_of(2, partial(_merged_by_torch, held, count // 2, chunk, weight)).wall
            name = "keys" if weight == 0 else "keys and values"
            spans[count, name] = 1e3 * native
            rows.append(
                {
                    "table": "Merging half of the slots of a layer: 8 heads of 64, one core",
                    "slots": count,
                    "matched by": f"{name}, chunks of {chunk}",
                    "ms": 1e3 * native,
                    "ms in torch": 1e3 * twin,
                }
            )
    most = plan.slots // 4
    return {
        f"merging {most} slots to half by keys, chunks of 64": Figure(spans[most, "keys"], "ms", at_most=10),
        f"merging {most} slots to half by keys and values, chunks of 256": Figure(
            spans[most, "keys and values"], "ms", at_most=10
        ),
    }, rows


def _prompts(plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """What merging adds to reading a prompt, and how large the cache gets meanwhile."""
    import torch

    from byteloom.compress import merging_cache
    from byteloom.models import CACHE_KEYWORD, KVCache, attach

    model = _model(plan)
    ids_BT = torch.randint(256, (1, plan.prompt), generator=torch.Generator().manual_seed(0))
    rows: list[Row] = []
    shares: dict[str, float] = {}
    peaks: dict[str, int] = {}
    at_once, in_chunks = "20 %, each layer after its attention", "20 %, prompt in 8 chunks"
    for name, size in (("whole", plan.prompt), (at_once, plan.prompt), (in_chunks, plan.prompt // 8)):
        cache = KVCache.for_model(model) if name == "whole" else merging_cache(model, ratio=0.2)
        sizes = _watched(cache)
        with attach(model), torch.no_grad():
            began = time.perf_counter()
            for part_BT in ids_BT.split(size, dim=1):
                model(part_BT, logits_to_keep=1, **{CACHE_KEYWORD: cache})
            span = time.perf_counter() - began
        seconds = 0.0 if name == "whole" else cache.report.seconds
        shares[name], peaks[name] = seconds / (span - seconds), max(sizes)
        rows.append(
            {
                "table": f"Reading {plan.prompt} tokens: {plan.layers} layers, 8 heads of 64",
                "cache": name,
                "seconds": span,
                "of which merging": seconds,
                "largest size (MB)": max(sizes) / 1e6,
                "size at the end (MB)": cache.nbytes() / 1e6,
            }
        )
    return {
        "time of merging over that of reading the prompt": Figure(100 * shares[at_once], "%", at_most=10),
        "largest size of the cache while reading over the whole": Figure(
            peaks[at_once] / peaks["whole"], "x", at_most=0.5
        ),
        "the same, prompt in chunks": Figure(peaks[in_chunks] / peaks["whole"], "x", at_most=0.5),
    }, rows


def _watched(cache: KVCache) -> list[int]:
    """A list that gets the bytes of the cache whenever a layer has taken new tokens, before it may merge."""
    sizes: list[int] = []
    for layer in cache.layers:
        append = layer.append

        def watch(keys: torch.Tensor, values: torch.Tensor, append: Any = append) -> None:
            append(keys, values)
            sizes.append(cache.nbytes())

        layer.append = watch
    return sizes
