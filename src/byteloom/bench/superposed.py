"""Superposed decoding: how good its drafts are and what they cost, beside drafts that are sampled or searched for.

A small model continues the beginnings of texts that it wrote itself, and another continues Python files that it has not
seen, where the true continuation is known. Every decoder gets every prompt in turn, so that what disturbs one disturbs
all. `data` is a folder with stories260k/; without it the model of Python does everything.
"""

# Shape suffixes: B prompts, K drafts, L tokens.

from __future__ import annotations

import copy
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.bench.models import code_model, sampled, stories
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from byteloom.generate import NgramModel, SuperposedConfig, SuperposedOutput

CARD = Card(
    method="superposed",
    title="Several drafts of a short continuation in one row: the model reads a weighted sum of their newest tokens.",
    paper="Superposed Decoding: Multiple Generations from a Single Autoregressive Inference Pass, Shen et al., "
    "NeurIPS 2024",
    arxiv="2405.18400",
    stage="generate",
    module="byteloom.generate.superposed",
    headline="3 drafts 2.44x and 8 drafts 3.54x as fast as nucleus sampling of as many in turn; perplexity of the best "
    "of 3 drafts 4.63, of one nucleus draft 5.17 (Llama-2-7B, 10 tokens, one A40)",
    measures="perplexity, coverage of the true next word, variety and time of drafts beside greedy, nucleus and beam "
    "decoding, in turn and in a batch; many prompts at once; size and speed of the n-grams",
)

PYTHON = "a model of Python"
PREFIX, NEW = 15, 10  # tokens of a prompt and of a draft, as published
MANY = "Many prompts at once: drafts of all of them a second"


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale."""

    texts: int  # that the model of stories writes for its n-grams
    tune: int  # prompts
    test: int
    drafts: tuple[int, ...]
    batches: tuple[int, ...]  # prompts at once
    streams: tuple[int, int]  # tokens of a small and a large corpus of n-grams


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(8, 4, 2, (3,), (2,), (2_000, 20_000)),
    "cpu": _Plan(1_300, 100, 100, (3, 5, 8), (1, 4, 16, 64), (100_000, 10_000_000)),
}


@dataclass(frozen=True)
class _Setting:
    """A model and texts. documents: for the n-grams. tune, test: prompts with what really followed."""

    name: str
    model: PreTrainedModel
    ngrams: NgramModel
    tune: list[tuple[list[int], list[int]]]
    test: list[tuple[list[int], list[int]]]
    decode: Callable[[list[int]], bytes]


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on the model in `data` and on a model of Python."""
    import torch

    torch.set_num_threads(1)
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    notes: list[str] = []
    story, code = _stories(data, plan), _code(scale, plan, report)
    for setting, drafts in ((story, plan.drafts), (code, plan.drafts if story is None else plan.drafts[:1])):
        if setting is None:
            continue
        config = _tuned(setting, by_coverage=setting is code)
        notes.append(
            f"{setting.name}: {sum(setting.ngrams.sizes.values()):,} distinct n-grams; temperature "
            f"{config.temperature:g} and alpha {config.alpha:g} were the best on {len(setting.tune)} prompts, by "
            + ("coverage of the next word" if setting is code else "mean probability of all drafts")
            + f"; {len(setting.test)} others are measured."
        )
        more, table = _compare(setting, config, drafts, report)
        numbers |= more
        rows += table
    main = story or code
    more, table = _many(main, plan, report)
    numbers |= more
    rows += table
    numbers |= _overhead(main, plan)
    more, table = _ngrams(plan)
    numbers |= more
    rows += table
    plots = [Plot(MANY, "prompts", "over sampled rows in one batch", "drafts", log="x")]
    machine = bench_machine("torch", "transformers")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# Models and texts


