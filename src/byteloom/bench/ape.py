"""Contexts that are read once and joined: what each correction is worth, and how soon an answer begins.

A small model that looks facts up, trained here once, answers from contexts that were read one after another and apart;
a model of Python code, trained here once too, reads functions in sight of the others of their module. Then the first
token behind contexts that are kept is timed against reading them anew.
"""

# Shape suffixes: B texts, T tokens, Q queries.

from __future__ import annotations

import ast
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.bench.models import CodeModel, code_model
from byteloom.bench.recall import BEGIN, recall_model, recall_texts
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from byteloom.generate import Tuning

CARD = Card(
    method="ape",
    title="Texts that are read once, kept, and joined in any selection and order when a question comes.",
    paper="APE: Faster and Longer Context-Augmented Generation via Adaptive Parallel Encoding, Yang et al., ICLR 2025",
    arxiv="2502.05431",
    stage="generate",
    module="byteloom.generate.parallel_context",
    headline="98 % (retrieval) and 93 % (examples) of the accuracy of one sequence; at 128k tokens 28 times less time "
    "before the first token, 4.5 times as fast end to end",
    measures="answers from contexts read in one sequence, apart, and apart with each correction; loss of Python "
    "functions; seconds to the first token behind contexts from memory and from disk",
)

SEQUENTIAL, OWN, SHARED = "one sequence", "apart, each with its own beginning", "apart, one prefix"
SHARPER, FULL, BEST = "and T = 0.9", "and T = S = 0.9", "and T, S tuned"
CONTROL = "one sequence, T = S = 0.9"
# Contexts and the pairs of each. The model was trained on up to 100 pairs.
TRAINED, _, BEYOND, FAR = SHAPES = ((8, 8), (8, 12), (16, 8), (8, 32))


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale.

    texts, queries: of the look-up; as many other texts choose T and S. functions: whose loss is measured. contexts,
    tokens, query, layers, width: of what is timed.
    """

    texts: int
    queries: int
    functions: int
    contexts: int
    tokens: int
    query: int
    layers: int
    width: int
    repeats: int


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(2, 2, 2, 4, 32, 4, 1, 64, 1),
    "cpu": _Plan(64, 16, 60, 32, 512, 32, 8, 512, 3),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure with two models that are trained here once, and with random weights."""
    import torch

    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    torch.set_num_threads(1)
    numbers, rows = _recall(recall_model(scale, report), plan, report)
    report("functions", 0, 1)
    more, table = _functions(code_model(scale, report), plan)
    numbers |= more
    rows += table
    report("speed", 0, 1)
    more, table = _speed(plan)
    numbers |= more
    rows += table
    notes = [
        "One thread, float32. The look-up model was trained on up to 100 pairs in one sequence.",
        "The code of the paper needs CUDA and flash-attn, so its corrections are measured in ours.",
        "Seconds to the first token from disk are those of files that the system has in its page cache.",
    ]
    plots = [Plot("Seconds to the first token", "tokens of contexts", "seconds", "contexts", log="xy")]
    machine = bench_machine("torch", "transformers")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# Look-up


