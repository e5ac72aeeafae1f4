"""Positional Integrity Encoding: what an edit costs beside recomputation, and what it changes in what the model says.

Edits of real code are made in the cache of a small model of Python, beside encoding all again, leaving keys where they
were, and ignoring the edit; and spans are replaced in stories. `data` is a folder with code-edits/ and stories260k/;
what is missing there is not measured, and without code-edits lines are replaced in this machine's Python sources.
Latency is that of a model with random weights.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.bench.models import code_model, sampled, stories
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from byteloom.bench.models import CodeModel
    from byteloom.generate import Edit, EditSession
    from byteloom.models import KVCache

CARD = Card(
    method="pie",
    title="A cache that follows the edits of a text: keys behind an edit are turned, only new tokens are encoded.",
    paper="Let the Code LLM Edit Itself When You Edit the Code, He et al., ICLR 2025",
    arxiv="2407.03157",
    stage="generate",
    module="byteloom.generate.edit_session",
    headline="the cost of updating the cache falls by more than 85 % at all sizes and tasks, and results stay close to "
    "those of recomputation (DeepSeek-Coder 1.3B, 6.7B and 33B on RepoBench-C-8k)",
    measures="loss, divergence and agreement with recomputation of a small model of code behind real edits, beside a "
    "cache without the shift and one that ignores the edit; time of an edit beside that of encoding anew",
)

MIDDLE = "An edit of 16 tokens in the middle of a text"


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale."""

    files: int  # edited files that are looked at
    renames: int
    stories: int
    layers: int  # of the model whose time is taken
    width: int
    lengths: tuple[int, ...]  # tokens of its texts, rising


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(6, 3, 3, 2, 64, (128, 256)),
    "cpu": _Plan(300, 60, 48, 8, 512, (2048, 4096, 8192)),
}

LARGEST_EDIT = 60  # tokens


@dataclass(frozen=True)
class _Window:
    """A text, edits of it, and what follows the text once they are made."""

    old: list[int]
    edits: list[Edit]
    target: list[int]

    @property
    def new(self) -> list[int]:
        new = list(self.old)
        for edit in reversed(self.edits):
            new[edit.start : edit.stop] = edit.tokens
        return new


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on the edits and the stories in `data`, or on this machine's Python sources."""
    import torch

    torch.set_num_threads(1)
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    code = code_model(scale, report)
    texts, source = _texts(data, code, plan)
    for name, windows, promised in (
        ("the cursor far behind the edit", _windows(texts, code, 340), True),
        ("the cursor 16 tokens behind the edit", _windows(texts, code, 16), False),
        ("the cursor right behind the edit", _windows(texts, code, 0), False),
        ("all but the last use of a name renamed, the cursor at the last", _renames(texts, code, plan), False),
    ):
        table = _quality(code.model, windows, (16, 32), f"{source}, {name}", report)
        rows += table.values()
        if promised and table:
            numbers |= _promises(table, source)
    found = stories(data)
    if found is not None:
        table = _quality(
            found[0], _story_windows(found[0], plan), (16,), "stories260k, a span in the middle replaced", report
        )
        rows += table.values()
        numbers["stories260k: divergence with refresh 16, of that without"] = Figure(
            _number(table["PIE, refresh 16"], "KL to recomputation") / _number(table["PIE"], "KL to recomputation"),
            "x",
            at_most=0.5,
        )
    more, speed = _speed(plan, report)
    numbers |= more
    rows += speed
    notes = [
        "A cache that ignores the edit is the honest floor: a small model looks back little, so far behind an edit it "
        "does well.",
        "The edits of code are the first changed region of each file; the others of the file are not made.",
        "llama.cpp's server shifts keys as this does (--cache-reuse), without a refresh; it is not measured here.",
    ]
    plots = [Plot(MIDDLE, "tokens", "ms", "how", log="xy")]
    machine = bench_machine("torch", "transformers")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# What is edited


def _texts(data: Path | None, code: CodeModel, plan: _Plan) -> tuple[list[tuple[list[int], list[int]]], str]:
    """Files before and after, as ids; and what they are."""
    path = data / "code-edits/click.jsonl.gz" if data is not None else None
    if path is not None and path.exists():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            pairs = [json.loads(line) for line in file][: plan.files]
        sides = [code.tokenizer.encode_batch([pair[side].encode() for pair in pairs]) for side in ("before", "after")]
        return [(old.tolist(), new.tolist()) for old, new in zip(*sides, strict=True)], "edits of click"
    draw = random.Random(0)
    texts = []
    for ids in code.held_out[: plan.files]:
        lines = code.tokenizer.decode(ids).splitlines(keepends=True)
        before = lines.copy()
        lines[draw.randrange(len(lines))] = draw.choice(lines) if draw.random() < 0.7 else b""
        old, new = code.tokenizer.encode_batch([b"".join(before), b"".join(lines)])
        texts.append((old.tolist(), new.tolist()))
    return texts, "lines replaced in Python sources"


