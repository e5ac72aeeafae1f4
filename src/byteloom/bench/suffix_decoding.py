"""SuffixDecoding: what is accepted of its drafts, how much faster a model decodes, and what the suffix tree costs.

Agent traces and file edits are replayed without a model, a small language model writes stories beside plain decoding
and transformers' prompt look-up, and the tree takes streams of tokens, beside the official package where that is
installed. `data` is a folder with agent-traces/, repo-edits/ and stories260k/; what is missing there is not measured,
and without any of them edits of this machine's Python sources are replayed, and a model is trained on these.
"""

from __future__ import annotations

import gzip
import json
import re
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.bench.models import code_model, stories, story_prompts
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale
from byteloom.corpus import Corpus

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedModel

    from byteloom.generate import Drafter

CARD = Card(
    method="suffix-decoding",
    title="Drafts from suffix trees over the request and all earlier answers; the model verifies them in one pass.",
    paper="SuffixDecoding: Extreme Speculative Decoding for Emerging AI Applications, Oliaro et al., NeurIPS 2025",
    arxiv="2411.04975",
    stage="generate",
    module="byteloom.generate.suffix_cache",
    headline="5.3x over plain decoding on AgenticSQL and 2.5x on SWE-Bench (Llama-3.1-8B-Instruct, one H100); 2.5x and "
    "1.7x of what prompt look-up gives",
    measures="tokens per step and acceptance on replayed traces and edits beside prompt look-up, tokens a second of a "
    "small model beside plain decoding and transformers' prompt look-up, time and memory of the tree",
)

Request = tuple[list[int], list[int]]  # prompt, answer
DEPTH = 64
TEMPERATURES = (0.2, 0.5, 0.8, 1.0, 1.5)
REPETITION = "Text that repeats less and less, drawn at rising temperatures"
GROWTH = "The tree as it grows, on ten edits of each source"
BOUNDS = (  # of the tree over the official one
    ("us a token to extend", 1.0),
    ("us a token to remove", 1.0),
    ("us a proposal after a full match", 0.25),
    ("us a proposal after no match", 1.0),
    ("bytes a token", 0.6),
)


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale."""

    vocab: int  # of the tokenizer of the replays
    learn: int  # bytes that it is learned from
    edits: int
    traces: int  # turns of agents
    prompts: int  # stories
    new: int  # tokens of each
    stream: int  # tokens for the tree
    growth: tuple[int, ...]  # tokens of trees that grow


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(400, 60_000, 2, 4, 2, 16, 4_000, (4_000, 8_000)),
    "cpu": _Plan(8_192, 4_000_000, 100, 200, 40, 200, 1_000_000, (500_000, 4_000_000, 10_000_000)),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on the traces, edits and the model in `data`, or on this machine's Python sources."""
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    sources = [
        bytes(d.data) for d in Corpus([sysconfig.get_path("stdlib") + "/**/*.py"], archives=False).sample(plan.learn)
    ]
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    notes: list[str] = []
    texts, learn = _requests(data, sources, plan)
    tokenizer = _tokenizer(learn, plan.vocab)
    for name, pairs in texts.items():
        requests = [(tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids) for prompt, answer in pairs]
        more, table = _replays(name, requests, report)
        numbers |= more
        rows += table
        notes.append(
            f"{name}: {len(requests)} requests, on average {np.mean([len(p) for p, _ in requests]):,.0f} tokens of "
            f"prompt and {np.mean([len(a) for _, a in requests]):,.0f} of answer; a BPE of {plan.vocab:,} tokens."
        )
    more, table = _live(data, scale, plan, report)
    numbers |= more
    rows += table
    encoded = [np.array(tokenizer.encode(source.decode("utf-8", "replace")).ids, np.uint32) for source in sources]
    for more, table in (_trees(_streams(encoded, plan)), _growth(encoded, plan, report)):
        numbers |= more
        rows += table
    plots = [
        Plot(GROWTH, "million tokens", "us a token to extend", "tree"),
        Plot(REPETITION, "repeated tokens (%)", "over plain", "method"),
    ]
    machine = bench_machine("torch", "transformers")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# Replays


