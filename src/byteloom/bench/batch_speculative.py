"""Batch speculation: does each text stay that of its prompt alone, and from which batch size on does it pay?

Plain batches, EQSPEC, EXSPEC and the ragged layout continue the same prompts, with drafts from suffix trees and from a
distilled model; a batch without realignment shows what goes wrong. `data` is a folder with
stories260k/; without it the code model alone is measured.
"""

# Shape suffixes: B rows, T tokens, V vocabulary.

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.bench.models import code_model, stories, story_prompts, trained
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from byteloom.bench.models import CodeModel
    from byteloom.generate import Draft, Drafter
    from byteloom.generate.batch import Layout

CARD = Card(
    method="batch-speculative",
    title="Speculation over a batch: rows accept another number of tokens each, and every text stays exact.",
    paper="Batch Speculative Decoding Done Right, Zhang et al., 2025",
    arxiv="2510.22876",
    stage="generate",
    module="byteloom.generate.batch",
    headline="up to 3x throughput at batch size 8 over batch size 1, about 95 % of texts equal to plain decoding "
    "(fp16); realignment takes 13 to 40 % of the time of EQSPEC",
    measures="equal texts, tokens a second and time by part for plain batches, EQSPEC, EXSPEC and the ragged layout at "
    "several batch sizes; prompts of unequal length and budget; what one realignment costs",
)


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale. new: tokens of a text. draft: of a draft. steps: to distil the draft model.
    slots, layers: of the caches that are realigned."""

    prompts: int
    new: int
    batches: tuple[int, ...]
    draft: int
    steps: int
    slots: int
    layers: int


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(4, 12, (1, 2), 3, 4, 32, 2),
    "cpu": _Plan(64, 160, (1, 2, 4, 8, 16), 4, 1_200, 512, 12),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure with the model in `data`, and with one of Python code that is trained here once."""
    import torch

    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    torch.set_num_threads(1)
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    plots: list[Plot] = []
    notes = ["One thread, float32. Plain batches are those of transformers, padded on the left."]
    subjects: list[tuple[str, PreTrainedModel, list[list[int]], PreTrainedModel | None]] = []
    found = stories(data)
    if found is not None:
        subjects.append(("stories260k", found[0], story_prompts(found[1], plan.prompts), None))
    else:
        notes.append("stories260k was not there: the model of Python alone was measured.")
    code = code_model(scale, report)
    draft = draft_model(code, plan.steps, report)
    lengths = np.random.default_rng(0).integers(code.context // 16, code.context // 4, plan.prompts)
    files = [ids for ids in code.held_out if len(ids) >= code.context // 4]
    prompts = [files[at % len(files)][: int(length)].tolist() for at, length in enumerate(lengths)]
    subjects.append(("a model of Python", code.model, prompts, draft))
    for name, model, texts, small in subjects:
        more, table = _batches(name, model, texts, small, plan, report)
        numbers |= more
        rows += table
        plots.append(Plot(str(table[0]["table"]), "batch size", "tokens a second", "method", log="x"))
        more, table = _unequal(name, model, texts, plan)
        numbers |= more
        rows += table
    more, table = _realignments(plan)
    numbers |= more
    rows += table
    machine = bench_machine("torch", "transformers")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# Throughput


def _batches(
    name: str,
    model: PreTrainedModel,
    prompts: list[list[int]],
    small: PreTrainedModel | None,
    plan: _Plan,
    report: Progress,
) -> tuple[dict[str, Figure], list[Row]]:
    """With drafts of suffix trees; at one batch size also of a `small` model, and useless ones."""
    from byteloom.generate import DraftModel, SuffixCache, speculate_batch

    table = f"{name}, {len(prompts)} prompts, {plan.new} new tokens each, drafts of {plan.draft} tokens"
    alone = _plain(model, prompts, [plan.new] * len(prompts), 1)
    rows: list[Row] = []
    speeds: dict[tuple[str, int], float] = {}
    shares: dict[tuple[str, int], dict[str, float]] = {}
    same: dict[tuple[str, int], float] = {}
    tokens = plan.new * len(prompts)
    for done, size in enumerate(plan.batches):
        report(f"{name}: batches", done, len(plan.batches))
        texts, span = timed(partial(_plain, model, prompts, [plan.new] * len(prompts), size))
        speeds["plain", size], same["plain", size] = tokens / span.wall, _equal(texts, alone)
        rows.append(_row(table, size, "plain", tokens / span.wall, tokens / span.wall, same["plain", size]))
        if size > 1:
            few = prompts[: 2 * size]
            spoiled, span = timed(partial(naive, model, few, SuffixCache(), size, new=plan.new, draft=plan.draft))
            share = _equal(spoiled, alone[: 2 * size])
            same["naive", size] = share
            speed = plan.new * len(spoiled) / span.wall
            rows.append(_row(table, size, "without realignment", speed, speeds["plain", size], share))
        kinds: list[tuple[Layout, bool]] = [("ragged", False), ("eqspec", False), ("exspec", False), ("ragged", True)]
        for layout, adaptive in kinds:
            output, span = timed(
                partial(
                    speculate_batch,
                    model,
                    prompts,
                    drafter=SuffixCache(),
                    max_new_tokens=plan.new,
                    batch_size=size,
                    layout=layout,
                    num_draft_tokens=None if adaptive else plan.draft,
                    adaptive=adaptive,
                    eos=[],
                )
            )
            label = f"{layout}, adaptive" if adaptive else layout
            speeds[label, size], same[label, size] = tokens / span.wall, _equal(output.texts, alone)
            shares[label, size] = {part: value / span.wall for part, value in output.statistics.seconds.items()}
            rows.append(
                _row(table, size, label, speeds[label, size], speeds["plain", size], same[label, size])
                | {
                    "tokens a step": output.statistics.tokens_per_step,
                    "acceptance": output.statistics.acceptance,
                    "passes": output.statistics.forwards,
                    "draft (%)": 100 * shares[label, size]["draft"],
                    "align (%)": 100 * (shares[label, size]["align"] + shares[label, size]["schedule"]),
                    "grouped (%)": None if output.grouping is None else 100 * output.grouping,
                }
            )
    most = plan.batches[-2]  # 8 at scale cpu
    options: dict[str, Any] = {"max_new_tokens": plan.new, "batch_size": most, "eos": []}
    others: dict[str, Drafter] = {"useless drafts": Useless(model)}
    if small is not None:
        others["drafts of a model of one layer"] = DraftModel(small)
    for label, drafter in others.items():
        output, span = timed(partial(speculate_batch, model, prompts, drafter=drafter, **options))
        speeds[label, most] = tokens / span.wall
        share = _equal(output.texts, alone)
        rows.append(
            _row(table, most, f"ragged, adaptive, {label}", speeds[label, most], speeds["plain", most], share)
            | {"tokens a step": output.statistics.tokens_per_step, "acceptance": output.statistics.acceptance}
        )
    spoiled_share = min(share for (label, _), share in same.items() if label == "naive")
    worst = min(share for (label, _), share in same.items() if label not in ("plain", "naive"))
    found = {
        "texts equal to each alone, worst layout and batch size": Figure(100 * worst, "%", at_least=100),
        "texts equal without realignment": Figure(100 * spoiled_share, "%"),
        f"ragged over plain at batch {most}": Figure(speeds["ragged", most] / speeds["plain", most], "x", at_least=1.3),
        f"ragged over plain at batch {plan.batches[-1]}": Figure(
            speeds["ragged", plan.batches[-1]] / speeds["plain", plan.batches[-1]], "x", at_least=1
        ),
        f"ragged over EQSPEC at batch {most}": Figure(
            speeds["ragged", most] / speeds["eqspec", most], "x", at_least=1.1
        ),
        f"EXSPEC at batch {most} over plain at {most}": Figure(
            speeds["exspec", most] / speeds["plain", most], "x", at_least=1
        ),
        f"EXSPEC at batch {most} over batch 1": Figure(speeds["exspec", most] / speeds["exspec", 1], "x", at_least=1),
        f"ragged at batch {most} over plain at 1": Figure(speeds["ragged", most] / speeds["plain", 1], "x", at_least=3),
        f"of which batching alone at {most}": Figure(speeds["plain", most] / speeds["plain", 1], "x"),
        f"ragged with useless drafts over plain at batch {most}": Figure(
            speeds["useless drafts", most] / speeds["plain", most], "x", at_least=0.9
        ),
        f"time of ragged for alignment at batch {plan.batches[-1]}": Figure(
            100 * shares["ragged", plan.batches[-1]]["align"], "%", at_most=2
        ),
    }
    return {f"{name}: {what}": figure for what, figure in found.items()}, rows


def _unequal(
    name: str, model: PreTrainedModel, prompts: list[list[int]], plan: _Plan
) -> tuple[dict[str, Figure], list[Row]]:
    """Texts of unequal length: a batch of transformers waits for its longest, a ragged one takes the next prompt."""
    from byteloom.generate import SuffixCache, speculate_batch

    size = plan.batches[-2]
    budgets = np.random.default_rng(1).integers(max(1, plan.new // 16), plan.new + 1, len(prompts)).tolist()
    tokens = sum(budgets)
    options: dict[str, Any] = {"max_new_tokens": budgets, "batch_size": size, "eos": []}
    plain, plain_span = timed(lambda: _plain(model, prompts, budgets, size))
    drafted, span = timed(lambda: speculate_batch(model, prompts, drafter=SuffixCache(), **options))
    alone, refill = timed(lambda: speculate_batch(model, prompts, num_draft_tokens=0, **options))
    table = f"{name}, {min(budgets)} to {max(budgets)} new tokens, batches of {size}"
    rows = [
        _row(table, size, label, tokens / seconds.wall, tokens / plain_span.wall, _equal(texts, plain))
        for label, texts, seconds in (
            ("plain", plain, plain_span),
            ("ragged without drafts", alone.texts, refill),
            ("ragged, adaptive", drafted.texts, span),
        )
    ]
    return {
        f"{name}: texts of unequal length, ragged over plain at batch {size}": Figure(
            plain_span.wall / span.wall, "x", at_least=1.3
        )
    }, rows


def _row(table: str, size: int, method: str, speed: float, plain: float, share: float) -> Row:
    return {
        "table": table,
        "batch size": size,
        "method": method,
        "tokens a second": speed,
        "over plain": speed / plain,
        "texts equal to each alone (%)": 100 * share,
    }


def _equal(texts: Sequence[list[int]], expected: Sequence[list[int]]) -> float:
    return sum(a == b for a, b in zip(texts, expected, strict=True)) / len(texts)


def _plain(model: PreTrainedModel, prompts: list[list[int]], budgets: list[int], size: int) -> list[list[int]]:
    """What `generate` writes, `size` prompts at a time, each cut to its budget."""
    import torch

    texts = []
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        width = max(map(len, part))
        ids_BT = torch.tensor([[0] * (width - len(ids)) + ids for ids in part])
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in part])
        output_BT = model.generate(
            ids_BT,
            attention_mask=mask_BT,
            max_new_tokens=max(budgets[start : start + size]),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        texts += [
            row[width : width + budget].tolist()
            for row, budget in zip(output_BT, budgets[start : start + size], strict=True)
        ]
    return texts


class Useless:
    """A drafter whose tokens are drawn at random."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._vocabulary = int(model.config.vocab_size)
        self._random = np.random.default_rng(0)

    def start(self, row: object, prompt_ids: Sequence[int]) -> None:
        """See `Drafter`."""

    def propose(self, rows: Sequence[object], budgets: Sequence[int]) -> list[Draft]:
        """See `Drafter`."""
        from byteloom.generate import Draft

        drafts = []
        for budget in budgets:
            tokens = self._random.integers(self._vocabulary, size=min(4, budget)).tolist()
            drafts.append(Draft(tokens, list(range(-1, len(tokens) - 1)), [0.5**n for n in range(len(tokens))]))
        return drafts

    def observe(self, row: object, new_ids: Sequence[int]) -> None:
        """See `Drafter`."""

    def stop(self, row: object) -> None:
        """See `Drafter`."""


def naive(
    model: PreTrainedModel, prompts: Sequence[list[int]], drafter: Drafter, size: int, *, new: int, draft: int
) -> list[list[int]]:
    """What the paper warns of: rows keep the columns that the longest accepted, and read on behind them."""
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    from byteloom.generate.engine import Engine, Statistics
    from byteloom.generate.padded_rows import PaddedRows
    from byteloom.generate.texts import Rule, Text

    class Unaligned(PaddedRows):
        def keep(self, places: Sequence[Sequence[int]]) -> None:
            longest = max(places, key=len)  # rejected tokens of the others stay, and shift what comes after them
            super().keep([longest] * len(places))

    texts = []
    for start in range(0, len(prompts), size):
        part = []
        for ids in prompts[start : start + size]:
            rule = Rule(LogitsProcessorList(), StoppingCriteriaList(), False)
            rule.max_length = len(ids) + new
            part.append(Text(model, torch.tensor(ids), ids, rule))
        engine = Engine(
            Unaligned(model), drafter, size=size, trees=False, most=draft, pace=None, statistics=Statistics()
        )
        engine.waiting.extend(part)
        while engine.step():
            pass
        texts += [text.new_ids for text in part]
    return texts


# One realignment


def _realignments(plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """A step of caches alone: 6 new tokens, of which rows keep 1 to 6."""
    import torch
    from transformers import LlamaConfig
    from transformers.cache_utils import DynamicCache

    from byteloom.generate.padded_rows import _Block, _Row
    from byteloom.models.ragged_cache import RaggedCache

    rows: list[Row] = []
    ratio = 0.0
    for size in plan.batches[-2:]:
        config = LlamaConfig(num_hidden_layers=plan.layers, num_attention_heads=8, hidden_size=512)
        kept = [1 + row % 6 for row in range(size)]
        new = torch.randn(size, 8, 6, 64)
        lengths = [plan.slots - row for row in range(size)]
        block = _Block([_Row(torch.randn(plan.layers, 8, n, 64), torch.randn(plan.layers, 8, n, 64)) for n in lengths])
        ragged = RaggedCache(config, size, capacity=plan.slots + 16)
        with torch.no_grad():
            for layer in ragged.layers:
                layer.lazy_initialization(new, new)
            ragged.lens = torch.tensor(lengths)
            block.reserve(block.columns + 6)
            stock = DynamicCache([(torch.randn(size, 8, plan.slots, 64),) * 2 for _ in range(plan.layers)])

            def scatter(ragged: RaggedCache = ragged, new: torch.Tensor = new, lengths: list[int] = lengths) -> None:
                for layer in ragged.layers:
                    layer.update(new, new)
                ragged.lens = torch.tensor(lengths)

            def realign(block: _Block = block, kept: list[int] = kept) -> None:
                before, columns = block.lengths, block.columns
                block.realign(kept)
                block.lengths, block.columns = before, columns

            def slices(stock: DynamicCache = stock, kept: list[int] = kept) -> None:
                for layer in stock.layers:
                    for states in (layer.keys, layer.values):
                        moved = torch.zeros_like(states)
                        for row, more in enumerate(kept):
                            moved[row, :, more:] = states[row, :, : states.shape[2] - more]

            seconds = {
                "slices a row and layer (as the official code)": best_of(3, slices).cpu,
                "EQSPEC: one copy a row": best_of(3, realign).cpu,
                "ragged: new tokens in place": best_of(3, scatter).cpu,
            }
        ratio = seconds["ragged: new tokens in place"] / seconds["slices a row and layer (as the official code)"]
        rows += [
            {
                "table": f"A step of the cache: {plan.layers} layers, 8 heads of 64, about {plan.slots} tokens a row",
                "batch size": size,
                "how": how,
                "ms": 1e3 * span,
            }
            for how, span in seconds.items()
        ]
    return {"ragged step of the cache over slice copies": Figure(ratio, "x", at_most=0.02)}, rows


# A draft model


def draft_model(code: CodeModel, steps: int, report: Progress) -> PreTrainedModel:
    """A model of one layer that learned to guess what the code model writes: the same embeddings, trained once."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    from byteloom.train.trainer import quiet_transformers

    config = type(code.model.config).from_dict(code.model.config.to_dict() | {"num_hidden_layers": 1})

    def train(folder: Path) -> None:
        torch.manual_seed(0)
        draft = LlamaForCausalLM(config)
        weights = code.model.state_dict()
        draft.load_state_dict({name: weights[name] for name in draft.state_dict()})  # the first layer is a beginning
        optimizer = torch.optim.AdamW(draft.parameters(), lr=2e-3, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
        text_T = torch.from_numpy(np.concatenate(code.train).astype(np.int64))
        width = code.context // 4
        for step in range(steps):
            starts_B = torch.randint(len(text_T) - width, (16,))
            ids_BT = text_T[starts_B[:, None] + torch.arange(width)]
            with torch.no_grad():
                target_BTV = code.model(ids_BT).logits.log_softmax(-1)
            guess_BTV = draft(ids_BT).logits.log_softmax(-1)
            loss = torch.nn.functional.kl_div(guess_BTV, target_BTV, log_target=True, reduction="none").sum(-1).mean()
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            report("distilling a draft model", step, steps)
        draft.save_pretrained(folder / "model")

    from byteloom.models.kvcache import fingerprint

    folder = trained("code-draft", {"steps": steps, "model": fingerprint(code.model)}, train)
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True).eval()
