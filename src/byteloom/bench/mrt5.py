"""MrT5 beside ByT5: how much faster hard deletion is as inputs grow, and what it costs in bits per hidden byte.

Speed at the published size (ByT5-small, random weights, since it depends on shapes alone), with transformers' T5 in the
same process. Quality with a small model on movie reviews in `data`, or on the sources of this Python without it: one
model is trained without a gate, and goes on from there with each of the gates for as many steps.
"""

# Shape suffixes: B batch, N input ids, T target ids.

from __future__ import annotations

import math
import string
import sysconfig
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from byteloom.models.mrt5 import MrT5ForConditionalGeneration

CARD = Card(
    method="mrt5",
    title="A byte model that drops most bytes behind its first blocks: as good, and faster the longer the input.",
    paper="MrT5: Dynamic Token Merging for Efficient Byte-level Language Models, Kallini et al., ICLR 2025",
    arxiv="2410.20771",
    stage="models",
    module="byteloom.models.mrt5",
    headline="ByT5-small at 50 % deletion takes 32.3 % less time (70 %: 44.7 %); cross entropy 0.839 nats at 63 % "
    "deletion, 0.781 without, 0.898 with 40 % deleted at random",
    measures="time of hard deletion over transformers' T5 by input length and deletion rate; bits per hidden byte of "
    "learned and of random deletion at equal steps; what is deleted",
)

SPEED = "Time of a forward pass, shape of ByT5-small, targets of 189 ids"
QUALITY = "Bits per hidden byte after as many steps from one checkpoint, hard deletion"
DENSITY, MEAN_SPAN = 0.15, 4.0  # a small model cannot use context for spans of 20


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale. lengths: inputs that are timed, each with a number of repeats."""

    shape: dict[str, int]
    lengths: tuple[tuple[int, int], ...]
    written: int  # ids of greedy generation
    width: int
    length: int  # input ids of the trained model
    batch: int
    before: int  # steps without a gate
    after: int  # steps with each gate
    judged: int  # held-out sequences


_SMALL = {"d_model": 1472, "d_kv": 64, "num_heads": 6, "d_ff": 3584, "num_layers": 12, "num_decoder_layers": 4}
_TINY = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 4, "num_decoder_layers": 1}
_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(_TINY, ((64, 1), (128, 1)), 4, 32, 64, 4, 3, 3, 8),
    "cpu": _Plan(_SMALL, ((256, 3), (512, 3), (1024, 2), (2048, 2)), 64, 96, 256, 32, 300, 100, 160),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on movie-reviews/ in `data`, or on the sources of this Python."""
    import torch

    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    threads = torch.get_num_threads()
    numbers, rows = _speed(plan, report)
    more, tables, notes = _quality(plan, data, report)
    plots = [Plot(SPEED, "bytes", "over T5", "deleted", log="x"), Plot(QUALITY, "deleted", "bits per byte", "gate")]
    notes.append(f"{threads} threads. Speed: random weights, random positions deleted; batch of 1 but where it says 4.")
    machine = bench_machine("torch", "transformers")
    seconds = time.perf_counter() - began
    return Result(CARD.method, scale, numbers | more, rows + tables, machine, seconds, notes, plots)


# Speed