def _recall(model: PreTrainedModel, plan: _Plan, report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    from byteloom.generate import Tuning
    from byteloom.generate.parallel_context import GRID

    plain, default = Tuning(1, 1), Tuning(0.9, 0.9)
    rows: list[Row] = []
    correct: dict[tuple[tuple[int, int], str], float] = {}
    loss: dict[tuple[tuple[int, int], str], float] = {}
    for done, shape in enumerate(SHAPES):
        report("looking facts up", done, len(SHAPES))
        contexts, pairs = shape
        texts = recall_texts(plan.texts, contexts * pairs, plan.queries, repeat=True, seed=1)
        others = recall_texts(max(1, plan.texts // 4), contexts * pairs, plan.queries, repeat=True, seed=2)
        tried = _answers(model, others, contexts, pairs, GRID)
        best = min(tried, key=lambda tuning: tried[tuning][1])
        apart = _answers(model, texts, contexts, pairs, [plain, Tuning(0.9, 1), default, best])
        whole = _answers(model, texts, 1, contexts * pairs, [plain, default])
        found = {
            SEQUENTIAL: whole[plain],
            OWN: _answers(model, texts, contexts, pairs, [plain], own=True)[plain],
            SHARED: apart[plain],
            SHARPER: apart[Tuning(0.9, 1)],
            FULL: apart[default],
            BEST: apart[best],
            CONTROL: whole[default],
        }
        for how, (right, nats) in found.items():
            correct[shape, how], loss[shape, how] = right, nats
            rows.append(
                {
                    "table": f"Looking facts up: {plan.texts} texts, {plan.queries} questions each",
                    "contexts": contexts,
                    "pairs in each": pairs,
                    "read": f"{how} ({best.temperature}, {best.scale})" if how == BEST else how,
                    "correct (%)": 100 * right,
                    "nats an answer": nats,
                }
            )
    steps = (OWN, SHARED, SHARPER, FULL)  # each is one correction more
    worst = min(loss[shape, before] / loss[shape, after] for shape in SHAPES for before, after in pairwise(steps))
    return {
        "answers at the trained length over those of one sequence": Figure(
            correct[TRAINED, FULL] / max(correct[TRAINED, SEQUENTIAL], 1e-9), "x", at_least=0.98
        ),
        "answers beyond the trained length": Figure(100 * correct[BEYOND, FULL], "%", at_least=85),
        "answers beyond the trained length over those of one sequence": Figure(
            correct[BEYOND, FULL] / max(correct[BEYOND, SEQUENTIAL], 1e-9), "x", at_least=3
        ),
        "answers far beyond the trained length over those of one sequence": Figure(
            correct[FAR, FULL] / max(correct[FAR, SEQUENTIAL], 1e-9), "x", at_least=3
        ),
        "loss before a correction over after it, the least of all corrections and shapes": Figure(
            worst, "x", at_least=1
        ),
        "loss of one sequence with T = S = 0.9 over that without, at the trained length": Figure(
            loss[TRAINED, CONTROL] / loss[TRAINED, SEQUENTIAL], "x", at_least=1
        ),
    }, rows


def _answers(
    model: PreTrainedModel,
    ids_BT: torch.Tensor,
    contexts: int,
    pairs: int,
    grid: Sequence[Tuning],
    *,
    own: bool = False,
) -> dict[Tuning, tuple[float, float]]:
    """For each tuning the share of right answers and nats an answer. own: each context begins as a text does."""
    import torch

    from byteloom.generate import ContextStore
    from byteloom.models import CACHE_KEYWORD, attach

    grid = tuple(dict.fromkeys(grid))
    right, nats = dict.fromkeys(grid, 0), dict.fromkeys(grid, 0.0)
    start = 1 + 2 * contexts * pairs
    for ids_T in ids_BT:
        store = ContextStore(model, [] if own else [BEGIN])
        parts = ids_T[1:start].view(contexts, 2 * pairs).tolist()
        cache = store.join(store.add_many([[BEGIN, *part] if own else part for part in parts]))
        query_T = ids_T[start:]
        for tuning in grid:
            for layer in cache.layers:
                layer.tuning = tuning
            with attach(model), torch.no_grad():
                logits_TV = model(query_T[None, :-1], **{CACHE_KEYWORD: cache}).logits[0]
            cache.crop(1 - len(query_T))
            asked_QV, value_Q = logits_TV[1::3], query_T[2::3]
            right[tuning] += int((asked_QV.argmax(-1) == value_Q).sum())
            nats[tuning] += float(torch.nn.functional.cross_entropy(asked_QV, value_Q, reduction="sum"))
    count = len(ids_BT) * ((ids_BT.shape[1] - start) // 3)
    return {tuning: (right[tuning] / count, nats[tuning] / count) for tuning in grid}


# Real text


def _functions(code: CodeModel, plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """The loss of a function in sight of others of its module."""
    from byteloom.generate import ContextStore, Example, Tuning
    from byteloom.generate.parallel_context import losses

    model = code.model
    begin = [int(model.config.bos_token_id or 0)]
    plain, default = Tuning(1, 1), Tuning(0.9, 0.9)
    store = ContextStore(model, begin)
    apart, together, alone = [], [], []
    for functions in _modules(code, plan.functions):
        *others, asked = functions
        query, answer = asked[:4], asked[4:]
        apart.append(Example(store.add_many(others), query, answer))
        together.append(Example([store.add([token for ids in others for token in ids])], query, answer))
        alone.append(Example([store.add(code.tokenizer.encode(b"\n").tolist())], query, answer))
    found = {
        "no context": losses(model, store, alone, [plain])[plain],
        SEQUENTIAL: losses(model, store, together, [plain])[plain],
    }
    found |= dict(zip((SHARED, FULL), losses(model, store, apart, [plain, default]).values(), strict=True))
    rows: list[Row] = [
        {
            "table": f"Python: {len(apart)} functions in sight of others of their module",
            "read": how,
            "nats a token": nats,
        }
        for how, nats in found.items()
    ]
    return {
        "Python: loss with T = S = 0.9 over that of one sequence": Figure(found[FULL] / found[SEQUENTIAL], "x"),
        "Python: loss apart with one prefix over that of one sequence": Figure(
            found[SHARED] / found[SEQUENTIAL], "x", at_most=1.02
        ),
    }, rows


def _modules(code: CodeModel, count: int) -> list[list[list[int]]]:
    """Groups of functions of one held-out module each, as ids, which fit into the window of the model together.

    Long ones are cut, so that there are several.
    """
    found: list[list[list[int]]] = []
    for ids in code.held_out:
        source = code.tokenizer.decode(ids)
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        lines = source.splitlines(keepends=True)
        group: list[list[int]] = []
        room = code.context - 2
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or node.end_lineno is None:
                continue
            piece = code.tokenizer.encode(b"".join(lines[node.lineno - 1 : node.end_lineno])).tolist()
            piece = piece[: code.context // 5]
            if len(piece) < 8:
                continue
            if sum(map(len, group)) + len(piece) > room:
                break
            group.append(piece)
        if len(group) > 2:
            found.append(group)
        if len(found) == count:
            break
    return found


# Speed


def _speed(plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """Seconds to the first token, random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from byteloom.generate import ContextStore, Tuning
    from byteloom.models import CACHE_KEYWORD, KVCache, attach

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=plan.width,
            intermediate_size=2 * plan.width,
            num_hidden_layers=plan.layers,
            num_attention_heads=plan.width // 64,
            num_key_value_heads=plan.width // 64,
            max_position_embeddings=2 * plan.contexts * plan.tokens,
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(256, (plan.contexts, plan.tokens), generator=generator)
    query_BT = torch.randint(256, (1, plan.query), generator=generator)

    def first_token(cache: KVCache, ids_BT: torch.Tensor) -> None:
        with attach(model), torch.no_grad():
            model(ids_BT, logits_to_keep=1, **{CACHE_KEYWORD: cache})

    rows: list[Row] = []
    spans: dict[tuple[int, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = ContextStore(model, [0], path=folder)
        names, reading = timed(lambda: store.add_many(texts.tolist()))
        share = sum(file.stat().st_size for file in Path(folder).iterdir() if file.stem in names) / store.nbytes

        def from_text(ids_BT: torch.Tensor) -> None:
            first_token(KVCache.for_model(model), ids_BT)

        def from_store(store: ContextStore, count: int) -> None:
            first_token(store.join(names[:count]), query_BT)

        def from_disk(count: int) -> None:
            from_store(ContextStore(model, [0], path=folder), count)

        for count in sorted({max(1, plan.contexts // 8), plan.contexts // 2, plan.contexts}):
            whole_BT = torch.cat((torch.zeros(1, 1, dtype=torch.long), texts[:count].reshape(1, -1), query_BT), dim=1)
            ways = {
                SEQUENTIAL: partial(from_text, whole_BT),
                "joined from memory": partial(from_store, store, count),
                "joined from disk": partial(from_disk, count),
            }
            for how, call in ways.items():
                spans[count, how] = best_of(1 if how == SEQUENTIAL else plan.repeats, call).wall
                rows.append(
                    {
                        "table": "Seconds to the first token",
                        "tokens of contexts": count * plan.tokens,
                        "contexts": how,
                        "seconds": spans[count, how],
                    }
                )
        token_BT = query_BT[:, :1]
        with attach(model), torch.no_grad():
            steps = {}
            for how, tuning in (("ordinary attention", (1.0, 1.0)), ("T = S = 0.9", (0.9, 0.9))):
                cache = store.join(names, Tuning(*tuning))
                model(token_BT, **{CACHE_KEYWORD: cache})
                steps[how] = best_of(4 * plan.repeats, partial(first_token, cache, token_BT)).wall
                rows.append(
                    {
                        "table": f"A token behind {plan.contexts * plan.tokens} tokens of contexts",
                        "attention": how,
                        "ms": 1e3 * steps[how],
                    }
                )
    most = plan.contexts
    once = f"reading {most} contexts of {plan.tokens} tokens once"
    return {
        once: Figure(reading.wall, "s"),
        "first token from memory, times as soon as one sequence": Figure(
            spans[most, SEQUENTIAL] / spans[most, "joined from memory"], "x", at_least=20
        ),
        "first token from disk, times as soon as one sequence": Figure(
            spans[most, SEQUENTIAL] / spans[most, "joined from disk"], "x", at_least=10
        ),
        "bytes on disk over keys and values": Figure(share, "x", at_most=1.01),
        "time of a token with T = S = 0.9 over ordinary attention": Figure(
            steps["T = S = 0.9"] / steps["ordinary attention"], "x", at_most=1.15
        ),
    }, rows
