"""ByteFormer: one model on the bytes of pictures in several encodings, of sounds, and of fragments of files; its costs.

`data` holds mnist10k/ and spoken-digits/; without it small pictures and tones are made up, which says less.
"""

# Shape suffixes: B files, N bytes, T tokens, D hidden size.

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale
from byteloom.corpus import Corpus, Document
from byteloom.corpus.encodings import kept_share, permuted_values, picture_bytes, shuffled, sound_bytes
from byteloom.corpus.labels import LabelledDocuments
from byteloom.processes import in_fresh_process, peak_memory
from byteloom.train.plan import Backbone, Plan

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CARD = Card(
    method="byteformer",
    title="One Transformer that classifies files of any format from their bytes, in time linear in their length.",
    paper="Bytes Are All You Need: Transformers Operating Directly On File Bytes, Horton et al., TMLR 2024",
    arxiv="2306.00238",
    stage="models",
    module="byteloom.models.byteformer",
    headline="ImageNet top-1 from TIFF bytes 77.33 % (DeiT-Ti on pixels 72.2 %), from JPEG 60 62.43 %; Speech Commands "
    "from WAV bytes 95.42 %; permuting byte values costs nothing",
    measures="accuracy on pictures by encoding, on sounds and on fragments of files, beside linear models; time and "
    "memory over the length of a file, beside dense attention and Magika's class of latency",
)

PICTURES = "Accuracy on pictures of digits, by what the model is given"
LENGTHS = "Time of a forward pass over the bytes of a file"


@dataclass(frozen=True)
class _Plan:
    """How much is measured. passes: over pictures and sounds. lengths: bytes of timed files."""

    pictures: int
    held_out: int
    passes: int
    sounds: int
    sound_passes: int
    sound_bytes: int
    width: int
    lengths: tuple[int, ...]
    long: int


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(80, 40, 1, 40, 1, 1024, 16, (4096, 8192), 1 << 16),
    "cpu": _Plan(7000, 1000, 3, 960, 6, 8192, 64, (1 << 16, 1 << 18, 1 << 20), 1 << 24),
}

