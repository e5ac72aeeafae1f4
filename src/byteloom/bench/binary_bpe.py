"""Binary BPE: how much more of an executable fits into a context window of tokens than into one of bytes.

One vocabulary is trained on executables of several formats and truncated to a nested family; bytes per token are
measured on executables of the same formats that it has not seen. Then two small language models, one on bytes and
one on tokens, are trained for the same time and on the same number of bytes.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from byteloom.bench.binaries import (
    PLATFORMS,
    arm64_part,
    default_cache,
    download_wheels,
    extension_modules,
    system_binaries,
)
from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine
from byteloom.bench.result import Card, Figure, Result, Row, Scale
from byteloom.corpus import machine_format, recognise
from byteloom.errors import FileError
from byteloom.tokenize import BPE, byte_tokenizer, train_bpe
from byteloom.train.plan import SIZES, Backbone

CARD = Card(
    method="binary-bpe",
    title="A byte-level vocabulary learned from executables, without pre-tokenization, in nested sizes.",
    paper="Binary BPE: A Family of Cross-Platform Tokenizers for Binary Analysis, Bommarito, 2025",
    arxiv="2511.17573",
    stage="tokenize",
    module="byteloom.tokenize",
    headline="2 to 3 times more content of uncompressed ELF, PE and Mach-O files per context window than raw bytes; "
    "2.89 bytes per token on average at a vocabulary of 65,536",
    measures="bytes per token by format and vocabulary size beside raw bytes; bits per byte of small language models "
    "on tokens and on bytes after equal time and after equal bytes",
)

TRAIN_PACKAGES = ("numpy", "pydantic_core")  # the other packages are the test set
MAX_TOKEN_LENGTH = 16  # bytes
MIN_FREQUENCY = 2
CHUNK = 8192  # bytes; the published unit of training
WINDOW = 2048  # tokens
UNIVERSAL = "Mach-O universal"  # x86-64 and arm64 in one file

# Measured by another implementation on earlier versions of the packages, when this benchmark was specified.
REFERENCE_VOCABS = (4_096, 8_192, 16_384, 32_768, 65_536)
REFERENCE = {
    "ELF x86-64": (2.25, 2.44, 2.67, 2.93, 3.18),
    "ELF AArch64": (1.88, 2.06, 2.26, 2.48, 2.73),
    UNIVERSAL: (2.11, 2.31, 2.53, 2.78, 3.05),
    "Mach-O x86-64": (1.76, 1.90, 2.05, 2.23, 2.45),
    "PE x86-64": (1.66, 1.78, 1.93, 2.11, 2.33),
    "PE x86": (1.56, 1.68, 1.83, 1.99, 2.21),
}


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale; sizes in bytes."""

    own_train: int  # of this machine's executables
    test: int  # of each test set
    platforms: tuple[str, ...]
    vocabs: tuple[int, ...]
    backbone: Backbone  # of the language models
    model_train: int  # what they are trained on
    model_test: int
    model_seconds: float  # of a training for equal time


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(600_000, 200_000, (), (512, 1_024), Backbone(32, 1, 2, 64), 100_000, 8_000, 0.3),
    "cpu": _Plan(18_000_000, 4_000_000, tuple(PLATFORMS), REFERENCE_VOCABS, SIZES["tiny"], 6_000_000, 200_000, 60),
}