def _windows(texts: Sequence[tuple[list[int], list[int]]], code: CodeModel, distance: int) -> list[_Window]:
    """The first edit of each text, with 100 tokens before it and the cursor `distance` tokens behind it; for contexts
    of 512, and else in proportion."""
    from byteloom.generate import Edit, token_edits

    lead, distance, ahead = (size * code.context // 512 for size in (100, distance, 16))
    windows: list[_Window] = []
    for old, new in texts:
        edit = next(iter(token_edits(old, new)), None)
        if edit is None or edit.stop - edit.start > LARGEST_EDIT or len(edit.tokens) > LARGEST_EDIT:
            continue
        start, cursor = edit.start - lead, edit.stop + distance
        fits = lead + distance + ahead + max(edit.stop - edit.start, len(edit.tokens)) <= code.context
        if start >= 0 and cursor + ahead <= len(old) and fits:
            moved = Edit(lead, edit.stop - start, edit.tokens)
            windows.append(_Window(old[start:cursor], [moved], old[cursor : cursor + ahead]))
    return windows


def _renames(texts: Sequence[tuple[list[int], list[int]]], code: CodeModel, plan: _Plan) -> list[_Window]:
    """A name that occurs often is renamed, and the last use of it in the window is to be written."""
    from byteloom.generate import token_edits

    ahead = max(1, 4 * code.context // 512)
    windows: list[_Window] = []
    for old, _ in texts:
        text = code.tokenizer.decode(np.array(old[: 3 * code.context // 4], np.uint32))
        names = re.findall(rb"\b[a-z_]{5,}\b", text)
        name = max(sorted(set(names)), key=names.count, default=b"")
        *earlier, last = (match.start() for match in re.finditer(rb"\b" + name + rb"\b", text)) if name else (0,)
        if len(earlier) < 2 or len(windows) == plan.renames:
            continue
        other = name[::-1]
        before, behind = text[:last], text[last + len(name) :]
        after = re.sub(rb"\b" + name + rb"\b", other, before)
        ids, new_ids, whole = (
            side.tolist() for side in code.tokenizer.encode_batch([before, after, after + other + behind])
        )
        target = whole[len(new_ids) : len(new_ids) + ahead]
        if len(new_ids) + ahead <= code.context and len(target) == ahead:
            windows.append(_Window(ids, token_edits(ids, new_ids), target))
    return windows


def _story_windows(model: PreTrainedModel, plan: _Plan) -> list[_Window]:
    """Stories in which a span of another was, until the edit puts the right one in its place."""
    from byteloom.generate import Edit

    texts = sampled(model, [1], plan.stories, 332).tolist()
    windows = []
    for at, text in enumerate(texts):
        other = texts[at - 1][150:158]
        old = [*text[:140], *other, *text[160:300]]
        windows.append(_Window(old, [Edit(140, 148, tuple(text[140:160]))], text[300:]))
    return windows


# What the model says


def _quality(
    model: PreTrainedModel, windows: Sequence[_Window], refreshes: Sequence[int], table: str, report: Progress
) -> dict[str, Row]:
    """A row for each way to follow the edits, by its name."""
    import torch

    from byteloom.generate import EditSession

    def follow(refresh: int, window: _Window) -> torch.Tensor:
        session = EditSession(model, window.old, refresh=refresh)
        session.apply(window.edits)
        return _said(session, window.target)

    ways: dict[str, Callable[[_Window], torch.Tensor]] = {
        "recomputation": lambda window: _said(EditSession(model, window.new), window.target),
        "PIE": partial(follow, 0),
        **{f"PIE, refresh {refresh}": partial(follow, refresh) for refresh in refreshes},
        "without the shift": lambda window: _said_from(model, _spliced(model, window, shift=False), window),
        "the edit ignored": lambda window: _said(EditSession(model, window.old), window.target),
    }
    sums: dict[str, dict[str, float]] = {name: defaultdict(float) for name in ways}
    tokens = 0
    for done, window in enumerate(windows):
        report(table, done, len(windows))
        exact_TV = ways["recomputation"](window)
        target_T = torch.tensor(window.target)
        tokens += len(target_T)
        for name, way in ways.items():
            found_TV = exact_TV if name == "recomputation" else way(window)
            row = sums[name]
            row["loss (nats a token)"] -= float(found_TV.gather(1, target_T[:, None]).sum())
            row["KL to recomputation"] += float((exact_TV.exp() * (exact_TV - found_TV)).sum())
            row["top-1 agreement (%)"] += 100 * float((found_TV.argmax(-1) == exact_TV.argmax(-1)).sum())
        edit_end = window.edits[0].start + len(window.edits[0].tokens)
        if edit_end < len(window.new):
            exact = _spliced(model, _Window(window.new, [], []), shift=True)
            for name, shift in (("PIE", True), ("without the shift", False)):
                cosine = _cosine(_spliced(model, window, shift=shift), exact, edit_end)
                sums[name]["cosine of keys"] += cosine * len(target_T)
    return {
        name: {"table": table, "way": name, "windows": len(windows), **{what: v / tokens for what, v in row.items()}}
        for name, row in sums.items()
        if tokens
    }


def _said(session: EditSession, target: Sequence[int]) -> torch.Tensor:
    """Log-probabilities [T, V] of each token of `target` behind the text of a session."""
    import torch

    rows = [session.logits()]
    ids = list(session.ids)
    for token in target[:-1]:
        ids.append(token)
        session.sync(ids)
        rows.append(session.logits())
    return torch.stack(rows).float().log_softmax(-1)


def _spliced(model: PreTrainedModel, window: _Window, *, shift: bool) -> KVCache:
    """A cache in which the edits were made one by one; without the shift keys stay turned as they were."""
    import torch

    from byteloom.models import CACHE_KEYWORD, KeyRotation, KVCache, attach

    cache = KVCache.for_model(model, rotation=KeyRotation.from_model(model))

    def read(ids: Sequence[int]) -> None:
        if ids:
            model(input_ids=torch.tensor([ids]), **{CACHE_KEYWORD: cache})

    with attach(model), torch.no_grad():
        read(window.old)
        moved = 0
        for edit in window.edits:
            start, stop = edit.start + moved, edit.stop + moved
            behind = [(layer.keys[:, :, stop:].clone(), layer.values[:, :, stop:].clone()) for layer in cache.layers]
            cache.truncate(start, start)
            read(edit.tokens)
            by = len(edit.tokens) - (stop - start)
            for layer, states in zip(cache.layers, behind, strict=True):
                layer.splice(layer.physical, layer.physical, *states, shift=by if shift else 0)
            moved += by
    return cache


def _said_from(model: PreTrainedModel, cache: KVCache, window: _Window) -> torch.Tensor:
    """As `_said`, from the last token of the new text on, whose states in `cache` are given up."""
    import torch

    from byteloom.models import CACHE_KEYWORD, attach

    cache.crop(-1)
    with attach(model), torch.no_grad():
        ids_BT = torch.tensor([[window.new[-1], *window.target[:-1]]])
        logits_TV: torch.Tensor = model(input_ids=ids_BT, **{CACHE_KEYWORD: cache}).logits[0]
    return logits_TV.float().log_softmax(-1)


def _cosine(cache: KVCache, exact: KVCache, start: int) -> float:
    """Of the keys behind `start`, on average over layers, heads and tokens."""
    import torch

    pairs = zip(cache.layers, exact.layers, strict=True)
    cosines = [
        torch.nn.functional.cosine_similarity(one.keys[:, :, start:], other.keys[:, :, start:], dim=-1).mean()
        for one, other in pairs
    ]
    return float(torch.stack(cosines).mean())


def _number(row: Row, what: str) -> float:
    value = row[what]
    assert isinstance(value, (int, float))
    return value


def _promises(table: dict[str, Row], source: str) -> dict[str, Figure]:
    kl, worse = (_number(table[way], "KL to recomputation") for way in ("PIE", "without the shift"))
    losses = [_number(table[way], "loss (nats a token)") for way in ("recomputation", "PIE", "without the shift")]
    return {
        f"{source}: divergence of PIE from recomputation (nats a token)": Figure(kl, "", at_most=0.001),
        f"{source}: divergence without the shift, over that of PIE": Figure(worse / kl, "x", at_least=100),
        f"{source}: PIE, same next token as recomputation": Figure(
            _number(table["PIE"], "top-1 agreement (%)"), "%", at_least=98.5
        ),
        f"{source}: loss of PIE above recomputation (nats a token)": Figure(losses[1] - losses[0], ""),
        f"{source}: loss without the shift above recomputation (nats a token)": Figure(
            losses[2] - losses[0], "", at_least=0.05
        ),
        f"{source}: keys' cosine, PIE above no shift": Figure(
            _number(table["PIE"], "cosine of keys") - _number(table["without the shift"], "cosine of keys"),
            "",
            at_least=0.04,
        ),
    }


# What it costs


def _speed(plan: _Plan, report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from byteloom.generate import EditSession

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=plan.width,
        intermediate_size=3 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1 << 15,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    draw = random.Random(0)
    longest = [draw.randrange(2048) for _ in range(plan.lengths[-1] + LARGEST_EDIT)]
    session = EditSession(model, longest)
    rows: list[Row] = []
    for done, length in enumerate(reversed(plan.lengths)):
        report("timing edits", done, len(plan.lengths))
        for share, new in ((0.5, 16), (0.25, 32), (0.75, 32)):
            if new == 32 and length != plan.lengths[0]:
                continue
            session.sync(longest[: length - new])
            session.logits()
            rows.append(_timed_edit(model, session, int(share * length), [draw.randrange(2048) for _ in range(new)]))
    rows.reverse()
    by = {(row["tokens"], row["new"], row["place (%)"]): row for row in rows}
    middle, last = by[plan.lengths[-2], 16, 50], by[plan.lengths[-1], 16, 50]
    from_edit, scratch = ("from the edit (ms)", "from scratch (ms)")

    def over(row: Row, what: str) -> float:
        return _number(row, what) / _number(row, "PIE (ms)")

    edit = f"one edit in {plan.lengths[-2]:,} tokens"
    numbers = {
        f"{edit}: encoding from the edit on, over PIE": Figure(over(middle, from_edit), "x", at_least=20),
        f"{edit}: encoding all, over PIE": Figure(over(middle, scratch), "x", at_least=40),
        f"{edit}: turning the keys behind it, of encoding them": Figure(
            100 * _number(middle, "of it turning keys") / _number(middle, from_edit), "%", at_most=2
        ),
        f"one edit in {plan.lengths[-1]:,} tokens: PIE, of encoding from the edit on": Figure(
            100 / over(last, from_edit), "%", at_most=15
        ),
        f"32 new tokens in {plan.lengths[0]:,}: PIE, of encoding from the edit on, the worse of two places": Figure(
            max(100 / over(row, from_edit) for row in rows if row["new"] == 32), "%", at_most=15
        ),
    }
    drawn: list[Row] = [
        {"table": MIDDLE, "tokens": row["tokens"], "how": way, "ms": row[column]}
        for row in rows
        if row["new"] == 16
        for way, column in (("PIE", "PIE (ms)"), ("encoding from the edit on", from_edit), ("encoding all", scratch))
    ]
    more, row = _rotation(model, plan)
    return numbers | more, [*rows, *drawn, row]


def _timed_edit(model: PreTrainedModel, session: EditSession, place: int, new: list[int]) -> Row:
    """An insertion, up to the logits behind the text, and the same without a session."""
    import torch
    from transformers.cache_utils import DynamicCache

    from byteloom.generate import Edit
    from byteloom.models import CACHE_KEYWORD

    spans, parts = [], []
    for _ in range(3):
        before = dict(session.seconds)

        def follow() -> None:
            session.apply([Edit(place, place, tuple(new))])
            session.logits()

        spans.append(timed(follow)[1].wall)
        parts.append({part: seconds - before[part] for part, seconds in session.seconds.items()})
        text_BT = torch.tensor([session.ids])
        session.apply([Edit(place, place + len(new))])
        session.logits()
    best = spans.index(min(spans))
    cache = DynamicCache(config=model.config)

    def read(ids_BT: torch.Tensor, **more: object) -> None:
        with torch.no_grad():
            model(input_ids=ids_BT, logits_to_keep=1, use_cache=True, **more)

    read(text_BT[:, :place], **{CACHE_KEYWORD: cache})
    from_edit = timed(lambda: read(text_BT[:, place:], **{CACHE_KEYWORD: cache}))[1].wall
    scratch = timed(lambda: read(text_BT))[1].wall
    return {
        "table": "Time of one edit: Llama with random weights, float32, one thread",
        "tokens": text_BT.shape[1],
        "new": len(new),
        "place (%)": round(100 * place / text_BT.shape[1]),
        "PIE (ms)": 1e3 * spans[best],
        "of it turning keys": 1e3 * parts[best]["rotate"],
        "of it encoding": 1e3 * parts[best]["encode"],
        "from the edit (ms)": 1e3 * from_edit,
        "from scratch (ms)": 1e3 * scratch,
    }


def _rotation(model: PreTrainedModel, plan: _Plan) -> tuple[dict[str, Figure], Row]:
    """Turning the keys of one layer in place, beside copying them."""
    import torch

    from byteloom.models import KeyRotation

    rotation = KeyRotation.from_model(model)
    keys_BKTD = torch.randn(1, 8, plan.lengths[-1], plan.width // 8)
    copied = torch.empty_like(keys_BKTD)
    turn = best_of(9, lambda: rotation.shift_(keys_BKTD, 5, 0)).wall
    copy = best_of(9, lambda: copied.copy_(keys_BKTD)).wall
    row: Row = {
        "table": "Turning the keys of one layer",
        "tokens": plan.lengths[-1],
        "turned in place (ms)": 1e3 * turn,
        "copied (ms)": 1e3 * copy,
    }
    return {"turning keys, over copying them": Figure(turn / copy, "x", at_most=3)}, row