Encode = Callable[[npt.NDArray[np.uint8], int], bytes]
ENCODINGS: dict[str, Encode] = {
    "raw pixels": lambda pixels, _: picture_bytes(pixels, "raw"),
    "TIFF": lambda pixels, _: picture_bytes(pixels, "tiff"),
    "PNG, level 0": lambda pixels, _: picture_bytes(pixels, "png"),
    "JPEG, quality 100": lambda pixels, _: picture_bytes(pixels, "jpeg"),
    "raw, byte values permuted": lambda pixels, _: permuted_values(picture_bytes(pixels, "raw"), 7),
    "raw, a quarter of the pixels": lambda pixels, _: kept_share(picture_bytes(pixels, "raw"), 0.25, 7),
    "raw, bytes of each file shuffled": lambda pixels, number: shuffled(picture_bytes(pixels, "raw"), number),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on mnist10k/ and spoken-digits/ in `data`, or on made-up pictures and tones."""
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    rows: list[Row] = []
    numbers, notes = _pictures(plan, data, rows, report)
    more, source = _sounds(plan, data, report)
    numbers |= more
    notes.append(source)
    numbers |= _fragments(plan, report)
    report("timing", 0, 1)
    numbers |= _costs(plan, rows)
    plots = [Plot(LENGTHS, "bytes", "seconds", "attention", log="xy")]
    machine = bench_machine("torch", "transformers", "pillow")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# Accuracy


def _pictures(plan: _Plan, data: Path | None, rows: list[Row], report: Progress) -> tuple[dict[str, Figure], list[str]]:
    pixels, labels, source = _digits(data, plan.pictures + plan.held_out)
    found: dict[str, float] = {}
    for number, (name, encode) in enumerate(ENCODINGS.items()):
        report("learning pictures", number, len(ENCODINGS))
        files = [encode(picture, at) for at, picture in enumerate(pixels)]
        found[name] = _accuracy(files, labels, plan.pictures, plan.passes, plan.width, 8, 64)
        size = float(np.mean([len(file) for file in files]))
        rows.append({"table": PICTURES, "given": name, "bytes": size, "right": found[name]})
    raw = np.stack([picture.reshape(-1) for picture in pixels]).astype(np.float32) / 255
    histograms = np.stack([np.bincount(picture.reshape(-1), minlength=256) for picture in pixels])
    for name, inputs in (
        ("pixels, linear model", raw),
        ("byte histogram, linear model", (histograms / 784).astype(np.float32)),
    ):
        found[name] = _linear(inputs, labels, plan.pictures)
        rows.append({"table": PICTURES, "given": name, "bytes": None, "right": found[name]})
    base = found["raw pixels"]
    numbers = {
        "pictures, raw pixels: right": Figure(base, "%"),
        "TIFF away from raw": Figure(abs(found["TIFF"] - base), "points", at_most=2.0),
        "byte values permuted away from raw": Figure(
            abs(found["raw, byte values permuted"] - base), "points", at_most=1.5
        ),
        "JPEG below raw": Figure(base - found["JPEG, quality 100"], "points", 5.0),
        "JPEG: right": Figure(found["JPEG, quality 100"], "%", 40.0),
        "bytes of each file shuffled: right": Figure(found["raw, bytes of each file shuffled"], "%", at_most=60.0),
        "raw above a linear model of the pixels": Figure(base - found["pixels, linear model"], "points"),
    }
    return numbers, [f"Pictures: {source}; {plan.passes} passes; the same model for all but the length of positions."]


def _digits(data: Path | None, count: int) -> tuple[npt.NDArray[np.uint8], list[int], str]:
    """(uint8 [count, 28, 28], labels 0..9, what they are)."""
    archive = None if data is None else data / "mnist10k" / "train.npz"
    if archive is not None and archive.exists():
        with np.load(archive) as file:
            return file["images"][:count], file["labels"][:count].tolist(), "MNIST, 8,000 of its test digits"
    glyphs = ("757", "262", "717", "717", "571", "747", "747", "711", "777", "771")
    rng = np.random.default_rng(0)
    pixels, labels = np.zeros((count, 28, 28), np.uint8), rng.integers(0, 10, count).tolist()
    for picture, label in zip(pixels, labels, strict=True):
        small = np.array([[int(row) >> bit & 1 for bit in (2, 1, 0)] for row in glyphs[label] + str(label)])
        large = np.kron(small, np.ones((5, 5))) * 255
        top, left = rng.integers(0, 28 - large.shape[0]), rng.integers(0, 28 - large.shape[1])
        picture[top : top + large.shape[0], left : left + large.shape[1]] = large
    return pixels, labels, "made-up signs (no mnist10k/ in --data)"


def _sounds(plan: _Plan, data: Path | None, report: Progress) -> tuple[dict[str, Figure], str]:
    report("learning sounds", 0, 1)
    archive = None if data is None else data / "spoken-digits" / "train.zip"
    if archive is not None and archive.exists():
        with zipfile.ZipFile(archive) as recordings:
            names = [name for name in sorted(recordings.namelist()) if name.endswith(".wav")]
            held_out = [name for name in names if name.rpartition("_")[2] in ("5.wav", "6.wav")]
            names = [name for name in names if name not in set(held_out)] + held_out
            files = [recordings.read(name) for name in names]
        labels, source = [int(name[0]) for name in names], "spoken digits, recordings 5 and 6 of each held out"
        trained = len(names) - len(held_out)
    else:
        rng = np.random.default_rng(1)
        labels = rng.integers(0, 10, plan.sounds + 40).tolist()
        waves = [np.sin(np.arange(2000) * (0.05 + 0.06 * label)) * 9000 + rng.normal(0, 900, 2000) for label in labels]
        files, source = [sound_bytes(each.astype(np.int16), 8000) for each in waves], "made-up tones"
        trained = plan.sounds
    right = _accuracy(files, labels, trained, plan.sound_passes, plan.width, 16, 64, plan.sound_bytes)
    bounds = 70.0 if source.startswith("spoken") else None
    return {"sounds, WAV: right": Figure(right, "%", bounds)}, f"Sounds: {source}; {plan.sound_passes} passes."


def _fragments(plan: _Plan, report: Progress) -> dict[str, Figure]:
    """Kinds of this Python's own files, from blocks of 2 KiB that are not their beginnings."""
    report("learning fragments", 0, 1)
    rng = np.random.default_rng(2)
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda path: path.name)
    count = 24 if plan.width < 64 else 160
    texts = [path.read_bytes() for path in sources if path.stat().st_size > 12_000][:count]
    programs = Corpus(["/usr/bin", sys.executable], formats=["elf", "mach-o"], archives=False, max_size=4 << 20)
    binaries = [bytes(document.data) for document in programs.sample(24 << 20)][:count]
    kinds = {
        "python": texts,
        "executable": binaries or texts,
        "gzip": [gzip.compress(text) for text in texts],
        "bzip2": [bz2.compress(text * 2) for text in texts],
        "xz": [lzma.compress(text * 2) for text in texts],
        "utf-16": [text.decode("utf-8", "replace").encode("utf-16") for text in texts],
    }
    blocks: dict[bool, list[tuple[bytes, int]]] = {False: [], True: []}
    for label, files in enumerate(kinds.values()):
        for number, file in enumerate(files):
            for start in rng.integers(512, max(513, len(file) - 2048), 4):
                blocks[number % 5 == 0].append((file[start : start + 2048], label))
    order = rng.permutation(len(blocks[False]))
    train = [blocks[False][place] for place in order]
    files = [file for file, _ in (*train, *blocks[True])]
    labels = [label for _, label in (*train, *blocks[True])]
    right = _accuracy(files, labels, len(train), max(1, plan.passes - 1), plan.width, 8, 128)
    shares = np.stack([np.bincount(np.frombuffer(file, np.uint8), minlength=256) / len(file) for file in files])
    linear = _linear(shares.astype(np.float32), labels, len(train))
    return {
        "fragments of 2 KiB, 6 kinds: right": Figure(right, "%"),
        "the same above a byte histogram": Figure(right - linear, "points"),
    }