def _tokenizer(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A byte-level BPE that cuts words first, as those of most language models do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _requests(
    data: Path | None, sources: list[bytes], plan: _Plan
) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """By name: pairs of prompt and answer; and texts to learn a tokenizer from."""
    found: dict[str, list[tuple[str, str]]] = {}
    learn: list[str] = []
    edits = data / "repo-edits/edits.jsonl.gz" if data is not None else None
    if edits is not None and edits.exists():
        rows = _json_lines(edits)
        found["edits of files"] = [
            (f"{row['message']}\n{row['path']}\n{row['old']}\n", row["new"]) for row in rows[150 : 150 + plan.edits]
        ]
        learn += [row["old"] for row in rows[:150]]
    traces = data / "agent-traces/traces.jsonl.gz" if data is not None else None
    if traces is not None and traces.exists():
        turns = []
        for trace in _json_lines(traces):
            before = ""
            for message in trace["messages"]:
                if message["role"] == "assistant" and not message.get("is_demo") and message["content"]:
                    turns.append((before[-24_000:], message["content"]))
                before += message["content"] + "\n"
            learn.append(before)
        found["turns of agents"] = turns[: plan.traces]
    if not found:
        learn = [source.decode("utf-8", "replace") for source in sources]
        found["renamings in Python sources"] = [_renamed(text) for text in learn[: plan.edits]]
    return found, learn


def _json_lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _renamed(source: str, size: int = 4_000) -> tuple[str, str]:
    """A file, and the same with its most frequent long word written otherwise."""
    text = source[:size]
    words = [word for word in re.findall("[a-z_]+", text) if len(word) > 4]
    word = max(set(words), key=words.count, default="self")
    return text, text.replace(word, word + "_new")


def _drafters() -> dict[str, Callable[[], Drafter]]:
    from byteloom.generate import PromptLookup, SuffixCache

    return {
        "prompt look-up, 2-grams, 10 tokens": lambda: PromptLookup(10, 2),
        "prompt look-up, 3-grams, 10 tokens": lambda: PromptLookup(10, 3),
        "prompt look-up, 5-grams, 32 tokens": lambda: PromptLookup(32, 5),
        "suffix path, factor 1": lambda: SuffixCache(max_depth=DEPTH),
        "suffix path, factor 4": lambda: SuffixCache(max_depth=DEPTH, factor=4),
        "suffix tree, factor 1": lambda: SuffixCache(max_depth=DEPTH, trees=True),
        "suffix tree, factor 4": lambda: SuffixCache(max_depth=DEPTH, trees=True, factor=4),
        "suffix path, factor 1, depth 128": lambda: SuffixCache(max_depth=128, max_tokens=128),
    }


def replay(drafter: Drafter, requests: Sequence[Request]) -> dict[str, float]:
    """What a drafter would get accepted if the model wrote these answers; seconds are the drafter's."""
    steps = drafted = accepted = tokens = 0
    speedups = []
    began = time.perf_counter()
    for row, (prompt, answer) in enumerate(requests):
        drafter.start(row, prompt)
        done = before = 0
        first = steps
        while done < len(answer):
            (draft,) = drafter.propose([row], [len(answer) - done])
            children = {
                (parent, token): at for at, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True))
            }
            at: int | None = -1
            before = done
            while done < len(answer):
                at = children.get((at, answer[done])) if at is not None else None
                done += 1
                if at is None:
                    break
            steps += 1
            drafted += len(draft.tokens)
            accepted += done - before - (at is None)
            drafter.observe(row, answer[before:done])
        drafter.stop(row)
        tokens += len(answer)
        speedups.append(len(answer) / (steps - first))
    return {
        "tokens a step": tokens / steps,
        "mean of tokens a step over requests": float(np.mean(speedups)),
        "drafted a step": drafted / steps,
        "acceptance": accepted / max(1, drafted),
        "us a token": 1e6 * (time.perf_counter() - began) / tokens,
    }