def _stories(data: Path | None, plan: _Plan) -> _Setting | None:
    from byteloom.generate import NgramModel

    found = stories(data)
    if found is None:
        return None
    model, tokenizer = found
    texts = sampled(model, [tokenizer.bos_token_id], plan.texts + plan.tune + plan.test, 256).numpy()
    ngrams = NgramModel.from_documents(list(texts[: plan.texts]), vocab_size=model.config.vocab_size)
    pairs = [(text[:PREFIX].tolist(), text[PREFIX : PREFIX + NEW].tolist()) for text in texts[plan.texts :]]
    return _Setting(
        *("stories260k", model, ngrams, pairs[: plan.tune], pairs[plan.tune :]),
        lambda ids: tokenizer.decode(ids).encode(),
    )


def _code(scale: Scale, plan: _Plan, report: Progress) -> _Setting:
    from byteloom.generate import NgramModel

    code = code_model(scale, report)
    ngrams = NgramModel.from_documents(code.train, vocab_size=code.tokenizer.vocab_size)
    size = min(64, code.context // 2)
    held_out = [ids for ids in code.held_out if len(ids) >= size + NEW]
    rng = np.random.default_rng(0)
    pairs = []
    for at in range(plan.tune + plan.test):
        ids = held_out[at % len(held_out)]
        start = int(rng.integers(len(ids) - size - NEW + 1))
        cut = ids[start : start + size + NEW].tolist()
        pairs.append((cut[:size], cut[size:]))
    return _Setting(PYTHON, code.model, ngrams, pairs[: plan.tune], pairs[plan.tune :], code.tokenizer.decode)


def _tuned(setting: _Setting, *, by_coverage: bool) -> SuperposedConfig:
    from byteloom.generate import tune_superposed

    truths = [truth for _, truth in setting.tune]

    def coverage(drafts: SuperposedOutput) -> float:
        new_BKL = drafts.sequences[:, :, -NEW:].tolist()
        return float(np.mean([_covers(setting, row, truth) for row, truth in zip(new_BKL, truths, strict=True)]))

    prompts = [prompt for prompt, _ in setting.tune]
    return tune_superposed(setting.model, prompts, setting.ngrams, judge=coverage if by_coverage else None)


# Decoders


Decoder = Callable[[list[int], int], list[list[int]]]  # (prompt, seed) -> drafts


def _decoders(setting: _Setting, config: SuperposedConfig, drafts: int) -> dict[str, Decoder]:
    nucleus = {"do_sample": True, "top_p": 0.9, "top_k": 0}
    generated = partial(_generated, setting.model)

    def in_turn(prompt: list[int], seed: int) -> list[list[int]]:
        return [generated(prompt, 100 * seed + at, **nucleus)[0] for at in range(drafts)]

    superposed = replace(config, num_drafts=drafts)
    return {
        "greedy, 1 draft": partial(generated, do_sample=False),
        "nucleus, 1 draft": partial(generated, **nucleus),
        "nucleus, in turn": in_turn,
        "nucleus, in a batch": partial(generated, num_return_sequences=drafts, **nucleus),
        "beam": partial(generated, do_sample=False, num_beams=drafts, num_return_sequences=drafts),
        "superposed, rescored": partial(_superposed, setting, superposed, True),
        "superposed": partial(_superposed, setting, replace(superposed, rescore=False), True),
        "superposed, no n-grams": partial(_superposed, setting, replace(superposed, rescore=False), False),
    }


def _generated(model: PreTrainedModel, prompt: list[int], seed: int, **options: Any) -> list[list[int]]:
    import torch

    torch.manual_seed(seed)
    ids_BL = torch.tensor([prompt])
    texts_KL = model.generate(
        ids_BL, attention_mask=torch.ones_like(ids_BL), max_new_tokens=NEW, eos_token_id=None, pad_token_id=0, **options
    )
    drafts: list[list[int]] = texts_KL[:, len(prompt) :].tolist()
    return drafts


def _superposed(
    setting: _Setting, config: SuperposedConfig, smoothing: bool, prompt: list[int], seed: int
) -> list[list[int]]:
    import torch

    from byteloom.generate import superposed_generate

    drafts = superposed_generate(
        setting.model,
        torch.tensor([prompt]),
        max_new_tokens=NEW,
        ngrams=setting.ngrams if smoothing else None,
        config=config,
    )
    new: list[list[int]] = drafts.sequences[0, :, len(prompt) :].tolist()
    return new


# Their drafts


@dataclass
class _Found:
    """What one decoder gave for all prompts."""

    seconds: float = 0.0
    perplexities: list[list[float]] = field(default_factory=list)  # of each prompt, those of its drafts
    covered: int = 0
    distinct: int = 0
    self_bleu: float = 0.0


def _compare(
    setting: _Setting, config: SuperposedConfig, ks: Sequence[int], report: Progress
) -> tuple[dict[str, Figure], list[Row]]:
    import torch

    from byteloom.generate.rescoring import plain_log_probs

    judge = copy.deepcopy(setting.model).double()
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    for k in ks:
        decoders = _decoders(setting, config, k)
        found = {name: _Found() for name in decoders}
        for decode in decoders.values():  # what a first call sets up is not measured
            decode(setting.test[0][0], 0)
        for seed, (prompt, truth) in enumerate(setting.test):
            report(f"{setting.name}, {k} drafts", seed, len(setting.test))
            for name, decode in decoders.items():
                drafts, span = timed(partial(decode, prompt, seed))
                result = found[name]
                result.seconds += span.wall
                log_probs_BK = plain_log_probs(judge, torch.tensor([prompt]), None, [drafts])
                result.perplexities.append((-log_probs_BK[0] / NEW).exp().tolist())
                result.covered += _covers(setting, drafts, truth)
                result.distinct += len({tuple(draft) for draft in drafts})
                result.self_bleu += self_bleu(drafts)
        rows += [_row(f"{setting.name}: {k} drafts of {NEW} tokens", name, found[name], setting, k) for name in found]
        numbers |= _figures(setting, k, found)
    return numbers, rows


def _row(table: str, name: str, found: _Found, setting: _Setting, k: int) -> Row:
    count, config = len(found.perplexities), setting.model.config
    each = np.array(found.perplexities)
    rows = k if name in ("nucleus, in a batch", "beam") else 1
    forwards = NEW * (k if name == "nucleus, in turn" else 1) + (name == "superposed, rescored")
    width = config.hidden_size // config.num_attention_heads
    token_bytes = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * width
    return {
        "table": table,
        "decoder": name,
        "perplexity of the first": float(each[:, 0].mean()),
        "of the others": float(each[:, 1:].mean()) if each.shape[1] > 1 else None,
        "of the best": float(each.min(axis=1).mean()),
        "next word covered (%)": 100 * found.covered / count,
        "distinct": found.distinct / count,
        "self-BLEU": found.self_bleu / count if each.shape[1] > 1 else None,
        "ms a prompt": 1e3 * found.seconds / count,
        "passes x rows": forwards * rows,
        "keys (kB)": rows * (len(setting.test[0][0]) + NEW) * token_bytes / 1e3,
    }


def _figures(setting: _Setting, k: int, found: dict[str, _Found]) -> dict[str, Figure]:
    seconds = {decoder: result.seconds for decoder, result in found.items()}
    best = {decoder: float(np.array(result.perplexities).min(axis=1).mean()) for decoder, result in found.items()}
    covered = {decoder: 100 * result.covered / len(result.perplexities) for decoder, result in found.items()}
    others = {
        decoder: float(np.array(found[decoder].perplexities)[:, 1:].mean())
        for decoder in ("superposed", "superposed, no n-grams")
    }
    label = f"{setting.name}, {k} drafts"
    in_turn = seconds["nucleus, in turn"] / seconds["superposed, rescored"]
    figures = {f"{label}: speed over nucleus in turn": Figure(in_turn, "x", at_least={3: 2.4, 8: 5.0}.get(k))}
    if k != 3:
        return figures
    in_batch = seconds["nucleus, in a batch"] / seconds["superposed, rescored"]
    figures[f"{label}: speed over nucleus in a batch"] = Figure(in_batch, "x")
    if setting.name == PYTHON:
        more = covered["superposed, rescored"] - covered["greedy, 1 draft"]
        return figures | {f"{label}: next word covered, points above greedy text": Figure(more, "", at_least=3)}
    return figures | {
        f"{label}: perplexity of the best, over one nucleus draft": Figure(
            best["superposed, rescored"] / best["nucleus, 1 draft"], "x", at_most=0.97
        ),
        f"{label}: perplexity of the best, over nucleus in a batch": Figure(
            best["superposed, rescored"] / best["nucleus, in a batch"], "x"
        ),
        f"{label}: time over one nucleus draft, not rescored": Figure(
            seconds["superposed"] / seconds["nucleus, 1 draft"], "x", at_most=1.1
        ),
        f"{label}: perplexity of the others without n-grams, over with": Figure(
            others["superposed, no n-grams"] / others["superposed"], "x", at_least=1.2
        ),
    }


def _covers(setting: _Setting, drafts: Sequence[list[int]], truth: list[int]) -> bool:
    """Whether some draft begins with the word that really came next."""
    return _first_word(setting.decode(truth)) in {_first_word(setting.decode(draft)) for draft in drafts}


def _first_word(text: bytes) -> bytes:
    found = re.match(rb"\s*(\w+|[^\w\s]+|$)", text)
    return found.group() if found else b""


def self_bleu(drafts: Sequence[Sequence[int]]) -> float:
    """How much drafts of one length are alike, 0 to 1: the mean of the BLEU-4 of each beside all others."""
    if len(drafts) < 2:
        return 0.0
    scores = []
    for at, draft in enumerate(drafts):
        others = [other for place, other in enumerate(drafts) if place != at]
        logs = []
        for n in range(1, min(4, len(draft)) + 1):
            own = _grams(draft, n)
            most: Counter[tuple[int, ...]] = Counter()
            for other in others:
                most |= _grams(other, n)
            logs.append(np.log(max(1e-9, (own & most).total() / own.total())))
        scores.append(float(np.exp(np.mean(logs))))
    return float(np.mean(scores))


def _grams(draft: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(draft[at : at + n]) for at in range(len(draft) - n + 1))


# Many prompts at once, where every row costs


def _many(setting: _Setting, plan: _Plan, report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    import torch

    from byteloom.generate import SuperposedConfig, superposed_generate

    rows: list[Row] = []
    numbers: dict[str, Figure] = {}
    for done, size in enumerate(plan.batches):
        report("many prompts", done, len(plan.batches))
        prompts = (setting.test * (1 + size // len(setting.test)))[:size]
        ids_BL = torch.tensor([prompt for prompt, _ in prompts])
        for k in (3, 8):
            config = SuperposedConfig(num_drafts=k, rescore=False)
            ours = partial(superposed_generate, setting.model, ids_BL, ngrams=setting.ngrams, config=config)
            theirs = partial(
                setting.model.generate,
                ids_BL,
                attention_mask=torch.ones_like(ids_BL),
                max_new_tokens=NEW,
                do_sample=True,
                top_p=0.9,
                top_k=0,
                num_return_sequences=k,
                eos_token_id=None,
                pad_token_id=0,
            )
            seconds = [best_of(3, call).wall for call in (ours, theirs)]
            rows.append(
                {
                    "table": MANY,
                    "prompts": size,
                    "drafts": k,
                    "superposed": size * k / seconds[0],
                    "sampled rows in one batch": size * k / seconds[1],
                    "over sampled rows in one batch": seconds[1] / seconds[0],
                }
            )
            if size in (plan.batches[0], plan.batches[-1]):
                numbers[f"{size} prompts at once, {k} drafts: speed over nucleus in a batch"] = Figure(
                    seconds[1] / seconds[0], "x"
                )
    return numbers, rows


# What a step takes beside the model


def _overhead(setting: _Setting, plan: _Plan) -> dict[str, Figure]:
    import torch

    from byteloom.generate import SuperposedConfig, superposed_generate

    inside = [0.0]

    def start(*_: Any) -> None:
        inside[0] -= time.perf_counter()

    def stop(*_: Any) -> None:
        inside[0] += time.perf_counter()

    model = setting.model
    hooks = [model.register_forward_pre_hook(start), model.register_forward_hook(stop)]
    prompts = [torch.tensor([prompt]) for prompt, _ in setting.test[:20]]
    least: dict[int, dict[int, tuple[float, float]]] = {3: {}, 8: {}}  # by drafts and steps: outside, inside
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many steps are bad for quality, and good for clocks
        for _ in range(3):
            for k, found in least.items():
                config = SuperposedConfig(num_drafts=k, rescore=False)
                for steps in (1, 31):
                    inside[0] = 0.0
                    calls = [
                        partial(
                            superposed_generate,
                            *(model, ids),
                            max_new_tokens=steps,
                            ngrams=setting.ngrams,
                            config=config,
                        )
                        for ids in prompts
                    ]
                    wall = sum(timed(call)[1].wall for call in calls)
                    found[steps] = min(found.get(steps, (np.inf, np.inf)), (wall - inside[0], inside[0]))
    for hook in hooks:
        hook.remove()
    step = {
        k: [1e3 * (found[31][part] - found[1][part]) / (30 * len(prompts)) for part in (0, 1)]
        for k, found in least.items()
    }
    return {
        "a step with 3 drafts, beside the model": Figure(step[3][0], "ms", at_most=0.15),
        "a step with 8 drafts, beside the model": Figure(step[8][0], "ms", at_most=0.5),
        "a step with 8 drafts, over 3": Figure(sum(step[8]) / sum(step[3]), "x", at_most=1.1),
    }


# The n-grams


def _ngrams(plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    from byteloom.generate import NgramModel

    rows: list[Row] = []
    rng = np.random.default_rng(0)
    for size in plan.streams:
        text = _stream(rng, size, 32_000)
        documents = np.array_split(text, max(1, size // 2_000))
        ngrams, span = timed(partial(NgramModel.from_documents, documents, vocab_size=32_000))
        starts = rng.integers(0, size - 6, (2_000, 3))
        histories = text[starts[:, :, None] + np.arange(5)].astype(np.int64)
        candidates = text[rng.integers(0, size, (len(histories), 9))].astype(np.int64)

        look_up = partial(_look_up, ngrams, histories, candidates)
        grams = sum(ngrams.sizes.values())
        rows.append(
            {
                "table": "N-grams of orders 2 to 6, on one core",
                "tokens": size,
                "distinct n-grams": grams,
                "million tokens counted a second": size / span.cpu / 1e6,
                "bytes an n-gram": (ngrams.nbytes - 4 * 32_000) / grams,
                "us to look 9 candidates of 3 drafts up": 1e6 * best_of(3, look_up).cpu / len(histories),
            }
        )
    small, large = rows
    us = "us to look 9 candidates of 3 drafts up"
    return {
        "n-grams: million tokens counted a second": Figure(
            float(large["million tokens counted a second"] or 0), "M/s", at_least=2
        ),
        "n-grams: bytes each": Figure(float(large["bytes an n-gram"] or 0), "B", at_most=12),
        "n-grams: look-up in the large corpus, over the small one": Figure(
            float(large[us] or 0) / float(small[us] or 1), "x", at_most=2
        ),
    }, rows


def _look_up(ngrams: NgramModel, histories: npt.NDArray[np.int64], candidates: npt.NDArray[np.int64]) -> None:
    for history_KN, candidate_S in zip(histories, candidates, strict=True):
        ngrams.prob_batch(history_KN, candidate_S)


def _stream(rng: np.random.Generator, size: int, vocabulary: int) -> npt.NDArray[np.uint32]:
    """Tokens as frequent as words are, with passages that occur again: about a third of the text."""
    text = np.minimum(rng.zipf(1.3, size) - 1, vocabulary - 1).astype(np.uint32)
    for source, target in rng.integers(0, size - 40, (size // 100, 2)):
        text[target : target + 40] = text[source : source + 40]
    return text