def _accuracy(
    files: Sequence[bytes],
    labels: Sequence[int],
    trained: int,
    passes: int,
    width: int,
    kernel: int,
    window: int,
    longest: int = 1 << 16,
) -> float:
    """Per cent of the files behind the first `trained` that a model told right which learned from those."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from byteloom.models.byteformer import ByteFormerConfig, ByteFormerForSequenceClassification
    from byteloom.tasks.classification import Classifier
    from byteloom.train.labels import ARCHITECTURES, Architecture, TellLabel
    from byteloom.train.trainer import quiet_transformers, train_model

    names = tuple(map(str, range(max(labels) + 1)))
    documents = [
        (Document(str(number), file), label) for number, (file, label) in enumerate(zip(files, labels, strict=True))
    ]
    train, held_out = (LabelledDocuments(names, tuple(part)) for part in (documents[:trained], documents[trained:]))
    context = min(longest, max(map(len, files)))

    def new(backbone: Backbone, _: tuple[str, ...]) -> PreTrainedModel:
        return ByteFormerForSequenceClassification(
            ByteFormerConfig(
                hidden_size=backbone.hidden_size,
                num_hidden_layers=backbone.layers,
                num_attention_heads=backbone.heads,
                kernel_size=kernel,
                window_size=window,
                merge_after=(0, 1, 3),
                max_tokens=1 + -(-context // (kernel // 2)),
                num_labels=len(names),
            )
        )

    backbone = Backbone(width, 6, 4, context)
    architecture = Architecture(backbone, 257, new, ARCHITECTURES["byteformer"].collate)
    steps = max(1, passes * trained // 64)
    plan = Plan(
        backbone=backbone,
        vocab_size=257,
        steps=steps,
        micro_batch=64,
        accumulation=1,
        world_size=1,
        learning_rate=1.5e-3,
        precision="fp32",
        device="cpu",
        threads=torch.get_num_threads(),
        seed=0,
        fsdp=False,
        log_steps=max(1, steps // 10),
        save_steps=steps,
        flops_per_token=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        objective = TellLabel(architecture, train, "head", context)
        result = train_model(plan, objective, Path(folder), judge=lambda model: 0.0)
        with quiet_transformers():
            model = AutoModelForSequenceClassification.from_pretrained(result.folder)
        return 100 * Classifier(model, "byteformer", context, "head").judge(held_out).accuracy


def _linear(inputs_BX: npt.NDArray[Any], labels: Sequence[int], trained: int) -> float:
    """Per cent told right by logistic regression."""
    import torch

    torch.manual_seed(0)
    x_BX, truth_B = torch.from_numpy(inputs_BX), torch.tensor(labels)
    layer = torch.nn.Linear(x_BX.shape[1], int(truth_B.max()) + 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x_BX[:trained]), truth_B[:trained]).backward()
        optimizer.step()
    return 100 * float((layer(x_BX[trained:]).argmax(1) == truth_B[trained:]).float().mean())


# Costs


def _costs(plan: _Plan, rows: list[Row]) -> dict[str, Figure]:
    import torch

    from byteloom.models.byteformer import (
        Block,
        ByteFormerConfig,
        ByteFormerForSequenceClassification,
        collate_bytes,
    )

    longest = plan.lengths[-1]
    config = ByteFormerConfig.tiny(kernel_size=32, max_tokens=longest // 16, num_labels=10)
    model = ByteFormerForSequenceClassification(config).eval()
    seconds: dict[int, float] = {}
    with torch.inference_mode():
        for length in plan.lengths:
            inputs_BN = torch.randint(256, (1, length))
            seconds[length] = best_of(2, lambda x=inputs_BN: model(x)).wall  # type: ignore[misc]
            rows.append({"table": LENGTHS, "bytes": length, "attention": "windows", "seconds": seconds[length]})
        picture_BN = torch.randint(256, (1, min(150_000, longest)))
        picture = best_of(2, lambda: model(picture_BN)).wall
        small = ByteFormerForSequenceClassification(ByteFormerConfig.tiny(max_tokens=300, num_labels=10)).eval()
        batch = collate_bytes([bytes(2048)] * 64, 2048)
        each = best_of(2, lambda: small(**batch)).wall / 64
        tokens = min(9400, longest // 16)
        block = Block(ByteFormerConfig.tiny(), 1).eval()
        x_BTD = torch.randn(1, tokens, 192)
        length_B = torch.tensor([tokens])
        windowed = best_of(3, lambda: block.attend(x_BTD, length_B)).wall
        dense = best_of(2, lambda: _dense(block, x_BTD)).wall
    growth = seconds[plan.lengths[-1]] / seconds[plan.lengths[-2]] / (plan.lengths[-1] / plan.lengths[-2])
    memory = in_fresh_process(_long_memory, plan.long)
    return {
        f"dense attention over windows, {tokens:,} tokens": Figure(dense / windowed, "x", 3.0),
        "growth of time over growth of length": Figure(growth, "x", 0.9, 1.1),
        "a file of 150 kB": Figure(picture, "s", at_most=0.5),
        "2,048 bytes, in batches of 64": Figure(1000 * each, "ms", at_most=5.0),
        f"memory of a forward pass over {plan.long >> 20} MiB": Figure(memory / 2**30, "GiB", at_most=1.0),
    }


def _dense(block: Any, x_BTD: Tensor) -> Tensor:
    """The same attention with an explicit mask of all tokens."""
    import torch

    count = x_BTD.shape[1]
    place_T = (torch.arange(count) - block.shift).div(block.window, rounding_mode="floor")
    mask_TT = place_T[:, None] == place_T[None, :]
    query, key, value = (
        part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in block.qkv(x_BTD).chunk(3, -1)
    )
    y = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_TT)
    return block.output(y.transpose(1, 2).flatten(2))


def _long_memory(length: int) -> int:
    """Bytes that a forward pass over one long file takes, in a process of its own."""
    import torch

    from byteloom.models.byteformer import ByteFormerConfig, ByteFormerForSequenceClassification

    config = ByteFormerConfig.tiny(kernel_size=32, max_tokens=1 + length // 16, num_labels=10)
    model = ByteFormerForSequenceClassification(config).eval()
    with torch.inference_mode():
        model(torch.zeros(1, 4096, dtype=torch.int64))
        inputs_BN = torch.randint(256, (1, length), dtype=torch.int64)
        before = peak_memory()
        model(inputs_BN)
    return peak_memory() - before