@dataclass
class _Samples:
    """Executables to train on, and test sets by name, each in pieces."""

    train: list[memoryview] = field(default_factory=list)
    test: dict[str, list[memoryview]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on this machine's executables and, at scale "cpu", on wheels of other platforms.

    `data` is the folder that keeps the downloaded wheels. Without a network only the formats at hand are measured,
    and the notes say so.
    """
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    report("binary-bpe: executables", 0, 1)
    samples = _collect(plan, data or default_cache())
    report("binary-bpe: executables", 1, 1)
    collected = time.perf_counter()
    tokenizer = _train(samples.train, plan.vocabs[-1], report)
    numbers, rows = _compression(tokenizer, samples, plan)
    numbers["time for vocabulary and tables"] = Figure(time.perf_counter() - collected, "s", at_most=180)
    if find_spec("torch") and find_spec("transformers"):
        more_numbers, more_rows = _language_models(tokenizer.truncate(plan.vocabs[0]), samples, plan, report)
        numbers |= more_numbers
        rows += more_rows
    else:
        samples.notes.append("The language models were not measured: they need byteloom[models].")
    return Result(CARD.method, scale, numbers, rows, bench_machine(), time.perf_counter() - began, samples.notes)


def _collect(plan: _Plan, cache: Path) -> _Samples:
    samples = _Samples()
    total = plan.own_train + plan.test
    own_train, own_test = system_binaries(total, largest=1 << 20).split(plan.test / total)
    samples.train = [document.data for document in own_train]
    samples.test[_own_name()] = _first(plan.test, (document.data for document in own_test))
    for tag in plan.platforms:
        try:
            wheels = download_wheels(tag, cache)
        except FileError as error:
            samples.notes.append(f"{PLATFORMS[tag]} was not measured: {error}.")
            continue
        unseen: list[memoryview] = []
        for wheel in wheels:
            seen = wheel.name.startswith(TRAIN_PACKAGES)
            (samples.train if seen else unseen).extend(module.data for module in extension_modules(wheel))
        samples.test.setdefault(PLATFORMS[tag], _first(plan.test, map(arm64_part, unseen)))
        if any(recognise(data) == "mach-o fat" for data in unseen):
            samples.test[UNIVERSAL] = _first(plan.test, unseen)
            samples.notes.append(
                f"{UNIVERSAL} files hold x86-64 and arm64 code and much padding between them. The reference figures "
                "are of such files, under the name Mach-O arm64; means leave them out, since their parts are measured."
            )
    samples.notes.append(
        f"Trained on {sum(map(len, samples.train)) / 1e6:.1f} MB: executables of this machine and the extension "
        f"modules of the packages {' and '.join(TRAIN_PACKAGES)}. The test sets are the first {plan.test / 1e6:.1f} "
        "MB of other executables of this machine and of the extension modules of the packages lxml and regex."
    )
    return samples


def _own_name() -> str:
    """This machine's own executables under the name that PLATFORMS would give them."""
    name = {"elf": "ELF", "mach-o": "Mach-O", "pe": "PE"}[machine_format()]
    arm = "AArch64" if name == "ELF" else "arm64"
    return f"{name} {'x86-64' if platform.machine() in ('x86_64', 'AMD64') else arm}"


def _first(size: int, pieces: Iterable[memoryview]) -> list[memoryview]:
    """The first `size` bytes of the pieces, or all."""
    taken: list[memoryview] = []
    for piece in pieces:
        taken.append(piece[:size])
        size -= len(taken[-1])
        if not size:
            break
    return taken


def _train(documents: list[memoryview], vocab: int, report: Progress | None = None) -> BPE:
    return train_bpe(
        documents,
        vocab_size=vocab,
        min_frequency=MIN_FREQUENCY,
        max_token_length=MAX_TOKEN_LENGTH,
        chunk_size=CHUNK,
        progress=report,
    )


def _compression(tokenizer: BPE, samples: _Samples, plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """Bytes per token of every test set under every member of the family."""
    family = [byte_tokenizer(), *map(tokenizer.truncate, plan.vocabs)]
    lengths: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    for name, pieces in samples.test.items():
        encoded = [np.concatenate(member.encode_batch(pieces)) for member in family]
        assert tokenizer.decode(encoded[-1]) == b"".join(pieces)
        lengths[name] = [sum(map(len, pieces)) / len(ids) for ids in encoded]
        used[name] = [
            100 * len(np.unique(ids)) / member.vocab_size for ids, member in zip(encoded, family, strict=True)
        ]
    smallest = _train(samples.train, plan.vocabs[0])
    same = np.all(smallest.merges == tokenizer.merges[: len(smallest.merges)], axis=1)

    apart = {name: figures for name, figures in lengths.items() if name != UNIVERSAL}
    largest = [figures[-1] for figures in apart.values()]
    vocab = f"{plan.vocabs[-1]:,}"
    numbers = {
        f"bytes per token at {vocab}: mean of the test sets": Figure(float(np.mean(largest)), "", at_least=2),
        f"bytes per token at {vocab}: lowest of the test sets": Figure(min(largest), "", at_least=2),
        "formats and architectures measured": Figure(len(apart), "", at_least=3),
        f"family: merges identical to a training at {plan.vocabs[0]:,}": Figure(100 * same.mean(), "%", at_least=100),
    }
    rows: list[Row] = []
    for name, figures in lengths.items():
        rows.append(_lengths_row(name, plan.vocabs, figures))
        if name in REFERENCE and plan.vocabs == REFERENCE_VOCABS:
            rows.append(_lengths_row(f"{name}, reference", plan.vocabs, (1.0, *REFERENCE[name])))
            ratio = min(np.divide(figures[1:], REFERENCE[name]))
            numbers[f"{name}: bytes per token over the reference, lowest of the sizes"] = Figure(
                ratio, "x", at_least=0.97
            )
    own = _own_name()
    for index, member in enumerate(family):
        rows.append(
            {
                "table": "Vocabularies",
                "vocabulary": "raw bytes" if index == 0 else f"{member.vocab_size:,}",
                "bytes of a token, mean of the vocabulary": float(
                    member.token_lengths[member.token_lengths > 0].mean()
                ),
                f"used on {own} (%)": used[own][index],
                f"bytes in a window of {WINDOW:,} tokens, mean of the test sets": round(
                    WINDOW * float(np.mean([figures[index] for figures in apart.values()]))
                ),
            }
        )
    return numbers, rows


def _lengths_row(name: str, vocabs: tuple[int, ...], figures: Sequence[float]) -> Row:
    columns = ["raw bytes", *(f"{vocab:,}" for vocab in vocabs)]
    return {"table": "Bytes per token", "test set": name, **dict(zip(columns, figures, strict=True))}


def _language_models(
    tokenizer: BPE, samples: _Samples, plan: _Plan, report: Progress
) -> tuple[dict[str, Figure], list[Row]]:
    """The same small Llama on tokens and on bytes: for equal time, and until both have seen equal bytes."""
    from byteloom.evaluate.bits_per_byte import sample_blocks
    from byteloom.tasks.small_models import train_small_model

    train = _first(plan.model_train, samples.train)  # this machine's own executables come first
    held_out = sample_blocks(samples.test[_own_name()], plan.model_test)
    fit = partial(train_small_model, backbone=plan.backbone, train=train, held_out=held_out, progress=report)
    with tempfile.TemporaryDirectory(prefix="byteloom-bench-") as name:
        folder = Path(name)
        tokens = fit(tokenizer, folder=folder / "tokens", seconds=plan.model_seconds)
        same_time = fit(byte_tokenizer(), folder=folder / "same time", seconds=plan.model_seconds)
        same_bytes = fit(byte_tokenizer(), folder=folder / "same bytes", bytes_seen=tokens.bytes)
    vocab = f"{tokenizer.vocab_size:,}"
    numbers = {
        f"language model: bytes seen a second, {vocab} tokens over raw bytes": Figure(
            (tokens.bytes / tokens.seconds) / (same_time.bytes / same_time.seconds), "x"
        ),
        f"language model: bits per byte after equal time, {vocab} tokens over raw bytes": Figure(
            tokens.bits_per_byte / same_time.bits_per_byte, "x", at_most=1
        ),
        f"language model: bits per byte after equal bytes, {vocab} tokens over raw bytes": Figure(
            tokens.bits_per_byte / same_bytes.bits_per_byte, "x"
        ),
    }
    rows: list[Row] = [
        {
            "table": f"Language models on {_own_name()}",
            "model": name,
            "parameters": model.parameters,
            "seconds": model.seconds,
            "tokens seen": model.tokens,
            "bytes seen": model.bytes,
            "bits per byte": model.bits_per_byte,
        }
        for name, model in (
            (f"{vocab} tokens", tokens),
            ("raw bytes, equal time", same_time),
            ("raw bytes, equal bytes", same_bytes),
        )
    ]
    shape = plan.backbone
    samples.notes.append(
        f"The language models are Llamas (layers {shape.layers}, hidden size {shape.hidden_size}, heads {shape.heads}, "
        f"window {shape.context} tokens), trained on {sum(map(len, train)) / 1e6:.1f} MB and judged on "
        f"{sum(map(len, held_out)) / 1e3:.0f} kB of this machine's executables."
    )
    return numbers, rows