def _replays(name: str, requests: list[Request], report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    found = {}
    drafters = _drafters()
    for done, (drafter, make) in enumerate(drafters.items()):
        report(f"replaying {name}", done, len(drafters))
        found[drafter] = replay(make(), requests)
    rows: list[Row] = [
        {"table": f"Replay: {name}", "drafter": drafter, **figures} for drafter, figures in found.items()
    ]
    suffix = found["suffix path, factor 1"]
    best = max((f for d, f in found.items() if d.startswith("prompt")), key=lambda f: f["tokens a step"])
    three = found["prompt look-up, 3-grams, 10 tokens"]
    if name.startswith("turns"):
        bounds = {
            "over the best prompt look-up": Figure(suffix["tokens a step"] / best["tokens a step"], "x", at_least=1.4),
            "tokens drafted, over the best prompt look-up": Figure(
                suffix["drafted a step"] / best["drafted a step"], "x", at_most=0.5
            ),
        }
    else:
        bounds = {
            "over prompt look-up by 3-grams": Figure(
                suffix["tokens a step"] / three["tokens a step"], "x", at_least=1.8
            ),
            "acceptance": Figure(suffix["acceptance"], "", at_least=0.8),
        }
    return {f"{name}: suffix path, {what}": figure for what, figure in bounds.items()}, rows


# A model that writes


def _live(data: Path | None, scale: Scale, plan: _Plan, report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    import torch

    from byteloom.generate import PromptLookup, Speculation, SuffixCache

    torch.set_num_threads(1)
    model, prompts, name = _model(data, scale, plan, report)
    options = {"max_new_tokens": plan.new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    methods: dict[str, tuple[dict[str, Any], Speculation | None]] = {"plain": ({}, None)}
    methods["transformers, prompt look-up"] = ({"prompt_lookup_num_tokens": 10, "max_matching_ngram_size": 3}, None)
    drafters: dict[str, Drafter] = {
        "prompt look-up": PromptLookup(10, 3),
        "suffix path": SuffixCache(max_depth=DEPTH),
        "suffix tree": SuffixCache(max_depth=DEPTH, trees=True, factor=2),
    }
    for label, drafter in drafters.items():
        method = Speculation(drafter)
        methods[label] = ({"custom_generate": method}, method)
    seconds = dict.fromkeys(methods, 0.0)
    same = dict.fromkeys(methods, 0)
    for done, ids in enumerate(prompts):  # side by side, so that what disturbs one disturbs all
        report("writing", done, len(prompts))
        texts = {}
        for label, (extra, _) in methods.items():
            ids_BT = torch.tensor([ids])
            call = partial(model.generate, ids_BT, attention_mask=torch.ones_like(ids_BT), **options, **extra)
            texts[label], span = timed(call)
            seconds[label] += span.wall
        for label, text in texts.items():
            same[label] += torch.equal(text, texts["plain"])
    tokens = plan.new * len(prompts)
    rows: list[Row] = [
        {
            "table": f"Greedy decoding: {name}, one row, one thread",
            "method": label,
            "tokens a second": tokens / seconds[label],
            "over plain": seconds["plain"] / seconds[label],
            "tokens a step": method.statistics.tokens_per_step if method else None,
            "acceptance": method.statistics.acceptance if method else None,
            "texts equal to plain (%)": 100 * same[label] / len(prompts),
        }
        for label, (_, method) in methods.items()
    ]
    worst, more = _temperatures(model, prompts[: max(2, plan.prompts // 2)], plan)
    look_up = seconds["transformers, prompt look-up"]
    return {
        f"{name}: suffix path over plain decoding": Figure(
            seconds["plain"] / seconds["suffix path"], "x", at_least=2.5
        ),
        f"{name}: suffix tree over plain decoding": Figure(
            seconds["plain"] / seconds["suffix tree"], "x", at_least=2.5
        ),
        f"{name}: suffix path over transformers' prompt look-up": Figure(
            look_up / seconds["suffix path"], "x", at_least=2
        ),
        f"{name}: texts of suffix path equal to plain": Figure(
            100 * same["suffix path"] / len(prompts), "%", at_least=100
        ),
        f"{name}: sampled text that repeats nothing, suffix path over plain": Figure(worst, "x", at_least=0.97),
    }, [*rows, *more]


def _temperatures(model: PreTrainedModel, prompts: list[list[int]], plan: _Plan) -> tuple[float, list[Row]]:
    """Text drawn at rising temperatures repeats less and less: is plain decoding faster at the end?

    Gives the speed over plain decoding at the last temperature, and the table.
    """
    import torch

    from byteloom.generate import PromptLookup, Speculation, SuffixCache

    rows: list[Row] = []
    for temperature in TEMPERATURES:
        methods = {
            "suffix path": Speculation(SuffixCache(max_depth=DEPTH)),
            "prompt look-up": Speculation(PromptLookup()),
        }
        seconds = dict.fromkeys(["plain", *methods], 0.0)
        texts: list[list[int]] = []
        for seed, ids in enumerate(prompts):
            for which in seconds:
                torch.manual_seed(seed)
                ids_BT = torch.tensor([ids])
                call = partial(
                    model.generate,
                    ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    max_new_tokens=plan.new,
                    do_sample=True,
                    temperature=temperature,
                    top_k=0,
                    eos_token_id=None,
                    pad_token_id=0,
                    custom_generate=methods.get(which),
                )
                text_BT, span = timed(call)
                seconds[which] += span.wall
            texts.append(text_BT[0].tolist())
        repeated = 100 * _repeated(texts)
        for which, method in methods.items():
            speed = seconds["plain"] / seconds[which]
            rows.append(
                {
                    "table": REPETITION,
                    "temperature": temperature,
                    "repeated tokens (%)": repeated,
                    "method": which,
                    "over plain": speed,
                    "tokens a step": method.statistics.tokens_per_step,
                }
            )
    fresh = next(row["over plain"] for row in rows[-2:] if row["method"] == "suffix path")
    assert isinstance(fresh, float)
    return fresh, rows


def _repeated(texts: list[list[int]], length: int = 4) -> float:
    """The share of tokens that follow the same 4 tokens as somewhere before, in any of the texts."""
    seen: set[tuple[int, ...]] = set()
    repeated = count = 0
    for text in texts:
        for at in range(length, len(text)):
            window = tuple(text[at - length : at + 1])
            repeated += window in seen
            count += 1
            seen.add(window)
    return repeated / max(1, count)


def _model(
    data: Path | None, scale: Scale, plan: _Plan, report: Progress
) -> tuple[PreTrainedModel, list[list[int]], str]:
    found = stories(data)
    if found is not None:
        return found[0], story_prompts(found[1], plan.prompts), "stories260k"
    code = code_model(scale, report)
    room = min(32, code.context // 2)
    return code.model, [ids[:room].tolist() for ids in code.held_out[: plan.prompts]], "a model of Python"


# The tree


def _streams(encoded: list[np.ndarray], plan: _Plan) -> dict[str, list[np.ndarray]]:
    """Token streams by kind, each a list of sequences: uint32 [n]."""
    rng = np.random.default_rng(0)
    sources, left = [], plan.stream
    while left > 0:
        for ids in encoded:
            sources.append(ids[:left])
            left -= len(sources[-1])
            if left <= 0:
                break
    noise = np.split(rng.integers(0, plan.vocab, plan.stream, dtype=np.uint32), max(1, plan.stream // 2_000))
    return {
        "Python sources": sources,
        "ten edits of each source": _edits(encoded, plan.stream, plan.vocab),
        "random tokens": noise,
    }


def _edits(encoded: list[np.ndarray], tokens: int, vocab: int) -> list[np.ndarray]:
    """The first 2,000 tokens of each sequence ten times, another hundredth of them changed each time."""
    rng = np.random.default_rng(0)
    edits: list[np.ndarray] = []
    left = tokens
    while left > 0:
        base = encoded[len(edits) // 10 % len(encoded)][: min(2_000, left)].copy()
        base[rng.integers(0, len(base), max(1, len(base) // 100))] = rng.integers(0, vocab)
        edits.append(base)
        left -= len(base)
    return edits


def _growth(encoded: list[np.ndarray], plan: _Plan, report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    """Is a token as cheap, and a question as quick, in a tree of ten million tokens?"""
    peer = _peer()
    rows: list[Row] = []
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, tree in {"byteloom": _Ours, **({} if peer is None else {"arctic-inference": peer})}.items():
        for done, tokens in enumerate(plan.growth):
            report(f"trees of {name}", done, len(plan.growth))
            sequences = _edits(encoded, tokens, plan.vocab)
            figures = _measure(tree, sequences)
            found.setdefault(name, {})[tokens] = figures
            rows.append({"table": GROWTH, "million tokens": sum(map(len, sequences)) / 1e6, "tree": name, **figures})
    ours, least, most = found["byteloom"], plan.growth[0], plan.growth[-1]
    numbers = {
        f"us a token to extend at {most / 1e6:g} million tokens over {least / 1e6:g}": Figure(
            ours[most]["us a token to extend"] / ours[least]["us a token to extend"], "x", at_most=1.5
        ),
        f"us a proposal at {most / 1e6:g} million tokens over {least / 1e6:g}": Figure(
            ours[most]["us a proposal after a full match"] / ours[least]["us a proposal after a full match"],
            "x",
            at_most=2,
        ),
    }
    for what, bound in () if peer is None else BOUNDS:
        numbers[f"{most / 1e6:g} million tokens: {what}, over the official package"] = Figure(
            ours[most][what] / found["arctic-inference"][most][what], "x", at_most=bound
        )
    return numbers, rows


def _trees(streams: dict[str, list[np.ndarray]]) -> tuple[dict[str, Figure], list[Row]]:
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    peer = _peer()
    for kind, sequences in streams.items():
        ours = _measure(_Ours, sequences)
        rows.append({"table": f"The tree on {kind}", "tree": "byteloom", **ours})
        numbers[f"{kind}: bytes a token"] = Figure(ours["bytes a token"], "B", at_most=190)
        if peer is None:
            continue
        theirs = _measure(peer, sequences)
        rows.append({"table": f"The tree on {kind}", "tree": "arctic-inference", **theirs})
        for what, bound in BOUNDS:
            numbers[f"{kind}: {what}, over the official package"] = Figure(
                ours[what] / theirs[what], "x", at_most=bound
            )
    return numbers, rows


class _Ours:
    def __init__(self) -> None:
        from byteloom import _native

        self.tree = _native.SuffixTree(DEPTH)
        self.rule = _native.DraftRule(DEPTH, 1.0, 0.0, 0.1, False)

    def extend(self, id: int, tokens: np.ndarray) -> None:
        self.tree.extend(id, tokens)
        self.tree.finish(id)

    def propose(self, context: np.ndarray) -> None:
        self.tree.propose(context, self.rule)

    def remove(self, id: int) -> None:
        self.tree.remove(id)

    def bytes(self) -> int:
        return int(self.tree.nbytes)


def _peer() -> type | None:
    """The official tree, arctic-inference, where it is installed."""
    try:
        from arctic_inference.suffix_decoding._C import SuffixTree as Official
    except ImportError:
        return None

    class Peer:
        def __init__(self) -> None:
            self.tree = Official(DEPTH)

        def extend(self, id: int, tokens: np.ndarray) -> None:
            self.tree.extend_ndarray(id, tokens.view(np.int32))

        def propose(self, context: np.ndarray) -> None:
            self.tree.speculate_ndarray(context.view(np.int32), DEPTH, 1.0, 0.0, 0.1, False)

        def remove(self, id: int) -> None:
            self.tree.remove(id)

        def bytes(self) -> int:
            return int(self.tree.estimate_memory())

    return Peer


def _measure(make: Callable[[], Any], sequences: list[np.ndarray]) -> dict[str, float]:
    tree = make()
    tokens = sum(map(len, sequences))
    extended = best_of(1, lambda: [tree.extend(id, tokens) for id, tokens in enumerate(sequences)]).cpu
    size = tree.bytes()
    rng = np.random.default_rng(1)
    matches, misses = [], []
    for _ in range(200):
        sequence = sequences[rng.integers(len(sequences))]
        at = int(rng.integers(max(1, len(sequence) - DEPTH)))
        matches.append(np.ascontiguousarray(sequence[at : at + DEPTH]))
        misses.append(rng.integers(1 << 20, 1 << 21, DEPTH, dtype=np.uint32))
    full = best_of(3, lambda: [tree.propose(context) for context in matches]).cpu
    none = best_of(3, lambda: [tree.propose(context) for context in misses]).cpu
    removed = list(range(len(sequences) // 2))
    taken = best_of(1, lambda: [tree.remove(id) for id in removed]).cpu
    return {
        "us a token to extend": 1e6 * extended / tokens,
        "us a token to remove": 1e6 * taken / max(1, sum(len(sequences[id]) for id in removed)),
        "us a proposal after a full match": 1e6 * full / len(matches),
        "us a proposal after no match": 1e6 * none / len(misses),
        "bytes a token": size / tokens,
    }