def _speed(plan: _Plan, report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from byteloom.models.mrt5 import MrT5ForConditionalGeneration

    torch.manual_seed(0)
    ids = {"vocab_size": 384, "decoder_start_token_id": 0}
    t5 = T5ForConditionalGeneration(T5Config(**plan.shape, **ids, feed_forward_proj="gated-gelu")).eval()
    mrt5 = MrT5ForConditionalGeneration.from_byt5(t5).eval()
    t5.set_attn_implementation("sdpa")
    rows: list[Row] = []
    ratios: dict[tuple[int, int, int], float] = {}
    settings = [(1, length, repeats) for length, repeats in plan.lengths]
    settings.append((4, plan.lengths[len(plan.lengths) // 2][0], 1))
    for number, (batch, length, repeats) in enumerate(settings):
        report("timing forward passes", number, len(settings))
        inputs_BN = torch.randint(3, 259, (batch, length))
        labels_BT = torch.randint(3, 259, (batch, min(189, length)))
        with torch.inference_mode():
            plain = best_of(repeats, partial(t5, input_ids=inputs_BN, labels=labels_BT)).wall
            for rate in (30, 50, 70):
                gate_BN = _deleting(batch, length, rate / 100)
                deleting = partial(mrt5, input_ids=inputs_BN, labels=labels_BT, gate=gate_BN)
                took = best_of(repeats, deleting).wall
                ratios[batch, length, rate] = took / plain
                row: Row = {"table": SPEED, "batch": batch, "bytes": length, "deleted": f"{rate} %"}
                rows.append(row | {"T5": plain, "MrT5": took, "over T5": took / plain})
    middle, longest = plan.lengths[len(plan.lengths) // 2][0], plan.lengths[-1][0]
    bounds = {30: 0.82, 50: 0.72, 70: 0.60}
    numbers = {
        f"time over T5, {middle:,} bytes, {rate} % deleted": Figure(ratios[1, middle, rate], "x", at_most=bound)
        for rate, bound in bounds.items()
    }
    numbers["the same in a batch of 4, 50 % deleted"] = Figure(ratios[4, middle, 50], "x", at_most=0.72)
    numbers[f"time over T5, {longest:,} bytes, 50 % deleted"] = Figure(ratios[1, longest, 50], "x", at_most=0.72)
    shortest = plan.lengths[0][0]
    growth = ratios[1, shortest, 50] / ratios[1, longest, 50]
    numbers[f"gain at {longest:,} bytes over that at {shortest:,}"] = Figure(growth, "x", 1.0)
    numbers |= _gate_share(mrt5, middle) | _generation(t5, mrt5, middle, plan.written)
    return numbers, rows


def _deleting(batch: int, length: int, rate: float) -> Tensor:
    """Gates [B, N] that delete the share `rate` at random places of each row."""
    import torch

    rank_BN = torch.rand(batch, length).argsort(1).argsort(1)
    return torch.where(rank_BN < round(rate * length), -30.0, 0.0)


def _gate_share(model: MrT5ForConditionalGeneration, length: int) -> dict[str, Figure]:
    """The share of a forward pass that gate and compaction take."""
    import torch

    from byteloom.models.mrt5 import compact

    states_BND = torch.randn(1, length, model.config.d_model)
    kept_BN = torch.rand(1, length) < 0.5
    inputs_BN = torch.randint(3, 259, (1, length))
    with torch.inference_mode():
        gate = best_of(5, lambda: (model.encoder.gate(states_BND), compact(states_BND, kept_BN))).wall
        whole = best_of(2, lambda: model.encoder(input_ids=inputs_BN)).wall
    return {"gate and compaction, share of the encoder": Figure(100 * gate / whole, "%", at_most=2.0)}


def _generation(t5: Any, mrt5: MrT5ForConditionalGeneration, length: int, written: int) -> dict[str, Figure]:
    import torch

    inputs_BN = torch.randint(3, 259, (1, length))
    options = {"max_new_tokens": written, "min_new_tokens": written, "do_sample": False}
    gate_BN = _deleting(1, length, 0.5)
    took = best_of(2, lambda: mrt5.generate(input_ids=inputs_BN, gate=gate_BN, **options)).wall
    plain = best_of(2, lambda: t5.generate(input_ids=inputs_BN, **options)).wall
    return {f"greedy generation of {written} bytes over T5, 50 % deleted": Figure(took / plain, "x", at_most=0.9)}


# Quality


def _quality(plan: _Plan, data: Path | None, report: Progress) -> tuple[dict[str, Figure], list[Row], list[str]]:
    import torch

    from byteloom.models.mrt5 import MrT5ForConditionalGeneration
    from byteloom.train.mrt5 import DeletionTarget, SpanCorruption, raw_length

    train, held_out, source = texts_of(data)
    collate = SpanCorruption(plan.length, DENSITY, MEAN_SPAN)
    size = raw_length(plan.length, DENSITY, MEAN_SPAN)
    draws = _Draws(train, held_out, size, collate)
    total = plan.before + 5 * plan.after
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        report("training without and with gates", done, total)

    base = _new(plan)
    _train(base, draws, plan, plan.before, 2e-3, None, tick)
    ki = 0.05 / plan.after
    gates: list[tuple[str, float, dict[str, Any]]] = [
        ("none", 0.0, {"gate": "none"}),
        *(("learned", rate, {"gate": "learned"}) for rate in (0.5, 0.7)),
        *(("random", rate, {"gate": "random", "gate_rate": rate}) for rate in (0.5, 0.7)),
    ]
    rows: list[Row] = []
    bits: dict[tuple[str, float], float] = {}
    rates: dict[tuple[str, float], float] = {}
    for name, rate, settings in gates:
        torch.manual_seed(0)
        model = MrT5ForConditionalGeneration.from_byt5(base, **settings)
        target = DeletionTarget(rate, ki=ki, kp=0.5) if name == "learned" else None
        _train(model, draws, plan, plan.after, 1e-3, target, tick)
        judged, soft, rate_found, classes = _judge(model, draws, plan)
        bits[name, rate], rates[name, rate] = judged, rate_found
        row: Row = {"table": QUALITY, "gate": name, "target": rate, "deleted": round(rate_found, 3)}
        rows.append(row | {"bits per byte": judged, "soft deletion": soft})
        rows += [{"table": "Share deleted by kind of byte", "gate": f"{name} {rate:g}", **classes}] * (
            name == "learned"
        )
    numbers: dict[str, Figure] = {}
    plain = bits["none", 0.0]
    for rate in (0.5, 0.7):
        learned, drawn = bits["learned", rate], bits["random", rate]
        numbers[f"bits per byte over ByT5, learned {rate:.0%} deletion"] = Figure(learned / plain, "x", at_most=1.02)
        numbers[f"loss of learned over random deletion, {rate:.0%}"] = Figure(
            (learned - plain) / max(drawn - plain, 1e-9), "x", at_most=0.5
        )
        missed = 100 * abs(rates["learned", rate] - rate)
        numbers[f"deletion rate away from {rate:.0%}"] = Figure(missed, "points", at_most=5.0)
    notes = [
        f"Quality: {source}; {plan.length} input ids, spans of {MEAN_SPAN:g} bytes hidden with density {DENSITY:g}; "
        f"{plan.before} steps of {plan.batch} sequences without a gate, then {plan.after} with each. The paper trains "
        "5,000 steps of 1,024 sequences of 1,024 bytes on top of ByT5."
    ]
    return numbers, rows, notes


def texts_of(data: Path | None) -> tuple[bytes, bytes, str]:
    """(to train on, held out, what it is): text with its blanks collapsed."""
    archive = None if data is None else data / "movie-reviews" / "train.zip"
    if archive is not None and archive.exists():
        with zipfile.ZipFile(archive) as reviews:
            names = sorted(name for name in reviews.namelist() if name.endswith(".txt"))
            texts = [b" ".join(reviews.read(name).split()) for name in names]
        source = "movie reviews"
    else:
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        texts = [b" ".join(path.read_bytes().split()) for path in files]
        source = "sources of this Python's library, blanks collapsed"
    cut = len(texts) - max(1, len(texts) // 20)
    order = np.random.default_rng(0).permutation(len(texts))
    parts = [b"\n".join(texts[place] for place in places) for places in (order[:cut], order[cut:])]
    return parts[0], parts[1], source


class _Draws:
    """Batches: `train(step)` is the same for every model, `held_out(at)` for every judgement."""

    def __init__(self, train: bytes, held_out: bytes, size: int, collate: Callable[..., dict[str, Tensor]]) -> None:
        self._train, self._held_out, self.size, self._collate = train, held_out, size, collate

    def train(self, step: int, count: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((1, step))
        starts = rng.integers(0, len(self._train) - self.size, count)
        return self._collate([self._train[start : start + self.size] for start in starts], rng)

    def held_out(self, number: int, count: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((2, number))
        starts = rng.integers(0, len(self._held_out) - self.size, count)
        return self._collate([self._held_out[start : start + self.size] for start in starts], rng)


def _new(plan: _Plan) -> MrT5ForConditionalGeneration:
    import torch

    from byteloom.models.mrt5 import MrT5Config, MrT5ForConditionalGeneration

    torch.manual_seed(0)
    heads = {"d_kv": plan.width // 3, "num_heads": 4} if plan.width % 3 == 0 else {"d_kv": 8, "num_heads": 4}
    layers = {"num_layers": 4, "num_decoder_layers": 2, "delete_gate_layer": 2}
    shape = {"d_model": plan.width, "d_ff": 2 * plan.width, **heads, **layers}
    return MrT5ForConditionalGeneration(MrT5Config(**shape, gate="none", dropout_rate=0.0))


def _train(
    model: MrT5ForConditionalGeneration,
    draws: _Draws,
    plan: _Plan,
    steps: int,
    rate: float,
    target: Any,
    tick: Callable[[], None],
) -> None:
    import torch

    from byteloom.train.mrt5 import DeletionController

    model.train()
    controller = None if target is None else DeletionController(target)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    warmup = min(50, steps // 4 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    for step in range(steps):
        output = model(**draws.train(step + (1_000_000 if model.config.gate != "none" else 0), plan.batch))
        loss = output.loss
        if controller is not None:
            loss = loss + controller.alpha * output.mean_gate.mean()
            controller.update(output.deletion_rate.mean().item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tick()


def _judge(
    model: MrT5ForConditionalGeneration, draws: _Draws, plan: _Plan
) -> tuple[float, float, float, dict[str, float]]:
    """(bits per hidden byte with hard and with soft deletion, share deleted, the same by kind of byte)."""
    import torch

    from byteloom.models.mrt5 import SENTINEL_0

    model.eval()
    nats = {True: 0.0, False: 0.0}
    hidden = 0
    deleted: list[float] = []
    kinds: dict[str, list[float]] = {}
    with torch.inference_mode():
        for number in range(max(1, plan.judged // plan.batch)):
            batch = draws.held_out(number, plan.batch)
            labels_BT = batch["labels"]
            hidden += int(((labels_BT >= 3) & (labels_BT < SENTINEL_0)).sum())
            for hard in (True, False):
                torch.manual_seed(number)  # the random gate deletes the same both times
                output = model(**batch, hard_delete=hard)
                nats[hard] += output.loss.item() * int((labels_BT != -100).sum())
            if output.gate is not None:
                gone_BN = output.gate <= model.config.gate_scale / 2
                deleted.append(output.deletion_rate.mean().item())
                for name, is_kind_BN in _kinds(batch["input_ids"]).items():
                    kinds.setdefault(name, []).extend(gone_BN[is_kind_BN].float().tolist())
    bits = {hard: total / math.log(2) / max(1, hidden) for hard, total in nats.items()}
    classes = {name: round(float(np.mean(values)), 3) for name, values in kinds.items() if values}
    return bits[True], bits[False], float(np.mean(deleted)) if deleted else 0.0, classes


def _kinds(ids_BN: torch.Tensor) -> dict[str, torch.Tensor]:
    """bool [B, N] for each kind of byte."""
    import torch

    def among(text: str) -> torch.Tensor:
        return torch.isin(ids_BN, torch.tensor([ord(letter) + 3 for letter in text]))

    is_sentinel_BN = ids_BN >= 259
    beside_BN = torch.zeros_like(is_sentinel_BN)
    beside_BN[:, 1:] |= is_sentinel_BN[:, :-1]
    beside_BN[:, :-1] |= is_sentinel_BN[:, 1:]
    return {
        "letters": among(string.ascii_letters),
        "digits": among(string.digits),
        "blanks": among(" \n\t"),
        "punctuation": among(string.punctuation),
        "beside a hidden span": beside_BN & (ids_BN >= 3) & ~is_sentinel_BN,
        "sentinels": is_sentinel_BN,
    }
